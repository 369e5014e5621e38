"""What a page lacks, and how to get it."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gap:
    """Something that is left out.

    Attributes:
        where: the run or evaluation.
        what: is missing, and why.
        how: to get it; a sentence, or empty.
        command: to get it by, or empty.
    """

    where: str
    what: str
    how: str = ""
    command: str = ""


@dataclass(frozen=True)
class Gaps:
    """The same of several runs or evaluations.

    Attributes:
        where: their names.
        what, how: as of each.
        commands: to get it by.
    """

    where: tuple[str, ...]
    what: str
    how: str
    commands: tuple[str, ...]


def grouped(gaps: Iterable[Gap]) -> list[Gaps]:
    """Those that are alike together, in the order of the first of each kind."""
    found: dict[tuple[str, str], list[Gap]] = {}
    for gap in gaps:
        found.setdefault((gap.what, gap.how), []).append(gap)
    return [
        Gaps(
            tuple(dict.fromkeys(gap.where for gap in alike)),
            what,
            how,
            tuple(dict.fromkeys(gap.command for gap in alike if gap.command)),
        )
        for (what, how), alike in found.items()
    ]


def quoted(*words: str | Path) -> str:
    """A command line of these words."""
    return shlex.join(map(str, words))
