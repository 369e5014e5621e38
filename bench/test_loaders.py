"""Loaders: an epoch of augmented batches on the training device, ours and torchvision's as users write it."""

import importlib.util

import numpy as np
import torch
from alternating import DEVICE, alternate
from PIL import Image
from results import record
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fastait.data import BatchPlan, ImageSet, make_loader, to_float

IMAGES, BATCH, ROUNDS = 10_000, 128, 3


class Pictures(Dataset):
    """PIL images and torchvision's transforms, the data set that most training scripts have."""

    def __init__(self, pixels, labels):
        self.pixels, self.labels = pixels.numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return self.transform(Image.fromarray(self.pixels[place])), self.labels[place]


def test_epoch(benchmark):
    size = IMAGES if benchmark.enabled else 64
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8))
    images = ImageSet(pixels, torch.arange(size) % 10)
    plan = BatchPlan(0, size, BATCH, 4, True)
    steps = plan.steps_per_epoch
    workers = 2 if benchmark.enabled else 0
    users = DataLoader(
        Pictures(images.images, images.labels),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=DEVICE.type == "cuda",
    )

    def theirs():
        for x, y in users:
            x.to(DEVICE, non_blocking=True), y.to(DEVICE, non_blocking=True)

    def epoch(loader):
        return lambda: [to_float(x) for x, _ in loader.batches(0, steps)]

    ways = {
        "torchvision, 2 workers": theirs,
        "torch, 0 workers": epoch(make_loader(images, plan, DEVICE, dali=False, workers=0)),
        "torch, 2 workers, their start included": epoch(make_loader(images, plan, DEVICE, dali=False, workers=workers)),
    }
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        ways["DALI"] = epoch(make_loader(images, plan, DEVICE, dali=True, workers=0))
    medians = alternate(benchmark, ways, rounds=ROUNDS)
    if medians is not None:
        record(f"loaders, an epoch of {size} images", medians, "torchvision, 2 workers", n=ROUNDS, images=size)
