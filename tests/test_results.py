"""The results: pages, folders and TOML files agree, and a check says so where they do not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "docs/results/tables.py"


@pytest.fixture
def tree(tmp_path):
    """A copy of the pages and of what they are made of."""
    for name in ("records", "docs/results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "docs/RESULTS.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def checked(tree):
    """Exit code and words of the check, which changes nothing."""
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    command = [sys.executable, str(tree / SCRIPT), "--check"]
    ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert all(path.read_bytes() == there for path, there in before.items())
    return ended.returncode, ended.stdout


def changed(path, **values):
    """Put other values into a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def measured(tree):
    """The folder of a network."""
    return tree / "docs/results/methods/n-fgsm"


def test_pages_and_folders_agree(tree):
    code, said = checked(tree)
    assert code == 0, said
    assert "agree" in said


@pytest.mark.parametrize("page", ["docs/RESULTS.md", "README.md"])
def test_a_page_that_says_something_else(tree, page):
    text = (tree / page).read_text("utf-8")
    (tree / page).write_text(text.replace("| AutoAttack |", "| AutoAttack! |", 1), "utf-8")
    code, said = checked(tree)
    assert code == 1
    assert f"{page}: its tables are not those of the files" in said


def test_a_record_that_the_front_does_not_show(tree):
    changed(tree / "records/2026-11-27-two-epochs/seed-0/time.json", seconds=100.0)
    code, said = checked(tree)
    assert code == 1
    assert "README.md: its tables are not those of the files" in said


def test_a_figure_that_is_not_of_its_outcomes(tree):
    told = json.loads((measured(tree) / "eval.json").read_text("utf-8"))
    one = told["outcomes"][0]["correct"]
    one["autoattack"] = one["autoattack"].replace("1", "0", 5)
    changed(measured(tree) / "eval.json", **told)
    code, said = checked(tree)
    assert code == 1
    assert "docs/results/methods/n-fgsm: autoattack:" in said
    assert "its outcomes say" in said


def _another_setting(folder):
    changed(folder / "config.json", lr=0.7)


def _fewer_images(folder):
    told = json.loads((folder / "eval.json").read_text("utf-8"))
    counted = told["outcomes"][0]["correct"]["autoattack"] = told["outcomes"][0]["correct"]["autoattack"][:500]
    (row,) = (row for row in told["rows"] if row["attack"] == "autoattack")
    row |= {"n": 500, "correct": counted.count("1")}
    changed(folder / "eval.json", **told)


def _an_attack_less(folder):
    told = json.loads((folder / "eval.json").read_text("utf-8"))
    told["rows"] = [row for row in told["rows"] if row["attack"] != "cw20"]
    changed(folder / "eval.json", **told)


def _a_smaller_budget(folder):
    told = json.loads((folder / "eval.json").read_text("utf-8"))
    told["rows"] = [{**row, "epsilon": 4 / 255} for row in told["rows"]]
    changed(folder / "eval.json", **told)


def _other_weights(folder):
    changed(folder / "weights.json", weights="model.safetensors")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (_another_setting, "lr is 0.7, its TOML file says 0.4"),
        (_fewer_images, "autoattack is not of 1000 images at 8/255"),
        (_an_attack_less, "cw20 is missing"),
        (_a_smaller_budget, "is not of 1000 images at 8/255"),
        (_other_weights, "the weights are not those that its TOML file says"),
    ],
)
def test_a_network_that_was_not_made_or_measured_so(tree, harm, expected):
    harm(measured(tree))
    code, said = checked(tree)
    assert code == 1
    assert expected in said


def test_weights_of_another_network(tree):
    shutil.copy(tree / "docs/results/natural.safetensors", tree / "docs/results/robust.safetensors")
    code, said = checked(tree)
    assert code == 1
    assert "docs/results/small/n-fgsm: robust.safetensors says that it is another network" in said


def test_a_sentence_without_a_source(tree):
    path = tree / "docs/RESULTS.md"
    path.write_text(path.read_text("utf-8") + "\nIt keeps 99.8 % of all images.\n", "utf-8")
    code, said = checked(tree)
    assert code == 1
    assert "'99.8 %' stands in none of its tables" in said
