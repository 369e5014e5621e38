"""Independent random streams from one seed, addressed by name and counters: nothing to save, nothing to restore."""

import hashlib


def derive(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for the stream that ``stream`` names, for example ``derive(0, "noise", step)``."""
    digest = hashlib.blake2b(repr((seed, *stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniform(seed: int, offset: int, count: int) -> list[float]:
    """The numbers in [0, 1) that ``fastait_kernels.random_start`` makes of a seed and an offset, without a tensor.

    Philox 4x32-10 (Salmon et al., 2011), in multiples of 2^-24, for the few that the host decides by.
    """
    numbers: list[float] = []
    for quad in range(-(-count // 4)):
        numbers += [(bits >> 8) * 2.0**-24 for bits in _philox(quad, offset, seed)]
    return numbers[:count]


def _philox(low: int, high: int, key: int) -> tuple[int, int, int, int]:
    word = 0xFFFFFFFF
    a, b, c, d = low & word, low >> 32 & word, high & word, high >> 32 & word
    k, m = key & word, key >> 32 & word
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second >> 32 ^ b ^ k, second & word, first >> 32 ^ d ^ m, first & word
        k, m = k + 0x9E3779B9 & word, m + 0xBB67AE85 & word
    return a, b, c, d
