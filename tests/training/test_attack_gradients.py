"""An epoch whose attack had nothing to go by is said."""

from pathlib import Path

import pytest
import torch
from conftest import write_folder
from tiny_run import OF_A_FOLDER

from fastait import recipe, run_training
from fastait.models import WideResNet
from fastait.training.attack_gradients import gradient_shares, without_gradients


def totals(zero, nan, computed):
    return {"zero_gradients": zero, "nan_gradients": nan, "gradients": computed}


@pytest.mark.parametrize(
    ("counts", "what"),
    [((8, 0, 8), "zero"), ((0, 8, 8), "NaN"), ((3, 5, 8), "zero or NaN"), ((7, 0, 8), None), ((0, 0, 0), None)],
)
def test_all_of_them(counts, what):
    said = without_gradients(totals(*counts), 3)
    assert (said is None) == (what is None)
    if said:
        assert f"nothing to go by in epoch 3: all 8 input gradients were {what}, so" in said


def test_shares():
    assert gradient_shares(totals(1, 2, 8)) == {"zero_gradients": 12.5, "nan_gradients": 25.0}
    assert gradient_shares(totals(0, 0, 0)) == {}


@pytest.mark.parametrize(
    ("method", "said"), [("madry", 2), pytest.param("adv-interp", 2, marks=pytest.mark.slow), ("natural", 0)]
)
def test_a_network_that_does_not_look_at_its_images(monkeypatch, capsys, method, said):
    """Said once for each epoch."""
    write_folder(Path("images"), {"cat": 8, "dog": 8})
    for name in ("forward", "features"):
        own = getattr(WideResNet, name)
        monkeypatch.setattr(WideResNet, name, lambda self, x, own=own: own(self, torch.zeros_like(x) * x))
    run_training(recipe("digits", **{**OF_A_FOLDER, "out": "run"}, method=method, attack_steps=1), show=True)
    assert capsys.readouterr().err.count("warning: the attack had nothing to go by in epoch") == said
