"""The rules of records/README.md that a script can check, as data."""

RECIPE = "cifar10-speedrun"
SEEDS = (0, 1, 2)
WEIGHTS = "ema.safetensors"
EPSILON = 8 / 255
TEST_IMAGES, TRAINING_IMAGES = 2000, 50_000
EVALUATION = ("--attacks", "autoattack", "--samples", str(TEST_IMAGES), "--epsilon", "8/255")
TARGETS = (27, 30, 33)
"""Percent of the test images under AutoAttack, the mean of the seeds."""

BUSY = 0.05
"""The share of the machine's cores that others may use when the clock starts."""

DRIFT = 1.25
"""By what factor the times of the reference steps before and after a training may differ."""

LARGEST = 10_000_000
"""Bytes of this folder."""


def seed_folder(seed: int) -> str:
    """Of a record."""
    return f"seed-{seed}"
