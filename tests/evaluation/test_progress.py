"""What is said of how far an evaluation is."""

import math
import time

import pytest
import small
import trained

from fastait.attacks.columns import parse_all
from fastait.data import FloatSet
from fastait.eval import main
from fastait.evaluation import evaluate
from fastait.evaluation.progress import Effort, costs
from fastait.runtime import report
from fastait.runtime.report import Report, duration

NAMES = ["fgsm", "pgd3", "cw2-min2", "eot2-pgd2", "spsa-2x2", "local-search-2", "apgd-t-2", "quick", "pgd2+fab-t-2"]


@pytest.fixture
def short(monkeypatch):
    """AutoAttack's parts with few iterations."""
    from fastait.attacks import columns, stages

    for module in (columns, stages):
        monkeypatch.setattr(module, "PARTS", {"apgd-ce": 2, "apgd-dlr": 2, "apgd-t": 2, "fab-t": 2, "square": 5})


def watched(names, count=12, **options):
    """What is said before each pass of an evaluation: (part, standing, passes left)."""
    x, y = small.images(count)
    effort, said = Effort(), []

    def tick(part, standing):
        said.append((part, standing, effort.left))

    evaluate(small.new(), FloatSet(x, y), names, tick=tick, effort=effort, batch_size=5, epsilon=4 / 255, **options)
    return said, effort


def test_of_every_column(short):
    said, effort = watched(NAMES)
    parts = list(dict.fromkeys(part for part, _, _ in said))
    targets = [f"apgd-t target {i} of 9" for i in range(1, 10)]
    cw = [f"cw2-min2, cw2 restart {i} of 2" for i in (1, 2)]
    assert parts[:9] == ["getting ready", "clean", *NAMES[:2], *cw, *NAMES[3:6]]
    assert parts[9:18] == [f"apgd-t-2, {target}" for target in targets]
    assert parts[18:20] == ["quick, apgd-ce", "pgd2+fab-t-2, pgd2"]
    assert all(part.startswith("pgd2+fab-t-2, fab-t target ") for part in parts[20:])
    assert len(parts) > 20
    assert all(0 <= standing <= 12 for _, standing, _ in said)
    assert all(math.isfinite(left) and left >= 0 for _, _, left in said)
    assert next(left for part, _, left in said if part == "clean") > said[len(said) // 2][2] > 0
    assert effort.left == 0
    assert effort.seconds == 0


def test_what_is_left_falls_with_what_stands():
    """Of images that fall, later parts cost nothing; of those that stand, all that their columns say."""
    effort = Effort([100.0, 50.0])
    assert effort.seconds is None
    effort.plan([1, 10, 20], 4)
    assert effort.left == 4 * 31 + 50
    effort.begin()
    effort.work("clean", 1, 4, 4)
    effort.finished(4, 1)
    assert effort.left == 4 * 30 + 50
    effort.begin()
    effort.work("apgd", 6, 3, 3, after=4)
    assert effort.left == 3 * 10 + 4 * 20 + 50
    effort.stand(3, 2)
    assert (effort.standing, effort.left) == (2, 3 * 6 + 2 * 4 + 80 + 50)
    effort.finished(1, 0)
    effort.stand(2, 1)
    assert effort.standing == 2
    effort.finished(2, 2)
    assert (effort.standing, effort.left) == (1, 4 + 80 + 50)
    effort.begin()
    assert effort.left == 50


def test_passes_beyond_what_was_thought_are_no_debt():
    effort = Effort()
    effort.plan([5], 1)
    effort.begin()
    effort.work("x", 5, 1, 1)
    for _ in range(20):
        effort.passed(small.images(1)[0])
    assert effort.left == 0


def test_costs():
    names = ["fgsm", "pgd20", "pgd100", "eot3-cw2-min4", "spsa-8x3", "square", "apgd-ce+pgd2"]
    assert costs(parse_all(names), 10) == [1, 3, 300, 3 * 24, 3 * 17, 5000, 306]


def test_the_pace(monkeypatch):
    """Three images a second so far, and six to come."""
    now = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    effort = Effort()
    effort.plan([1], 9)
    effort.begin()
    effort.work("clean", 1, 9, 9)
    effort.passed(small.images(3)[0])
    now = 6.0
    assert effort.left == 6
    assert effort.seconds == pytest.approx(2)
    assert duration(3723.4) == "1:02:03"


def test_a_line_every_minute_where_there_is_no_terminal(monkeypatch, capsys):
    model = trained.run("natural").folder
    monkeypatch.setattr(report, "EVERY", 0)
    given = ["--device", "cpu", "--attacks", "pgd2,apgd-t-2", "--samples", "8", "--out", "out"]
    assert main([str(model), *given]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("natural: apgd-t-2, apgd-t target 2 of 9: 1" in line and line.endswith(" left") for line in lines)
    assert any(line.startswith("natural: pgd2: 8 of 24, 8 of 8 stand, about 0:00:") for line in lines)


def test_lines_are_a_minute_apart(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told = Report(show=True)
    told.start("evaluating", 9)
    for moment in (0.0, 59.0, 61.0, 90.0, 120.9, 121.0):
        now = moment
        told.update(3, "a", "3 stand", left=7)
    told.finish()
    assert capsys.readouterr().err.count("a: 3 of 9, 3 stand, about 0:00:07 left") == 2
