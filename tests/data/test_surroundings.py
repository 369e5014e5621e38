"""What a caller has set decides nothing about data, and is as it was afterwards."""

import random
import threading
import warnings

import numpy as np
import pytest
import torch
from conftest import write_folder
from loaders import LOADERS
from PIL import Image
from sklearn.datasets import load_digits

from fastait.data import BatchPlan, load_dataset, load_unlabeled, make_loader, to_float
from fastait.data.plan import _epoch

CPU = torch.device("cpu")


def everything(root, options):
    """Sets, batches and held-out places."""
    folder = load_dataset("folder", root, 8)
    images, checksum, _ = load_unlabeled(root, 8)
    plan = BatchPlan(3, 12, 5, 2, True, held_out=4)
    _epoch.cache_clear()
    batches = [part for batch in make_loader(folder.train, plan, CPU, **options).batches(0, 5) for part in batch]
    few = folder.test.stratified(5)
    floats = to_float(batches[0])
    return [
        *(folder.train.images, folder.train.labels, folder.test.images, images.images, images.labels),
        *(*batches, *plan.split(), few.images, few.labels, floats, few.floats(torch.arange(3, device="cpu"), CPU)),
        *(torch.tensor(list(bytes.fromhex(text)), device="cpu") for text in (folder.checksum, checksum)),
    ]


@pytest.mark.parametrize("options", LOADERS)
@pytest.mark.parametrize("world", ["float64", "float16", "meta"])
def test_default_dtypes_and_devices_do_not_matter(tmp_path, options, world):
    root = write_folder(tmp_path / "set", {"a": 8, "b": 8})
    expected = everything(root, options)
    try:
        if world == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, world))
        found = everything(write_folder(tmp_path / "again", {"a": 8, "b": 8}), options)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", LOADERS)
def test_no_generator_is_drawn_from(tmp_path, options, monkeypatch):
    def drawing():  # as scikit-learn's import does
        random.random()
        return load_digits()

    monkeypatch.setattr("sklearn.datasets.load_digits", drawing)
    root = write_folder(tmp_path / "set", {"a": 8, "b": 8})
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    everything(root, options)
    load_dataset("digits", image_size=8)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_filters_of_warnings_under_threads(tmp_path):
    """Python has one list of them for all threads."""
    root = write_folder(tmp_path / "set", {"a": 8, "b": 8})
    Image.new("P", (9, 9)).save(root / "train" / "a" / "p.png", transparency=b"\1\2")
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=load_dataset, args=("folder", root, size), kwargs={"cache_dir": tmp_path / str(size)})
        for size in (7, 8, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
