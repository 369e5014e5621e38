"""The command that a page says repeats a run does so."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from fastait import recipe
from fastait.config import PLACES
from fastait.recipes import BY_METHOD
from fastait.report.repeat import command
from fastait.train import parsed

SETTINGS = (
    {},
    {"seed": 7, "epsilon": 0.1 + 0.2, "step_size": 1 / 255, "epochs": 3, "milestones": (1, 2)},
    {"schedule": "cosine", "warmup_epochs": 0.5, "optimizer": "adamw", "lr": 0.001, "clip_grad_norm": 1.0, "amp": True},
    {"method": "madry", "awp": 0.005, "label_smoothing": 0.1, "ema": 0.999, "val_fraction": 0.02, "nesterov": True},
    {"method": "grad-align", "penalty": 0.3, "schedule": "one-cycle"},
    {
        "dataset": "folder",
        "data_dir": Path("/a b/it's"),
        "model": "torchvision:resnet18",
        "pretrained": True,
        "workers": 2,
    },
    {
        "partners": "other-class",
        "distance": "euclidean",
        "flip": True,
        "crop_padding": 4,
        "init_from": Path("/w.safetensors"),
    },
)


def repeated(config):
    words = shlex.split(command(config))
    assert words[:2] == ["fastait", "train"]
    config = parsed(words[2:])[0].config()
    config.check()
    return config.resolved()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_command_makes_the_same_settings(name, settings):
    config = replace(recipe(name, **settings), out=Path("somewhere")).resolved()
    again = repeated(config)
    assert replace(again, out=config.out) == config


TRIED = ("adv-interp", "n-fgsm", "natural", "madry", "grad-align", "uat", "iat-mixup")


def test_another_schedule_than_the_recipes():
    """Whose milestones the command says, also those that digits have."""
    for name in ("cifar10-fastat", "cifar10-speedrun"):
        config = recipe(name, schedule="step", milestones=(10,)).resolved()
        assert repeated(config) == config


def test_every_recipe():
    for name, method in (key for key in BY_METHOD if key[1] in TRIED):
        unlabeled = Path("/more") if method == "uat" else None
        config = recipe(name, method=method, unlabeled=unlabeled).resolved()
        assert repeated(config) == config, (name, method)
        assert len(command(config).split()) <= 2 + 2 * 4, command(config)


def test_the_command_does_not_hang_on_where_it_is_made(tmp_path, monkeypatch):
    """Images in the folder that is the current one's by default are named."""
    config = recipe("cifar10").resolved()
    here = command(config)
    monkeypatch.chdir(tmp_path.parent)
    assert command(config) == here
    assert f"--data-dir {tmp_path / 'data'}" in here


def test_what_no_flag_says():
    """A recipe's own value cannot be taken back by a flag."""
    assert command(recipe("cifar10-fastat", ema=None).resolved()) is None
    assert command(replace(recipe("digits").resolved(), recipe="gone")) is None


def test_places_are_said_too():
    config = recipe("digits", device="cpu", dali=True, keep_checkpoints=3).resolved()
    said = command(config)
    assert {"device", "dali", "keep_checkpoints"} <= set(PLACES)
    assert all(flag in said for flag in ("--device cpu", "--dali", "--keep-checkpoints 3"))
