"""The command line that a run is repeated by."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from fastait.config import GROUPS, TrainConfig, flag
from fastait.recipes import RECIPES, recipe
from fastait.report.gaps import quoted
from fastait.runtime.settings import as_written, fraction


def command(config: TrainConfig) -> str | None:
    """``fastait train`` with the flags that make these settings, its folder apart.

    Returns:
        None where no command line makes them, as of a run that was begun from Python with a setting of None that its
        recipe has a value for.
    """
    if config.recipe not in RECIPES:
        return None
    usual = _usual(config)
    words = ["fastait", "train"]
    for name in _ORDER:
        value, expected = getattr(config, name), getattr(usual, name)
        if value == expected:
            continue
        if value is None or value == ():
            return None
        words += _flags(name, value)
    return quoted(*words)


_FIRST = ("recipe", "method")
_REST = {field.name for field in dataclasses.fields(TrainConfig)} - {*_FIRST, "out"}
_ORDER = (*_FIRST, *(name for names in GROUPS.values() for name in names if name in _REST))


def _usual(config: TrainConfig) -> TrainConfig:
    """What the command has where no flag says otherwise, but for what decides that: recipe, method and schedule."""
    named = recipe(config.recipe)
    made = recipe(config.recipe, method=config.method, schedule=config.schedule)
    # The strength of a penalty hangs on settings that flags may change, and where images lie on the current folder.
    strength = dataclasses.replace(config, penalty=None).penalty_weight()
    return dataclasses.replace(
        made.resolved(),
        recipe=TrainConfig().recipe,
        method=named.method,
        schedule=named.schedule,
        milestones=() if made.schedule != named.schedule else made.resolved().milestones,  # which flags must say
        penalty=strength if made.penalty is None else made.penalty,
        data_dir=None,
    )


def _flags(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag(name) if value else f"--no-{flag(name)[2:]}"
        return
    for one in value if isinstance(value, tuple) else (value,):
        yield flag(name)
        yield _exact(one) if isinstance(one, float) else str(one)


def _exact(value: float) -> str:
    """As people write it, where that is the very number."""
    text = as_written(value)
    return text if fraction(text) == value else repr(value)
