"""How large the images of a set are: what to say where some are too small."""

from collections import Counter
from collections.abc import Iterable

from fastait.config import LEAST_IMAGE_SIZE
from fastait.data.decode import Split, TooSmall, sides
from fastait.runtime.errors import InputError

FEW = 0.1
"""The share of a set up to which it may be left out; more than that is what the set is."""


def explain(error: TooSmall, splits: Iterable[Split], size: int) -> InputError:
    """What ``error`` says of the first image, and what would be right for the images of ``splits``.

    Args:
        error: an image is smaller than ``size``.
        splits: the whole set; headers of all its images are read.
        size: ``--image-size``.
    """
    counts: Counter[int] = Counter()
    for split in splits:
        counts.update(sides(split.open().items))
    total, least = counts.total(), min(counts, default=0)
    small = sum(count for side, count in counts.items() if side < size)
    if not total:
        return InputError(str(error))
    if small <= FEW * total:
        also = f"; --image-size {least} takes them all" if least >= LEAST_IMAGE_SIZE else ""
        return InputError(f"{error}, as {small} of {total} images are: --skip-bad-images leaves them out{also}")
    taken = {side: sum(count for other, count in counts.items() if other >= side) for side in counts}
    fits = max(side for side, count in taken.items() if count >= (1 - FEW) * total)
    if fits < LEAST_IMAGE_SIZE:
        return InputError(
            f"{error}, as {small} of {total} images are; --image-size must be at least {LEAST_IMAGE_SIZE}, which "
            f"{total - sum(count for side, count in counts.items() if side >= LEAST_IMAGE_SIZE)} of them do not have"
        )
    if fits == least:
        return InputError(f"{error}, as {small} of {total} images are: --image-size {fits} takes them all")
    rest = f"--image-size {least} all" if least >= LEAST_IMAGE_SIZE else "--skip-bad-images leaves the others out"
    return InputError(
        f"{error}, as {small} of {total} images are: --image-size {fits} takes {taken[fits]} of them, {rest}"
    )
