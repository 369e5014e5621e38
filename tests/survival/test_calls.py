"""Public functions with a few odd arguments; that none is left out, and that whatever they may do wrong is seen."""

import random

import public
import pytest
import torch
from calls import FEW, main, tried

from fastait.runtime.errors import InputError


def test_each_works_or_names_its_argument(tmp_path):
    found = main(True, tmp_path)
    assert found["failures"] == []
    assert found["counts"]["calls"] == FEW * len(public.CALLS)
    assert found["counts"]["of them refused"] > found["counts"]["calls"] / 2


def test_every_public_name_is_spoken_of():
    assert public.names() == public.listed()


def _raises(error):
    def function(**arguments):
        raise error

    return function


def _changes(what):
    def function(**arguments):
        what(arguments)

    return function


def _grow(arguments):
    arguments["x"].add_(1)


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        (_raises(AttributeError("no attribute")), "an internal error: AttributeError"),
        (_raises(RuntimeError("x must be")), "an internal error: RuntimeError"),
        (_raises(ValueError("x must be")), "an error from within"),  # not raised by a file of ours
        (_changes(lambda given: torch.rand(1)), "torch's generator changed"),
        (_changes(lambda given: random.random()), "Python's generator changed"),
        (_changes(_grow), "its x was changed"),
        (_changes(lambda given: given["x"].requires_grad_()), "its x was changed"),
        (_changes(lambda given: given["model"].train()), "its model was changed"),
        (_changes(lambda given: given["model"].requires_grad_(False)), "its model was changed"),
    ],
)
def test_what_is_wrong_is_seen(function, wrong):
    arguments = {"x": torch.zeros(2), "model": torch.nn.Linear(1, 1).eval()}
    ((_, line),) = tried("a function", function, arguments, ("x",))[1]
    assert wrong in line


@pytest.mark.parametrize(
    ("error", "wrong"), [(InputError("y is odd"), "x not named"), (ValueError("x\nis odd"), "not one line")]
)
def test_messages_are_read(error, wrong, monkeypatch):
    monkeypatch.setattr("calls.OURS", (__file__,))
    ((_, line),) = tried("a function", _raises(error), {"x": 1}, ("x",))[1]
    assert wrong in line
