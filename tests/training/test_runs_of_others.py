"""A run that somebody else began: what it says is checked, and it makes nothing elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from tiny_run import OF_A_FOLDER, tiny

from fastait import resume_training, run_training
from fastait.checkpoints.checkpoint import packed
from fastait.checkpoints.folder import RunFolder
from fastait.models import make
from fastait.runtime.errors import InputError


@pytest.fixture
def begun(image_folder):
    """A run that has not come to a checkpoint."""
    RunFolder(Path("run")).begin(tiny(**{**OF_A_FOLDER, "epochs": 1, "method": "natural"}).resolved())
    return Path("run/config.json")


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_no_folder_is_made_because_a_run_names_it(begun):
    change(begun, cache_dir="elsewhere", out="elsewhere")
    resume_training("run")
    assert not Path("elsewhere").exists()
    assert json.loads(begun.read_text())["cache_dir"] is None


def test_nothing_is_downloaded_to_where_a_run_says(begun):
    change(begun, dataset="cifar10", data_dir="elsewhere")
    with pytest.raises(
        InputError, match=r"its images were in .*elsewhere, where there is no folder; --data-dir makes one"
    ):
        resume_training("run")
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize(
    ("setting", "value"), [("epochs", 10**300), ("workers", 10**9), ("batch_size", 2**62), ("attack_steps", 2**62)]
)
def test_huge_settings_are_refused(begun, setting, value):
    change(begun, **{setting: value})
    with pytest.raises(InputError, match=rf"--{setting.replace('_', '-')} must be at least \d+ and at most \d+, got"):
        resume_training("run")


def test_a_checkpoint_of_something_else(begun):
    config = json.loads(begun.read_text())
    for state in ({"step": 1}, {"config": config, "environment": {"threads": 1}, "model": {"a": torch.zeros(1)}}):
        Path("run/checkpoint.pt").write_bytes(packed(state))
        with pytest.raises(InputError, match=r"checkpoint\.pt (is whole, but does not hold|does not fit)"):
            resume_training("run")


@pytest.mark.parametrize("change_of", [{"pgd20": None}, {"clean": "90"}, {"epsilon": 1e999}, {"ema": {"clean": 1}}])
def test_figures_that_are_none(change_of):
    run_training(tiny(epochs=1, method="natural", milestones=(1,)))
    file = Path("run/result.json")
    change(file, **change_of)
    with pytest.raises(InputError, match=r"result\.json is damaged: \w+.* is .*; move it away to evaluate again"):
        resume_training("run")


def test_a_network_that_no_memory_holds():
    with pytest.raises(InputError, match=r"--model wrn-9994-1000 has \d+ GB of weights; this machine's memory is"):
        make("wrn-9994-1000", 10, generator_seed=None)
