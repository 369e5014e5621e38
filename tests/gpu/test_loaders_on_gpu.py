"""Loaders on a GPU: the batches of the CPU, made there, without waiting."""

import pytest
import torch
from conftest import write_folder
from rehearsal import CPU, DEVICE, nothing_waits, scaled

from fastait.data import BatchPlan, ImageSet, load_dataset, make_loader

SIZE = scaled(32, 8)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1000, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(1000) % 10)


@pytest.mark.parametrize(("dali", "workers"), [(False, None), (True, None), (False, 2)])
def test_batches_are_those_of_the_cpu(images, dali, workers):
    if dali:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    plan = BatchPlan(0, 1000, 128, 4, True)
    expected = make_loader(images, plan, CPU, dali=False, workers=0).batches(3, 20)
    got = list(make_loader(images, plan, DEVICE, dali=dali, workers=workers).batches(3, 20))
    for (x, y), (x_expected, y_expected) in zip(got, expected, strict=True):
        assert x.device == y.device == DEVICE
        assert x.is_contiguous()
        assert torch.equal(x.cpu(), x_expected)
        assert torch.equal(y.cpu(), y_expected)


def test_the_resident_loader_waits_for_nothing(images):
    loader = make_loader(images, BatchPlan(0, 1000, 128, 4, True), DEVICE, dali=False, workers=None)
    assert loader.name == "resident"
    list(loader.batches(0, 1))
    with nothing_waits():
        list(loader.batches(0, 20))


@pytest.mark.parametrize("dali", [False, True])
def test_a_batch_that_is_dropped_while_the_gpu_still_reads_it(images, dali):
    if dali:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    plan = BatchPlan(0, 1000, 128, 4, True)
    expected = [int(x.sum()) for x, _ in make_loader(images, plan, CPU, dali=False, workers=0).batches(0, 30)]
    sums = []
    for x, _ in make_loader(images, plan, DEVICE, dali=dali, workers=None).batches(0, 30):
        torch.cuda._sleep(20_000_000)  # some 10 ms, in which the loader goes on
        sums.append(x.sum(dtype=torch.int64))
        del x
    assert torch.stack(sums).tolist() == expected


def test_dali_decodes_files_on_the_gpu(tmp_path):
    """PNGs of the right size to the same bits; the decoder of JPEGs is another than the CPU's."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    root = write_folder(tmp_path / "images", {"a": 6, "b": 7}, size=(16, 16))
    files = load_dataset("folder", root, image_size=16, in_files=True).train
    plan = BatchPlan(0, 13, 4, 2, True)
    expected = make_loader(files, plan, CPU, dali=True, workers=None).batches(0, 8)
    got = make_loader(files, plan, DEVICE, dali=True, workers=None).batches(0, 8)
    for (x, y), (x_expected, y_expected) in zip(got, expected, strict=True):
        assert torch.equal(x.cpu(), x_expected)
        assert torch.equal(y.cpu(), y_expected)
