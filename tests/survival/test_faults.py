"""The short form of the fault harness, and that it sees what it is there to see."""

import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fault_cases import KILL, Case, Known, cases
from fault_commands import COMMANDS
from fault_points import ANY, IMPORT, NAMED, NAMING, OPENED, PASS, STEP, TORN, WRITING, WRITTEN, Points
from fault_verdict import SUFFICED, fits, torn
from faults import SHORT, alone, came, main
from PIL import Image
from safetensors.torch import save

from fastait.checkpoints import checkpoint
from fastait.runtime.files import write_whole

LINE = "fastait train: error: what is wrong and what would be right\n"
TRAINING = next(command for command in COMMANDS if command.name == "training")


def test_faults_are_survived(tmp_path):
    said = main(True, tmp_path)
    assert said["failures"] == []
    assert sum(said["counts"].values()) == len(SHORT) >= 6


@pytest.fixture
def everywhere():
    """Commands of which each has come to each point a million times."""
    counts = {command.name: dict.fromkeys((ANY, PASS, STEP, *WRITING), 10**6) for command in COMMANDS}
    return Known(counts, {command.name: 10**6 for command in COMMANDS})


def test_there_are_as_many_faults_as_are_promised(everywhere):
    all_cases = list(cases(everywhere))
    assert len({case.name for case in all_cases}) == len(all_cases) >= 200
    kinds = [case.kind for case in all_cases]
    assert kinds.count("SIGKILL at a random moment") >= 40
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        assert kinds.count(name) >= 12
    for kind, least in (("a worker killed", 5), ("a full disk", 5), ("a memory limit", 3)):
        assert kinds.count(kind) >= least
    assert list(cases(everywhere)) == all_cases  # by seeds


@contextmanager
def watched(points):
    points.watch()
    try:
        yield
    finally:
        points.stop()


def test_the_points_of_a_file_that_is_written_whole(monkeypatch, tmp_path_factory):
    found, points = [], Points(".")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setattr(points, "reach", found.append)
    with watched(points):
        write_whole(Path("file"), b"0123456789")
        write_whole(elsewhere / "file", b"0123456789")
    assert [point for point in found if point in WRITING] == [OPENED, TORN, WRITTEN, NAMING, NAMED]


def test_it_strikes_once_and_in_the_middle():
    struck = []
    points = Points(".", TORN, 2, lambda: struck.append(Path("second.partial").read_bytes()))
    with watched(points):
        for name in ("first", "second", "third"):
            write_whole(Path(name), b"0123456789")
    write_whole(Path("fourth"), b"0123456789")
    assert struck == [b"01234"]
    assert Path("second").read_bytes() == b"0123456789"
    assert points.counts[TORN] == 3
    assert points.counts[ANY] == 15


@pytest.mark.parametrize("name", ["a.json", "metrics.jsonl", "a.safetensors", "checkpoint.pt", "a.png"])
def test_torn_files_are_seen(name):
    path = Path(name)
    if path.suffix == ".png":
        Image.new("RGB", (40, 40)).save(path)
    else:
        tensor = {"w": torch.arange(100.0)}
        packed = save(tensor) if path.suffix == ".safetensors" else checkpoint.packed(tensor)
        path.write_bytes(b'{"a": 1}' if "json" in name else packed)
    assert list(torn(Path())) == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert [line.startswith(f"{name} is torn") for line in torn(Path())] == [True]


@pytest.fixture
def unheeded():
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_is_struck_heeds_signals_that_its_parent_ignores(unheeded, tmp_path):
    """As whatever a shell runs in the background ignores Ctrl-C."""
    fault = {"kind": "signal", "signal": int(signal.SIGINT), "point": IMPORT, "number": 50}
    case = Case("Ctrl-C while it is imported", TRAINING, fault, alone=True)
    request = {"module": "fastait.train", "argv": ["--help"], "folder": str(tmp_path), "log": str(tmp_path / "log")}
    assert list(fits(case, alone({**request, "fault": fault}), [(tmp_path / "log.0.err").read_text()])) == []
    assert came(tmp_path / "log", fault)
    assert not came(tmp_path / "other", fault)


@pytest.mark.parametrize(
    ("fault", "codes", "said", "well"),
    [
        (KILL, [-9], [""], True),
        (KILL, [0], [""], False),
        (KILL, [-9, 1], ["", LINE], True),
        (KILL, [-9, 1], ["", ""], False),
        (KILL, [-9, "hangs"], ["", ""], False),
        ({"kind": "signal", "signal": 15}, [143], [LINE], True),
        ({"kind": "signal", "signal": 15}, [143], [""], False),
        ({"kind": "signal", "signal": 15}, [143], [LINE * 2], False),
        ({"kind": "signal", "signal": 15}, [143], ["Traceback (most recent call last)\n" + LINE], False),
        ({"kind": "signal", "signal": 15}, [-15], [""], True),
        ({"kind": "signal", "signal": 15}, [-15], ["Traceback (most recent call last)"], False),
        ({"kind": "signal", "signal": 15}, [1], [LINE], False),
        ({"kind": "signal", "signal": 2}, [130], ["fastait train: interrupted\n"], True),
        ({"kind": "gone"}, [1], [LINE], True),
        ({"kind": "gone"}, [0], [""], False),
        ({"kind": "file size"}, [0], [""], False),
        ({"kind": "file size"}, [0], ["the cache cannot be written\n"], True),
        ({"kind": "memory"}, [1], [LINE], True),
        ({"kind": "memory"}, [0], [""], True),
        ({"kind": "memory"}, [-6], ["terminate called after throwing\n"], False),
        ({"kind": "clock"}, [0], [""], True),
        ({"kind": "clock"}, [1], [LINE], False),
    ],
)
def test_how_it_ended_and_what_was_said(fault, codes, said, well):
    case = Case("a kind", replace(TRAINING, ranks=len(codes)), fault)
    assert (set(fits(case, codes, said)) <= {SUFFICED}) == well
