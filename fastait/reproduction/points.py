"""What is measured in one evaluation. This module imports nothing heavy."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastait.reproduction.grids import CLEAN, Cell
from fastait.reproduction.systems import Choices


@dataclass(frozen=True)
class Point:
    """What is measured in one call: the cells of a point differ in their attacks only."""

    system: str
    epsilon: float
    surrogate: str | None
    noisy: bool
    black_box: bool

    @property
    def systems(self) -> list[str]:
        """Whose networks it needs."""
        return [self.system, *([self.surrogate] if self.surrogate else [])]


def points(cells: Iterable[Cell]) -> dict[Point, list[str]]:
    """The attacks of each point, without ``clean``, which is measured with any."""
    found: dict[Point, list[str]] = {}
    for cell in cells:
        attacks = found.setdefault(point_of(cell), [])
        if cell.attack not in (*attacks, CLEAN):
            attacks.append(cell.attack)
    return found


def point_of(cell: Cell) -> Point:
    """The point that a cell is a figure of."""
    return Point(cell.system, cell.epsilon, cell.surrogate, cell.noisy, cell.black_box)


def point_name(choices: Choices, point: Point) -> str:
    """What an evaluation is called; it can stand in the name of a file."""
    which = choices.weights(point.system)
    name = choices.run_name(point.system) + ("" if which == "last" else f"-{which}")
    name += f"-on-{choices.run_name(point.surrogate)}" if point.surrogate else ""
    return f"{name}-at-{255 * point.epsilon:g}" + "-noisy" * point.noisy + "-black-box" * point.black_box
