"""Records: their page and their folders agree, and a check says so where they do not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import changed, checked

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "records/table.py"
RECORDS = sorted(path.name for path in (ROOT / "records").iterdir() if path.is_dir() and path.name[:2] == "20")


@pytest.fixture
def tree(tmp_path):
    """A copy, in which the first record is evaluated, if only in a made-up way."""
    shutil.copytree(ROOT / "records", tmp_path / "records", ignore=shutil.ignore_patterns("__pycache__"))
    for seed in (tmp_path / "records" / RECORDS[0]).glob("seed-*"):
        rows, outcomes = [], {}
        for attack, correct in (("clean", 1200), ("autoattack", 600)):
            accuracy = {"n": 2000, "correct": correct, "accuracy": correct / 20, "epsilon": 8 / 255}
            rows.append({"attack": attack, **accuracy})
            outcomes[attack] = "1" * correct + "0" * (2000 - correct)
        told = {"images": 2000, "rows": rows, "outcomes": [{"correct": outcomes}]}
        (seed / "eval.json").write_text(json.dumps(told), "utf-8")
    subprocess.run([sys.executable, str(tmp_path / SCRIPT)], check=True, capture_output=True)
    return tmp_path


def test_the_page_and_the_folders_agree():
    assert RECORDS
    code, said = checked(ROOT, SCRIPT)
    assert code == 0, said
    assert f"{len(RECORDS)} records" in said


def test_an_evaluated_record_is_shown(tree):
    code, said = checked(tree, SCRIPT)
    assert code == 0, said
    text = (tree / "records/README.md").read_text("utf-8")
    assert "| **30.0** | 30.0, 30.0, 30.0 | 60.0 |" in text
    assert "| CPU | 30 % | " in text
    (tree / "records/README.md").write_text(text.replace("| **30.0** |", "| **31.0** |"), "utf-8")
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert "its table is not the folders'" in said


def _other_setting(seed):
    changed(seed.parent / "seed-1/config.json", lr=0.7)


def _fewer_images(seed):
    lines = [json.loads(line) for line in (seed / "metrics.jsonl").read_text("utf-8").splitlines()]
    lines[0]["images"] = 49_000
    (seed / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _an_epoch_less(seed):
    lines = (seed / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (seed / "metrics.jsonl").write_text("".join(lines[:-1]), "utf-8")


def _shorter(seed):
    changed(seed / "time.json", seconds=1.0)


def _beside_others(seed):
    changed(seed / "time.json", others=0.5)


def _a_drifting_machine(seed):
    changed(seed / "time.json", reference_seconds=[10.0, 20.0])


def _better(seed):
    told = json.loads((seed / "eval.json").read_text("utf-8"))
    told["rows"][-1]["correct"] += 20
    told["rows"][-1]["accuracy"] += 1.0
    changed(seed / "eval.json", **told)


def _fewer_test_images(seed):
    told = json.loads((seed / "eval.json").read_text("utf-8"))
    told["rows"][-1]["n"] = 1000
    changed(seed / "eval.json", **told)


def _gone(seed):
    (seed / "train.log").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_other_setting, "was trained with other settings"),
        (_fewer_images, "was not trained on 50000 images"),
        (_an_epoch_less, "lacks epochs"),
        (_shorter, "contradict each other"),
        (_beside_others, "was timed beside others"),
        (_a_drifting_machine, "was timed beside others"),
        (_better, "outcomes are others than its figures"),
        (_fewer_test_images, "was not measured by AutoAttack at 8/255 on 2000 images"),
        (_gone, "train.log is missing"),
    ],
)
def test_a_record_that_breaks_a_rule(tree, harm, said):
    harm(tree / "records" / RECORDS[0] / "seed-0")
    code, lines = checked(tree, SCRIPT)
    assert code == 1
    assert said in lines
    assert RECORDS[0] in lines
