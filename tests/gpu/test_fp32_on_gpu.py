"""One step on the GPU against the same step on the CPU: every method in fp64, and in strict fp32."""

import copy

import pytest
import small
import torch
from rehearsal import CPU, DEVICE, scaled
from tolerances import LOSS_ACROSS_DEVICES, UPDATE_ACROSS_DEVICES

from fastait import recipe
from fastait.attacks import Noise
from fastait.data import to_float
from fastait.methods import METHODS, Settings
from fastait.runtime.precision import Precision, full_precision
from fastait.training.optimizer import make_optimizer
from fastait.training.step import NEVER, TrainStep

BATCH, SIZE = scaled((32, 32), (8, 16))


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (BATCH,), generator=generator)


def parts(model):
    """Its weights and its statistics, in fp64 on the CPU."""
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    groups = (model.parameters(), statistics)
    return [torch.cat([t.detach().double().cpu().flatten() for t in tensors]) for tensors in groups]


def step_on(device, dtype, model, method):
    """The loss of a step on ``device``, and what it makes of ``model``: its weights and its statistics."""
    config = recipe(method=method)
    size = config.epsilon * METHODS[method].step if config.step_size is None else config.step_size
    settings = Settings(
        *(config.epsilon, 0.5, min(config.attack_steps, 3), size, 10),
        partners=config.partners,
        penalty=config.penalty_weight() or 0.0,
    )
    model = copy.deepcopy(model).to(device, dtype).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.0625, weight_decay=2e-4)
    step = TrainStep(model, METHODS[method], settings, optimizer, Precision(device, None), 3)
    images, y = batch(0)
    more = batch(1)[0].to(device) if METHODS[method].needs_unlabeled else None
    with full_precision(device):
        step(images.to(device), y.to(device), 5, unlabeled=more)
    assert step.totals.bad_step() == NEVER
    return step.totals.state()["loss"] / BATCH, *parts(model)


@pytest.mark.parametrize("dtype", UPDATE_ACROSS_DEVICES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_that_of_the_cpu(method, dtype):
    """The noise is the same to the bit: what differs is rounding, and the signs of gradients that are nearly zero."""
    model = small.wide_resnet(2, SIZE)
    before = parts(model)
    (loss, *ours), (expected, *theirs) = (step_on(device, dtype, model, method) for device in (DEVICE, CPU))
    assert loss == pytest.approx(expected, rel=LOSS_ACROSS_DEVICES[dtype])
    attacked = any(term.images not in ("clean", "pixel_interpolation") for term in METHODS[method].terms)
    most = UPDATE_ACROSS_DEVICES[dtype]["attacked" if attacked else "clean"]
    for a, b, old in zip(ours, theirs, before, strict=True):
        assert (b - old).norm() > 0
        assert (a - b).norm() <= most * (b - old).norm()


def test_pixels_are_those_of_the_cpu():
    """All 256 values, to the bit: neither a product with 1/255 nor a division in 16 bits."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(to_float(values.to(DEVICE), dtype).cpu(), to_float(values, dtype))
        assert torch.equal(to_float(values, dtype).flatten(), torch.arange(256).to(dtype) / 255)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_starts_are_those_of_the_cpu(dtype):
    x = torch.rand(8, 3, 9, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    for epsilon in (8 / 255, 0.5):
        here, there = (Noise.seeded(123, device).start(x.to(device), epsilon) for device in (DEVICE, CPU))
        assert torch.equal(here.cpu(), there)
