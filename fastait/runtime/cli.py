"""From a command line to a dataclass, and from an error to one line and an exit code."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastait import __version__
from fastait.runtime.console import console, say, surviving_streams
from fastait.runtime.errors import FastaitError, InputError, SaidElsewhere

try:
    import cyclopts
except ModuleNotFoundError:
    with surviving_streams("fastait"):
        say("fastait: error: the commands need more packages; pip install 'fastait[train]'", error=True)
    raise SystemExit(2) from None

Arguments = TypeVar("Arguments")

HELP_FLAGS = ("--help", "-h")


def parse(command: str, defaults: Arguments, argv: list[str], summary: str) -> Arguments:
    """Parse ``argv`` into a copy of ``defaults``, a dataclass: a field is a flag, its attribute docstring the help.

    Fields that are not ``kw_only`` may also be given without their flag, in order.

    Args:
        command: what the user types, for the help page.
        defaults: the values of flags that are not given; the help page shows them.
        argv: without the program's name.
        summary: the help page's first paragraph.

    Raises:
        InputError: a flag is unknown, stands twice or has a value that does not fit.
        SystemExit: after the help page or the version was printed.
    """
    schema: Any = _with_defaults(defaults)

    def collect(arguments):
        return arguments

    collect.__annotations__ = {"arguments": Annotated[schema, cyclopts.Parameter(name="*")]}
    collect.__defaults__ = (schema(),)
    app = cyclopts.App(
        name=command,
        help=summary,
        version=__version__,
        version_flags=["--version"],
        help_flags=HELP_FLAGS,
        console=console(soft_wrap=False),
    )
    app.default(collect)
    try:
        function, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise InputError(" ".join(str(error).split())) from None
    if function is not collect:  # the help page and the version are commands of their own
        function(*bound.args, **bound.kwargs)
        raise SystemExit(0)
    bound.apply_defaults()
    parsed = bound.arguments["arguments"]
    return type(defaults)(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)})


def _with_defaults(defaults: Any) -> type:
    """The dataclass of ``defaults`` with its values as the fields' defaults."""
    cls = type(defaults)
    values = {
        field.name: dataclasses.field(default=getattr(defaults, field.name), kw_only=field.kw_only)
        for field in dataclasses.fields(cls)
    }
    annotations = {field.name: field.type for field in dataclasses.fields(cls)}
    namespace = {"__doc__": cls.__doc__, "__annotations__": annotations, **values}
    return dataclasses.dataclass(frozen=True)(type(cls.__name__, (cls,), namespace))


def run(program: str, body: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Call ``body(argv)`` and return the exit code: errors that a user can act on become one line on stderr.

    The code is that of what was done, whether or not it could be printed.
    """
    with surviving_streams(program):
        try:
            body(sys.argv[1:] if argv is None else argv)
        except SaidElsewhere as error:
            return error.exit_code
        except FastaitError as error:
            say(f"{program}: error: {error}", error=True)
            return error.exit_code
        except KeyboardInterrupt:
            say(f"{program}: interrupted", error=True)
            return 130
        return 0
