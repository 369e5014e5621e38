"""The plan and the loaders that follow it."""

import pytest
import torch

from fastait.data import BatchPlan, ImageSet, make_loader

CPU = torch.device("cpu")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (23, 12, 9, 3), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(23))


def plan_of(images, **changes):
    return BatchPlan(**{"seed": 5, "size": len(images), "batch_size": 4, "padding": 3, "flip": True, **changes})


def test_every_epoch_sees_every_image_once(images):
    plan = plan_of(images)
    assert plan.steps_per_epoch == 6
    orders = []
    for epoch in range(3):
        batches = [plan.batch(epoch * 6 + i) for i in range(6)]
        assert [len(b.index) for b in batches] == [4] * 5 + [3]
        orders.append(torch.cat([b.index for b in batches]).tolist())
        assert sorted(orders[-1]) == list(range(23))
    assert orders[0] != orders[1] != orders[2]


def test_plan_depends_on_seed_and_step_alone(images):
    again = plan_of(images).batch(100)
    once = plan_of(images).batch(100)
    other = plan_of(images, seed=6).batch(100)
    assert all(torch.equal(getattr(once, f), getattr(again, f)) for f in ("index", "shift", "flip"))
    assert not torch.equal(once.index, other.index)


def test_shifts_and_flips_are_uniform():
    plan = BatchPlan(seed=0, size=20_000, batch_size=20_000, padding=4, flip=True)
    batch = plan.batch(0)
    for axis in (0, 1):
        counts = torch.bincount(batch.shift[:, axis], minlength=9)
        assert counts.numel() == 9
        assert (counts / 20_000 - 1 / 9).abs().max() < 0.01
    assert abs(batch.flip.double().mean() - 0.5) < 0.015
    still = BatchPlan(seed=0, size=100, batch_size=100, padding=0, flip=False).batch(0)
    assert not still.flip.any()
    assert not still.shift.any()


@pytest.mark.parametrize(
    "options", [{"dali": True, "workers": 0}, {"dali": False, "workers": 2}], ids=["dali", "workers"]
)
def test_loaders_yield_the_same_batches(images, options):
    if options["dali"]:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    plan = plan_of(images)
    expected = list(make_loader(images, plan, CPU, dali=False, workers=0).batches(3, 20))
    got = [(x.clone(), y) for x, y in make_loader(images, plan, CPU, **options).batches(3, 20)]
    assert len(got) == len(expected) == 17
    for (x, y), (x_expected, y_expected) in zip(got, expected, strict=True):
        assert torch.equal(x, x_expected)
        assert torch.equal(y, y_expected)


def test_batches_of_dali_are_not_overwritten_by_later_ones(images):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    plan = plan_of(images)
    expected = list(make_loader(images, plan, CPU, dali=False, workers=0).batches(0, 12))
    kept = list(make_loader(images, plan, CPU, dali=True, workers=0).batches(0, 12))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(kept, expected, strict=True))


def test_first_batch_follows_the_step(images):
    """Going on at a step is the same as having come there."""
    plan = plan_of(images)
    loader = make_loader(images, plan, CPU, dali=False, workers=0)
    assert torch.equal(list(loader.batches(0, 9))[8][0], next(loader.batches(8, 9))[0])
