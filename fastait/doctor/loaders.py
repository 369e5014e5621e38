"""DALI and torch's DataLoader: whether they yield the batches of the plan."""

import importlib.util
from typing import Any

from fastait.doctor.findings import Finding, Setup, ok, ready, skipped, wrong

IMAGES, BATCH, SIZE, STEPS = 100, 32, 32, 4
"""Steps go past an epoch's last, smaller batch."""


def dali(setup: Setup) -> Finding:
    """DALI's batches, on the device, are ours."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        return skipped("DALI is not installed; pip install 'fastait[dali]'")
    from nvidia import dali as library

    version = f"DALI {library.__version__}"
    if not _same(setup, dali=True, workers=None):
        return wrong(f"{version} yields other batches than the plan's", "leave --dali out")
    return ok(f"{version} yields the plan's batches")


def workers(setup: Setup) -> Finding:
    """Batches of two processes, through shared memory, are ours."""
    if not _same(setup, dali=False, workers=2):
        return wrong("--workers 2 yields other batches than the plan's", "leave --workers out, or use --workers 0")
    return ok("--workers 2 yields the plan's batches")


def _same(setup: Setup, **how: Any) -> bool:
    """Whether a loader's batches are those that are made without one."""
    device = ready(setup)
    import torch

    from fastait.data import BatchPlan, ImageSet, make_loader

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(IMAGES) % 10)
    plan = BatchPlan(0, IMAGES, BATCH, 4, True)
    expected = make_loader(images, plan, torch.device("cpu"), dali=False, workers=0).batches(0, STEPS)
    got = make_loader(images, plan, device, **how).batches(0, STEPS)
    pairs = zip(got, expected, strict=True)
    return all(torch.equal(x.cpu(), x_own) and torch.equal(y.cpu(), y_own) for (x, y), (x_own, y_own) in pairs)
