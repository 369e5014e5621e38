"""Values of settings as plain Python: paths from strings, numbers from numpy's and torch's, fractions from texts.

For dataclasses whose fields are ``str``, ``bool``, ``int``, ``float``, ``Path`` or tuples of one of these, each also
``| None`` or ``Annotated``.
"""

import dataclasses
import difflib
import operator
import os
import types
from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from fastait.runtime.errors import InputError, quoted


@dataclasses.dataclass(frozen=True)
class Written:
    """Marks a type, by ``Annotated``, whose values may be written as ``parse`` reads them: it raises a ValueError."""

    parse: Callable[[str], Any]


def fraction(text: str) -> float:
    """The number that ``0.03`` or ``8/255`` is."""
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / (float(bottom) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number such as 0.03 or 8/255") from None


def fractions(text: str) -> tuple[float, ...]:
    """Several of them, with commas between."""
    return tuple(map(fraction, text.split(",")))


Ratio = Annotated[float, Written(fraction)]
Numbers = Annotated[tuple[float, ...], Written(fractions)]


def as_written(value: Any) -> str:
    """A number as people write it: 8/255 rather than 0.0313725, and 0.2 rather than 51/255."""
    if isinstance(value, tuple):
        return ", ".join(map(as_written, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    in_255ths, short = value * 255, f"{value:g}"
    whole = float(short) != value and abs(in_255ths - round(in_255ths)) < 1e-6 and in_255ths < 255
    return f"{round(in_255ths)}/255" if whole else short


_WANTED = {
    str: "a text",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    tuple[int, ...]: "whole numbers, such as (60, 90)",
    tuple[str, ...]: "texts",
    tuple[Path, ...]: "paths",
}


def normalise(settings: Any) -> None:
    """Make the fields of a frozen dataclass plain; for its ``__post_init__``.

    Raises:
        InputError: naming the field, a value is not of the field's type.
    """
    for field in dataclasses.fields(settings):
        kind, optional = _kind(field.type)
        if kind not in _WANTED:
            continue
        value = getattr(settings, field.name)
        if value is None and optional:
            continue
        try:
            found = plain(kind, value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: torch, of a tensor without values
            raise InputError(
                f"{field.name} must be {_WANTED[kind]}{' or None' if optional else ''}, got {_shown(value)}"
            ) from None
        object.__setattr__(settings, field.name, found)


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a TypeError with the near match unless every name of ``given`` is one of ``known``."""
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(f"{name!r} is no setting{near_match(name, known)}")


def near_match(name: str, known: Iterable[str]) -> str:
    """``. Did you mean ...?`` where something known is like ``name``, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def as_path(name: str, value: Any) -> Path:
    """A path that may be given as a string, with the home folder in the place of ~.

    Raises:
        InputError: naming ``name``, it is neither.
    """
    try:
        return plain(Path, value)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be {_WANTED[Path]}, got {_shown(value)}") from None


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type that an annotation is about, and whether None may stand for it."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (one,) = (part for part in get_args(annotation) if part is not type(None))
        return _kind(one)[0], True
    return annotation, False


def plain(kind: Any, value: Any) -> Any:
    """``value`` as a ``kind``; raises what Python raises where it is none."""
    if get_origin(kind) is tuple:
        if isinstance(value, str | bytes | dict | set):
            raise TypeError
        return tuple(plain(get_args(kind)[0], item) for item in value)
    if kind is Path:
        return _path(os.fspath(value))
    if hasattr(value, "shape") and hasattr(value, "item"):  # numpy's and torch's; one number has no dimension
        if tuple(value.shape):
            raise TypeError
        value = value.item()
    if kind is str:
        if not isinstance(value, str):
            raise TypeError
        return str(value)
    if isinstance(value, bool) != (kind is bool):
        raise TypeError
    if kind is bool:
        return value
    if kind is int:
        return int(operator.index(value))
    if not isinstance(value, Real):
        raise TypeError
    return float(value)


def _path(text: Any) -> Path:
    if not isinstance(text, str) or "\0" in text:
        raise TypeError
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # it was written down in a locale of more characters than this one
        text = os.fsdecode(text.encode("utf-8", "surrogateescape"))
    try:
        return Path(text).expanduser()
    except RuntimeError:  # nobody's home
        return Path(text)


def _shown(value: Any) -> str:
    text = quoted(value, 61)
    return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"
