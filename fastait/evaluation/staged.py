"""Columns of several attacks, a stage at a time: every stage attacks what those before it left of the whole set."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fastait.attacks import RIGHT
from fastait.attacks.stages import Attempt, Stage
from fastait.evaluation.known import Known
from fastait.evaluation.outcomes import CLEAN, class_under
from fastait.evaluation.set_batch import Result


def attack_in_stages(
    name: str,
    stages: Sequence[Stage | Attempt],
    from_clean: bool,
    known: Known,
    over: Callable[[int, Tensor, int], Iterator[Result]],
    advance: Callable[[int], None],
) -> None:
    """Find out who withstands all ``stages``, and write it down in ``known`` under ``name``: verdicts, classes, and by
    which stage each image was fooled (``decided_by``).

    What is known of a stage is not computed again, whichever column it was a part of.

    Args:
        name: of the column.
        stages: in order.
        from_clean: whether images that are misclassified as they are count as fooled.
        known: of this process's images; has each stage's name. The images as they are are known of all.
        over: (which stage, places int64 [n], how many images of all stand) -> results, batch by batch, each of which
            is known when it comes.
        advance: called with how many images are done with.
    """
    own = known.own
    verdicts, classes = known.of(CLEAN)[own].clone(), known.of(class_under(CLEAN))[own].clone()
    if not from_clean:
        verdicts.fill_(RIGHT)
    decided = torch.where(verdicts == RIGHT, 0, -1)
    advance(int((verdicts != RIGHT).sum()))
    for i, stage in enumerate(stages):
        standing = verdicts == RIGHT
        if not bool(standing.any()):
            break
        places = own[standing]
        lacking = places[~known.has(stage.name)[places]]
        fallen = int((known.of(stage.name)[places] != RIGHT)[known.has(stage.name)[places]].sum())
        deque(over(i, lacking, len(places) - fallen), maxlen=0)
        verdicts[standing] = known.of(stage.name)[places]
        classes[standing] = known.of(class_under(stage.name))[places]
        fooled = standing & (verdicts != RIGHT)
        decided[fooled] = i
        advance(int(fooled.sum()))
    advance(int((verdicts == RIGHT).sum()))
    found = {name: verdicts, class_under(name): classes, decided_by(name): decided}
    known.add(own.tolist(), {column: values.tolist() for column, values in found.items()})


def decided_by(name: str) -> str:
    """What the stages that decided are called in ``known``."""
    return f"stage of {name}"


def stage_names(every: Sequence[Sequence[Stage | Attempt]]) -> list[str]:
    """The names of the stages of several columns, each once."""
    return list(dict.fromkeys(stage.name for stages in every for stage in stages))
