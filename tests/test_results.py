"""The results: pages, folders and TOML files agree, and a check says so where they do not."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from pages import changed, checked

from fastait.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "docs/results/tables.py"


@pytest.fixture
def tree(tmp_path):
    """A copy of the pages and of what they are made of."""
    for name in ("records", "docs/results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs/pictures").mkdir()
    pictures = [f"docs/pictures/results-{theme}.svg" for theme in ("light", "dark")]
    for name in ("README.md", "docs/RESULTS.md", *pictures):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def measured(tree):
    """The folder of a network."""
    return tree / "docs/results/methods/n-fgsm"


def test_pages_and_folders_agree(tree):
    code, said = checked(tree, SCRIPT)
    assert code == 0, said
    assert "agree" in said


@pytest.mark.parametrize("page", ["docs/RESULTS.md", "README.md"])
def test_a_page_that_says_something_else(tree, page):
    text = (tree / page).read_text("utf-8")
    (tree / page).write_text(text.replace("| AutoAttack |", "| AutoAttack! |", 1), "utf-8")
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert f"{page}: its tables are not those of the files" in said


def test_a_record_that_the_front_does_not_show(tree):
    changed(tree / "records/2026-11-27-two-epochs/seed-0/time.json", seconds=100.0)
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert "README.md: its tables are not those of the files" in said


def test_a_figure_that_is_not_of_its_outcomes(tree):
    told = json.loads((measured(tree) / "eval.json").read_text("utf-8"))
    one = told["outcomes"][0]["correct"]
    one["autoattack"] = one["autoattack"].replace("1", "0", 5)
    changed(measured(tree) / "eval.json", **told)
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert "docs/results/methods/n-fgsm: autoattack:" in said
    assert "its outcomes say" in said


def test_a_sign_of_masked_gradients_is_shown_for_its_row(tree):
    other = measured(tree).with_name("n-fgsm-seed=1")
    masking = json.loads((other / "eval.json").read_text("utf-8"))["masking"]
    (signs,) = masking.values()
    signs[1]["fired"] = True
    changed(other / "eval.json", masking=masking)
    subprocess.run([sys.executable, str(tree / SCRIPT)], cwd=tree, check=True)
    lines = (tree / "docs/RESULTS.md").read_text("utf-8").splitlines()
    assert f"| n-fgsm | 2 | 1 of 14 | {signs[1]['name']} |" in lines
    assert "| madry | 2 | 0 of 14 | - |" in lines


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
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert expected in said


def test_weights_of_another_network(tree):
    shutil.copy(tree / "docs/results/natural.safetensors", tree / "docs/results/robust.safetensors")
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert "docs/results/small/n-fgsm: robust.safetensors says that it is another network" in said


def test_a_sentence_without_a_source(tree):
    path = tree / "docs/RESULTS.md"
    path.write_text(path.read_text("utf-8") + "\nIt keeps 99.8 % of all images.\n", "utf-8")
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert "docs/RESULTS.md: 99.8 stands in none of its tables" in said


def test_a_number_without_a_source(tree):
    path = tree / "docs/RESULTS.md"
    path.write_text(path.read_text("utf-8").replace("304,042", "304,043"), "utf-8")
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert "docs/RESULTS.md: 304,043 stands in none of its tables" in said


def test_a_picture_of_other_figures(tree):
    """Another time of training that the tables do show."""
    told = json.loads((tree / "docs/results/cost.json").read_text("utf-8"))
    told["rows"]["trades"]["seconds_of_an_epoch"] += 100
    changed(tree / "docs/results/cost.json", **told)
    subprocess.run([sys.executable, str(tree / SCRIPT)], check=False, capture_output=True)
    code, said = checked(tree, SCRIPT)
    assert code == 1
    assert said.splitlines() == [
        f"docs/pictures/results-{theme}.svg is not of the files; python docs/results/picture.py draws it"
        for theme in ("light", "dark")
    ]


@pytest.mark.parametrize(("name", "share"), [("n-fgsm+0.5", 0.5), ("n-fgsm+0.2", 0.2)])
def test_what_is_added_to_n_fgsm_is_the_share_that_its_name_says(name, share):
    with mock.patch.dict(METHODS):
        runpy.run_path(str(ROOT / "docs/results/beside.py"))
        (n_fgsm,), (added,) = METHODS["n-fgsm"].terms, METHODS["adv-interp"].terms
        found = {(term.images, term.labels): term.weight for term in METHODS[name].terms}
    assert found == {
        (n_fgsm.images, n_fgsm.labels): pytest.approx(1 - share),
        (added.images, added.labels): pytest.approx(share),
    }
    assert name not in METHODS
