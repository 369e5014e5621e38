"""What speaks against an evaluation's figures, as AutoAttack's library warns of it, a line each."""

from collections.abc import Iterator, Mapping, Sequence

from fastait.attacks.columns import Column
from fastait.attacks.stages import Attempt, Stage
from fastait.evaluation.outcomes import Outcomes
from fastait.evaluation.sums import VALUES, Sums, gradients_of

ZEROS = 0.5
"""The share of an attack's gradients, pixel by pixel, that are zero from which on it is said; small networks of
rectifiers have up to a quarter."""

FEW_VALUES = 0.5
"""The share of a batch's logits that differ from each other below which it is said."""

SQUARE = 0.002
"""What Square may find beyond the attacks along gradients, as a share of all images (the library's)."""


def cautions(
    columns: Sequence[Column], stages: Mapping[str, Sequence[Stage | Attempt]], outcomes: Outcomes, sums: Sums
) -> Iterator[str]:
    """The lines.

    Args:
        columns: what was measured.
        stages: of each column that has such.
        outcomes: of the images.
        sums: of the same.
    """
    if columns and (share := sums.share(VALUES)) is not None and share < FEW_VALUES:
        yield (
            f"the logits take few values, only {100 * share:.0f} % of a batch's differ from each other: they are "
            "rounded, or most outputs are dead, and gradients may not lead anywhere"
        )
    for column in columns:
        shares = {name: sums.share(gradients_of(name)) or 0.0 for name in _with_gradients(column, stages)}
        worst = max(shares, key=lambda name: shares[name])
        if (zeros := shares[worst]) >= ZEROS:
            of = f"{column.name}, {worst}" if worst != column.name else worst
            yield (
                f"{of}: {100 * zeros:.0f} % of the gradients are zero, so that its steps do not move these pixels; "
                "what survives need not be robust. Look at --masking, and measure square"
            )
    for name, parts in stages.items():
        square = [
            i
            for i, stage in enumerate(parts)
            if isinstance(stage, Stage) and stage.attack == "square" and any(one.along_gradients for one in parts[:i])
        ]
        found = sum(int((outcomes.decided[name] == i).sum()) for i in square)
        images = len(outcomes.decided[name])
        if found > SQUARE * images:
            yield (
                f"{name}: square fools {found} of {images} images that withstand the attacks along gradients, more "
                f"than {100 * SQUARE:g} %: the gradients may be masked, and there may be more to find. Look at "
                "--masking, and take more queries, as in square-20000"
            )


def _with_gradients(column: Column, stages: Mapping[str, Sequence[Stage | Attempt]]) -> list[str]:
    return [stage.name for stage in stages.get(column.name, ())] or [column.name]
