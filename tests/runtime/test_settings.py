"""Settings of a run from what scripts have: strings for paths, numpy's and torch's numbers; one line for the rest."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_folder

from fastait import TrainConfig, recipe, resume_training, run_training
from fastait.data import load_dataset
from fastait.data.__main__ import main as data_main
from fastait.reproduction.session import reproduce
from fastait.reproduction.systems import SCALES, Choices
from fastait.runtime.errors import InputError
from fastait.runtime.settings import as_written, fraction


@pytest.mark.parametrize(
    ("name", "given", "plain"),
    [
        ("out", "RUN", Path("RUN")),
        ("data_dir", np.str_("images"), Path("images")),
        ("seed", np.int64(1), 1),
        ("seed", torch.tensor(2**40), 2**40),
        ("epochs", np.array(3), 3),
        ("epsilon", np.float32(0.5), 0.5),
        ("epsilon", Fraction(1, 4), 0.25),
        ("lr", torch.tensor(0.5, requires_grad=True), 0.5),
        ("lr", 1, 1.0),
        ("flip", np.bool_(True), True),
        ("amp", torch.tensor(True), True),
        ("milestones", [3, np.int32(4)], (3, 4)),
        ("milestones", torch.tensor([3, 4]), (3, 4)),
        ("milestones", range(1, 3), (1, 2)),
        ("step_size", np.float64(0.5), 0.5),
        ("workers", np.uint8(2), 2),
        ("method", np.str_("natural"), "natural"),
    ],
)
def test_what_is_taken(name, given, plain):
    config = recipe("digits", **{name: given})
    found = getattr(config, name)
    assert found == plain
    assert type(found) is type(plain)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("seed", True, "seed must be a whole number, got True"),
        ("seed", None, "seed must be a whole number, got None"),
        ("epochs", 2.0, "epochs must be a whole number, got 2.0"),
        ("epochs", np.array([2]), "epochs must be a whole number"),
        ("epochs", torch.tensor([2]), "epochs must be a whole number"),
        ("epochs", torch.zeros((), dtype=torch.int64, device="meta"), "epochs must be a whole number"),
        ("workers", "2", "workers must be a whole number or None"),
        ("lr", "0.1", "lr must be a number"),
        ("lr", False, "lr must be a number"),
        ("lr", 10**400, "lr must be a number"),
        ("epsilon", 1j, "epsilon must be a number"),
        ("flip", 1, "flip must be True or False, got 1"),
        ("out", 3, "out must be a path or None, got 3"),
        ("out", b"RUN", "out must be a path or None"),
        ("out", "a\0b", "out must be a path or None"),
        ("method", ["uat"], "method must be a text"),
        ("milestones", "12", "milestones must be whole numbers, such as"),
        ("milestones", 5, "milestones must be whole numbers, such as"),
        ("milestones", [1.5], "milestones must be whole numbers, such as"),
    ],
)
def test_what_is_refused(name, given, message):
    with pytest.raises(InputError, match=message) as error:
        recipe("digits", **{name: given})
    assert "\n" not in str(error.value)


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe("digits", data_dir="~/images").data_dir == tmp_path / "images"
    assert Choices(SCALES["small"], "~/out").out == tmp_path / "out"
    assert recipe("digits", out="~nobody-of-this-name/run").out == Path("~nobody-of-this-name/run")
    with pytest.raises(InputError, match=f"--resume {tmp_path}/RUN: no run there"):
        resume_training("~/RUN")
    write_folder(tmp_path / "images", {"a": 1, "b": 1})
    monkeypatch.setenv("FASTAIT_CACHE", "~/cache")
    assert data_main(["folder", "--data-dir=~/images", "--image-size", "8", "--out=~/images.png"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"images", "images.png", "cache"}
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"train", "test"}


def test_names_that_are_no_settings(tmp_path):
    with pytest.raises(TypeError, match=r"'epoch' is no setting. Did you mean 'epochs'?"):
        recipe("digits", epoch=3)
    with pytest.raises(TypeError, match=r"'worker' is no setting. Did you mean 'workers'?"):
        resume_training("RUN", worker=3)
    with pytest.raises(InputError, match="3 is not one of digits"):
        recipe(3)


def test_entry_points(tmp_path):
    with pytest.raises(InputError, match=r"config must be a TrainConfig, of fastait.recipe for example, got dict"):
        run_training({"out": "RUN"})
    for path in (3, None, b"RUN"):
        with pytest.raises(InputError, match="path must be a path"):
            resume_training(path)
    with pytest.raises(InputError, match="--resume RUN: no run there"):
        resume_training("RUN")
    with pytest.raises(InputError, match="out must be a path"):
        Choices(SCALES["small"], 3)
    choices = Choices(SCALES["small"], "out", seeds=(np.int64(3),))
    assert choices.run("madry") == Path("out/small/runs/digits-madry-seed=3")
    with pytest.raises(InputError, match=r"TABLE: 'tabel1' is not one of .* Did you mean 'table1'"):
        reproduce("tabel1", Choices(SCALES["small"], "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.2, "0.2"), (51 / 255, "0.2"), (1.0, "1"), (0.0, "0"), (0.0313725, "0.0313725"), (3, "3")],
)
def test_numbers_are_shown_as_people_write_them(value, text):
    assert as_written(value) == text
    assert fraction(text) == value


@pytest.mark.parametrize("name", [np.zeros((2, 2)), torch.ones(3), None, ["digits"], pytest.param(10**5000, id="long")])
def test_what_is_no_text_is_no_choice(name):
    with pytest.raises(InputError, match=r"--recipe: .* is not one of digits, "):
        recipe(name)


def test_numbers_that_python_does_not_write_are_named():
    with pytest.raises(InputError, match="--workers must be at least 0 and at most 1024, got a number of very many"):
        recipe("digits", workers=10**5000).check()
    with pytest.raises(InputError, match="cache_dir must be a path or None, got a number of very many digits"):
        recipe("digits", cache_dir=10**5000)


@pytest.mark.parametrize("call", [lambda: resume_training("a\nb"), lambda: load_dataset("folder", image_column="a\nb")])
def test_what_is_quoted_stays_on_the_line(call):
    with pytest.raises(InputError, match=r"a\\nb") as raised:
        call()
    assert len(str(raised.value).splitlines()) == 1
