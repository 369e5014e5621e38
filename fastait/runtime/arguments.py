"""Numbers that functions are given, brought to Python's; what is none is refused by its name."""

import math
from typing import Any

from fastait.runtime.settings import plain
from fastait_kernels._support import described


def number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """``value`` as a Python number in [low, high], or in (low, high] if ``above``; numpy's and torch's are taken.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range, NaN or infinite.
    """
    found = _as(float, name, "a number", value)
    if not (math.isfinite(found) and low <= found <= high and (found > low or not above)):
        bracket = "(" if above else "["
        what = (
            f"in {bracket}{low:g}, {high:g}]" if math.isfinite(high) else f"{'above' if above else 'at least'} {low:g}"
        )
        raise ValueError(f"{name} must be {what}{' (8/255 is usual)' if name == 'epsilon' else ''}, got {found:g}")
    return found


def count(name: str, value: Any, least: int = 1) -> int:
    """``value`` as a Python whole number of at least ``least``.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is too small, or has more than 64 bits.
    """
    found = whole(name, value)
    if found < least:
        raise ValueError(f"{name} must be at least {least}, got {found}")
    return found


def whole(name: str, value: Any) -> int:
    """``value`` as a Python whole number; numpy's and torch's are taken.

    Raises:
        TypeError: it is no whole number.
        ValueError: it has more than 64 bits, which no tensor's size and no seed can have.
    """
    found = _as(int, name, "a whole number", value)
    if not -(2**63) <= found < 2**63:
        raise ValueError(f"{name} must be a whole number of 64 bits, got one of {found.bit_length()}")
    return found


def _as(kind: Any, name: str, what: str, value: Any) -> Any:
    try:
        return plain(kind, value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise TypeError(f"{name} must be {what}, got {described(value)}") from None
