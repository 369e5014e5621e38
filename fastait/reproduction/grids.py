"""What a table is made of: each of its figures is a measurement of something, and has a published counterpart.

This module imports nothing heavy. A cell is the merge of what its row and its column say.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fastait.reproduction.systems import Scale

WORST = "worst"
"""The attack of a column that has the lowest of its row's figures."""

CLEAN = "clean"


@dataclass(frozen=True)
class Line:
    """A row or a column.

    Attributes:
        title: as in the paper.
        system: of ``systems.SYSTEMS``, what is measured.
        attack: a column of ``fastait.attacks.columns``, ``clean``, ``WORST``, or one that the scale decides.
        epsilon: in 255ths.
        surrogate: the system that transfer attacks are made on.
        noisy: whether random signs of epsilon are added to the input.
    """

    title: str
    system: str | None = None
    attack: str | None = None
    epsilon: int | None = None
    surrogate: str | None = None
    noisy: bool = False


@dataclass(frozen=True)
class Cell:
    """What a figure is a measurement of; see ``Line``.

    Attributes:
        epsilon: on images in [0, 1].
        black_box: whether the attack is given fewer images.
    """

    system: str
    attack: str
    epsilon: float = 8 / 255
    surrogate: str | None = None
    noisy: bool = False
    black_box: bool = False


@dataclass(frozen=True)
class Block:
    """One grid of figures.

    Attributes:
        part: a or b, where a table has both.
        title: of the part.
        corner: the heading of the rows' titles.
        rows, columns: in the paper's order.
        figures: the paper's, in percent; None where it has none.
        models_across: whether the columns are what is compared; the rows are else.
    """

    part: str
    title: str
    corner: str
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    figures: tuple[tuple[float | None, ...], ...]
    models_across: bool = False

    def cell(self, row: Line, column: Line, scale: Scale) -> Cell | None:
        """What the figure of ``row`` and ``column`` measures; None for a ``WORST``."""
        attack = row.attack or column.attack
        system = row.system or column.system
        assert attack is not None
        assert system is not None
        if attack == WORST:
            return None
        return Cell(
            system,
            scale.attacks.get(attack, attack),
            scale.budget * (row.epsilon or column.epsilon or 8) / 255,
            row.surrogate or column.surrogate,
            row.noisy or column.noisy,
            attack in scale.attacks,
        )

    def cells(self, scale: Scale) -> list[Cell]:
        """All that has to be measured."""
        found = (self.cell(row, column, scale) for row in self.rows for column in self.columns)
        return [cell for cell in found if cell is not None]


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        title: "Table 1".
        caption: what it shows, in our words.
        blocks: its grids; none for table 7, which has no figures.
        notes: what a reader should know besides.
    """

    title: str
    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()

    def cells(self, scale: Scale) -> list[Cell]:
        """All that has to be measured."""
        return [cell for block in self.blocks for cell in block.cells(scale)]

    def systems(self, scale: Scale) -> list[str]:
        """Whose networks it needs, in the order of its rows."""
        return list(dict.fromkeys(s for cell in self.cells(scale) for s in (cell.system, cell.surrogate) if s))


def figures(text: str) -> tuple[tuple[float | None, ...], ...]:
    """Figures as they stand in the paper, a row a line."""
    return tuple(
        tuple(None if figure == "-" else float(figure) for figure in line.split()) for line in text.strip().splitlines()
    )


TITLES = {
    "natural": "Natural",
    "madry": "Madry",
    "bilateral": "Bilateral",
    "feature-scatter": "Feature-Scatter",
    "adv-interp": "Adv-Interp",
    "mixup": "Mixup",
    "manifold-mixup": "Manifold-mixup",
    "iat-mixup": "IAT-Mixup",
    "iat-manifold-mixup": "IAT-Manifold-mixup",
    "uat": "UAT",
    "fgsm-rs": "FGSM-RS",
    "n-fgsm": "N-FGSM",
    "grad-align": "GradAlign",
    "nu-at": "NuAT",
}
"""What methods are called in tables."""


def models(names: Iterable[str], prefix: str = "", end: str = "") -> tuple[Line, ...]:
    """A line for each method's system."""
    return tuple(Line(TITLES.get(name, name), system=prefix + name + end) for name in names)
