"""Uniform numbers with an address: a seed, an image's place in its set and a counter, whatever is drawn beside them."""

from dataclasses import dataclass

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Addressed:
    """The uniform numbers of a batch's images.

    Philox 4x32-10 (Salmon et al., 2011) in integers, so that the numbers are the same on every device. The key is the
    seed; the counter's words are, from the lowest, which four of an address's numbers, the address's own counter, and
    the place. ``runtime.randomness.uniform(seed, place, count)`` has the numbers of counter 0.

    Attributes:
        seed: below 2^64.
        places: int64 [B], each image's place in its set.
    """

    seed: int
    places: Tensor

    def at(self, rows: Tensor) -> "Addressed":
        """The numbers of the images at ``rows``, int64 [n]."""
        return Addressed(self.seed, self.places[rows.to(self.places.device)])

    def uniform(self, rows: Tensor, first: Tensor, counters: int, count: int) -> Tensor:
        """float32 [b, counters, count] in [0, 1), multiples of 2^-24, on the places' device; nothing is synchronised.

        Args:
            rows: int64 [b], which of ``places``.
            first: int64 [b], the first of each image's consecutive counters, below 2^32.
            counters: how many counters.
            count: how many numbers each, below 2^34.
        """
        device = self.places.device
        place = self.places[rows][:, None, None]
        counter = (first[:, None] + torch.arange(counters, device=device))[:, :, None]
        quad = torch.arange(-(-count // 4), device=device)
        words = philox(quad & WORD, counter & WORD, place & WORD, place >> 32 & WORD, self.seed)
        return (torch.stack(words, dim=-1).flatten(-2)[..., :count] >> 8).to(torch.float32) * 2.0**-24


def philox(a: Tensor, b: Tensor, c: Tensor, d: Tensor, key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 of counters whose words, lowest first, are int64 below 2^32 that broadcast together."""
    k, m = key & WORD, key >> 32 & WORD
    for _ in range(10):
        # The products' 64 bits are right modulo 2^64, whatever sign int64 reads into them.
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (second >> 32 & WORD) ^ b ^ k, second & WORD, (first >> 32 & WORD) ^ d ^ m, first & WORD
        k, m = k + 0x9E3779B9 & WORD, m + 0xBB67AE85 & WORD
    return a, b, c, d
