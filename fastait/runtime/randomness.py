"""Independent random streams from one seed, addressed by name and counters: nothing to save, nothing to restore."""

import hashlib


def derive(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for the stream that ``stream`` names, for example ``derive(0, "noise", step)``."""
    digest = hashlib.blake2b(repr((seed, *stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
