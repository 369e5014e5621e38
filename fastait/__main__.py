"""``fastait COMMAND``, or ``python -m fastait COMMAND``: the commands by one name. Imports nothing that takes time."""

import atexit
import gc
import importlib
import sys
from typing import NoReturn

from fastait.runtime.console import say, surviving_streams
from fastait.runtime.errors import InputError, check_choice
from fastait.runtime.version import __version__

COMMANDS = {
    "train": ("fastait.train", "train a network and see how it withstands attacks"),
    "eval": ("fastait.eval", "measure how models withstand attacks, side by side"),
    "report": ("fastait.report.__main__", "make one page of what runs and evaluations wrote"),
    "data": ("fastait.data.__main__", "show what a data set holds, as a table and as a picture"),
    "reproduce": ("fastait.reproduce", "make the paper's tables and figures again"),
    "sweep": ("fastait.sweep", "compare methods, networks, budgets and seeds of your own"),
    "doctor": ("fastait.doctor.__main__", "say whether this machine is set up right, and with which flags to train"),
    "kernels": ("fastait_kernels.report", "compile the operators for every kind of GPU and print what they cost"),
}
"""Each command's module, whose ``main(argv)`` returns the exit code, and what it does."""

HELP = f"""\
fastait {__version__}: fast adversarial interpolation training of robust image classifiers

usage: fastait COMMAND ...

{"".join(f"  {name:10} {what}" + chr(10) for name, (_, what) in COMMANDS.items())}
fastait COMMAND --help    a command's flags and their defaults
fastait --version
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    with surviving_streams("fastait"):
        if name in ("--help", "-h", "--version"):
            say(__version__ if name == "--version" else HELP.rstrip("\n"))
            return 0
        try:
            check_choice("COMMAND", name, COMMANDS)
        except InputError as error:
            say(f"fastait: error: {error}", error=True)
            return error.exit_code
    try:
        return importlib.import_module(COMMANDS[name][0]).main(rest)
    except KeyboardInterrupt:  # while it is imported, which takes seconds; later the command itself says so
        with surviving_streams("fastait"):
            say(f"fastait {name}: interrupted", error=True)
        return 130


def end(argv: list[str] | None = None) -> NoReturn:
    """End this process as ``fastait`` with these arguments, those that it was started with if None."""
    # Python would look for garbage among all that torch has imported, longer than everything else on the way out takes.
    atexit.register(gc.freeze)
    sys.exit(main(argv))


def end_as(name: str) -> NoReturn:
    """End this process as ``fastait NAME`` with the arguments that it was started with."""
    end([name, *sys.argv[1:]])


if __name__ == "__main__":
    end()
