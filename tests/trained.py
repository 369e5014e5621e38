"""Small networks trained on digits, once per test session, however many processes it has."""

import fcntl
import os
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

import torch

from fastait import recipe, resume_training, run_training
from fastait.data import load_dataset

EPOCHS = {"natural": 4, "madry": 5, "adv-interp": 5}
SIZE = 16
SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid4().hex


@cache
def run(method, seed=0, size=SIZE, network="wrn-10-1"):
    """The finished run of ``method``."""
    folder = Path(gettempdir()) / f"fastait-tests-{SESSION}" / f"{seed}-{size}" / network / method
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": network,
        "image_size": size,
        "epochs": EPOCHS[method],
        "milestones": (EPOCHS[method],),
        "eval_samples": 10,
    }
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "result.json").exists():
            return resume_training(folder)
        return run_training(recipe("digits", method=method, seed=seed, device="cpu", out=folder, **settings))


def model(method, seed=0, size=SIZE, network="wrn-10-1"):
    """Its network, in eval mode."""
    return run(method, seed, size, network).model.eval()


@cache
def digits(samples, size=SIZE):
    """Test images: an ImageSet of ``samples``."""
    return load_dataset("digits", image_size=size).test.stratified(samples)


def tensors(samples):
    """The same as float images and classes."""
    images = digits(samples)
    return images.floats(torch.arange(samples), torch.device("cpu")), images.labels
