"""AutoAttack's columns, a stage at a time: every stage attacks what the stages before it left of the whole set."""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from fastait.attacks import RIGHT
from fastait.attacks.stages import Stage
from fastait.evaluation.journal import Finding
from fastait.evaluation.known import Known


def attack_in_stages(
    name: str,
    stages: Sequence[Stage],
    known: Known,
    clean: str,
    over: Callable[[Stage, Tensor], Iterator[Finding]],
    advance: Callable[[int], None],
) -> None:
    """Find out who withstands all ``stages``, and write it down in ``known`` under ``name``.

    What is known of a stage is not computed again, whichever column it was a part of.

    Args:
        name: of the column.
        stages: in order.
        known: of this process's images; has each stage's name.
        clean: what the images as they are are called in it; known of all.
        over: makes findings of a stage on images at some places, int64 [n], batch by batch.
        advance: called with how many images are done with.
    """
    own = known.own
    verdicts = known.of(clean)[own].clone()
    advance(int((verdicts != RIGHT).sum()))
    for stage in stages:
        standing = verdicts == RIGHT
        if not bool(standing.any()):
            break
        places = own[standing]
        for done, lists in over(stage, places[~known.has(stage.name)[places]]):
            known.add(done, lists)
        verdicts[standing] = known.of(stage.name)[places]
        advance(int((verdicts[standing] != RIGHT).sum()))
    advance(int((verdicts == RIGHT).sum()))
    known.add(own.tolist(), {name: verdicts.tolist()})


def stage_names(every: Sequence[Sequence[Stage]]) -> list[str]:
    """The names of the stages of several columns, each once."""
    return list(dict.fromkeys(stage.name for stages in every for stage in stages))
