"""The paper's figures of a page's runs: drawn of their networks, left out with a word where that cannot be."""

import io
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
import trained
from PIL import Image
from report_files import write_run

from fastait.report.on_request import drawings
from fastait.report.run_files import read_run
from fastait.reproduction import drawing, figures


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(figures, "LOSS_STARTS", 2)
    monkeypatch.setattr(figures, "LOSS_STEPS", 3)
    monkeypatch.setattr(figures, "FEATURE_IMAGES", 24)
    monkeypatch.setattr(drawing, "DPI", 50)


@pytest.mark.slow
def test_figures_of_the_runs():
    """One of all runs for losses and features, one of each for images; without those that cannot be loaded."""
    for name in ("natural", "other", "lost"):
        shutil.copytree(trained.run("natural").folder, name)
    Path("lost/model.safetensors").unlink()
    runs = [read_run(Path(name), name) for name in ("natural", "other", "lost")]
    said = []
    found, gaps = drawings(runs, said.append)
    assert [one.title for one in found] == [
        "adversarial loss against PGD iterations: natural, other",
        "t-SNE of the penultimate features: natural, other",
        "adversarially interpolated images: natural",
        "adversarially interpolated images: other",
    ]
    assert len(said) == 4
    for one in found:
        with Image.open(io.BytesIO(b64decode(one.address.partition(",")[2]))) as picture:
            assert min(picture.size) > 100
    assert [gap.where for gap in gaps] == ["lost"]
    assert drawings(runs[:2], said.append)[0] == found


def test_figures_that_cannot_be_drawn():
    """For want of images, of the same classes, or of weights."""
    no_images = read_run(write_run("a", recipe="cifar10", dataset="parquet", data_dir=Path("gone")), "a")
    other = read_run(write_run("b", classes=tuple("abcdefghij")), "b")
    no_weights = read_run(write_run("c"), "c")
    for run, said in (
        (no_images, "gone"),
        (other, "the classes of its images are not"),
        (no_weights, "model.safetensors"),
    ):
        found, (gap,) = drawings([run], lambda line: None)
        assert found == []
        assert said in gap.what
