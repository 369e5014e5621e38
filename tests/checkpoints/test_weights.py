"""Networks of state dicts: which they show, and the one of a name that holds them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastait.checkpoints.architectures import architecture, fitting
from fastait.checkpoints.weights import About, OtherNetwork, blank, classes_guessed, filled, packed, read_weights
from fastait.models import make
from fastait.runtime.errors import InputError

BUILT_IN = ("wrn-10-1", "wrn-10-2-s2", "wrn-16-2-silu", "resnet-18", "preact-resnet-18-v2-bn")
OF_LIBRARIES = ("timm:resnet10t", "timm:vit_tiny_patch16_224", "torchvision:mobilenet_v2")


def made(name, classes=7, size=32):
    if name in OF_LIBRARIES:
        pytest.importorskip(name.partition(":")[0])
    return make(name, classes, image_size=size, generator_seed=1).eval()


def weights_of(name, **options):
    return dict(made(name, **options).state_dict())


def of(name, weights, classes=None, size=32, own=False):
    classes = classes or classes_guessed(weights)
    return filled(blank(name, classes, image_size=size, allow_own=own), weights).network


@pytest.mark.parametrize("name", [*BUILT_IN, *OF_LIBRARIES])
def test_the_network_of_a_name(name):
    """Whatever the caller has set; nothing is drawn, and a gradient passes it."""
    model = made(name)
    weights = dict(model.state_dict())
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            loaded = of(name, weights, 5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.is_contiguous() for parameter in loaded.parameters())
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    logits = loaded(x)
    assert torch.equal(logits, model(x))
    logits.sum().backward()
    assert x.grad.any()
    if name in BUILT_IN:  # it holds the weights that it is given
        assert all(loaded.state_dict()[key].data_ptr() == weights[key].data_ptr() for key in weights if "bn" in key)


def test_a_network_of_another_size():
    weights = weights_of("timm:vit_tiny_patch16_224", size=64)
    assert of("timm:vit_tiny_patch16_224", weights, size=64)(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    with pytest.raises(OtherNetwork, match=r"other shapes of pos_embed \(1x17x192, needed 1x5x192\)"):
        of("timm:vit_tiny_patch16_224", weights)


OWN = """
from torch import nn

def tied(classes):
    layers = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, classes)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), *layers)
    net[3].weight = net[2].weight
    return net

class Late(nn.Module):
    def __init__(self, classes):  # the last layer is not the last that it has
        super().__init__()
        self.last, self.first = nn.Linear(12, classes), nn.Linear(12, 12)

    def forward(self, x):
        return self.last(self.first(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)))

def three_classes(classes):
    return tied(3)
"""


def test_a_function_of_the_users_own(monkeypatch):
    Path("own_of_weights.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own_of_weights", raising=False)
    with pytest.raises(InputError, match="own_of_weights:tied is a function of somebody's own"):
        of("own_of_weights:tied", {})
    assert "own_of_weights" not in sys.modules
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4))
    plain[3].weight = plain[2].weight
    loaded = of("own_of_weights:tied", plain.state_dict(), own=True)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded(x), plain(x))
    assert loaded[3].weight is loaded[2].weight
    late = make("own_of_weights:Late", 4, image_size=8, generator_seed=0, allow_own=True).eval()
    assert torch.equal(of("own_of_weights:Late", late.state_dict(), own=True)(x), late(x))
    with pytest.raises(InputError, match="own_of_weights:three_classes tells 3 classes apart"):
        of("own_of_weights:three_classes", plain.state_dict(), own=True)


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        (
            "wrn-10-1",
            "wrn-16-1",
            r"wrn-10-1: with block1\.layer\.1\.\S+, \S+, \S+ and others; they are those of wrn-16-1$",
        ),
        ("resnet-18", "preact-resnet-18", "they are those of preact-resnet-18 or preact-resnet-18-v2$"),
        ("wrn-10-1-silu", "wrn-10-1", "without .* and others; with .* and others; they are those of wrn-10-1$"),
        ("torchvision:mobilenet_v2", "wrn-10-1", "they are those of wrn-10-1$"),
        (
            "wrn-10-1",
            "timm:resnet10t",
            "without [^;]* and others; with [^;]* and others; with other shapes of fc.weight [^;]*$",
        ),
    ],
)
def test_weights_of_another_architecture(name, other, said):
    weights = weights_of(other)
    made(name) if name in OF_LIBRARIES else None
    with pytest.raises(OtherNetwork, match=said) as caught:
        of(name, weights)
    assert str(caught.value).startswith(f"the weights are not those of {name}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_weights_that_are_nearly_right():
    weights = weights_of("wrn-10-1")
    cases = {
        "without fc.bias$": without(weights, "fc.bias"),
        "with extra$": {**weights, "extra": torch.zeros(1)},
        r"with other shapes of conv1.weight \(16x3x7x7, needed 16x3x3x3\)$": {
            **weights,
            "conv1.weight": torch.zeros(16, 3, 7, 7),
        },
        "with other numbers than fp32 in bn1.bias$": {**weights, "bn1.bias": weights["bn1.bias"].int()},
        "with other numbers than fp32 in fc.weight$": {**weights, "fc.weight": weights["fc.weight"].to_sparse()},
    }
    for said, state in cases.items():
        with pytest.raises(OtherNetwork, match=said):
            of("wrn-10-1", state)
    silu = weights_of("wrn-10-1-silu")
    with pytest.raises(OtherNetwork, match=r"and others; they are more like those of wrn-10-1-silu or wrn-10-1-relu"):
        of("wrn-10-1", without(silu, "logits.bias"))
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    assert {value.dtype for value in of("wrn-10-1", half).state_dict().values()} == {torch.float32, torch.int64}


def blocks(kind, counts, bottleneck=False):
    """Names as of a ResNet's state dict, with numbers of no use."""
    names = ["conv1.weight", "linear.weight", *(["bn1.weight"] if kind == "ResNet" else [])]
    for layer, count in enumerate(counts, 1):
        for block in range(count):
            names += [f"layer{layer}.{block}.conv{conv}.weight" for conv in range(1, 4 if bottleneck else 3)]
    return dict.fromkeys(names, torch.zeros(()))


def test_what_weights_show():
    for name, names in {
        "wrn-16-2": ("wrn-16-2",),
        "wrn-10-2-s2": ("wrn-10-2-s2",),
        "wrn-16-2-silu": ("wrn-16-2-silu", "wrn-16-2-relu"),
        "resnet-18": ("resnet-18",),
        "preact-resnet-18": ("preact-resnet-18", "preact-resnet-18-v2"),
        "preact-resnet-18-v2-bn": ("preact-resnet-18-bn", "preact-resnet-18-v2-bn"),
    }.items():
        weights = weights_of(name)
        assert architecture(weights).names == names == fitting(weights)
        assert fitting(without(weights, "conv1.weight", "init_conv.weight")) == ()
    for title, state in {
        "ResNet-34": blocks("ResNet", (3, 4, 6, 3)),
        "ResNet-50": blocks("ResNet", (3, 4, 6, 3), bottleneck=True),
        "PreActResNet-34": blocks("PreActResNet", (3, 4, 6, 3)),
        "ResNet of 1+1+1+1 blocks": blocks("ResNet", (1, 1, 1, 1)),
    }.items():
        assert architecture(state).title == title
        assert architecture(state).names == fitting(state) == ()
        with pytest.raises(
            OtherNetwork, match=f"they are those of a {title}, which has no name here$".replace("+", r"\+")
        ):
            of("resnet-18", state)
    stem = "block1.layer.0.conv1.weight"
    for state in ({}, {"weight": torch.zeros(2)}, {stem: torch.zeros(())}, {stem: torch.zeros(10**6)}):
        assert architecture(state) is None


def test_files_say_what_their_weights_are(tmp_path):
    weights = weights_of("resnet-18", classes=2)
    about = About("resnet-18", ("cat", "dog"), ((0.0,) * 3, (1.0,) * 3), 64)
    written = packed(weights, about)
    assert written == packed(weights, about)
    (tmp_path / "w.safetensors").write_bytes(written)
    read, said = read_weights(tmp_path / "w.safetensors")
    assert said == about
    assert read.keys() == weights.keys()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"network": "WRN-28-10"}, About("wrn-28-10")),  # as version 0.1 wrote it
        ({"network": "a transformer"}, About()),  # of another program
        ({"network": "a transformer", "classes": "[]", "image_size": "[224, 224]"}, About()),
        ({"classes": "cat, dog"}, About()),
        ({"network": "nets:make", "image_size": "224"}, About("nets:make", image_size=224)),
    ],
)
def test_what_files_of_others_say(metadata, expected):
    save_file({"a": torch.zeros(1)}, "w.safetensors", metadata)
    assert read_weights(Path("w.safetensors"))[1] == expected


@pytest.mark.parametrize("size", [0, -1, 10**9, 2.5, "a", True, None])
def test_image_sizes_that_are_none(size):
    save_file({"a": torch.zeros(1)}, "w.safetensors", {"network": "wrn-10-1", "image_size": json.dumps(size)})
    with pytest.raises(InputError, match="metadata are damaged: image_size must be a whole number"):
        read_weights(Path("w.safetensors"))
