"""Loaders: how fast they are alone, and whether a training step ever waits for them."""

import importlib.util
import statistics
import time
from itertools import islice

import numpy as np
import torch
from alternating import DEVICE, alternate
from PIL import Image
from results import record
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from ways import ON_GPU, make_step

from fastait import WideResNet
from fastait.data import BatchPlan, ImageSet, make_loader, to_float

BATCH = 128
IMAGES, ROUNDS = 50_000, 3
"""As many images as CIFAR-10 has."""

TRAINED_IMAGES, TRAINED_ROUNDS = (25_600, 5) if ON_GPU else (2_560, 8)
NETWORK = (28, 10) if ON_GPU else (10, 1)

HAS_DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def random_images(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    return ImageSet(torch.from_numpy(pixels), torch.arange(size) % 10)


class Pictures(Dataset):
    """PIL images and torchvision's transforms, the data set that most training scripts have."""

    def __init__(self, images):
        self.pixels, self.labels = images.images.numpy(), images.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return self.transform(Image.fromarray(self.pixels[place])), self.labels[place]


def test_loader_throughput(benchmark):
    """An epoch of augmented float batches on the training device; workers and pipelines go on from epoch to epoch."""
    size = IMAGES if benchmark.enabled else 64
    images = random_images(size)
    plan = BatchPlan(0, size, BATCH, 4, True)
    steps = plan.steps_per_epoch
    workers = 2 if benchmark.enabled else 0
    users = DataLoader(
        Pictures(images),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=ON_GPU,
    )

    def theirs():
        for x, y in users:
            x.to(DEVICE, non_blocking=True), y.to(DEVICE, non_blocking=True)

    def ours(**options):
        batches = make_loader(images, plan, DEVICE, **options).batches(0, steps * (ROUNDS + 1))

        def epoch():
            seen = 0
            for x, _ in islice(batches, steps):
                seen += len(to_float(x))
            assert seen == size

        return epoch

    baseline = "torchvision, 2 persistent workers"
    ways = {
        baseline: theirs,
        "torch, 0 workers": ours(dali=False, workers=0),
        "torch, 2 workers": ours(dali=False, workers=workers),
        **({"DALI": ours(dali=True, workers=None)} if HAS_DALI else {}),
        "resident": ours(dali=False, workers=None),
    }
    medians = alternate(benchmark, ways, rounds=ROUNDS)
    if medians is not None:
        record(f"loaders alone, an epoch of {size} images, batch {BATCH}", medians, baseline, n=ROUNDS, images=size)


def test_loader_waiting(benchmark):
    """An epoch of training by each loader against the same batches made beforehand.

    The latter is timed twice, to see what chance alone makes of it; ``waits`` is the share of an epoch in which the
    step had no batch yet, which chance hardly touches.
    """
    size = TRAINED_IMAGES if benchmark.enabled else 32
    batch_size = BATCH if benchmark.enabled else 16
    images = random_images(size)
    plan = BatchPlan(0, size, batch_size, 4, True)
    steps = plan.steps_per_epoch
    torch.manual_seed(0)
    model = WideResNet(*(NETWORK if benchmark.enabled else (10, 1)), 10)
    preloaded = list(make_loader(images, plan, DEVICE, dali=False, workers=0).batches(0, steps))

    waits = {}

    def training(way, batches):
        step = make_step("fastait", model, batch_size)
        waits[way] = []

        def epoch():
            start, waited, source = time.perf_counter(), 0.0, iter(batches())
            for number in range(steps):
                asked = time.perf_counter()
                x, y = next(source)
                waited += time.perf_counter() - asked
                step(x, y, number)
            waits[way].append(waited / (time.perf_counter() - start))

        return epoch

    def loading(way, **options):
        batches = make_loader(images, plan, DEVICE, **options).batches(0, steps * (TRAINED_ROUNDS + 1))
        return training(way, lambda: islice(batches, steps))

    again = "preloaded, once more"
    ways = {
        "preloaded": training("preloaded", lambda: preloaded),
        again: training(again, lambda: preloaded),
        "resident": loading("resident", dali=False, workers=None),
        **({"DALI": loading("DALI", dali=True, workers=None)} if HAS_DALI else {}),
    }
    medians = alternate(benchmark, ways, rounds=TRAINED_ROUNDS)
    if medians is not None:
        record(
            f"an epoch of training, {size} images, WRN-{NETWORK[0]}-{NETWORK[1]}, batch {batch_size}",
            medians,
            "preloaded",
            n=TRAINED_ROUNDS,
            images=size,
            waits={way: f"{100 * statistics.median(shares):.2f} %" for way, shares in waits.items()},
            longer={way: f"{100 * (median / medians['preloaded'] - 1):+.1f} %" for way, median in medians.items()},
        )
