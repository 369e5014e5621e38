"""What a figure is: how many of so many images are classified correctly, by one network or by one of each seed."""

from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev


@dataclass(frozen=True)
class Measured:
    """How many of ``n`` images are classified correctly."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.correct / self.n


@dataclass(frozen=True)
class Mean:
    """The same of trainings with different seeds, two or more, on the same images."""

    each: tuple[Measured, ...]

    @property
    def n(self) -> int:
        """Images of each."""
        return self.each[0].n

    @property
    def accuracy(self) -> float:
        """The mean, in percent."""
        return mean(one.accuracy for one in self.each)

    @property
    def standard_error(self) -> float:
        """Of the mean, in points: the standard deviation between trainings (of a sample), by the root of their number.

        It holds what trainings and attacks draw, not the choice of the test images, which all have in common.
        """
        return stdev(one.accuracy for one in self.each) / sqrt(len(self.each))


Figure = Measured | Mean


def together(each: list[Measured]) -> Figure | None:
    """One figure of those of each seed that are there."""
    return Mean(tuple(each)) if len(each) > 1 else each[0] if each else None


def count_of(figure: Figure) -> int:
    """How many trainings it is of."""
    return len(figure.each) if isinstance(figure, Mean) else 1
