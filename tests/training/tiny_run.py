"""The settings of a run that takes a second or two, which the tests of training share."""

from pathlib import Path

from fastait import recipe


def tiny(**overrides):
    return recipe(
        "digits", **{"image_size": 8, "epochs": 2, "eval_samples": 10, "device": "cpu", "out": Path("run"), **overrides}
    )
