"""Damage as disks, copies and crashes do it, drawn from a seed."""

from random import Random

PAGES = (64, 512, 4096)


def _flipped(data, random):
    for _ in range(random.choice((1, 1, 2, 8))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _truncated(data, random):
    del data[random.randrange(len(data)) :]


def _swapped(data, random):
    page = random.choice([page for page in PAGES if 2 * page <= len(data)] or [len(data) // 2])
    a, b = random.sample(range(len(data) // page), 2)
    first, second = slice(a * page, (a + 1) * page), slice(b * page, (b + 1) * page)
    data[first], data[second] = data[second], data[first]


def _zeroed(data, random):
    page = random.choice(PAGES)
    start = random.randrange(len(data)) // page * page
    data[start : start + page] = bytes(len(data[start : start + page]))


def _appended(data, random):
    data += random.randbytes(random.choice((1, 7, 4096))) if random.random() < 0.5 else data[: random.choice((1, 512))]


KINDS = {
    "bits flipped": _flipped,
    "truncated": _truncated,
    "blocks swapped": _swapped,
    "pages zeroed": _zeroed,
    "bytes appended": _appended,
}


def damages(data: bytes, count: int, seed: str):
    """``count`` times (kind, ``data`` damaged so), each of which differs from ``data``."""
    random, kinds = Random(seed), list(KINDS)
    found = 0
    while found < count:
        kind, damaged = kinds[found % len(kinds)], bytearray(data)
        KINDS[kind](damaged, random)
        if damaged != data:
            found += 1
            yield kind, bytes(damaged)
