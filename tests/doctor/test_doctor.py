"""The command: what it prints, its exit codes, its document, its advice, and all of it on this machine."""

import json
import resource
import subprocess
import sys

import pytest
import torch

from fastait.__main__ import main
from fastait.doctor import __main__ as doctor
from fastait.doctor import examination
from fastait.doctor.advice import advise
from fastait.doctor.checks import INSTALLED, tries
from fastait.doctor.examination import examine
from fastait.doctor.findings import SKIPPED, WRONG, ok, skipped, wrong
from fastait.doctor.jobs import Result

FACTS = {"device": "cpu", "gpus": [], "compute_mode": None}
ON_GPUS = {"device": "cuda:0", "gpus": [{}, {}], "compute_mode": "Default"}


@pytest.fixture
def machine(monkeypatch):
    """Findings by name instead of checks that are done; other checks find nothing wrong."""

    def of(facts=FACTS, **findings):
        given = {"machine": ok("a machine", **facts), **findings}
        asked = []

        def do(jobs, setup, at_once, done):
            asked.append((setup, at_once))
            for check in (check for job in jobs for check in job.checks):
                found = given.get(check.name.replace(" ", "_"), ok("fine"))
                done(Result(check, found, 0.5, ("last words",) if found.status == WRONG else ()))

        monkeypatch.setattr(examination, "do_jobs", do)
        return asked

    return of


def test_what_it_prints(machine, capsys):
    machine(dali=skipped("not installed"))
    assert main(["doctor", "--out", "x"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "OK       machine        a machine"
    assert "skipped  dali           not installed" in lines
    assert lines[-3:] == [
        "Train with: fastait train --amp",
        "  --compile too, for runs of more than some minutes",
        "  --workers 2 too, for sets that do not fit in memory",
    ]


def test_something_wrong(machine, capsys):
    machine(amp=wrong("another way", "leave --amp out"), run_folder=wrong("full", "make room"))
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    place = lines.index("WRONG    amp            another way")
    assert lines[place + 1].strip() == "what to do: leave --amp out"
    assert "Train with: fastait train" in lines
    checks = len(INSTALLED.checks) + sum(len(job.checks) for job in tries(False))
    assert err == f"fastait doctor: error: 2 of {checks} checks found something wrong: amp, run folder\n"


@pytest.mark.parametrize("bad", [False, True])
def test_the_document_and_nothing_else(machine, capsys, bad):
    machine(training=ok("fast", amp_pays=False), **({"amp": wrong("another way", "no --amp")} if bad else {}))
    assert main(["doctor", "--json"]) == int(bad)
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"schema", "fastait", "ok", "seconds", "environment", "checks", "train"}
    assert document["schema"] == 1
    assert document["ok"] is not bad
    assert document["environment"] == FACTS
    checks = {check["name"]: check for check in document["checks"]}
    assert checks["training"]["figures"] == {"amp_pays": False}
    assert "figures" not in checks["machine"]
    for check in document["checks"]:
        assert check.keys() - {"figures", "log"} == {"name", "status", "seconds", "message", "remedy"}
    if bad:
        assert checks["amp"]["status"] == "wrong"
        assert checks["amp"]["log"] == ["last words"]
    assert document["train"]["flags"] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--jsn"], "--jsn. Did you mean --json?"),
        (["runs"], "unexpected argument: runs"),
        (["--out", "a\0b"], "out must be a path"),
    ],
)
def test_refusals(argv, message, capsys):
    assert main(["doctor", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_a_device_that_is_none(machine, capsys, json_):
    machine({"refused": True})
    assert main(["doctor", "--device", "gpu", *json_]) == 2
    assert capsys.readouterr() == ("", "fastait doctor: error: a machine\n")


def test_it_is_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["doctor"]) == 2
    assert "start it without torchrun" in capsys.readouterr().err


def test_without_torch_nothing_is_tried(machine, capsys):
    asked = machine(machine=wrong("ImportError: no torch", "install it"))
    assert main(["doctor"]) == 1
    assert len(asked) == 1
    assert "ImportError: no torch" in capsys.readouterr().out


def test_what_does_not_need_a_broken_gpu_is_tried_without_it(machine):
    asked = machine(ON_GPUS)
    assert main(["doctor"]) == 0
    assert asked[1][0].device == "cuda:0"
    asked = machine(ON_GPUS, gpu=wrong("dead", "bury it"))
    assert main(["doctor"]) == 1
    assert asked[1][0].device == "cpu"


def test_a_gpu_for_one_process_at_a_time(machine, monkeypatch):
    monkeypatch.setattr(examination, "usable_cores", lambda: 16)
    asked = machine(ON_GPUS)
    assert main(["doctor"]) == 0
    assert asked[1][1] == 4
    asked = machine({**ON_GPUS, "compute_mode": "Exclusive_Process"})
    assert main(["doctor"]) == 0
    assert asked[1][1] == 1


ALL = {check.name: ok("") for job in (INSTALLED, *tries(True)) for check in job.checks}
BAD, NONE = wrong("", ""), skipped("")


@pytest.mark.parametrize(
    ("facts", "found", "lines"),
    [
        (FACTS, {"amp": NONE, "compile": NONE, "dali": BAD, "workers": BAD}, ["Train with: fastait train"]),
        (FACTS, {"compile": NONE, "training": ok("", amp_pays=False)}, ["Train with: fastait train", "  --dali too,"]),
        (FACTS, {"compile": BAD, "training": BAD}, ["Train with: fastait train --amp", "  --dali too,"]),
        (
            ON_GPUS,
            {},
            [
                "Train with: fastait train --amp",
                "  --compile too,",
                "  --dali too,",
                "  torchrun --nproc-per-node 2 -m fastait train --amp --out RUN, on all GPUs",
            ],
        ),
        (
            ON_GPUS,
            {"graph": BAD, "processes": BAD},
            ["Train with: fastait train --amp --cuda-graph off", "  --compile too,", "  --dali too,"],
        ),
        (
            ON_GPUS,
            {"gpu": BAD, "dali": NONE},
            ["Train with: fastait train --device cpu --amp", "  --compile too,", "  --w"],
        ),
        ({}, dict.fromkeys(ALL, BAD), ["Train with: fastait train"]),
    ],
)
def test_advice(facts, found, lines):
    said = advise({**ALL, **found}, facts).lines()
    assert len(said) == len(lines)
    for line, begin in zip(said, lines, strict=True):
        assert line.startswith(begin)


def test_advice_is_a_command():
    from fastait.runtime import cli
    from fastait.train import TrainArguments

    advice = advise({**ALL, "graph": BAD}, ON_GPUS)
    for more in (advice.long_runs, advice.large_sets):
        cli.parse("fastait train", TrainArguments(), [*advice.flags, *more], "").config().check()


def cores_seconds():
    """What the processes have used that this one has started and seen the end of."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this is how it is without a GPU")
def test_green_here(tmp_path, monkeypatch, capfd):
    """All of it, once: as a document, then as lines, in a minute of two cores; nothing is left behind."""
    monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")  # not tried by compiling for each kind of CPU, ten seconds long
    monkeypatch.delenv("TRITON_INTERPRET")
    kept, before = [], cores_seconds()
    monkeypatch.setattr(doctor, "examine", lambda *told: kept.append(examine(*told)) or kept[0])
    assert doctor.main(["--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    document = json.loads(out)
    names = [check.name for job in (INSTALLED, *tries(False)) for check in job.checks]
    statuses = {check["name"]: check["status"] for check in document["checks"]}
    assert sorted(statuses) == sorted(names)
    may_lack = {"apex", "driver", "gpu", "graph", "amp", "dali", "compile"}
    assert {name for name, status in statuses.items() if status == SKIPPED} <= may_lack
    assert document["ok"] is True
    assert document["environment"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert cores_seconds() - before < 2 * 60  # others may use the cores too, so not by the clock
    assert list(tmp_path.iterdir()) == []

    def show_again(setup, show):
        for result in kept[0]:
            show(result)
        return kept[0]

    monkeypatch.setattr(doctor, "examine", show_again)
    assert doctor.main([]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for name in names:
        assert f" {name} " in out
    assert "Train with: fastait train" in out


def test_a_device_that_this_machine_lacks():
    done = subprocess.run(
        [sys.executable, "-m", "fastait", "doctor", "--device", "cuda:99", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "fastait doctor: error: --device cuda:99: this machine has" in done.stderr
    assert len(done.stderr.splitlines()) == 1
