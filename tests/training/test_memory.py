"""Runs that find less memory than they would take: one line that says so, and nothing lost."""

import weakref
from pathlib import Path

import pytest
import torch
from tiny_run import tiny
from torch import nn

from fastait import resume_training, run_training
from fastait.eval import main as eval_command
from fastait.models import WideResNet
from fastait.runtime.errors import OutOfMemory, RunError
from fastait.runtime.report import COLUMNS
from fastait.training import watch
from fastait.training.step import Totals


def test_out_of_memory_is_one_line(monkeypatch):
    def allocate(*arguments, **options):
        torch.empty(2**60)

    monkeypatch.setattr("fastait.training.prepare.load_dataset", allocate)
    with pytest.raises(OutOfMemory, match="out of memory"):  # which is not said of the run: others may have room for it
        run_training(tiny())


@pytest.mark.parametrize("convolution", [1, 40])
def test_what_a_run_held_is_given_back_while_its_error_is_kept(monkeypatch, convolution):
    """As a notebook keeps the last one; the first pass of all is where a network's features are found."""
    forward, weights = nn.Conv2d.forward, []

    def crowded(self, x):
        weights.append(weakref.ref(self.weight))
        if len(weights) == convolution:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", crowded)
    with pytest.raises(RunError, match="out of memory") as error:
        run_training(tiny())
    assert not any(weight() is not None for weight in weights)
    assert error.value.__context__ is not None


def test_measuring_what_is_held_out_runs_out_of_memory(monkeypatch):
    def crowded(model, images, attacks, **options):
        raise MemoryError

    monkeypatch.setattr(watch, "evaluate", crowded)
    with pytest.raises(RunError, match=r"out of memory \(MemoryError\); it measured images after epoch 1; "):
        run_training(tiny(val_fraction=0.25))


def test_an_evaluation_that_runs_out_of_memory_costs_no_training(monkeypatch, capsys):
    """The weights are there, and to go on is to evaluate."""
    undisturbed = run_training(tiny(val_fraction=0.25, out=Path("undisturbed")))
    forward = WideResNet.forward

    def crowded(self, x):
        if not self.training and x.any() and Path("run/model.safetensors").exists():  # a run tries black images first
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(WideResNet, "forward", crowded)
        for go_on in (lambda: run_training(tiny(val_fraction=0.25)), lambda: resume_training("run")):
            with pytest.raises(RunError) as error:
                go_on()
            assert str(error.value) == (
                "out of memory with a single image at a time (CUDA out of memory. Tried to allocate 2.00 GiB.); the "
                "training is finished and its weights are kept in run: evaluate by fastait eval run, or finish by "
                "fastait train --resume run, where there is more memory (--device)"
            )
    assert not Path("run/result.json").exists()
    for name in ("model", "best"):
        assert Path(f"run/{name}.safetensors").read_bytes() == Path(f"undisturbed/{name}.safetensors").read_bytes()
    assert eval_command(["run", "--device", "cpu", "--samples", "10", "--attacks", "fgsm", "--out", "eval"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Totals, "add", None)  # no step is taken any more
        resumed = resume_training("run")
    assert [resumed.result[name] for name in COLUMNS] == [undisturbed.result[name] for name in COLUMNS]
    assert resumed.result["best"] == undisturbed.result["best"]


def test_fewer_images_are_validated_at_a_time(monkeypatch, capsys):
    """Said once in a run of two epochs, and nothing else is different."""
    settings = {"val_fraction": 0.25, "method": "natural"}
    undisturbed = run_training(tiny(**settings, out=Path("undisturbed")))
    forward = WideResNet.forward

    def crowded(self, x):
        if not self.training and len(x) > 200:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, x)

    monkeypatch.setattr(WideResNet, "forward", crowded)
    run = run_training(tiny(**settings), show=True)
    assert capsys.readouterr().err.count("warning: out of memory with 360 images at a time; 180 are taken") == 1
    assert run.result["best"] == undisturbed.result["best"]
