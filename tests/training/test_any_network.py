"""Runs of every kind of network: stopped in the middle, gone on with to the same bits, evaluated, loaded again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import write_folder

from fastait import load_model, recipe, resume_training, run_training
from fastait.checkpoints.folder import RunFolder
from fastait.eval import main as eval_command
from fastait.runtime.errors import InputError, Interrupted
from fastait.train import main as train_command
from fastait.training.step import TrainStep

OWN = """
from torch import nn

def small(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(32, classes),
    )
"""

NETWORKS = [
    *(("wrn-10-1", 8), ("wrn-10-1-silu", 8), ("resnet-18", 8), ("preact-resnet-18", 8), ("timm:resnet10t", 32)),
    *(("timm:vit_tiny_patch16_224", 32), ("torchvision:mobilenet_v2", 32), ("torchvision:mobilenet_v2", 64)),
    ("nets:small", 16),
]
METHODS = ("adv-interp", "madry")
STOPPED = 1


@pytest.fixture(autouse=True)
def here():
    """Images, and a user's own file, in the current folder."""
    write_folder(Path("images"), {"cat": 8, "dog": 8}, size=(64, 64))
    Path("nets.py").write_text(OWN)
    yield
    sys.modules.pop("nets", None)


def needed(name):
    library = name.partition(":")[0]
    if library in ("timm", "torchvision"):
        pytest.importorskip(library)


def settings(name, size, method="adv-interp", **more):
    return recipe(
        "digits",
        **{
            "dataset": "folder",
            "data_dir": Path("images"),
            "model": name,
            "image_size": size,
            "method": method,
            "batch_size": 8,
            "epochs": 1,
            "milestones": (),
            "lr": 0.01,
            "attack_steps": 1,
            "device": "cpu",
            "out": Path("run"),
            "eval_samples": 4,
            **more,
        },
    )


@pytest.fixture
def stopped(monkeypatch):
    """Train as ``config`` says until step ``STOPPED``, where a signal asks for an end."""

    def train(config):
        call = TrainStep.__call__

        def ask_for_an_end(self, images, y, step, *more):
            call(self, images, y, step, *more)
            if step == STOPPED - 1:
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(TrainStep, "__call__", ask_for_an_end)
            with pytest.raises(Interrupted, match=f"stopped at step {STOPPED}"):
                run_training(config)

    return train


LONG = {("torchvision:mobilenet_v2", 64, "adv-interp")} | {(*each, "madry") for each in NETWORKS[:-1]}


@pytest.mark.parametrize(
    ("name", "size", "method"),
    [
        pytest.param(*each, method, marks=[pytest.mark.slow] if (*each, method) in LONG else [])
        for each in NETWORKS
        for method in METHODS
    ],
)
def test_stopped_resumed_evaluated_and_loaded(name, size, method, stopped, capsys, monkeypatch):
    needed(name)
    monkeypatch.setattr("fastait.training.loop.ATTACKS", ("fgsm",))  # of these nothing else is looked at
    whole = run_training(settings(name, size, method, out=Path("whole")))
    stopped(settings(name, size, method))
    run = resume_training("run", model=name)
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    config = json.loads(Path("run/config.json").read_text())
    assert config["model"] == name
    assert config["classes"] == ["cat", "dog"]
    x = torch.rand(3, 3, size, size)
    model, config = load_model("run", model=name)
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(x), run.model(x))
        assert torch.equal(model(x), whole.model(x))
    assert model(x).shape == (3, 2)
    capsys.readouterr()
    argv = ["run", "--device", "cpu", "--attacks", "fgsm", "--out", "eval", "--samples", "4", "--data-dir", "images"]
    assert eval_command([*argv, *(["--model", name] if name.startswith("nets") else [])]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wrn-10-1-silu", "features(x) of its class"),
        ("nets:small", "what 6 is given (32 an image)"),
    ],
)
def test_what_is_said_at_the_beginning(name, source, capsys):
    needed(name)
    run_training(settings(name, 32), show=True)
    lines = capsys.readouterr().err.replace("\n", " ")
    assert f"2 classes; {name}, fp32" in lines
    assert f"features: {source}" in lines


def test_a_run_folder_is_no_permission_to_call_a_function(stopped, capsys):
    stopped(settings("nets:small", 8))
    for what in (lambda: resume_training("run"), lambda: load_model("run/checkpoint.pt")):
        sys.modules.pop("nets", None)
        with pytest.raises(InputError, match="called only if you name it yourself: --model nets:small on the command"):
            what()
        assert "nets" not in sys.modules
    assert train_command(["--resume", "run"]) == 2
    assert eval_command(["run/checkpoint.pt", "--out", "eval"]) == 2
    capsys.readouterr()
    assert train_command(["--resume", "run", "--model", "nets:other"]) == 2
    assert "model nets:other (the run has nets:small)" in capsys.readouterr().err
    assert train_command(["--resume", "run", "--model", "nets:small"]) == 0
    for what in (lambda: resume_training("run"), lambda: load_model("run")):
        with pytest.raises(InputError, match="name it yourself"):
            what()
    assert resume_training("run", model="nets:small").result["network"] == "nets:small"


def test_a_resume_with_another_network_of_the_same_name(stopped, capsys):
    stopped(settings("nets:small", 8))
    before = Path("run/config.json").read_bytes()
    Path("nets.py").write_text(OWN.replace("32, classes", "32, classes, bias=False"))
    sys.modules.pop("nets")
    assert train_command(["--resume", "run", "--model", "nets:small"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("run/checkpoint.pt does not fit nets:small, whose code has changed since: with 6.bias")
    assert Path("run/config.json").read_bytes() == before


def test_no_features_where_the_method_needs_them():
    Path("nets.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Cosine(nn.Module):\n    def __init__(self, classes):\n"
        "        super().__init__()\n        self.w = nn.Parameter(torch.ones(classes, 3))\n"
        "    def forward(self, x):\n        return x.mean(dim=(2, 3)) @ self.w.T\n"
    )
    with pytest.raises(InputError, match=r"define a method features\(x\) in its class"):
        run_training(settings("nets:Cosine", 8))
    assert not Path("run").exists()
    run_training(settings("nets:Cosine", 8, "madry"))


ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3, 2)), nn.ReLU(), nn.Flatten())
        self.weight = nn.Parameter(torch.rand(classes, 36) / 9)
        self.register_buffer("mask", torch.full((2,), -torch.inf))
    def features(self, x):
        return self.body(x)
    def forward(self, x):
        return (self.weight @ self.features(x).T).T
    def train(self, mode=True):
        super().train(mode)

class Lists(Odd):
    def features(self, x):
        return [super().features(x)]
    def forward(self, x):
        return (self.weight @ self.body(x).T).T

class Raises(Lists):
    def features(self, x):
        raise KeyError("no")
"""


@pytest.mark.parametrize("method", ["adv-interp", "trades", "mixup"])
def test_what_networks_may_do(method):
    """Logits that are transposed, a mask that is not finite, a train() that returns nothing, weights made by a hook."""
    Path("nets.py").write_text(ODD)
    run = run_training(settings("nets:Odd", 8, method, ema=0.9, val_fraction=0.25))
    assert not run.model.training
    for name in ("model", "ema", "best"):
        assert load_model(f"run/{name}.safetensors", model="nets:Odd")[0].mask.isneginf().all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nets:Lists", "features.x. of its class returns a list where features .2, .... are needed"),
        ("nets:Raises", r"features.x. of its class fails: KeyError: 'no' \(.*nets.py:\d+\)"),
    ],
)
def test_features_are_tried_before_there_is_a_folder(name, said):
    Path("nets.py").write_text(ODD)
    with pytest.raises(InputError, match=said):
        run_training(settings(name, 8))
    assert not Path("run").exists()


def as_of_before(folder):
    """What the first version's folder says of its network."""
    config = json.loads((folder / "config.json").read_text())
    _, depth, widen_factor = config.pop("model").split("-")
    for key in ("pretrained", "normalization"):
        config.pop(key, None)
    config |= {"depth": int(depth), "widen_factor": int(widen_factor)}
    (folder / "config.json").write_text(json.dumps(config))
    run = RunFolder(folder)
    state = run.load_checkpoint()
    state.pop("normalization", None)
    kept = {key: value for key, value in config.items() if key in state["config"] or key in ("depth", "widen_factor")}
    run.save_checkpoint({**state, "config": kept})


def test_folders_of_before_there_were_other_networks(stopped, capsys):
    run_training(settings("wrn-10-2", 8, out=Path("whole")))
    stopped(settings("wrn-10-2", 8))
    as_of_before(Path("run"))
    shutil.copytree("run", "other")
    assert train_command(["--resume", "run"]) == 0
    assert "depth" not in capsys.readouterr().err
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert json.loads(Path("run/config.json").read_text())["model"] == "wrn-10-2"
    assert train_command(["--resume", "other", "--model", "wrn-10-1"]) == 2
    as_of_before(Path("run"))
    assert load_model("run")[0].num_classes == 2
    assert eval_command(["run", "--device", "cpu", "--attacks", "fgsm", "--out", "eval"]) == 0


def test_weights_that_are_tied():
    """Files have no memory twice; the network that is loaded has."""
    Path("nets.py").write_text(
        "from torch import nn\n\nclass Tied(nn.Module):\n    def __init__(self, classes):\n"
        "        super().__init__()\n        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)\n"
        "        self.b.weight = self.a.weight\n        self.fc = nn.Linear(3, classes)\n"
        "    def forward(self, x):\n        return self.fc(self.b(self.a(x.mean(dim=(2, 3))).relu()).relu())\n"
    )
    run = run_training(settings("nets:Tied", 8))
    model, _ = load_model("run", model="nets:Tied")
    assert model.b.weight is model.a.weight
    assert torch.equal(model.a.weight, run.model.a.weight)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("timm:resnet10t", 32), ("nets:small", 16)])
def test_killed_on_the_command_line(name, size):
    """Real processes, killed while they train digits."""
    needed(name)
    command = [sys.executable, "-m", "fastait.train"]
    argv = ["--model", name, "--image-size", str(size), "--epochs", "2", "--batch-size", "128", "--device", "cpu"]
    argv += ["--eval-samples", "10", "--checkpoint-seconds", "0.02"]
    subprocess.run([*command, *argv, "--out", "whole"], check=True, capture_output=True)
    process = subprocess.Popen([*command, *argv, "--out", "run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not Path("run/checkpoint.pt").exists():
        time.sleep(0.005)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, "--resume", "run", "--model", name], check=True, capture_output=True)
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
