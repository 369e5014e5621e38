"""The settings of a run that takes a second or two, which the tests of training share."""

from pathlib import Path

from fastait import recipe

OF_A_FOLDER = {
    "dataset": "folder",
    "data_dir": "images",
    "image_size": 8,
    "device": "cpu",
    "epochs": 2,
    "batch_size": 4,
    "eval_samples": 4,
}
"""Of a run of eight steps on the images of ``write_folder(Path("images"), {"cat": 8, "dog": 8})``."""


def tiny(**overrides):
    return recipe(
        "digits", **{"image_size": 8, "epochs": 2, "eval_samples": 10, "device": "cpu", "out": Path("run"), **overrides}
    )
