"""Records and results: pages and files agree, and a check says so where they do not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted(path.name for path in (ROOT / "records").iterdir() if path.is_dir() and path.name[:2] == "20")


@pytest.fixture
def tree(tmp_path):
    """A copy of the pages and of what they are made of."""
    for name in ("records", "docs/results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "docs/RESULTS.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def checked(tree, script):
    """Exit code and words of ``script --check``, which changes nothing."""
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    command = [sys.executable, str(tree / script), "--check"]
    ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert all(path.read_bytes() == there for path, there in before.items())
    return ended.returncode, ended.stdout


def changed(path, **values):
    """Put other values into a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


@pytest.mark.parametrize("script", ["records/table.py", "docs/results/tables.py"])
def test_pages_and_files_agree(tree, script):
    assert RECORDS
    code, said = checked(tree, script)
    assert code == 0, said
    assert "agree" in said


def test_a_page_that_says_something_else(tree):
    for page, script in (("records/README.md", "records/table.py"), ("docs/RESULTS.md", "docs/results/tables.py")):
        text = (tree / page).read_text("utf-8")
        (tree / page).write_text(text.replace("| AutoAttack |", "| AutoAttack! |", 1), "utf-8")
        code, said = checked(tree, script)
        assert code == 1
        assert page in said


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
    code, lines = checked(tree, "records/table.py")
    assert code == 1
    assert said in lines
    assert RECORDS[0] in lines


def test_a_table_that_is_not_of_its_outcomes(tree):
    path = tree / "docs/results/methods.json"
    told = json.loads(path.read_text("utf-8"))
    one = told["outcomes"][0]["correct"]
    one["autoattack"] = one["autoattack"].replace("1", "0", 5)
    changed(path, **told)
    code, said = checked(tree, "docs/results/tables.py")
    assert code == 1
    assert "methods.csv" in said
    assert "autoattack" in said


def test_a_sentence_without_a_source(tree):
    path = tree / "docs/RESULTS.md"
    path.write_text(path.read_text("utf-8") + "\nIt keeps 99.8 % of all images.\n", "utf-8")
    code, said = checked(tree, "docs/results/tables.py")
    assert code == 1
    assert "'99.8 %' stands in none of its tables" in said
