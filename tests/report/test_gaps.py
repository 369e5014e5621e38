"""Folders that lack something or hold what is damaged: the page says so and shows the rest."""

import json
import math

import pytest
from markupsafe import Markup
from read_page import page
from report_files import CHECKS, change, write_evaluation, write_run

from fastait.report import curves, signs, sweeps
from fastait.report import page as page_module
from fastait.report.page import make

NEITHER = '{"outcomes": [{"model": "m", "epsilon": 0.1, "correct": {"clean": "02"}}]}'


def test_a_run_without_an_evaluation():
    text = page(write_run("alone")).text
    assert "No evaluation is in this page." in text
    assert "no evaluation of it was given (--eval)" in text
    assert "fastait eval alone --attacks" in text


def test_a_run_that_is_still_going():
    text = page(write_run("going", 3, finished=False)).text
    assert "the training is not finished (3 of 3 epochs)" in text
    assert "fastait train --resume going" in text
    assert "2 so far" in text
    empty = write_run("begun", finished=False)
    (empty / "metrics.jsonl").unlink()
    assert "no epoch is finished" in page(empty).text


def test_damaged_metrics():
    run = write_run("run", 5)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[2] = lines[2][:40]
    lines += ["[1]", '{"epoch": "x"}', '{"epoch": 6, "loss": NaN, "accuracy": "much", "lr": null}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    assert "3 lines, the first of them line 3, of metrics.jsonl cannot be read: left out" in page(run).text
    (run / "metrics.jsonl").write_bytes(b"\xff\x00{")
    assert "line 1 of metrics.jsonl" in page(run).text


@pytest.mark.parametrize("content", ["{", "[]", "[" * 9999, ""])
def test_damaged_settings_and_results(content):
    run = write_run("run")
    (run / "result.json").write_text(content)
    assert "result.json is damaged" in page(run).text
    (run / "config.json").write_text(content)
    found = page(run).text
    assert "config.json cannot be read" in found
    assert "loss that is trained by" in found


@pytest.mark.parametrize("content", ["{", "[]", '{"outcomes": []}', NEITHER])
def test_damaged_evaluations(content):
    evaluation = write_evaluation("eval", {"m": "m"})
    (evaluation / "eval.json").write_text(content)
    text = page(write_run("run"), evals=[evaluation]).text
    assert "eval.json cannot be read" in text
    assert "loss that is trained by" in text


ODD = (None, "x", "", [], {}, [1, "x"], -1, 0, 1e9, 10**400, math.inf, math.nan, True, {"epoch": "x"})


@pytest.mark.slow
def test_odd_values_do_no_harm(monkeypatch):
    """Whatever stands in the place of any value of any file, the rest is shown; nothing that cannot be drawn is."""

    def drawn(chart, name):
        for line in chart.lines:
            assert line.points
            assert all(math.isfinite(x) and math.isfinite(y) for x, y in line.points)
        assert all(math.isfinite(level) for level, _ in (*chart.levels, *chart.marks))
        return Markup("<svg></svg>")

    for module in (curves, sweeps, signs):
        monkeypatch.setattr(module, "draw", drawn)
    monkeypatch.setattr(page_module, "Samples", lambda: lambda series: "")
    run = write_run("run")
    evaluation = write_evaluation("eval", {"run": run}, n=10, epsilons=(8 / 255, 16 / 255))
    tried = 0
    for file in (run / "metrics.jsonl", run / "result.json", evaluation / "eval.json", run / "config.json"):
        whole = file.read_text()
        first, *rest = whole.splitlines() if file.suffix == ".jsonl" else [whole]
        for place in places_in(json.loads(first)):
            for odd in ODD[tried % EACH :: EACH]:
                file.write_text("\n".join([json.dumps(with_odd(json.loads(first), place, odd)), *rest]))
                try:
                    assert "What was trained" in make([run], [evaluation], figures=False)
                except Exception as error:
                    raise AssertionError(f"{file}, {place}: {odd}") from error
            tried += 1
        file.write_text(whole)
    assert tried > 100


EACH = 7
"""Of the odd values every seventh is tried in a place, from another one on in each."""


def places_in(found, at=()):
    """Where values stand, one of each kind: of a list the first."""
    entries = (
        found.items() if isinstance(found, dict) else list(enumerate(found))[:1] if isinstance(found, list) else ()
    )
    for key, value in entries:
        yield (*at, key)
        yield from places_in(value, (*at, key))


def with_odd(found, place, odd):
    """A copy with another value at that place."""
    copy = json.loads(json.dumps(found))
    *way, last = place
    inner = copy
    for key in way:
        inner = inner[key]
    inner[last] = odd
    return copy


def test_missing_images_classes_and_checks():
    """As in folders of older versions; what is there is shown."""
    run = write_run("run")
    evaluation = write_evaluation("eval", {"run": run}, attacks=("pgd20",))
    (evaluation / "outcomes.safetensors").unlink()
    (evaluation / "examples.safetensors").write_bytes(b"no")
    change(evaluation / "eval.json", masking=None, warnings=None, classes=None)
    text = page(run, evals=[evaluation]).text
    for said in (
        "no outcomes.safetensors, which older versions do not write: no confusions",
        "examples.safetensors cannot be read",
        "no masking report",
        "it was not measured by AutoAttack",
        "each model was measured under one epsilon",
        "digits, Linf 8/255",
    ):
        assert said in text
    (evaluation / "eval.json").unlink()
    (evaluation / "progress-0.jsonl").touch()
    assert "the evaluation is not finished" in page(run, evals=[evaluation]).text


def test_checks_of_older_versions_have_no_numbers():
    run = write_run("run")
    evaluation = write_evaluation("eval", {"run": run})
    found = json.loads((evaluation / "eval.json").read_text())
    for check in found["masking"]["run"]:
        del check["numbers"]
    (evaluation / "eval.json").write_text(json.dumps(found))
    text = page(run, evals=[evaluation]).text
    assert "checks of an older version have no numbers" in text
    assert CHECKS[1].sentence in text
