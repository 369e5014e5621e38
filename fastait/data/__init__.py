"""Data sets and loaders. A loader yields uint8 batches; ``to_float`` is the one place where they become [0, 1]."""

from fastait.data.dataset import Dataset, FloatSet, ImageFiles, ImageSet, to_float
from fastait.data.loaders import Loader, make_loader
from fastait.data.plan import Batch, BatchPlan, Shard
from fastait.data.sources import load_dataset, load_unlabeled

__all__ = [
    "Batch",
    "BatchPlan",
    "Dataset",
    "FloatSet",
    "ImageFiles",
    "ImageSet",
    "Loader",
    "Shard",
    "load_dataset",
    "load_unlabeled",
    "make_loader",
    "to_float",
]
