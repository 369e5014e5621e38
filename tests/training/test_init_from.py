"""Weights that a run begins with: whose outputs they are, and what becomes of the last layer."""

import sys
from pathlib import Path

import pytest
import torch

from fastait import recipe
from fastait.checkpoints.weights import About, packed
from fastait.models import make, normalization
from fastait.runtime.errors import InputError
from fastait.runtime.processes import Ranks
from fastait.runtime.report import Report
from fastait.training.networks import first_network
from fastait.training.prepare import Prepared

OURS = ((0.5,) * 3, (0.5,) * 3)


class Notes(Report):
    def __init__(self):
        super().__init__(show=False)
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def begun(data_dir, about, notes, name="wrn-10-1", classes=2, into=None, size=8):
    """The weights in a file, and the network of a run on ``data_dir`` that begins with them."""
    network = make(name, classes, image_size=size, generator_seed=7)
    Path("w.safetensors").write_bytes(packed(network.state_dict(), about))
    settings = {"dataset": "folder", "data_dir": data_dir, "image_size": size, "batch_size": 4, "device": "cpu"}
    config = recipe("digits", **settings, model=into or name, init_from=Path("w.safetensors"))
    return network, Prepared(config, notes, Ranks(), "cpu").model


@pytest.mark.parametrize(
    ("classes", "order", "message"),
    [
        (("cat", "dog"), [0, 1], ""),
        (("dog", "cat"), [1, 0], "its classes stand in another order, matched by name"),
        (("dog", "zcat"), [0, 1], "knows no 'cat' (but 'zcat', which the data set lacks); the last layer's weights"),
        (None, [0, 1], "the names of its classes are unknown, so they are matched by position"),
    ],
)
def test_outputs_are_matched_by_name(image_folder, classes, order, message):
    notes = Notes()
    network, model = begun(image_folder, About(classes=classes, normalization=OURS), notes)
    assert torch.equal(model.fc.weight, network.fc.weight[order])
    assert torch.equal(model.conv1.weight, network.conv1.weight)
    found = [line for line in notes.lines if "--init-from w.safetensors" in line]
    assert len(found) == bool(message)
    assert message in "".join(found)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("wrn-10-1", "fc"),
        ("wrn-10-1-silu", "logits"),
        ("preact-resnet-18", "linear"),
        ("timm:resnet10t", "fc"),
        ("torchvision:mobilenet_v2", "classifier.1"),
    ],
)
def test_a_last_layer_for_another_number_of_classes_is_drawn_anew(name, last, tmp_path):
    if ":" in name:
        pytest.importorskip(name.partition(":")[0])
    from conftest import write_folder

    folder = write_folder(tmp_path / "images", {"cat": 4, "dog": 4}, size=(32, 32))
    notes, size = Notes(), 32 if ":" in name else 8
    network, model = begun(folder, About(classes=tuple("abcde")), notes, name, classes=5, size=size)
    assert notes.lines[:1] == [
        "--init-from w.safetensors: its network tells 5 classes apart, the data set has 2, so the last layer is drawn "
        "anew"
    ]
    drawn, theirs = model.state_dict(), network.state_dict()
    fresh = recipe("digits", dataset="folder", data_dir=folder, image_size=size, batch_size=4, device="cpu", model=name)
    without = Prepared(fresh, Notes(), Ranks(), "cpu").model.state_dict()
    assert drawn.keys() == theirs.keys()
    for key in drawn:
        own = key.startswith(f"{last}.")
        assert torch.equal(drawn[key], (without if own else theirs)[key]), key


def test_what_normalises_goes_with_the_weights(image_folder):
    """Gowal et al.'s networks have it among their buffers."""
    _, model = begun(image_folder, About(), Notes(), "wrn-10-1-silu")
    weights = {**model.state_dict(), "mean": torch.full((3, 1, 1), 0.25)}
    Path("w.safetensors").write_bytes(packed(weights, About(normalization=((0.25,) * 3, normalization(model)[1]))))
    settings = {"dataset": "folder", "data_dir": image_folder, "image_size": 8, "batch_size": 4, "device": "cpu"}
    config = recipe("digits", **settings, model="wrn-10-1-silu", init_from=Path("w.safetensors"))
    prepared = Prepared(config, Notes(), Ranks(), "cpu")
    assert prepared.about.normalization == ((0.25,) * 3, normalization(model)[1])


@pytest.mark.parametrize(
    ("about", "options", "message"),
    [
        (About(normalization=((0.0,) * 3, (1.0,) * 3)), {}, "normalises images otherwise than wrn-10-1 does"),
        (About(classes=("cat",)), {}, "it names 1 classes"),
        (About("mine:net"), {"into": "resnet-18"}, "; with .*; its file says that its network is mine:net"),
        (
            About("wrn-10-1-silu"),
            {"name": "wrn-10-1-silu", "into": "wrn-10-1-relu"},
            "does not fit wrn-10-1-relu: its file says that its network is wrn-10-1-silu",
        ),
        (
            About(),
            {"into": "resnet-18"},
            r"does not fit resnet-18 with 2 classes: without .*; with .*; they are those of wrn-10-1",
        ),
        (About(), {"name": "wrn-10-2", "into": "wrn-10-1"}, r"other shapes of .*; they are those of wrn-10-2"),
        (
            About(),
            {"name": "wrn-10-2", "classes": 5, "into": "wrn-10-1"},
            r"other shapes of .*; they are those of wrn-10-2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(image_folder, about, options, message):
    with pytest.raises(InputError, match=message) as caught:
        begun(image_folder, about, Notes(), **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def own():
    """A user's file: last layers that a norm makes, and one behind a wrapper."""
    Path("own_heads.py").write_text(
        "from torch import nn\n\n"
        "def new(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))\n\n"
        "def normed(classes):\n    model = new(classes)\n"
        "    nn.utils.parametrizations.weight_norm(model[1])\n    return model\n\n"
        "def wrapped(classes):\n    return nn.DataParallel(new(classes))\n"
    )
    yield
    sys.modules.pop("own_heads", None)


def of_own(name, classes, theirs, notes):
    """The file's network, and the one that begins with it."""
    made = make(f"own_heads:{name}", len(theirs), image_size=2, generator_seed=7, allow_own=True)
    Path("w.safetensors").write_bytes(packed(made.state_dict(), About(classes=theirs)))
    config = recipe("digits", model=f"own_heads:{name}", image_size=2, init_from=Path("w.safetensors"))
    return made, first_network(config, classes, notes.append, allow_own=True)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["normed", "wrapped"])
def test_a_last_layer_that_is_more_than_a_layer_is_drawn_anew(name):
    notes = []
    of_own(name, ("a", "b", "c"), ("a", "b"), notes)
    assert "so the last layer is drawn anew" in notes[0]


@pytest.mark.usefixtures("own")
def test_what_a_norm_makes_is_not_put_into_another_order():
    """Not by halves: its bias has rows, what its weight is made of has others."""
    notes = []
    made, begun = of_own("normed", ("a", "b"), ("b", "a"), notes)
    assert "they stay as they are, by position" in notes[0]
    for name, value in made.state_dict().items():
        assert torch.equal(begun.state_dict()[name], value), name
    made, begun = of_own("wrapped", ("a", "b"), ("b", "a"), notes)
    assert torch.equal(begun.module[1].weight, made.module[1].weight.flip(0))
