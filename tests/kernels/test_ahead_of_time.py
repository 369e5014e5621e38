"""What the kernels compile to, for every target and type, on a machine that has none of the targets."""

import json
import os
import re
import subprocess
import sys

import pytest

from fastait_kernels import report
from fastait_kernels.report import TARGETS, _nvidia_width, _wide_index

pytest.importorskip("triton", reason="triton is not installed")

KERNELS = {
    "linf_step",
    "linf_step, counting",
    "random_start",
    "linf_step, per channel",
    "linf_step, per image",
    "random_start, per image and channel",
    "augment",
    "augment, with start",
    "soft_cross_entropy",
    "soft_cross_entropy, backward",
    "interpolated_cross_entropy",
    "interpolated_cross_entropy, backward",
    "margin_loss",
    "margin_loss, backward",
    "cosine_distance",
    "cosine_distance, long rows",
}
ELEMENTWISE = {name for name in KERNELS if name.startswith(("linf_step", "random_start", "augment"))}


@pytest.fixture(
    scope="module", params=[["sm_90"], pytest.param(list(TARGETS), marks=pytest.mark.slow)], ids=["one target", "all"]
)
def targets(request):
    """One target takes seconds, all of them minutes. What the installed triton cannot compile for is not among them."""
    return [target for target in request.param if not report.missing(target)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory, targets):
    """The report's rows, from the command itself."""
    file = tmp_path_factory.mktemp("report") / "rows.json"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "fastait_kernels.report", "--json", str(file)]
    command += [word for target in targets for word in ("--target", target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "ESTIMATE" in done.stdout
    return json.loads(file.read_text())


def test_every_kernel_type_and_target(rows, targets):
    assert {(r["kernel"], r["dtype"], r["target"]) for r in rows} == {
        (kernel, dtype, target)
        for kernel in KERNELS
        for dtype in ("float32", "bfloat16", "float16")
        for target in targets
    } | {("augment", "uint8", target) for target in targets}


def test_nothing_spills(rows):
    assert [r for r in rows if r["spills"]] == []
    assert all(0 < r["registers"] <= 255 for r in rows)


def test_16_byte_accesses(rows):
    assert [r for r in rows if not (r["wide_loads"] and r["wide_stores"])] == []
    linf = [r for r in rows if r["kernel"].startswith("linf_step")]
    assert all(r["loads"]["16"] >= 3 and r["stores"]["16"] >= 1 for r in linf)


def test_elementwise_traffic_is_the_minimum(rows):
    measured = [r for r in rows if r["kernel"] in ELEMENTWISE]
    assert [r for r in measured if r["bytes"] != pytest.approx(r["minimum_bytes"])] == []


def test_program_ids_are_64_bits_wide_before_they_are_multiplied(rows):
    assert [r for r in rows if not r["wide_index"]] == []


def test_the_reader_of_program_ids_sees_narrow_ones():
    wide = "%pid = tt.get_program_id x : i32\n%a = arith.extsi %pid : i32 to i64\n%b = arith.muli %a, %c : i64"
    narrow = "%pid = tt.get_program_id x : i32\n%a = arith.muli %pid, %c : i32\n%b = arith.extsi %a : i32 to i64"
    assert _wide_index(wide)
    assert not _wide_index(narrow)


def test_the_reader_of_widths():
    assert [_nvidia_width(m) for m in ("E.128", "E.64", "E", "E.U16", "E.U8.CONSTANT", "E.128.CONSTANT")] == [
        16,
        8,
        4,
        2,
        1,
        16,
    ]


def test_what_the_installed_triton_lacks_is_said(monkeypatch, capsys):
    assert report.missing("sm_90") is None
    assert "does not know sm_1" in report.missing("sm_1")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(report, "missing", {"sm_120": "it is too old", "gfx942": "no linker"}.get)
    compiled = []
    monkeypatch.setattr(report, "compile_all", lambda targets: compiled.extend(targets) or [])
    assert report.main(["--target", "sm_80", "--target", "sm_120"]) == 2
    assert compiled == []
    assert re.search(r"--target sm_120: triton \S+ cannot: it is too old$", capsys.readouterr().err.strip())
    assert report.main([]) == 0
    assert compiled == [target for target in TARGETS if target not in ("sm_120", "gfx942")]
    assert re.search(r"left out: sm_120: .*too old; gfx942: .*no linker$", capsys.readouterr().out.strip())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--target", "sm_1\n"], "argument --target: invalid choice: 'sm_1\\n'"),
        (["a\r\n"], "unrecognized arguments: a\\r\\n"),
        (["--json", "x" * 300 + "/rows.json"], "no such folder"),
        (["--json", "a\0b/rows.json"], "no such folder"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, message, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(SystemExit, match="2"):
        sys.exit(report.main(argv))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastait_kernels.report: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_rows_that_cannot_be_written(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(report, "missing", lambda target: None)
    monkeypatch.setattr(report, "compile_all", lambda targets: [])
    for name, why in (
        ("a\0b", "embedded null byte"),
        ("x" * 300, "File name too long"),
        ("/dev/full", "No space left"),
    ):
        assert report.main(["--json", name]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("fastait_kernels.report: error: --json ")
        assert why in line


def test_interpreter_is_refused():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "fastait_kernels.report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "unset it" in done.stderr
    assert "Traceback" not in done.stderr
