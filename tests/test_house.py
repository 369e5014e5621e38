"""The contract on imports: kept as the code is, broken by one import that runs upwards or around."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from unittest import mock

import pytest

import fastait
from fastait.__main__ import COMMANDS, end

ROOT = Path(fastait.__file__).parents[1]


def contracts(folder):
    """Exit code and output of import-linter on the tree in ``folder``."""
    path = os.pathsep.join(map(str, (folder, folder / "kernels")))
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture
def tree(tmp_path):
    """A copy of what the contract is about."""
    for name in ("fastait", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_no_import_runs_upwards_or_around(tree):
    code, said = contracts(tree)
    assert code == 0, said
    assert "2 kept, 0 broken" in said
    with open(tree / "fastait/attacks/noise.py", "a") as file:
        file.write("\n\ndef late():\n    from fastait.training.run import run_training\n\n    return run_training\n")
    with open(tree / "fastait/runtime/files.py", "a") as file:
        file.write("\nfrom fastait.runtime import cli\n\n__all__ = ['cli']\n")
    code, said = contracts(tree)
    assert code == 1
    assert "0 kept, 2 broken" in said or "1 kept, 1 broken" in said, said
    assert "fastait.attacks.noise" in said


def test_every_module_of_the_house_has_its_floor():
    floors = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    rooms = {p.stem for p in (ROOT / "fastait").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    for room in rooms - {"__init__"}:
        assert f"fastait.{room}" in floors, room


LIGHT = "config recipes methods data training.step attacks interpolation runtime.settings"


def test_python_needs_no_command_line_library():
    """A machine with torch alone can train from Python: cyclopts and rich are the commands'."""
    code = (
        "import sys\nsys.modules['cyclopts'] = sys.modules['rich'] = None\n"
        + "".join(f"import fastait.{name}\n" for name in LIGHT.split())
        + "import fastait\nfastait.recipe('digits', epsilon=0.1).check()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_a_screenful_and_imports_nothing_that_takes_time():
    code = (
        "import sys\nfrom fastait.__main__ import main\nassert main(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'cyclopts', 'rich'} & set(sys.modules)\nassert not heavy, heavy"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert len(said.splitlines()) <= 24
    assert all(f"  {name} " in said for name in COMMANDS)


IMPATIENT = """\
import os, runpy, signal, sys

def impatient(event, args):
    if event == "import" and args[0] == "cyclopts":
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(impatient)
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"kernels", "data"}))
def test_ctrl_c_while_a_command_is_imported_is_one_line(name):
    argv = [sys.executable, "-c", IMPATIENT, COMMANDS[name][0]]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, f"fastait {name}: interrupted\n")


ENDING = """\
import atexit, gc, sys
import fastait.__main__ as module

class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("looked for")

gc.collect()
gc.disable()
Garbage()
atexit.register(print, "others")
assert module.main(["--version"]) == 0 and gc.get_freeze_count() == 0
if sys.argv.pop(1) == "end":
    module.end()
"""


@pytest.mark.parametrize(("how", "printed"), [("end", ["others"]), ("as a library", ["others", "looked for"])])
def test_a_command_ends_without_looking_for_garbage(how, printed):
    """As it is to end within two seconds of a signal; a program that calls ``main`` ends as it always did."""
    argv = [sys.executable, "-c", ENDING, how, "no such command"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[1:] == printed
    assert ended.returncode == (2 if how == "end" else 0)


def test_the_installed_command_ends_so_too():
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    (command,) = setup.call_args.kwargs["entry_points"]["console_scripts"]
    assert EntryPoint(*command.split(" = "), "console_scripts").load() is end


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "fastait: error: COMMAND: 'trian' is not one of train, eval, .* Did you mean 'train'"),
        (["train", "--epoch", "3"], "fastait train: error: Unknown option: --epoch. Did you mean --epochs"),
        (["eval", "--attack", "pgd20"], "fastait eval: error: Unknown option: --attack. Did you mean --attacks"),
        (["data", "digit"], "fastait data: error: NAME: 'digit' is not one of .* Did you mean 'digits'"),
        (["reproduce", "tabel1"], "fastait reproduce: error: TABLE: 'tabel1' .* Did you mean 'table1'"),
        (["train", "digits"], "fastait train: error: unexpected argument: digits"),
    ],
)
def test_near_misses_are_named(argv, said, capsys):
    from fastait.__main__ import main

    assert main(argv) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert re.search(said, printed), printed


@pytest.mark.parametrize("argv", [[], ["-h"], ["--version"]])
def test_what_ends_well(argv, capsys):
    from fastait.__main__ import main

    assert main(argv) == 0
    assert fastait.__version__ in capsys.readouterr().out


def test_training_help_is_grouped_and_speaks_as_people_write(capsys, monkeypatch):
    from fastait.__main__ import main

    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    headings = ["Data", "Network", "Method", "Optimisation", "Speed", "Output"]
    places = [said.index(f"─ {heading} ─") for heading in headings]
    assert places == sorted(places)
    assert "[default: 8/255]" in said
    assert "0.0313" not in said
    assert "None" not in said
    assert "Parameters" not in said, "a flag has no heading"
