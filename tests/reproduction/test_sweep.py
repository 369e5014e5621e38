"""A comparison of one's own: what a file may say, what is made of it, what is wrong with it."""

import csv
import io
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from fastait.checkpoints.folder import RunFolder
from fastait.evaluation.results import from_json
from fastait.report.page import make
from fastait.reproduction import compared
from fastait.reproduction.compared import Comparison
from fastait.reproduction.grids import WORST
from fastait.reproduction.sweep import ALL, read_sweep
from fastait.sweep import main

render = partial(make, figures=False)

TINY = """
[settings]
epochs = 1
milestones = []
image-size = 8
eval_samples = 10
device = "cpu"
"""
EVALUATION = """
[evaluation]
attacks = ["fgsm", "pgd20"]
samples = 8
"""


def sweep(text):
    Path("mine.toml").write_text(text)
    return read_sweep(Path("mine.toml"))


def refused(capsys, *argv):
    assert main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_every_combination_is_a_row():
    text = f'seeds = [0, 5]\n{TINY}\n[product]\nmethod = ["natural", "madry"]\nepsilon = ["8/255", 0.1]\n{EVALUATION}'
    found = sweep(text)
    assert list(found.rows) == [
        *(f"{method}, epsilon {epsilon}" for method in ("natural", "madry") for epsilon in ("8/255", "0.1"))
    ]
    assert [config.epsilon for config in found.rows.values()] == [8 / 255, 0.1] * 2
    assert found.rows["madry, epsilon 0.1"].attack_steps == 7  # the method's own, as published
    assert {config.image_size for config in found.rows.values()} == {8}
    assert list(found.systems) == [
        *("natural-epsilon-8over255", "natural-epsilon-0.1", "madry-epsilon-8over255", "madry-epsilon-0.1")
    ]
    assert found.seeds == (0, 5)
    table = found.table()
    assert [column.title for column in table.blocks[0].columns] == ["Clean", "fgsm", "pgd20", "Worst"]
    assert table.blocks[0].columns[-1].attack == WORST
    cells = table.cells(ALL)
    assert len(cells) == 4 * 3
    assert {cell.epsilon for cell in cells if cell.system == "natural-epsilon-0.1"} == {0.1}


def test_rows_one_by_one():
    found = sweep(
        '[settings]\nlr = 0.05\n[[rows]]\nmethod = "madry"\n[[rows]]\ntitle = "slow"\nmethod = "madry"\nlr = 0.01\n'
        '[evaluation]\nattacks = ["pgd20", "spsa-4x1"]\nepsilons = ["8/255", "16/255"]\nstep_size = "4/255"\n'
        "black_box_samples = 2"
    )
    assert list(found.rows) == ["madry", "slow"]
    assert [config.lr for config in found.rows.values()] == [0.05, 0.01]
    assert found.step_size == 4 / 255
    (block,) = found.table().blocks
    assert [column.title for column in block.columns] == [
        *("Clean", "pgd20 8/255", "spsa-4x1 8/255", "pgd20 16/255", "spsa-4x1 16/255"),
    ]
    cells = block.cells(ALL)
    assert {cell.epsilon for cell in cells} == {8 / 255, 16 / 255}
    assert {cell.attack for cell in cells if cell.black_box} == {"spsa-4x1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede = [1]", "the file has an unknown key 'sede'. Did you mean 'seeds'?"),
        ("a = ", "is no TOML"),
        ("", "nothing is compared: say [product] or [[rows]]"),
        ('[product]\nmehtod = ["madry"]', "[product] has an unknown key 'mehtod'. Did you mean 'method'?"),
        ("[product]\nmethod = []", "[product] method must be a list that is not empty, got []"),
        ('[product]\nmethod = "madry"', "[product] method must be a list that is not empty, got 'madry'"),
        ('[product]\nmethod = ["madry", "madry"]', "[product] method names something twice"),
        ('[product]\nmethod = ["mardy"]', "'mardy': --method: 'mardy' is not one of"),
        ("[product]\nseed = [1]", "[product] seed: say seeds = [...] at the top of the file"),
        (
            '[settings]\nout = "x"\n[product]\nlr = [1]',
            "[settings] out: runs lie in the sweep's folder, which --out names",
        ),
        ('[product]\ndevice = ["cpu"]', "[product] device: is the same for all rows; say it under [settings]"),
        ("seeds = []\n[product]\nlr = [0.1]", "seeds must be a list that is not empty, got []"),
        ('seeds = ["a"]\n[product]\nlr = [0.1]', "seeds must be whole numbers, got ['a']"),
        ("[product]\nlr = [0.1]\n[[rows]]\nlr = 0.1", "[product] and [[rows]] are two ways to say what is compared"),
        ("[[rows]]\nlr = 0.1\n[[rows]]\nlr = 0.1", "[[rows]] names something twice"),
        (
            '[[rows]]\ntitle = "a"\nlr = 0.1\n[[rows]]\ntitle = "a"',
            "row 2: another row is called 'a' too; give it a title",
        ),
        ("[[rows]]\ntitle = 3", "row 1: title must be a text, got 3"),
        ('[[rows]]\nepsilon = "8/0"', "'8/0' is not a number such as 0.03 or 8/255"),
        ('[product]\nlr = ["fast"]', "'fast' is not a number such as 0.03 or 8/255"),
        ('[product]\nepochs = ["two"]', "'epochs two': epochs must be a whole number, got 'two' (str)"),
        (
            "[product]\nlr = [0.1]\n[evaluation]\natacks = []",
            "[evaluation] has an unknown key 'atacks'. Did you mean 'attacks'?",
        ),
        ('[product]\nlr = [0.1]\n[evaluation]\nattacks = ["pdg20"]', "Did you mean 'pgd20'?"),
        (
            '[product]\nlr = [0.1]\n[evaluation]\nattacks = ["transfer-pgd20"]',
            "needs another model, which a sweep has not",
        ),
        (
            "[product]\nlr = [0.1]\n[evaluation]\nepsilons = [8]",
            "[evaluation] epsilons must be in (0, 1] for images in [0, 1]",
        ),
        (
            "[product]\nlr = [0.1]\n[evaluation]\nsamples = 0",
            "[evaluation] samples must be a whole number of at least 1, got 0",
        ),
        (
            '[product]\nlr = [0.1]\n[evaluation]\nweights = "ema"',
            "[evaluation] weights = 'ema': 'lr 0.1' has none; see val_fraction and ema",
        ),
    ],
)
def test_what_is_wrong_with_a_file(capsys, text, message):
    Path("mine.toml").write_text(text)
    line = refused(capsys, "mine.toml")
    assert message in line
    assert line.startswith("fastait sweep: error: mine.toml")
    assert not Path("sweeps").exists()


def test_there_is_no_file(capsys):
    assert "no file is named: fastait sweep FILE.toml" in refused(capsys)
    assert "nowhere.toml cannot be read: No such file or directory" in refused(capsys, "nowhere.toml")


def test_a_table_of_means(capsys, monkeypatch):
    """Made once; another row is trained beside those that are there, one that has become another is refused."""
    text = f'seeds = [0, 1]\n{TINY}\n{EVALUATION}\n[product]\nmethod = ["natural"{{more}}]'
    Path("mine.toml").write_text(text.format(more=""))
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["mine.toml", "--worker"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["mine.toml", "--status"]) == 0
    assert "4 done" in capsys.readouterr().out
    weights = [Path("sweeps/mine/runs", name, "model.safetensors") for name in ("natural", "natural-seed=1")]
    before = [path.stat().st_mtime_ns for path in weights]
    assert main(["mine.toml"]) == 0
    said = capsys.readouterr().out
    assert "Accuracy in %, mean ± standard error of 2 trainings." in said
    assert "(paper" not in said
    assert "none of them is AutoAttack" in " ".join(said.split())
    rows = list(csv.DictReader(io.StringIO(Path("sweeps/mine/table.csv").read_text())))
    assert [row["column"] for row in rows] == ["Clean", "fgsm", "pgd20", "Worst"]
    for row in rows:
        each = [float(one) for one in row["each_seed"].split()]
        assert float(row["ours"]) == pytest.approx(sum(each) / 2, abs=2e-3)
        assert row["n"] == "8"
    page = Path("sweeps/mine/report.html").read_text()
    for name in ("natural", "natural-seed=1"):
        assert page.count(name) > 3
    for shown in ("Training curves", "pgd20", "8 test images", "Which classes fall", "which a sweep does not make"):
        assert shown in page
    (measured,) = Path("sweeps/mine").glob("evaluation*")
    assert page == render([Path("sweeps/mine/runs", name) for name in ("natural", "natural-seed=1")], [measured])
    about = json.loads((measured / "eval.json").read_text())
    assert (about["torch"], about["images"], about["seed"]) == (torch.__version__, 8, [0, 1])
    assert about["device"]
    told = {one.model: one.outcomes for one in from_json(about)}
    for row in rows[:3]:
        each = [told[name].accuracy()[row["column"].lower()] for name in ("natural", "natural-seed=1")]
        assert [float(one) for one in row["each_seed"].split()] == pytest.approx(each, abs=2e-3)
    Path("mine.toml").write_text(text.format(more=', "label-smooth"'))
    assert main(["mine.toml"]) == 0
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert "label-smooth" in Path("sweeps/mine/table.md").read_text()
    assert "label-smooth" in Path("sweeps/mine/report.html").read_text()
    assert RunFolder(Path("sweeps/mine/runs/label-smooth-seed=1")).config().seed == 1
    Path("mine.toml").write_text(text.format(more="").replace("[settings]", "[settings]\nlr = 0.05"))
    assert "was trained with lr 0.1 (now 0.05); choose another --out" in refused(capsys, "mine.toml")


def test_nothing_is_said_against_a_table_with_autoattack(capsys, monkeypatch):
    monkeypatch.setattr(compared, "STRONG", ("fgsm",))  # which is fast
    Path("mine.toml").write_text(
        f'{TINY}[evaluation]\nattacks = ["fgsm"]\nepsilons = ["8/255", "1/255"]\nsamples = 4\n'
        '[[rows]]\ntitle = "<b>&</b>"\nmethod = "natural"'
    )
    assert main(["mine.toml"]) == 0
    assert "is AutoAttack" not in " ".join(capsys.readouterr().out.split())
    page = Path("sweeps/mine/report.html").read_text()
    assert "Accuracy against epsilon" in page
    assert "<b>&</b>" not in page


def test_a_page_of_attacks_that_are_given_fewer_images():
    Path("mine.toml").write_text(
        f'{TINY}[evaluation]\nattacks = ["spsa-4x1", "fgsm"]\nepsilons = ["8/255", "16/255"]\nsamples = 8\n'
        'black_box_samples = 2\n[product]\nmethod = ["natural"]'
    )
    assert main(["mine.toml"]) == 0
    found = from_json(json.loads(Path("sweeps/mine/evaluation/eval.json").read_text()))
    counts = [{name: one.images(name) for name in one.outcomes.correct} for one in found]
    assert counts == [{"clean": 8, "fgsm": 8, "spsa-4x1": 2}] * 2
    assert "n = 2" in Path("sweeps/mine/report.html").read_text()


def test_a_dry_run_of_a_folder_of_images(image_folder, capsys, monkeypatch):
    monkeypatch.setattr("fastait.reproduction.cost.measured_rate", lambda *args: 1e9)
    settings = f'{TINY}dataset = "folder"\ndata_dir = "{image_folder}"\nbatch_size = 4\n'
    Path("mine.toml").write_text(f'{settings}\n[product]\nmethod = ["natural"]\n{EVALUATION}')
    assert main(["mine.toml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "wrn-10-1 of 2 classes" in said
    assert said.count("missing") == 2
    assert not Path("sweeps").exists()
    assert Comparison.read(Path("mine.toml")).choices.test_images("natural", False) == 8
