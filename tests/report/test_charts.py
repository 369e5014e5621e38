"""What is drawn: a mark for each point, rings and crosses where they belong, the page's colours."""

import re

import pytest
import torch

from fastait.data.picture import change
from fastait.report.charts import COLOURS, Chart, Line, Samples, draw
from fastait.report.page import TEMPLATES
from fastait.runtime.report import result_rows

POINTS = [(1, 10.0), (2, 30.0), (3, 20.0)]


def drawn(**line):
    return draw(Chart("title", "epoch", "accuracy in %", [Line(POINTS, 0, **line)], percent=True), "name")


def marks(picture):
    """Where markers stand within the axes: {(x, y): how many}."""
    found = re.findall(r'<use xlink:href="#[^"]*" x="([\d.]+)" y="([\d.]+)" style="[^"]*--s0', picture)
    return {place: found.count(place) for place in found}


def test_rings_and_crosses_stand_on_their_points():
    plain = marks(drawn())
    assert list(plain.values()) == [1, 1, 1]
    second = sorted(plain, key=lambda place: float(place[0]))[1]
    assert marks(drawn(best=2)) == {**plain, second: 2}
    assert marks(drawn(best=7)) == plain
    crossed = drawn(collapsed=2)
    assert crossed.count("<use") == drawn().count("<use") + 1
    assert drawn(collapsed=7) == drawn()


def test_series_differ_and_have_colours_in_the_page():
    samples = Samples()
    looks = [re.sub(r"[mp][0-9a-f]{10}-\d+", "", samples(series)) for series in range(140)]
    assert len(set(looks)) == 140
    style = (TEMPLATES / "style.css").read_text()
    assert set(re.findall(r"--s\d+", style)) == {f"--s{i}" for i in range(COLOURS)}


@pytest.mark.parametrize("epsilon", [8 / 255, 1.0])
def test_changes_are_shown_around_grey(epsilon):
    images = torch.full((3,), 0.5, dtype=torch.float64)
    moved = images + epsilon * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(change(moved, images, epsilon), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert change(images, images, 0.0).tolist() == [0.5] * 3


def test_rows_of_a_result():
    last, best, ema = {"clean": 1.0}, {"clean": 2.0, "epoch": 7}, {"clean": 3.0}
    whole = {**last, "best": best, "ema": ema}
    assert result_rows(whole) == {"last epoch": whole, "best epoch (7)": best, "averaged weights": ema}
    assert list(result_rows({**last, "best": {"clean": 2.0}, "ema": 5})) == ["last epoch", "best epoch"]
