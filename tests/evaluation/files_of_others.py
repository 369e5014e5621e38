"""What tests of networks from files share: the command, a few digits, a network of somebody's own."""

import json
from pathlib import Path

import torch

from fastait.checkpoints.weights import About, packed
from fastait.data import load_dataset
from fastait.eval import main
from fastait.models import make

SIZE, FEW = 8, 12


def argv(*models, **flags):
    given = [str(model) for model in models]
    given += ["--dataset", "digits", "--device", "cpu", "--attacks", "fgsm", "--samples", str(FEW)]
    for name, value in {"image_size": SIZE, "out": "out", **flags}.items():
        given += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return given


def outcomes(place=0):
    return json.loads(Path("out/eval.json").read_text())["outcomes"][place]["correct"]


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def digits():
    """(images in fp64, labels)."""
    images = load_dataset("digits", image_size=SIZE).test.stratified(FEW)
    return images.floats(torch.arange(FEW), torch.device("cpu")).double(), images.labels


def within(prefix, state):
    return {prefix + name: value for name, value in state.items()}


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.last = nn.Linear(16, classes)

    def forward(self, x):
        return self.last(self.module(x) - 0.1)

class Normalising(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.register_buffer("mean", torch.full((3, 1, 1), 0.3))
        self.register_buffer("std", torch.full((3, 1, 1), 0.2))

    def forward(self, x):
        return super().forward((x - self.mean) / self.std)

def other(classes):
    return nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(192, classes))
"""


def own_weights(name):
    model = make(name, 10, image_size=SIZE, generator_seed=0, allow_own=True).eval()
    return model, {key: value.clone() for key, value in model.state_dict().items()}


def run_folder(path, name, state, **config):
    """A finished run, as far as an evaluation reads it."""
    path.mkdir()
    settings = {"recipe": "digits", "method": "natural", "dataset": "digits", "image_size": SIZE, **config}
    (path / "config.json").write_text(json.dumps(settings))
    (path / "model.safetensors").write_bytes(packed(dict(state), About(name)))
    return path
