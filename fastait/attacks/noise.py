"""Where random starts come from."""

import torch
from torch import Tensor

from fastait_kernels import random_start


class Noise:
    """A stream of uniform starts, addressed by a seed and a counter that stay on the device.

    Args:
        seed: int64 [1], on the images' device.

    Attributes:
        offset: int64 [1], the number of starts drawn so far; each draw advances it on the device, so the replays of a
            captured CUDA graph differ.
    """

    def __init__(self, seed: Tensor):
        self.seed = seed
        self.offset = torch.zeros_like(seed)

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> "Noise":
        """The stream of an integer seed below 2^63."""
        return cls(torch.tensor([seed], device=device))

    @classmethod
    def drawn(cls, generator: torch.Generator | None, device: torch.device) -> "Noise":
        """A stream whose seed is drawn from ``generator``, the global one if None, without a synchronisation."""
        return cls(torch.randint(0, torch.iinfo(torch.int64).max, (1,), generator=generator, device=device))

    def seek(self, offset: int) -> None:
        """Make the next start that of ``offset``."""
        self.offset.fill_(offset)

    def start(self, x: Tensor, epsilon: float) -> Tensor:
        """x + U(-epsilon, epsilon), like ``x``, not clipped to [0, 1]."""
        return random_start(x, epsilon, self.seed, self.offset)
