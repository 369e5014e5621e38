"""Steps and batches that the tests of training share."""

import torch

from fastait.methods import METHODS, Settings
from fastait.runtime.precision import Precision
from fastait.training.optimizer import make_optimizer
from fastait.training.step import TrainStep

CPU = torch.device("cpu")
EPSILON = 8 / 255
PENALTY = 1.5
TRAINING_STEPS = 2
LR = 0.0625  # exact in fp32, so that fp64 runs of both paths use one number


def make_step(model, method="adv-interp", *, dtype=None, at_a_time=None, steps=1, knobs=None, by=None, **options):
    """Our step; ``by`` is what its optimiser is, ``knobs`` settings of its method."""
    step_size = EPSILON if METHODS[method].interpolates else 2 / 255
    more = {"penalty": PENALTY, "training_steps": TRAINING_STEPS, **(knobs or {})}
    settings = Settings(EPSILON, 0.5, steps, step_size, getattr(model, "num_classes", 10), at_a_time, **more)
    by = {"name": "sgd", "weight_decay": 2e-4, **(by or {})}
    optimizer = make_optimizer(parameters=model.parameters(), lr=LR, **by)
    return TrainStep(model, METHODS[method], settings, optimizer, Precision(CPU, dtype), seed=3, **options)


def batch(step, size=8, image=16):
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (size, image, image, 3), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (size,), generator=generator)


def unlabeled(method, images):
    """Further images, where ``method`` needs them."""
    return images.flip(0) if METHODS[method].needs_unlabeled else None
