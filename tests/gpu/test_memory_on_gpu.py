"""Evaluations and runs that find less memory than they would take: done in smaller parts, or one line that says so."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rehearsal import CPU, DEVICE, REHEARSED, scaled
from tolerances import OUTCOMES_ACROSS_DEVICES
from torch.utils._python_dispatch import TorchDispatchMode

from fastait import WideResNet, recipe, run_training
from fastait.data import ImageSet, load_dataset
from fastait.evaluation import evaluate
from fastait.runtime.errors import RunError

MIB = 1 << 20
SIZE, WIDTH = scaled((96, 4), (16, 1))
"""An image of 96x96 keeps some 20 MiB of WRN-10-4 for its gradient, 355 of them 7 GiB."""

IMAGES = scaled(355, 12)
OPTIONS = {"epsilon": 2 / 255, "step_size": 1 / 255}


class _Limit(TorchDispatchMode):
    """A rehearsal's memory: no tensor may be larger."""

    def __init__(self, nbytes):
        super().__init__()
        self.nbytes = nbytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.nbytes > self.nbytes:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {found.nbytes} bytes.")
        return found


@contextmanager
def only(nbytes, rehearsed):
    """This process may take ``nbytes`` more of the GPU than it has taken, though more is free."""
    if REHEARSED:
        with _Limit(rehearsed):
            yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(DEVICE)[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(DEVICE) + nbytes) / total, DEVICE)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
        torch.cuda.empty_cache()


@contextmanager
def left(nbytes, rehearsed):
    """Somebody else has taken all of the GPU's memory but ``nbytes``."""
    if REHEARSED:
        with only(nbytes, rehearsed):
            yield
        return
    torch.cuda.empty_cache()
    taken = torch.empty(max(0, torch.cuda.mem_get_info(DEVICE)[0] - nbytes), dtype=torch.uint8, device=DEVICE)
    try:
        yield
    finally:
        del taken
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def attacked():
    """A network on the GPU and images that it tells apart, by its own lights."""
    torch.manual_seed(3)
    model = WideResNet(10, WIDTH, 10).to(DEVICE).eval()
    images = load_dataset("digits", image_size=SIZE).test.images[:IMAGES]
    with torch.no_grad():
        y = [model(part.to(DEVICE).permute(0, 3, 1, 2).float() / 255).argmax(1) for part in images.split(8)]
    return model, ImageSet(images, torch.cat(y).to(CPU))


@pytest.mark.parametrize("how", [only, left])
def test_an_evaluation_fits_what_is_there(attacked, how):
    model, images = attacked
    expected = evaluate(model, images, ["pgd3"], **OPTIONS, batch_size=8)
    before = torch.cuda.memory_allocated(DEVICE)
    with how(1536 * MIB, 64 * MIB):
        found = evaluate(model, images, ["pgd3"], **OPTIONS)
    assert torch.cuda.memory_allocated(DEVICE) <= before + 64 * MIB
    others = torch.cat([found.correct[name] != expected.correct[name] for name in expected.correct])
    assert others.double().mean() <= OUTCOMES_ACROSS_DEVICES[torch.float32]
    assert found.correct["clean"].double().mean() > 0.9


def test_a_batch_that_was_asked_for_and_does_not_fit_is_halved(attacked):
    model, images = attacked
    with only(1536 * MIB, 64 * MIB):
        found = evaluate(model, images, ["pgd3"], **OPTIONS, batch_size=IMAGES)
    assert found.correct["pgd3"].shape == (IMAGES,)


def test_a_run_is_finished_where_its_evaluation_does_not_fit_at_once():
    """The graph's memory is alive while images that are held out are measured."""
    config = recipe(
        "digits",
        method="natural",
        image_size=SIZE,
        model=f"wrn-10-{WIDTH}",
        batch_size=16,
        epochs=1,
        milestones=(),
        val_fraction=0.2,
        eval_samples=scaled(None, 12),
        device=str(DEVICE),
        out=Path("run"),
    )
    with only(3072 * MIB, 64 * MIB):
        run_training(config)
    result = json.loads(Path("run/result.json").read_text())
    assert 0 <= result["pgd20"] <= result["clean"] <= 100


def test_a_run_that_does_not_fit_says_so_and_leaves_nothing_behind():
    config = recipe("digits", image_size=SIZE, model=f"wrn-10-{WIDTH}", epochs=1, milestones=(), cuda_graph="off")
    before = torch.cuda.memory_allocated(DEVICE)
    with only(96 * MIB, 1 << 16), pytest.raises(RunError, match="out of memory"):
        run_training(config)
    assert torch.cuda.memory_allocated(DEVICE) <= before + 64 * MIB
