"""The paper's tables as data, their layout, and what is said of orderings."""

import csv
import io

import pytest

from fastait.attacks.columns import parse
from fastait.methods import METHODS
from fastait.recipes import recipe
from fastait.reproduction.categories import categories
from fastait.reproduction.grids import CLEAN, WORST
from fastait.reproduction.layout import Sheet, entries, grid, records, series
from fastait.reproduction.measured import Mean, Measured, together
from fastait.reproduction.orderings import Entry, compare
from fastait.reproduction.points import points
from fastait.reproduction.systems import SCALES, SYSTEMS, Choices
from fastait.reproduction.tables import TABLES

SMALL, PAPER = SCALES["small"], SCALES["paper"]
BLOCKS = [(name, block) for name, table in TABLES.items() for block in table.blocks]


def figure(table, part, row, column):
    """The paper's figure that stands there."""
    (block,) = (b for b in TABLES[table].blocks if b.part == part)
    titles = [line.title for line in block.rows], [line.title for line in block.columns]
    return block.figures[titles[0].index(row)][titles[1].index(column)]


def test_all_tables_are_there():
    assert list(TABLES) == [*(f"table{i}" for i in range(1, 10)), "tableA6", "fastat"]
    assert [len(TABLES[name].blocks) for name in TABLES] == [1, 1, 1, 2, 2, 2, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (("table1", "", "Madry", "PGD20"), 45.0),
        (("table1", "", "Adv-Interp", "Worst"), 68.7),
        (("table2", "", "Madry", "PGD 20"), 10.1),
        (("table2", "", "Adv-Interp", "CW 8"), 69.7),
        (("table3", "", "Adv-Interp", "CW 1000"), 68.3),
        (("table3", "", "Madry", "PGD 50"), 44.6),
        (("table4", "a", "Bilateral", "CW20"), None),
        (("table4", "a", "Feature-Scatter", "PGD20"), 47.2),
        (("table4", "b", "Adv-Interp", "CW100"), 60.4),
        (("table5", "a", "image-mixup", "FGSM"), 79.9),
        (("table5", "b", "label-smooth", "CW20"), 62.9),
        (("table6", "a", "Adv-Interp'", "CW20"), 81.8),
        (("table6", "b", "Local-Search", "Adv-Interp"), 90.1),
        (("table8", "", "FGSM", "UAT"), None),
        (("table8", "", "PGD20", "IAT-Mixup"), 50.1),
        (("table9", "", "Feature-min", "Adv-Interp*"), 43.4),
        (("tableA6", "", "0.7", "PGD100"), 48.7),
    ],
)
def test_the_papers_figures(place, expected):
    assert figure(*place) == expected


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name + block.part for name, block in BLOCKS])
def test_every_figure_is_a_measurement(name, block):
    assert [len(line) for line in block.figures] == [len(block.columns)] * len(block.rows)
    for scale in (SMALL, PAPER):
        for row, papers in zip(block.rows, block.figures, strict=True):
            for column, paper in zip(block.columns, papers, strict=True):
                cell = block.cell(row, column, scale)
                if cell is None:
                    others = [value for value in papers if value is not None]
                    assert (row.attack or column.attack) == WORST
                    assert paper == min(others)
                    continue
                assert cell.attack == CLEAN or parse(cell.attack).name == cell.attack
                assert cell.system in SYSTEMS
                assert cell.surrogate is None or cell.surrogate in SYSTEMS
                assert (cell.surrogate is not None) == (cell.attack != CLEAN and parse(cell.attack).needs_surrogate)


def test_budgets_are_the_scales():
    cells = TABLES["table2"].cells(PAPER)
    assert sorted({round(cell.epsilon * 255) for cell in cells}) == [8, 10, 12, 14, 16, 18, 20]
    assert {
        small.epsilon / paper.epsilon for small, paper in zip(TABLES["table2"].cells(SMALL), cells, strict=True)
    } == {3.0}


def test_columns_of_one_start_are_measured_together():
    assert [len(attacks) for attacks in points(TABLES["table3"].cells(PAPER)).values()] == [14, 14, 14]
    assert len(points(TABLES["table2"].cells(PAPER))) == 3 * 7
    assert len(points(TABLES["table6"].cells(PAPER))) == 3


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_are_trained_as_published(tmp_path, system):
    choices = Choices(PAPER, tmp_path, unlabeled=tmp_path if system == "uat" else None)
    config = choices.config(system)
    config.check()
    published = recipe(config.recipe, method=config.method)
    assert config.model == ("resnet-18" if system.startswith("fastat") else "wrn-28-10")
    assert config.epochs == published.epochs
    assert config.epsilon == 8 / 255
    assert config.step_size == published.step_size
    small = Choices(SMALL, tmp_path).config(system)
    small.check()
    assert (small.recipe, small.method) == ("digits", config.method)
    assert small.epsilon == pytest.approx(24 / 255)
    assert (small.step_size is None) == (config.step_size is None)
    assert small.step_size is None or small.step_size == pytest.approx(3 * config.step_size)


def test_settings_of_single_tables(tmp_path):
    paper, small = Choices(PAPER, tmp_path), Choices(SMALL, tmp_path)
    for choices in (paper, small):
        assert choices.run("fastat-madry") == choices.run("fastat-madry-best") != choices.run("madry")
        config = choices.config("fastat-madry")
        assert (config.schedule, config.label_smoothing, config.attack_steps) == ("one-cycle", 0.4, 10)
        assert config.ema
        assert config.val_fraction
        assert choices.config("fastat-adv-interp").label_smoothing == 0
        assert choices.config("fastat-nu-at").penalty == 4
    for choices in (paper, small):
        assert choices.config("epsilon_y=0.3").epsilon_y == 0.3
        assert choices.config("adv-interp-second").seed == choices.config("adv-interp").seed + 1
    assert paper.config("cifar100-adv-interp").epsilon_y == 0.9
    assert paper.config("svhn-madry").lr == 0.01
    assert paper.config("cifar100-adv-interp").epochs == 300
    assert paper.config("cifar100-natural").dataset == "cifar100"
    assert small.run("adv-interp") == small.run("svhn-adv-interp") != small.run("adv-interp-second")
    assert small.run("cifar100-natural") == small.run("natural") != paper.run("natural")
    assert paper.run("cifar100-natural") != paper.run("natural")
    assert paper.lacks_images("uat")
    assert not small.lacks_images("uat")


def of(correct, n=200):
    return Measured(correct, n)


def test_layout():
    """Table 5a with three measurements: text, Markdown and CSV."""
    block = TABLES["table5"].blocks[0]
    row = block.rows[1]
    found = {block.cell(row, column, SMALL): of(100 + i) for i, column in enumerate(block.columns[:3])}
    rows = entries(block, found, SMALL)
    shown = grid(block, rows)
    assert shown.title == "(a) images"
    assert shown.header == ["Models", "Clean", "FGSM", "PGD20", "PGD100", "CW20", "CW100", "Worst"]
    assert shown.lines[0][:2] == ["image-org", "- (paper 95.7)"]
    assert shown.lines[1][1:4] == [
        "50.0 (paper 95.4, -45.4)",
        "50.5 (paper 79.9, -29.4)",
        "51.0 (paper 32.4, +18.6)",
    ]
    assert shown.lines[1][-1] == "50.0 (paper 19.4, +30.6)"  # the lowest of its row
    sheet = Sheet(["above"], [shown], ["below"], records("table5", block, rows, SMALL))
    lines = sheet.markdown().splitlines()
    assert lines[0] == "above"
    assert lines[-1] == "below"
    assert "| image-mixup | 50.0 (paper 95.4, -45.4) |" in sheet.markdown()
    (record,) = (
        r for r in csv.DictReader(io.StringIO(sheet.csv())) if (r["row"], r["column"]) == ("image-mixup", "PGD20")
    )
    assert (record["table"], record["scale"], record["n"]) == ("table5a", "small", "200")
    assert (record["system"], record["attack"], float(record["epsilon"])) == ("image-mixup", "pgd20", 0.094118)
    assert [float(record[key]) for key in ("ours", "paper", "difference")] == [51.0, 32.4, 18.6]
    assert float(record["low"]) < 51 < float(record["high"])


def test_models_across_are_compared_along_rows():
    block = TABLES["table9"].blocks[0]
    rows = entries(block, {}, PAPER)
    (first, *_) = series(block, rows)
    assert first[0] == "Clean"
    assert [title for title, _ in first[1]] == ["Natural", "Madry", "Adv-Interp", "Adv-Interp*"]
    block = TABLES["table1"].blocks[0]
    titles = [title for title, _ in series(block, entries(block, {}, PAPER))]
    assert titles == ["Clean", "FGSM", "PGD20", "PGD100", "CW20", "CW100"]  # a worst is one of them


def test_orderings():
    alike = ("PGD20", [("A", Entry(of(150), 70.0)), ("B", Entry(of(100), 50.0))])
    far = ("CW20", [("A", Entry(of(100), 70.0)), ("B", Entry(of(180), 50.0))])
    near = ("FGSM", [("A", Entry(of(100), 70.0)), ("B", Entry(of(104), 50.0))])
    equal = ("clean", [("A", Entry(of(100), 70.0)), ("B", Entry(of(100), 50.0))])
    unknown = ("PGD100", [("A", Entry(None, 70.0)), ("B", Entry(of(100), None))])
    tie = ("CW100", [("A", Entry(of(90), 50.9)), ("B", Entry(of(100), 50.0))])
    assert compare([unknown, tie]) == []
    (said,) = compare([alike])
    assert said.startswith(
        "Of the 1 pairs of figures that the paper puts a point or more apart, 1 are ordered alike: no"
    )
    below = ("PGD20", [("A", Entry(of(100), 50.0)), ("B", Entry(of(150), 70.0))])
    assert compare([below]) == [said]
    said = compare([alike, far, near, equal])
    assert said[0].startswith(
        "Of the 4 pairs of figures that the paper puts a point or more apart, 1 are ordered alike"
    )
    assert "1 equal and 2 the other way" in said[0]
    assert said[0].endswith("second's, one training each; * within the noise of 200 images):")
    assert said[1:] == ["A and B: CW20 (+20.0 in the paper, here -40.0); FGSM (+20.0 in the paper, here -2.0*)."]


def test_table_7_is_the_methods_own():
    sheet = categories()
    assert [line[0] for line in sheet.grids[0].lines] == list(METHODS)
    trades = next(line for line in sheet.grids[0].lines if line[0] == "trades")
    assert trades[1].startswith("clean: x: the images as they are; and divergence: x + delta, up the KL divergence")
    assert trades[2].startswith(
        "classes: y: the labels as they are, one-hot; and 6 times the loss of clean_predictions"
    )
    images = {line[0]: line[1] for line in sheet.grids[0].lines}
    assert images["mixup"].endswith("mixed with the partner at the input")
    assert images["iat-manifold-mixup"].endswith("mixed with the partner at one of 3 layers")
    assert "(Zhang et al., 2019), of images without labels; and pgd" in images["uat"]
    assert trades[-1] == "Zhang et al., 2019"
    assert "adversarial_interpolation" in sheet.csv()


def test_figures_of_several_trainings():
    """Mean and standard error by hand; what is compared and written down."""
    mean = together([Measured(70, 100), Measured(74, 100), Measured(72, 100)])
    assert mean.accuracy == pytest.approx(72)
    assert mean.standard_error == pytest.approx(2 / 3**0.5)  # the sample's deviation is 2
    assert together([Measured(1, 2)]) == Measured(1, 2)
    assert together([]) is None
    block = TABLES["table9"].blocks[0]
    found = dict.fromkeys(block.cells(SMALL), mean)
    rows = entries(block, found, SMALL)
    assert grid(block, rows).lines[0][1] == "72.0 ± 1.2 (paper 95.6, -23.6)"
    record = records("table9", block, rows, SMALL)[0]
    assert (record["ours"], record["standard_error"], record["each_seed"]) == (72.0, 1.155, "70.000 74.000 72.000")
    assert (record["low"], record["high"]) == (None, None)


def test_orderings_of_means():
    """Those nearer than two standard errors of their difference are marked."""
    low, high = (together([Measured(n + d, 100) for d in (-1, 1)]) for n in (50, 55))
    near = together([Measured(51, 100), Measured(57, 100)])
    one, two = "first", "second"
    said = compare([("PGD20", [(one, Entry(low, 60.0)), (two, Entry(high, 50.0))])])
    assert "means of 2 trainings each" in said[0]
    assert "here -5.0)" in said[1]
    assert "here -4.0*)" in compare([("PGD20", [(one, Entry(low, 60.0)), (two, Entry(near, 50.0))])])[1]
    assert isinstance(low, Mean)
