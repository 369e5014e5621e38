"""README and the manual: Python blocks run, command lines parse, links lead somewhere, no error is left out."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

from fastait.data.__main__ import DataArguments
from fastait.doctor.__main__ import DoctorArguments
from fastait.eval import EvalArguments
from fastait.report.__main__ import ReportArguments
from fastait.reproduce import ReproduceArguments
from fastait.reproduction.sweep import read_sweep
from fastait.runtime import cli
from fastait.sweep import SweepArguments
from fastait.train import TrainArguments, parsed
from fastait_kernels import report

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = (
    *(
        "python3 -m venv",
        "source",
        "python -m pytest",
        "pip install",
        "sphinx-build",
        "fastait --help",
        "tensorboard --logdir",
    ),
    *("python tests/gpu/run.py", "python tests/survival/run_all.py", "python bench/step_profile.py"),
    "python docs/results/",
)
"""Beginnings of command lines that are not for our parsers to read."""


def _train(argv):
    of_a_run = "--resume" in argv  # which is not there
    arguments = cli.parse("fastait train", TrainArguments(), argv, "") if of_a_run else parsed(argv)[0]
    arguments.config().check()


def _checked(arguments, needs_check=lambda parsed: True):
    def parse(argv):
        parsed = cli.parse("fastait", arguments, argv, "")
        if needs_check(parsed):
            parsed.check()

    return parse


def _kernels(argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "compile_all", lambda targets: [])
        patch.setattr(report, "table", lambda rows: "")
        patch.setattr(report, "HAS_TRITON", True)
        patch.delenv("TRITON_INTERPRET", raising=False)
        assert report.main(argv) == 0


COMMANDS = {
    "train": _train,
    "eval": _checked(EvalArguments()),
    "data": lambda argv: cli.parse("fastait data", DataArguments(), argv, "").config().check(),
    "reproduce": _checked(ReproduceArguments(), lambda parsed: not parsed.list_),
    "report": lambda argv: cli.parse("fastait report", ReportArguments(), argv, ""),
    "sweep": _checked(SweepArguments()),
    "doctor": lambda argv: cli.parse("fastait doctor", DoctorArguments(), argv, ""),
    "kernels": _kernels,
}
"""How each subcommand's arguments are read and checked; nothing is opened or written."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page):
    for example in Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(page):
        example.evaluate()


def command_lines(text):
    """The lines of shell blocks, continued ones joined."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def commands(line):
    """The simple commands of a line, as words; comments, and files that output goes to, left out."""
    words = shlex.split(re.sub(r" > \S+", "", line), comments=True)
    found = [[]]
    for word in words:
        if word in ("&&", "|", ";"):
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command]


def ours(words):
    """(subcommand, its arguments) of a command that is ours; torchrun, srun and python may stand before it."""
    for place, word in enumerate(words):
        name = Path(word).name
        if name == "fastait" and place + 1 < len(words) and words[place + 1] in COMMANDS:
            if place == 0 or words[place - 1] == "-m":
                return words[place + 1], words[place + 2 :]
        elif name.startswith("fastait.") and name.partition(".")[2] in COMMANDS and words[place - 1] == "-m":
            return name.partition(".")[2], words[place + 1 :]
        elif word == "fastait_kernels.report":
            return "kernels", words[place + 1 :]
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_parse(page):
    for line in command_lines(page.read_text()):
        for words in commands(line):
            command = ours(words)
            if command is None:
                said = " ".join(words).replace(".venv/bin/", "")
                assert said.startswith(OTHERS) or "|" in line, f"{page.name}: whose command is this? {line}"
            elif not {"--help", "-h"} & set(command[1]):
                COMMANDS[command[0]](command[1])
        if "fastait" in line.partition("#")[0] and "|" in line:
            assert any(ours(words) for words in commands(line)), line


def test_sweeps_of_the_manual_can_be_read():
    blocks = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "workers.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        file = Path(f"{number}.toml")
        file.write_text(block)
        assert len(read_sweep(file).table().blocks[0].rows) in (2, 6)


def test_flags_in_sentences_are_flags():
    known = {"target", "json", "help", "version", "nproc-per-node", "benchmark-only", "shm-size", "cpus"}
    known |= {"part", "budget", "rehearse"}  # tests/gpu/run.py
    for arguments in (
        TrainArguments,
        EvalArguments,
        DataArguments,
        ReportArguments,
        ReproduceArguments,
        SweepArguments,
        DoctorArguments,
    ):
        names = {field.name.strip("_").replace("_", "-") for field in dataclasses.fields(arguments)}
        known |= names | {f"no-{name}" for name in names}
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        flags = {
            flag for code in re.findall(r"`[^`]*`", prose) for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", code)
        }
        assert flags <= known, f"{page.name}: {', '.join(sorted(flags - known))}"


def test_command_lines_are_found_and_refused():
    text = "```sh\ntorchrun --nnodes $N \\\n    -m fastait train --epoch 3 # 3\nfastait eval RUN --attacks pdg20\n```\n"
    found = [ours(words) for line in command_lines(text) for words in commands(line)]
    assert found == [("train", ["--epoch", "3"]), ("eval", ["RUN", "--attacks", "pdg20"])]
    for name, argv in found:
        with pytest.raises(ValueError, match="Did you mean"):
            COMMANDS[name](argv)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / target).exists(), target


def test_no_page_is_left_out():
    listed = re.findall(r"^([A-Za-z-]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index")


def _one_name(text):
    """With the command's name as the manual has it."""
    return re.sub(r"(?:python -m )?fastait\.(train|eval|data|report|reproduce|sweep|doctor)\b", r"fastait \1", text)


ERRORS = ("InputError", "RunError", "NotWritten", "Lost", "OutOfMemory", "Interrupted", "BadImage", "said_with")
"""Whose calls hold what users are told."""


def messages():
    """(where, the longest words that are the same in every such message) of the errors that users can meet."""
    for file in sorted((ROOT / "fastait").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
            if called and node.func.id in ERRORS:
                texts = [
                    part.value
                    for part in ast.walk(node.args[0])
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                words = _one_name(" ".join(max(texts, key=len, default="").split()).strip("; ,:()"))
                if len(words) > 4:
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", words


def test_each_error_is_in_the_manual():
    page = " ".join((ROOT / "docs" / "troubleshooting.md").read_text().replace("`", "").split())
    missing = [f"{where}: {words}" for where, words in messages() if words not in page]
    assert not missing, "\n".join(["docs/troubleshooting.md does not say what to do about", *missing])
