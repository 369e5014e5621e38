"""Weights that a run begins with: whose outputs they are."""

from pathlib import Path

import pytest
import torch

from fastait import recipe
from fastait.checkpoints.weights import OURS, About, packed
from fastait.models import WideResNet
from fastait.runtime.errors import InputError
from fastait.runtime.processes import Ranks
from fastait.runtime.report import Report
from fastait.training.prepare import Prepared


class Notes(Report):
    def __init__(self):
        super().__init__(show=False)
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def begun(data_dir, about, notes):
    """The weights in a file, and the network of a run on ``data_dir`` that begins with them."""
    network = WideResNet(10, 1, 2)
    Path("w.safetensors").write_bytes(packed(network.state_dict(), about))
    settings = {"dataset": "folder", "data_dir": data_dir, "image_size": 8, "batch_size": 4, "device": "cpu"}
    config = recipe("digits", **settings, init_from=Path("w.safetensors"))
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
    ("about", "message"),
    [
        (About(normalization=((0.0,) * 3, (1.0,) * 3)), "normalises images otherwise than wrn-10-1 does"),
        (About(classes=("cat",)), "it names 1 classes"),
    ],
)
def test_what_does_not_fit_is_refused(image_folder, about, message):
    with pytest.raises(InputError, match=message):
        begun(image_folder, about, Notes())
