"""Places in a set, as runs of places that follow each other."""

from collections.abc import Iterable


def runs(places: Iterable[int]) -> list[tuple[int, int]]:
    """(first, count) of each run in ``places``, in their order: 4, 5, 6, 9 are (4, 3) and (9, 1)."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and place == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((place, 1))
    return found


def places_of(found: Iterable[tuple[int, int]]) -> list[int]:
    """The places in these runs."""
    return [place for first, count in found for place in range(first, first + count)]
