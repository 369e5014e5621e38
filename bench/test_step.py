"""One training step of adversarial interpolation: fastait against the paper's algorithm written plainly."""

import copy

import pytest
import torch
from alternating import DEVICE, compare

from fastait import WideResNet, reference
from fastait.engine.hardware import environment
from fastait.engine.precision import Precision
from fastait.engine.step import TrainStep
from fastait.methods import METHODS, Settings

BATCH = 128
ROUNDS = 10


@pytest.mark.parametrize(("depth", "widen_factor"), [(10, 1), (16, 2)], ids=["WRN-10-1", "WRN-16-2"])
def test_step_against_reference(benchmark, capsys, depth, widen_factor):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    y = torch.randint(0, 10, (BATCH,), device=DEVICE)
    slow_model = WideResNet(depth, widen_factor, 10).to(DEVICE)
    fast_model = copy.deepcopy(slow_model).to(memory_format=torch.channels_last)

    def optimizer(model):
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)

    settings = Settings(epsilon=8 / 255, epsilon_y=0.5, steps=1, step_size=8 / 255, num_classes=10)
    step = TrainStep(
        fast_model, METHODS["adv-interp"], settings, optimizer(fast_model), Precision(DEVICE, None), seed=0
    )
    x = images.permute(0, 3, 1, 2).float().div(255).contiguous()
    slow_optimizer = optimizer(slow_model)

    ours, theirs = compare(
        benchmark,
        lambda: step(images, y, 0),
        lambda: reference.train_step(slow_model, slow_optimizer, x, y, 10),
        rounds=ROUNDS,
        warmup=2,
    )
    machine = environment(DEVICE)
    benchmark.extra_info.update(machine)
    with capsys.disabled():
        print(
            f"\nWRN-{depth}-{widen_factor}, batch {BATCH}, fp32, {machine['device']}: reference {BATCH / theirs:.0f} "
            f"images/s, fastait {BATCH / ours:.0f} images/s, ratio {theirs / ours:.2f} "
            f"(medians of {ROUNDS} alternating rounds)"
        )
