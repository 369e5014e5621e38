"""The names of the attacks, and which of them share one trajectory.

A name is ``[eotN-][transfer-]ATTACK[-zero][-COUNT]``:

- ATTACK: ``fgsm``, ``pgdT``, ``cwT`` or ``featureT`` with T steps;
- ``eotN``: every gradient is the mean of N, for defences that are random;
- ``transfer``: the images are made on another model, the surrogate;
- ``zero``: without the random start;
- COUNT: the last iterate counts, as in the paper; or ``worst``: the image itself and every iterate; or ``best``: the
  iterate of the highest loss; or ``minN``: the last iterates of all N restarts.

``pgd-min``, ``cw-min`` and ``feature-min`` are the paper's: 20 steps, 10 restarts. Black-box attacks are ``spsa-DxT``
(D directions, T steps), ``local-search`` and ``local-search-linf`` (``-R`` for R rounds instead of 150).
``autoattack`` and ``autoattack-rand`` are Croce & Hein's standard version and the one for random defences; ``quick`` is
the first two parts of the standard one. The parts are columns too: ``apgd-ce``, ``apgd-dlr``, ``apgd-t``, ``fab-t`` and
``square``, with iterations (queries) in the name where they are to be others, as in ``square-1000``. ``a+b+c`` is the
worst case of several: an image that one of them has fooled is not attacked by the next.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastait.runtime.errors import InputError, quoted

PAPERS = {"pgd-min": "pgd20-min10", "cw-min": "cw20-min10", "feature-min": "feature20-min10"}
VERSIONS = {
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "autoattack-rand": ("apgd-ce", "apgd-dlr"),
    "quick": ("apgd-ce", "apgd-t"),
}
"""What each is made of, see ``stages``."""

PARTS = {"apgd-ce": 100, "apgd-dlr": 100, "apgd-t": 100, "fab-t": 100, "square": 5000}
"""AutoAttack's attacks, and how many iterations each has there; Square's are queries."""

LARGEST = 1_000_000
"""No number in a name is larger: some tensors are that long."""

EXAMPLES = (
    *("fgsm", "pgd20", "pgd100", "cw20", "cw100", "feature20", *PAPERS, "pgd20-worst", "pgd20-best", "pgd20-zero"),
    *("transfer-pgd20", "transfer-cw20", "eot10-pgd20", "spsa-2048x100", "local-search", "local-search-linf"),
    *(*VERSIONS, *PARTS),
)

_GRADIENT = re.compile(
    r"(?:eot(?P<eot>\d+)-)?(?P<transfer>transfer-)?(?:(?P<fgsm>fgsm)|(?P<loss>pgd|cw|feature)(?P<steps>\d+))"
    r"(?P<zero>-zero)?(?:-(?P<count>worst|best)|-min(?P<restarts>\d+))?"
)
_SPSA = re.compile(r"spsa-(\d+)x(\d+)")
_LOCAL_SEARCH = re.compile(r"local-search(-linf)?(?:-(\d+))?")
_PART = re.compile(rf"({'|'.join(PARTS)})(?:-(\d+))?")


@dataclass(frozen=True)
class Ascent:
    """How gradient attacks move images: columns of one ascent are points of one trajectory.

    Attributes:
        loss: ``pgd`` (cross-entropy), ``cw`` (margin) or ``feature`` (distance to another image's features).
        one_step: FGSM's step of epsilon instead of the evaluation's step size.
        random_start: from a uniform point of the ball, or from the image.
        transfer: on the surrogate.
        eot: gradients that are averaged.
        restarts: more than one: the last iterate of any of so many counts.
    """

    loss: str
    one_step: bool = False
    random_start: bool = True
    transfer: bool = False
    eot: int = 1
    restarts: int = 1


@dataclass(frozen=True)
class Column:
    """One attack as its name says.

    Attributes:
        name: as it was given.
        kind: ``ascent``, ``spsa``, ``local-search``, ``autoattack`` (a version or a part of it) or ``union``.
        ascent: of kind ``ascent``.
        count: ``last``, ``worst`` or ``best``, of kind ``ascent``.
        steps: gradient or SPSA steps, rounds of the local search, or iterations of a part of AutoAttack.
        attack: which part, of kind ``autoattack``; empty for those of ``VERSIONS``.
        directions: SPSA's.
        linf: whether the local search stays in the ball.
        parts: of kind ``union``.
    """

    name: str
    kind: str
    ascent: Ascent | None = None
    count: str = "last"
    steps: int = 1
    directions: int = 0
    linf: bool = True
    attack: str = ""
    parts: tuple["Column", ...] = ()

    @property
    def needs_surrogate(self) -> bool:
        """Whether its images are made on another model."""
        return any(part.needs_surrogate for part in self.parts) or (self.ascent is not None and self.ascent.transfer)

    @property
    def held(self) -> int:
        """How many passes of an image are held at once for one gradient."""
        return max([1 if self.ascent is None else self.ascent.eot, *(part.held for part in self.parts)])

    @property
    def black_box(self) -> bool:
        """Whether it asks for scores alone."""
        return self.kind in ("spsa", "local-search")

    @property
    def in_stages(self) -> bool:
        """Whether it is several attacks, each on the images that those before it left, see ``stages``."""
        return self.kind in ("autoattack", "union") or (self.ascent is not None and self.ascent.restarts > 1)

    @property
    def of_autoattack(self) -> bool:
        """Whether AutoAttack or a part of it is in it: an image that is misclassified as it is counts as fooled."""
        return self.kind == "autoattack" or any(part.of_autoattack for part in self.parts)


def parse(name: str) -> Column:
    """The column of a name.

    Raises:
        InputError: no attack is called so; the message has the near match.
    """
    if not isinstance(name, str):
        raise InputError(f"an attack's name must be a text, got {quoted(name, 60)}")
    if "+" in name:
        parts = name.split("+")
        if "" in parts or len(set(parts)) < len(parts):
            raise InputError(f"--attacks: {name!r} must join different attacks by +")
        return Column(name, "union", parts=tuple(parse(part) for part in parts))
    if name in VERSIONS:
        return Column(name, "autoattack")
    if match := _PART.fullmatch(name):
        steps = _positive(name, match[2]) if match[2] else PARTS[match[1]]
        return Column(name, "autoattack", steps=steps, attack=match[1])
    if match := _SPSA.fullmatch(name):
        return Column(name, "spsa", directions=_positive(name, match[1]), steps=_positive(name, match[2]))
    if match := _LOCAL_SEARCH.fullmatch(name):
        rounds = _positive(name, match[2]) if match[2] else 150
        return Column(name, "local-search", steps=rounds, linf=bool(match[1]))
    match = _GRADIENT.fullmatch(PAPERS.get(name, name))
    if match is None:
        near = difflib.get_close_matches(name, EXAMPLES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" There are {', '.join(EXAMPLES)}, with other numbers too."
        raise InputError(f"--attacks: no attack is called {name!r}.{hint}")
    ascent = Ascent(
        loss=match["loss"] or "pgd",
        one_step=bool(match["fgsm"]),
        random_start=not match["zero"],
        transfer=bool(match["transfer"]),
        eot=_positive(name, match["eot"] or "1"),
        restarts=_positive(name, match["restarts"] or "1"),
    )
    return Column(name, "ascent", ascent, match["count"] or "last", _positive(name, match["steps"] or "1"))


def parse_all(names: Sequence[str]) -> list[Column]:
    """The columns of several names.

    Raises:
        TypeError: they are no sequence of texts.
        InputError: a name is no attack's, or stands twice.
    """
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"attacks must be names, such as 'pgd20' or ('fgsm', 'pgd20'), got {quoted(names, 60)}")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InputError(f"--attacks: {', '.join(twice)} stands twice")
    return [parse(name) for name in names]


def groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns that are computed together: the points of one trajectory, anything else alone."""
    found: dict[object, list[Column]] = {}
    for column in columns:
        shared = column.ascent is not None and not column.in_stages
        found.setdefault(column.ascent if shared else column.name, []).append(column)
    return list(found.values())


def _positive(name: str, number: str) -> int:
    digits = number.lstrip("0")
    if not digits:
        raise InputError(f"--attacks: {name!r} has a 0 where at least 1 is needed")
    if len(digits) > len(str(LARGEST)) or int(digits) > LARGEST:
        raise InputError(f"--attacks: {name!r:.60} has a number above {LARGEST}")
    return int(digits)
