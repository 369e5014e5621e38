"""Where random starts come from."""

import torch
from torch import Tensor

from fastait.runtime.places import runs
from fastait_kernels import random_start


class Noise:
    """A stream of uniform starts, addressed by a seed and a counter that stay on the device.

    Args:
        seed: int64 [1], on the images' device.

    Attributes:
        offset: int64 [1], the number of starts drawn so far; each draw advances it on the device, so the replays of a
            captured CUDA graph differ.
        before: how many images of the batch come before those that a start is drawn for.
    """

    def __init__(self, seed: Tensor):
        self.seed = seed
        self.offset = torch.zeros_like(seed)
        self.before = 0

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> "Noise":
        """The stream of an integer seed below 2^63."""
        return cls(torch.tensor([seed], device=device))

    @classmethod
    def drawn(cls, generator: torch.Generator | None, device: torch.device) -> "Noise":
        """A stream whose seed is drawn from ``generator``, the global one if None, without a synchronisation."""
        return cls(torch.randint(0, torch.iinfo(torch.int64).max, (1,), generator=generator, device=device))

    def seek(self, offset: Tensor, before: int = 0) -> None:
        """Make the next start that of ``offset``, int64 [1], for images with ``before`` others before them.

        So processes that share a batch draw the noise that one would; ``before`` is a multiple of four where an image
        has not a multiple of four elements.
        """
        self.offset.copy_(offset)
        self.before = before

    def start(self, x: Tensor, epsilon: float) -> Tensor:
        """x + U(-epsilon, epsilon), like ``x``, not clipped to [0, 1]."""
        return random_start(x, epsilon, self.seed, self.offset, self.before * x[:1].numel())

    def start_at(self, x: Tensor, epsilon: float, offset: int, places: Tensor) -> Tensor:
        """The start ``offset`` for images that have these places in a set, whatever else is drawn together.

        Args:
            x: float [B, C, H, W], image after image in memory.
            epsilon: radius of the ball.
            offset: which start.
            places: int64 [B], on the CPU.
        """
        found, row = [], 0
        for first, count in runs(places.tolist()):
            images = x[row : row + count]
            lead = first % 4 if x[:1].numel() % 4 else 0
            if lead:  # numbers come in fours
                images = torch.empty_strided((lead + count, *x.shape[1:]), x.stride(), dtype=x.dtype, device=x.device)
                images[:lead], images[lead:] = x[row], x[row : row + count]
            self.seek(torch.tensor([offset], device=x.device), first - lead)
            found.append(self.start(images, epsilon)[lead:])
            row += count
        return found[0] if len(found) == 1 else torch.cat(found)

    def uniform(self, *shape: int) -> Tensor:
        """float32 ``shape`` in [0, 1), on the seed's device."""
        zeros = torch.zeros(shape, dtype=torch.float32, device=self.seed.device)
        return random_start(zeros, 0.5, self.seed, self.offset, self.before * zeros[:1].numel()) + 0.5

    def normal(self, x: Tensor, deviation: float) -> Tensor:
        """x + N(0, deviation), like ``x``, not clipped to [0, 1]."""
        zeros = torch.zeros_like(x, dtype=torch.float32)
        symmetric = random_start(zeros, 1.0, self.seed, self.offset, self.before * x[:1].numel())
        # -1, one of 2^24 values, would be minus infinity.
        return x + (deviation * 2**0.5 * symmetric.clamp_(min=2**-24 - 1).erfinv_()).to(x.dtype)
