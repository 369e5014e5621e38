"""Sums over an evaluation's batches, of what is wanted of all images together: losses along the steps, gradients."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastait.attacks.batch import Found
from fastait.runtime.processes import Ranks

Numbers = Mapping[str, Sequence[float]]
"""{what is summed: its numbers}, of a batch."""

VALUES = "logits that differ"
"""How many of the clean images' logits differ from each other, and how many there are."""


class Sums:
    """The sums of what is added; what was never added is zeros."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, numbers: Numbers) -> None:
        """Add a batch's numbers, longer or shorter than those before."""
        for name, more in numbers.items():
            sums = self._sums.setdefault(name, [])
            sums += [0.0] * (len(more) - len(sums))
            sums[: len(more)] = [a + b for a, b in zip(sums, more, strict=False)]

    def merge(self, lengths: Mapping[str, int], ranks: Ranks) -> None:
        """Add what the other processes have; for all of them to call.

        Args:
            lengths: {what is summed: its numbers, at most}.
            ranks: the processes.
        """
        own = [[*self._sums.get(name, ()), *[0.0] * length][:length] for name, length in lengths.items()]
        merged = ranks.merge(torch.tensor([v for numbers in own for v in numbers], dtype=torch.float64, device="cpu"))
        self._sums = dict(zip(lengths, (part.tolist() for part in merged.split(list(lengths.values()))), strict=True))

    def losses(self, name: str) -> Tensor:
        """float64 [T]: the mean loss of an attack before each step; empty if it has none."""
        own = (self._sums.get(key, ()) for key in _of_losses(name))
        sums, counts = (torch.tensor(numbers, dtype=torch.float64, device="cpu") for numbers in own)
        means = sums / counts
        known = counts > 0
        return means[: int(known.nonzero()[-1]) + 1] if bool(known.any()) else means[:0]

    def share(self, name: str) -> float | None:
        """The first of two numbers as a share of the last one; None if there are none."""
        numbers = self._sums.get(name)
        return numbers[0] / numbers[-1] if numbers and numbers[-1] else None


def of_attacks(found: Found) -> dict[str, list[float]]:
    """What is summed of a batch's attacks."""
    numbers: dict[str, list[float]] = {}
    for name, traces in found.traces.items():
        finite = traces.isfinite()
        losses = traces.double().masked_fill(~finite, 0).sum(dim=0), finite.sum(dim=0)
        numbers |= {key: values.tolist() for key, values in zip(_of_losses(name), losses, strict=True)}
    numbers |= {gradients_of(name): counts.tolist() for name, counts in found.gradients.items()}
    return numbers


def of_clean(logits: Tensor) -> dict[str, list[float]]:
    """What is summed of a batch's logits [B, K], finite ones; nothing of types too narrow to tell many apart."""
    if logits.dtype.itemsize < torch.float32.itemsize:
        return {}
    return {VALUES: [len(logits.unique()), logits.numel()]}


def gradients_of(name: str) -> str:
    """What the numbers of zero, of NaN and of all gradients of an attack are called."""
    return f"gradients of {name}"


def lengths_of(name: str, steps: int) -> dict[str, int]:
    """All that is summed of an attack that computes so many losses, and how many numbers each is."""
    return {**dict.fromkeys(_of_losses(name), steps), gradients_of(name): 3}


def _of_losses(name: str) -> tuple[str, str]:
    return f"losses of {name}", f"images in {name}"
