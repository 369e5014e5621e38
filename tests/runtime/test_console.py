"""What is printed survives: full disks, closed streams, terminals that are narrow or lack characters."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastait import resume_training
from fastait.evaluation.intervals import cell
from fastait.reproduce import ReproduceArguments
from fastait.reproduction import plan
from fastait.runtime import cli
from fastait.runtime.console import Survivor, console, say, show_table
from fastait.runtime.files import write_text
from fastait.runtime.report import Report
from fastait.train import main

TINY = ["--image-size", "8", "--epochs", "1", "--eval-samples", "10", "--device", "cpu"]
FIGURE = r"\d+\.\d+|\d+"


class Broken(io.StringIO):
    """A stream whose writes fail as on a full disk, a closed pipe or a closed terminal."""

    def __init__(self, error):
        super().__init__()
        self.failure = error

    def write(self, text):
        raise self.failure

    def flush(self):
        raise self.failure


@pytest.mark.parametrize(
    "stream",
    [
        None,
        Broken(OSError(28, "No space left on device")),
        Broken(BrokenPipeError(32, "Broken pipe")),
        Broken(OSError(5, "Input/output error")),
    ],
    ids=["closed", "full", "pipe", "terminal"],
)
def test_a_run_goes_on_where_nothing_can_be_said(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    closed = io.StringIO()
    closed.close()
    say("to a closed file")
    monkeypatch.setattr(sys, "stderr", closed if stream is None else stream)
    report = Report(True)
    report.note("a note")
    report.start("training", 3)
    report.update(1)
    report.finish()
    figures = {"clean": 1.0, "fgsm": 1.0, "pgd20": 1.0, "cw20": 1.0}
    report.result({**figures, "method": "m", "dataset": "d", "test_images": 1, "epsilon": 0.1}, "run")

    def body(argv):
        print("of somebody else")
        say("of ours")
        raise cli.InputError("wrong")

    assert cli.run("program", body, []) == 2


def test_a_whole_run_onto_full_disks_and_in_ascii(monkeypatch):
    """One training: its notes go to a full disk, its table to a stream without the folder's letters."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        patch.setattr(sys, "stdout", out)
        assert main([*TINY, "--out", "dé\udce9"]) == 0
    shown = out.buffer.getvalue().decode("ascii")
    assert "Run folder: d\\xe9\\udce9" in shown
    assert "| method     | clean" in shown
    assert Path("dé\udce9/result.json").exists()
    assert resume_training("dé\udce9").result["test_images"] == 10


@pytest.mark.parametrize(
    ("argv", "streams"),
    [
        (["--help"], "> /dev/full"),
        (["--version"], ">&- 2>&- <&-"),
        (["--epoch", "3"], "> /dev/full 2> /dev/full"),
        (["--epoch", "3"], ">&- 2>&-"),
    ],
)
def test_exit_codes_of_real_processes(argv, streams):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, "-m", "fastait.train", *argv], check=False
    )
    assert done.returncode == (2 if argv[0] == "--epoch" else 0)


def test_a_table_that_is_lost_is_said_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    assert cli.run("program", lambda argv: say("table"), []) == 0
    assert capsys.readouterr().err == (
        "program: warning: not everything could be printed (No space left on device); what was done is complete\n"
    )
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError(32, "Broken pipe")))
    assert cli.run("program", lambda argv: say("table"), []) == 0
    assert capsys.readouterr().err == ""


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    during = []

    def end(argv):
        during.append(type(sys.stdout))
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        cli.run("program", end, [])
    assert during == [Survivor]
    assert (sys.stdout, sys.stderr) == before


def test_text_is_printed_as_it_is(capsys):
    console().print("[bold] :dog: class", markup=False)
    assert capsys.readouterr().out == "[bold] :dog: class\n"


TABLES = {
    "train": (["method", "clean", "FGSM", "PGD-20", "CW-20"], [["iat-manifold-mixup, last epoch", *["100.0"] * 4]], {}),
    "eval": (
        ["attack", "runs-with-a-long-name", "b", "c"],
        [["clean", *[cell(355, 355)] * 3], ["eot10-pgd100-worst, eps 12/255 (n = 40)", *[cell(17, 40)] * 3]],
        {},
    ),
    "data": (
        ["label", "class", "train", "test"],
        [["1234", "a class of a very_long_name", "1000000", "98765"]],
        {"words": (1,)},
    ),
    "reproduce": (
        ["model", *["FGSM", "PGD100", "local-search"] * 2],
        [["Adv-Interp", *["57.3 (paper 73.5, -16.2)"] * 6]],
        {"words": range(7), "ruled": True},
    ),
}


@pytest.mark.parametrize("width", [20, 40, 60, 80])
@pytest.mark.parametrize("table", TABLES)
def test_every_figure_is_whole_in_a_narrow_terminal(capsys, monkeypatch, table, width):
    monkeypatch.setenv("COLUMNS", str(width))
    header, lines, options = TABLES[table]
    show_table(header, lines, title="accuracy in %, 355 images", **options)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    name = min(options.get("words", (0,)))
    cells = [text for line in lines for i, text in enumerate(line) if i != name]
    wanted = [figure for text in cells for figure in re.findall(FIGURE, text)]
    shown = out.split("\n", 2)[2] if width == 20 else out.split("\n", 1)[1]
    for figure in set(wanted):
        # As a word of its own, as often as it was given, or more where titles are repeated below each other.
        assert len(re.findall(rf"(?<![\w.]){re.escape(figure)}(?![\d])", shown)) >= wanted.count(figure), figure
    assert "..." not in out
    assert "…" not in out


@pytest.mark.parametrize("width", [0, 1, 3])
def test_widths_that_are_none(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    header, lines, options = TABLES["train"]
    show_table(header, lines, **options)
    assert "100.0" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.parse("fastait reproduce", ReproduceArguments(), ["--help"], "Summary.")
    assert max(map(len, capsys.readouterr().out.splitlines())) in (20, 80)


def test_a_plan_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    jobs = [plan.Job("cifar10-adv-interp", "pgd20, cw20 (8/255, 10000 images)", "missing", 1.234e18, 86400 * 12.5)]
    plan._show_jobs("evaluations", "attacks", jobs)
    out = capsys.readouterr().out
    assert "1.23e+03" in out
    assert "12.5 days" in out


def test_files_are_utf8_whatever_they_hold():
    write_text(Path("file"), "dé\udce9")
    assert Path("file").read_bytes() == b"d\xc3\xa9\\udce9"


def test_the_kernels_report_survives_too(capsys, monkeypatch):
    from fastait_kernels import report

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report._say("dé", out)
    assert out.buffer.getvalue() == b"d\\xe9\n"
    report._say("table", None)
    report._say("table", Broken(OSError(28, "No space left on device")))
    monkeypatch.setattr(report, "HAS_TRITON", True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(report, "compile_all", lambda targets: [])
    monkeypatch.setattr(report, "table", lambda rows: "table")
    assert report.main(["--json", "/dev/full"]) == 1
    assert report.main(["--json", "missing/rows.json"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("table\n")
    assert [line.split(": ", 2)[2] for line in err.splitlines()] == [
        "--json /dev/full: No space left on device",
        "--json missing/rows.json: no such folder",
    ]
