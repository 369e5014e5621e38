"""From a command line to a dataclass, and from an error to one line and an exit code."""

import dataclasses
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from fastait.runtime.console import console, say, surviving_streams
from fastait.runtime.errors import FastaitError, InputError, SaidElsewhere, first_line, one_line, words
from fastait.runtime.settings import Written, as_written
from fastait.runtime.version import __version__

try:
    import cyclopts
except ModuleNotFoundError:
    with surviving_streams("fastait"):
        say("fastait: error: the commands need more packages; pip install 'fastait[train]'", error=True)
    raise SystemExit(2) from None

Arguments = TypeVar("Arguments")

HELP_FLAGS = ("--help", "-h")


def parse(
    command: str,
    defaults: Arguments,
    argv: list[str],
    summary: str,
    groups: Mapping[str, Collection[str]] | None = None,
) -> Arguments:
    """Parse ``argv`` into a copy of ``defaults``, a dataclass: a field is a flag, its attribute docstring the help.

    Fields that are not ``kw_only`` may also be given without their flag, in order.

    Args:
        command: what the user types, for the help page.
        defaults: the values of flags that are not given; the help page shows them.
        argv: without the program's name.
        summary: the help page's first paragraph.
        groups: the help page's headings and the fields under each; one heading for all if None.

    Raises:
        InputError: a flag is unknown, stands twice or has a value that does not fit.
        SystemExit: after the help page or the version was printed.
    """
    schema: Any = _schema(defaults, groups or {})

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
    except cyclopts.UnusedCliTokensError as error:
        raise InputError(f"unexpected argument: {' '.join(error.unused_tokens or ())}") from None
    except cyclopts.CycloptsError as error:
        raise InputError(words(error)) from None
    if function is not collect:  # the help page and the version are commands of their own
        function(*bound.args, **bound.kwargs)
        raise SystemExit(0)
    bound.apply_defaults()
    parsed = bound.arguments["arguments"]
    return type(defaults)(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)})


def _schema(defaults: Any, groups: Mapping[str, Collection[str]]) -> type:
    """The dataclass of ``defaults`` as cyclopts reads it, with its values as the fields' defaults."""
    cls = type(defaults)
    headings = {
        name: cyclopts.Group(heading, sort_key=place)
        for place, (heading, names) in enumerate(groups.items())
        for name in names
    }
    values, annotations = {}, {}
    for field in dataclasses.fields(cls):
        default = getattr(defaults, field.name)
        values[field.name] = dataclasses.field(default=default, kw_only=field.kw_only)
        how: dict[str, Any] = {"show_default": False if default in (None, ()) else as_written, **field.metadata}
        how |= {"json_list": False, "json_dict": False}  # what begins with a bracket is a path like others
        if field.name in headings:
            how["group"] = headings[field.name]
        if field.kw_only:
            how["name"] = "--" + field.name.strip("_").replace("_", "-")
        annotations[field.name] = Annotated[_readable(field.type), cyclopts.Parameter(**how)]
    namespace = {"__doc__": cls.__doc__, "__annotations__": annotations, **values}
    return dataclasses.dataclass(frozen=True)(type(cls.__name__, (cls,), namespace))


def _readable(annotation: Any) -> Any:
    """A field's type with ``Written`` in it told to cyclopts, and whole numbers that are not to be rounded."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is int:
        return Annotated[int, cyclopts.Parameter(converter=_whole)]
    if origin is Annotated:
        written = next((mark for mark in parts[1:] if isinstance(mark, Written)), None)
        if written is None:
            return annotation

        def convert(type_: Any, tokens: Sequence[cyclopts.Token]) -> Any:
            return written.parse(tokens[0].value)

        return Annotated[parts[0], cyclopts.Parameter(converter=convert, n_tokens=1, consume_multiple=False)]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_readable, parts))]  # noqa: UP007, the parts are known when it runs
    if origin is tuple:
        return tuple[tuple(map(_readable, parts))]  # type: ignore[misc]
    return annotation


def _whole(type_: Any, tokens: Sequence[cyclopts.Token]) -> int:
    """A whole number; cyclopts itself would make 2 of 1.5."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


LONGEST = 2000
"""Letters of an error that are shown; some quote a file, which may hold any number."""


def run(program: str, body: Callable[[list[str]], None], argv: list[str] | None = None) -> int:
    """Call ``body(argv)`` and return the exit code: errors that a user can act on become one line on stderr.

    So do a want of memory and files that the system refuses where nobody has found better words for it.

    The code is that of what was done, whether or not it could be printed.
    """
    with surviving_streams(program):
        try:
            body(sys.argv[1:] if argv is None else argv)
        except SaidElsewhere as error:
            return error.exit_code
        except FastaitError as error:
            text = str(error)
            say(f"{program}: error: {text if len(text) <= LONGEST else text[:LONGEST] + '...'}", error=True)
            return error.exit_code
        except KeyboardInterrupt:
            say(f"{program}: interrupted", error=True)
            return 130
        except (MemoryError, OSError, RuntimeError) as error:
            why = _of_the_system(error)
            if why is None:
                raise
            say(f"{program}: error: {one_line(why)}", error=True)
            return 1
        return 0


def _of_the_system(error: Exception) -> str | None:
    """What memory or which file is wanting; None where the error says neither."""
    if isinstance(error, OSError):
        return None if error.filename is None else f"{error.filename}: {error.strerror}"
    if not isinstance(error, MemoryError):
        from fastait.runtime.memory import ran_out

        if not ran_out(error):
            return None
    return f"out of memory ({first_line(error)}); smaller images, batches or networks need less"
