"""Names of classes: how they are compared, matched and shown."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fastait.runtime.errors import InputError, one_line

SHOWN = 5
"""Names that a message lists at most."""

LENGTH = 80
"""Characters of a name that a message shows at most."""


@dataclass(frozen=True)
class Match:
    """Which output of a network stands for which class of a data set.

    Attributes:
        columns: for each class of the data set, in the order of its labels, the network's output.
        note: what a user should know of it, empty if both have the same names in the same order.
    """

    columns: tuple[int, ...]
    note: str = ""

    def order(self, outputs: int) -> tuple[int, ...] | None:
        """All ``outputs`` of the network, those of the data set's classes first; None if that is how they stand."""
        rest = sorted(set(range(outputs)) - set(self.columns))
        order = (*self.columns, *rest)
        return None if order == tuple(range(outputs)) else order


def match(
    own: Sequence[str] | None,
    outputs: int,
    wanted: Sequence[str],
    *,
    numbered: bool = False,
    own_numbered: bool = False,
) -> Match:
    """Match a network's classes with a data set's: by name, and by position where one of them has no names.

    Names are compared after Unicode's canonical composition (NFC). The data set may lack classes of the network.

    Args:
        own: the names of the network's outputs, None if unknown.
        outputs: how many outputs it has.
        wanted: the data set's names, in the order of its labels.
        numbered: whether numbers stand in ``wanted`` for want of names, as of Parquet files without metadata.
        own_numbered: whether they do so in ``own``.

    Raises:
        InputError: the data set has other classes than the network; the message says which. Its subject is missing.
    """
    if own is None:
        if outputs != len(wanted):
            raise InputError(f"the model tells {outputs} classes apart, the data set has {len(wanted)}")
        return Match(tuple(range(outputs)), "the names of its classes are unknown, so they are matched by position")
    ours, theirs = _comparable(own, wanted)
    if ours == theirs:
        return Match(tuple(range(len(ours))))
    for whose, names in (("the model", own), ("the data set", wanted)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"{whose} has several classes called {shown(twice)}, so they cannot be matched by name")
    if set(theirs) <= set(ours):
        columns = tuple(ours.index(name) for name in theirs)
        some = "" if len(theirs) == len(ours) else f"the data set has {len(theirs)} of its {len(ours)} classes, "
        ordered = list(columns) == sorted(columns)
        how = "matched by name" if ordered else "in another order, matched by name"
        return Match(columns, f"{some}{how}" if some else f"its classes stand {how}")
    if numbered and len(wanted) <= outputs:
        return Match(
            tuple(range(len(wanted))),
            f"the data set numbers its {len(wanted)} classes without naming them, so they are matched by position with "
            f"{shown(own)}",
        )
    if own_numbered and len(wanted) == outputs:
        return Match(
            tuple(range(outputs)),
            f"its classes were numbered without names, so they are matched by position with {shown(wanted)}",
        )
    new = [name for name, key in zip(wanted, theirs, strict=True) if key not in ours]
    gone = [name for name, key in zip(own, ours, strict=True) if key not in theirs]
    subject = (
        "the data set's classes are not the model's, which"
        if len(wanted) == outputs
        else f"the model tells {outputs} classes apart, the data set has {len(wanted)}; it"
    )
    lacks = f" (but {shown(gone)}, which the data set lacks)" if gone else ""
    raise InputError(f"{subject} knows no {shown(new)}{lacks}")


def are_numbers(names: Sequence[str] | None) -> bool:
    """Whether the names are the labels themselves: 0, 1, 2, ..."""
    return names is not None and list(names) == [str(number) for number in range(len(names))]


def shown(names: Sequence[str]) -> str:
    """A few of ``names`` for a message of one line, without what a terminal would obey."""
    texts = [one_line(name) for name in names[:SHOWN]]
    texts = [f"'{text if len(text) <= LENGTH else text[:LENGTH] + '...'}'" for text in texts]
    more = len(names) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")


def _comparable(own: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    composed = [[unicodedata.normalize("NFC", name) for name in names] for names in (own, wanted)]
    if any(len(set(names)) < len(names) for names in composed):  # two spellings are two classes to whoever has both
        return list(own), list(wanted)
    return composed[0], composed[1]
