"""New methods, schedules and optimisers: stopped in the middle of an epoch and gone on with, bit for bit."""

import json
import signal
from pathlib import Path

import pytest
import torch
from conftest import write_folder
from tiny_run import OF_A_FOLDER

from fastait import recipe, resume_training, run_training
from fastait.runtime.errors import Interrupted
from fastait.train import main
from fastait.training.step import Totals

SETTINGS = {**OF_A_FOLDER, "attack_steps": 1}


@pytest.mark.parametrize(
    "method",
    [
        {"method": "nu-at", "schedule": "linear", "ema": 0.9},
        {"method": "mart", "awp": 0.01, "schedule": "one-cycle"},
        {"method": "grad-align", "label_smoothing": 0.3, "nesterov": True},
        {"method": "fgsm-rs", "optimizer": "adamw", "lr": 0.01, "clip_grad_norm": 0.5},
        {"method": "n-fgsm", "schedule": "cosine", "warmup_epochs": 0.7, "milestones": None},
        {"method": "trades", "awp": 0.01, "warmup_epochs": 1.2},
    ],
    ids=lambda method: method["method"],
)
def test_stopped_and_resumed(monkeypatch, method):
    write_folder(Path("images"), {"cat": 8, "dog": 8})
    config = recipe("digits", **SETTINGS, **method)
    expected = run_training(recipe("digits", **SETTINGS, **method, out="whole")).model.state_dict()
    add = Totals.add

    def stop(self, loss, logits, y, step):
        add(self, loss, logits, y, step)
        if int(step) == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Totals, "add", stop)
        with pytest.raises(Interrupted):
            run_training(recipe("digits", **SETTINGS, **method, out="run"))
    resumed = resume_training("run")
    saved = json.loads(Path("run/config.json").read_text())
    assert saved["penalty"] == config.penalty_weight()
    assert saved["awp"] == config.awp
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for file in Path("whole").glob("*.safetensors"):
        assert Path("run", file.name).read_bytes() == file.read_bytes()


def test_compiled_passes_are_said_to_be_left_out(monkeypatch, capsys):
    write_folder(Path("images"), {"cat": 8, "dog": 8})
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    run_training(recipe("digits", **{**SETTINGS, "epochs": 1}, method="grad-align", compile=True, out="run"), show=True)
    said = "--compile: the second derivative that --method grad-align needs is taken without it."
    assert said in capsys.readouterr().err


def test_one_class(capsys):
    write_folder(Path("images"), {"cat": 8})
    argv = ["--dataset", "folder", "--data-dir", "images", "--image-size", "8", "--batch-size", "4", "--device", "cpu"]
    assert main([*argv, "--method", "nu-at", "--out", "run"]) == 2
    assert "holds one class only (cat); a classifier needs at least two" in capsys.readouterr().err
    assert not Path("run").exists()
