"""What a network does to images in [0, 1] first: one mean and one standard deviation per channel."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastait.models import feature_function, normalization
from fastait.models.gowal_wide_resnet import CIFAR10_MEAN, CIFAR10_STD
from fastait.runtime.errors import InputError, check_choice
from fastait.runtime.settings import plain
from fastait_kernels._support import described

INPUTS = ("auto", "minus-one-one", "zero-one")

BUFFERS = {"mean": ("std", "sigma", "stddev"), "mu": ("sigma", "std"), "means": ("stds", "sds", "sigmas")}
"""What modules that normalise call their mean, and what they then call their standard deviation."""

BYTES = 255
"""The largest value of a channel where images are not divided."""


@dataclass(frozen=True)
class Normalization:
    """x -> (x - mean) / std of images in [0, 1].

    Attributes:
        mean, std: one number per channel.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Normalization":
        """From one number or three of each, of images in [0, 1], or in 0 to 255 where the mean says so.

        Raises:
            ValueError: they are not so many, not finite, or no such numbers.
        """
        if not {len(mean), len(std)} <= {1, 3}:
            raise ValueError(f"there are {len(mean)} means and {len(std)} standard deviations; one or three are needed")
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError("a mean must be finite, and a standard deviation finite and above 0")
        scale = BYTES if max(mean) > 1 else 1
        means, stds = (
            [float(n) / scale for n in (numbers if len(numbers) == 3 else 3 * [*numbers])] for numbers in (mean, std)
        )
        return cls(tuple(means), tuple(stds))  # type: ignore[arg-type]

    def __str__(self) -> str:
        for name, known in _NAMED.items():
            if self.like(known):
                return name
        mean, std = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"(x - [{mean}]) / [{std}]"

    def like(self, other: "Normalization") -> bool:
        """Whether both are one, but for what float32 rounds away."""
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=True)
        return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in pairs)


MINUS_ONE_ONE = Normalization.of([0.5], [0.5])
ZERO_ONE = Normalization.of([0.0], [1.0])
CIFAR_10 = Normalization.of(CIFAR10_MEAN, CIFAR10_STD)
_NAMED = {"[-1, 1]": MINUS_ONE_ONE, "[0, 1]": ZERO_ONE}


def forced(
    inputs: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Normalization | None:
    """The normalisation that a user names, None for ``auto``.

    Raises:
        InputError: ``inputs`` is none of ``INPUTS``, or the numbers are not what they must be.
    """
    check_choice("--inputs", inputs, INPUTS)
    if mean is None and std is None:
        return {"auto": None, "minus-one-one": MINUS_ONE_ONE, "zero-one": ZERO_ONE}[inputs]
    if inputs != "auto":
        raise InputError(f"--inputs {inputs} is one normalisation, --mean and --std are another; leave one out")
    if mean is None or std is None:
        raise InputError("--mean and --std belong together: (x - mean) / std is what the network takes")
    mean, std = _numbers("--mean", mean), _numbers("--std", std)
    if not all(0 <= number <= 1 for number in mean) or not all(0 < number <= 1 for number in std):
        raise InputError(
            f"--mean must be in [0, 1] and --std in (0, 1], for images in [0, 1], got {_listed(mean)} and "
            f"{_listed(std)}; divide those of images in 0 to 255 by 255, such as 125.3/255"
        )
    try:
        return Normalization.of(mean, std)
    except ValueError as error:
        raise InputError(f"--mean and --std: {error}") from None


def _numbers(flag: str, given: Any) -> tuple[float, ...]:
    try:
        return tuple(plain(float, each) for each in given)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # as ``plain`` raises
        raise InputError(f"{flag} must be numbers, one or three, got {described(given)}") from None


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "none"


def buffers(state: Mapping[str, Tensor]) -> dict[str, Normalization]:
    """What the buffers of normalising modules in ``state`` say: {the mean's and the deviation's name: what}."""
    found = {}
    for name, mean in state.items():
        parent, dot, last = name.rpartition(".")
        for partner in BUFFERS.get(last, ()):
            std = state.get(parent + dot + partner)
            if std is not None and all(t.is_floating_point() and t.numel() in (1, 3) for t in (mean, std)):
                try:
                    normalization = Normalization.of(mean.flatten().tolist(), std.flatten().tolist())
                except ValueError:
                    continue
                found[f"{name} and {parent}{dot}{partner}"] = normalization
    return found


def inside(network: nn.Module) -> Normalization:
    """What a network does to images in [0, 1] by itself; of one that nobody knows, nothing."""
    known = normalization(network)
    return ZERO_ONE if known is None else Normalization(*known)  # type: ignore[arg-type]


class Normalized(nn.Module):
    """A network that normalises by ``normalization``, where ``network`` normalises by itself otherwise.

    In front of a network of which nothing is known, its images are what comes of it.
    """

    mean: Tensor
    std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization):
        super().__init__()
        self.network = network
        self.normalization = normalization
        for prefix, numbers in (("", normalization), ("own_", inside(network))):
            for name in ("mean", "std"):
                values = torch.tensor(getattr(numbers, name), dtype=torch.float32)
                self.register_buffer(prefix + name, values[:, None, None])

    def features(self, x: Tensor) -> Tensor:
        """As the network's, of normalised images."""
        given = self._undone(x)
        return feature_function(self.network, given)(given)

    def forward(self, x: Tensor) -> Tensor:
        """As the network's, of normalised images."""
        return self.network(self._undone(x))

    def _undone(self, x: Tensor) -> Tensor:
        """What the network maps to the normalised images."""
        return (x - self.mean) / self.std * self.own_std + self.own_mean


class Ordered(nn.Module):
    """A network with its logits in another order: the i-th is the ``columns[i]``-th of ``network``."""

    columns: Tensor

    def __init__(self, network: nn.Module, columns: Sequence[int]):
        super().__init__()
        self.network = network
        self.register_buffer("columns", torch.tensor(columns))

    def features(self, x: Tensor) -> Tensor:
        """The network's."""
        return feature_function(self.network, x)(x)

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits in this order."""
        return self.network(x).index_select(1, self.columns)
