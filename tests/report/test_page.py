"""The page of runs and evaluations: what stands in it, what is left out with a word, and that it stands alone."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from read_page import Page, page
from report_files import CHECKS, CLASSES, change, write_evaluation, write_run
from safetensors.torch import load_file

from fastait.evaluation.intervals import cell
from fastait.evaluation.results import from_json, masking_heading, words
from fastait.report import compared, pictures
from fastait.report.__main__ import main
from fastait.report.eval_files import read_evaluation
from fastait.report.page import make
from fastait.report.papers import paper_figures
from fastait.report.run_files import read_run
from fastait.runtime.report import AUTOATTACK_CAVEAT


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two runs, an evaluation of both under two budgets, and the page of all."""
    folder = tmp_path_factory.mktemp("measured")
    runs = [write_run(folder / "madry", method="madry"), write_run(folder / "natural", method="natural", epochs=4)]
    models = {run.name: run for run in runs}
    attacks = ("fgsm", "pgd20", "pgd100", "autoattack")
    evaluation = write_evaluation(folder / "eval", models, attacks=attacks, epsilons=(8 / 255, 16 / 255))
    text = make(runs, [evaluation], figures=False)
    return SimpleNamespace(
        runs=runs,
        evaluation=evaluation,
        evaluations=from_json(json.loads((evaluation / "eval.json").read_text())),
        text=text,
        page=Page(text),
    )


def test_the_same_files_give_the_same_bytes(measured):
    """In another process, with other hashes and at another time."""
    command = [sys.executable, "-m", "fastait", "report", *map(str, measured.runs), "--out", "page.html"]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run(
        [*command, "--eval", str(measured.evaluation)], check=True, env=environment, capture_output=True, timeout=300
    )
    assert Path("page.html").read_bytes() == measured.text.encode()


def test_a_page_stands_alone(measured):
    """No script, nothing from elsewhere, and a policy that forbids both; no two parts of one name."""
    text, found = measured.text, measured.page
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "foreignobject"}
    policies = [a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), value
    without_names = re.sub(r"http://www\.w3\.org/(2000/svg|1999/xlink)", "", text)
    assert "http" not in without_names.replace("http-equiv", "")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert used <= set(ids)
    assert re.search(r"<svg[^>]*role=\"img\" aria-label=\"loss that is trained by\"", text)


NASTY = "<img src=x onerror=alert(1)>&\"'<script>`$x^2$"


def test_names_do_no_harm():
    """Of folders, classes, models, data sets, in sentences, attributes and pictures."""
    run = write_run(f"{NASTY.replace('/', '')}", classes=(NASTY, *CLASSES[1:]))
    evaluation = write_evaluation(
        f"eval {NASTY}", {NASTY: run}, epsilons=(8 / 255, 16 / 255), dataset=NASTY, classes=[NASTY, *CLASSES[1:]]
    )
    change(run / "result.json", device=NASTY, precision=NASTY, torch="\x1b[31m")
    plain = write_run("plain")
    other = write_evaluation("other", {"plain": plain}, epsilons=(8 / 255, 16 / 255))
    nasty, tame = page(run, evals=[evaluation]), page(plain, evals=[other])
    assert NASTY in nasty.text
    assert "\\x1b[31m" in nasty.text
    kinds = [{(tag, *sorted(attributes)) for tag, attributes in found.elements} for found in (nasty, tame)]
    assert kinds[0] - kinds[1] <= {("p", "class")}


def test_what_was_trained_and_how(measured):
    text = measured.page.text
    assert "fastait train --method madry --val-fraction 0.1 --image-size 8 --epochs 3" in text
    for said in ("0:01:15 of training, 0:01:21 with its evaluation", "a CPU, 2 threads", "torch 2.14.1", "fp32"):
        assert said in text
    assert "1,298 to train on, 144 held out" in text
    assert re.search(r"a step is 1[0-9.]+ forward passes' worth \(F\), 0\.\d+ GFLOP an image", text)
    assert "PFLOP for 3,894 images" in text
    assert "2, by PGD-10 on the images held out" in text


def test_curves_say_of_how_many_images(measured):
    text = measured.page.text
    for said in (
        "loss that is trained by n = 1,298",
        "accuracy under PGD-10, held-out images n = 144",
        "learning rate at the end of the epoch",
        "zero gradients of the attack",
        "speed of training",
        "A ring is the best epoch",
    ):
        assert said in text
    assert "A cross is where" not in text
    crossed = page(write_run("fell", collapsed=3)).text
    assert "in epoch 3" in crossed
    assert "A cross is where the training collapsed" in crossed


def rows_of(text, title):
    """The table below a heading: its rows as lists of texts."""
    table = re.search(re.escape(title) + r".*?<table>(.*?)</table>", text, re.DOTALL)[1]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    plain = [[re.sub("<[^>]+>", " ", one).strip() for one in re.split(r"</t[dh]>", row)[:-1]] for row in rows]
    return [[one.split("  ")[0] for one in row] for row in plain]


def test_results_stand_side_by_side(measured):
    """AutoAttack first, each figure with its interval, and the sentences that the evaluation says."""
    of = {(e.model, e.epsilon): e for e in measured.evaluations}
    header, *rows = rows_of(measured.text, "digits, Linf 16/255, steps of 2/255, 40 test images")
    assert header == ["attack", "madry", "natural"]
    assert [row[0] for row in rows] == ["autoattack", "all of these", "clean", "fgsm", "pgd20", "pgd100"]
    for attack, *cells in rows:
        expected = [cell(of[model, 16 / 255].count(attack), 40) for model in header[1:]]
        assert cells == expected
    said = measured.page.text
    for e in measured.evaluations:
        for sentence in words([e]):
            assert sentence in said
    assert said.count(AUTOATTACK_CAVEAT) == 1
    assert "95.5 [92.8, 97.2]" in said  # of 355, at the end of the training


def test_masking_has_figure_sentence_and_picture(measured):
    text, said = measured.text, measured.page.text
    assert masking_heading("madry", CHECKS) in said
    for check in CHECKS:
        assert f"{check.figure}. {check.sentence}" in said
    assert said.count("! a sign") == 2
    assert text.count('aria-label="accuracy under PGD-20 against epsilon up to 1"') == 2
    assert text.count('aria-label="mean loss along the steps"') == 2
    assert "no proof" in said


def test_sweeps_and_losses(measured):
    text = measured.text
    for label in (
        "accuracy against epsilon under autoattack",
        "accuracy under PGD-T, Linf 8/255",
        "loss of pgd20, Linf 8/255",
    ):
        assert text.count(f'aria-label="{label}"') == 1
    assert text.count("trained with 8/255") > 0


def test_classes_and_what_they_are_taken_for(measured):
    (e,) = [e for e in measured.evaluations if (e.model, e.epsilon) == ("madry", 8 / 255)]
    rows = rows_of(measured.text, "madry, Linf 8/255, under autoattack")[1:]
    accuracy = {row[0]: row[3] for row in rows}
    right = e.outcomes.correct["autoattack"]
    assert accuracy == {str(k): cell(int(right[k::10].sum()), 4) for k in range(10)}
    lowest = [float(row[3].split()[0]) for row in rows]
    assert lowest == sorted(lowest)
    matrix = re.search(r'<table class="matrix">(.*?)</table>', measured.text, re.DOTALL)[1]
    own = [int(count or 0) for count in re.findall(r'class="h\d+ own">(\d*)<', matrix)]
    assert own == [int(right[k::10].sum()) for k in range(10)]
    counts = [int(count or 0) for count in re.findall(r'class="h\d+(?: own)?">(\d*)<', matrix)]
    taken = load_file(measured.evaluation / "outcomes.safetensors")["madry-8-255/autoattack/class"].tolist()
    assert counts == [taken[down::10].count(across) for down in range(10) for across in range(10)]


def test_images_before_and_after(measured):
    found = measured.page
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    galleries = pictures.galleries(compared.entries([read_evaluation(measured.evaluation, "eval")], []))
    shown = [picture for one in galleries for picture in (*one.most, *one.least)]
    assert len(galleries) == 2
    assert len(shown) > 10
    assert [image["src"] for image in images] == [
        address for one in shown for address in (one.clean, one.perturbed, one.difference)
    ]
    assert all(attributes["alt"] for attributes in images)
    assert re.search(r"\d+ \(\d\): \d → \d", found.text)
    assert "grey is none, the brightest +8/255" in found.text


def test_the_papers_figures_where_the_setting_is_its_own():
    """Not at another schedule or network, of other weights, or under other steps."""
    assert paper_figures("madry")["pgd20", round(8 / 255, 6)] == (45.0, "Table 1")
    assert paper_figures("natural")["pgd20", round(20 / 255, 6)] == (0.0, "Table 2")
    own = {"recipe": "cifar10", "method": "madry", "val_fraction": 0.0, "image_size": 32, "seed": 3, "amp": True}
    run, other, best = (write_run(name, epochs, **own) for name, epochs in (("own", 100), ("other", 90), ("best", 100)))
    runs = [read_run(path, path.name) for path in (run, other, best)]
    for number, (model, about, said) in enumerate(
        (
            (run, {}, True),
            (other, {}, False),
            (best / "best.safetensors", {}, False),
            (run, {"step_size": 1 / 255}, False),
            (run, {"input_noise": 1 / 255}, False),
            (run, {"epsilons": (4 / 255,)}, False),
            (run, {"dataset": "digits"}, False),
        )
    ):
        path = write_evaluation(f"eval-{number}", {"m": model}, **{"dataset": "cifar10", **about})
        (table,) = compared.tables(compared.entries([read_evaluation(path, path.name)], runs))
        papers = {attack: one.paper for attack, (one,) in table.rows}
        assert papers["pgd20"] == ("45.0 in Table 1" if said else ""), (number, about)
        assert papers["all of these"] == ""


def test_runs_of_different_data_stand_apart():
    a, b = write_run("a"), write_run("b", classes=CLASSES[:9])
    one = write_evaluation("e1", {"a": a})
    two = write_evaluation("e2", {"b": b}, dataset="svhn")
    text = make([a, b], [one, two], figures=False)
    assert "they are of different data sets or class names" in Page(text).text
    assert text.count('aria-label="loss that is trained by"') == 2
    assert "digits, Linf 8/255" in text
    assert "svhn, Linf 8/255" in text


def test_a_model_keeps_its_colour():
    """Whatever the folder that its evaluation was started in."""
    runs = [read_run(write_run(f"deep/runs/{name}"), name) for name in "ab"]
    deep = Path("deep/runs/b")
    for number, place in enumerate((Path("runs/b"), Path("b"), deep, deep.absolute(), Path("runs/b/best.safetensors"))):
        evaluation = read_evaluation(write_evaluation(f"e{number}", {"x": place, "y": "elsewhere/b.pt"}), "e")
        own, others = compared.entries([evaluation], runs)
        assert (own.run, own.series) == (runs[1], 1), place
        assert (others.run, others.series) == (None, 2)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no run is given: fastait report RUN..., or --eval EVAL"),
        (["nowhere"], "nowhere is no run folder (no config.json)"),
        (["run", "--eval", "run"], "--eval run is no evaluation (no eval.json)"),
        (["run", "run"], "a folder is given twice: "),
        (["run", "--out", "run"], "--out run is a folder; name the page"),
        (["run", "--out", "no/page.html"], "--out no/page.html: there is no folder"),
        (["run", "--out", "x" * 300], "cannot be written: File name too long"),
        (["run", "--out", "a\0b"], "out must be a path"),
        (["run\0"], "runs must be paths"),
        (["[]"], "[] is no run folder (no config.json)"),
    ],
)
def test_wrong_arguments(argv, said, capsys):
    write_run("run")
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastait report: error: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert not Path("report.html").exists()


@pytest.mark.slow
def test_a_large_page_is_made_soon_and_small():
    """20 runs of 200 epochs, 8 networks, with evaluations."""
    methods = ("natural", "madry", "trades", "adv-interp", "mart")
    runs = [write_run(f"runs/{i}-{methods[i % 5]}", 200, method=methods[i % 5], seed=i) for i in range(20)]
    evaluation = write_evaluation("eval", {run.name: run for run in runs}, n=200, epsilons=(4 / 255, 8 / 255))
    began = time.process_time()
    text = make(runs, [evaluation], figures=False)
    seconds = time.process_time() - began
    assert seconds < 30
    assert len(text.encode()) < 10e6
