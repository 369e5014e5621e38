"""What an evaluation writes for reports to be made of: outcomes, examples and all adversarial images, as safetensors.

Metadata is one JSON text under ``about``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastait.checkpoints.sealed import sealed
from fastait.data import ImageSet
from fastait.evaluation.kept import Kept, composed, extremes
from fastait.evaluation.outcomes import CLEAN
from fastait.evaluation.results import LEADING, Evaluation
from fastait.runtime.files import write_whole
from fastait.runtime.report import epsilon_text

OUTCOMES_FILE, EXAMPLES_FILE = "outcomes.safetensors", "examples.safetensors"

EXAMPLES = 16
"""How many images are shown that are most easily fooled, and how many that are least so."""


@dataclass(frozen=True)
class Source:
    """What an attack was given, and where its images are.

    Attributes:
        images: N of them.
        places: int64 [N], where they are in the test set.
        kept: the adversarial ones.
    """

    images: ImageSet
    places: Tensor
    kept: Kept


def titles(evaluations: Sequence[Evaluation]) -> list[str]:
    """What each is called in files: model and epsilon, such as ``natural-8-255``."""
    short = [f"{e.model}-{epsilon_text(e.epsilon).replace('/', '-')}" for e in evaluations]
    return [
        name if short.count(name) == 1 else f"{e.model}-{e.epsilon!r}"
        for name, e in zip(short, evaluations, strict=True)
    ]


def write_outcomes(
    path: Path,
    evaluations: Sequence[Evaluation],
    sources: Sequence[Mapping[str, Source]],
    about: Mapping[str, Any],
    *,
    shared: bool = False,
) -> None:
    """``outcomes.safetensors``: what each image is taken for, by which stage it was fooled, and losses along the steps.

    Args:
        path: of the file.
        evaluations: what was found.
        sources: of each evaluation, {"clean" or an attack: what it was given}.
        about: what else stands in the metadata.
        shared: see ``write_whole``.
    """
    tensors: dict[str, Tensor] = {}
    said: dict[str, Any] = {}
    for title, e, given in zip(titles(evaluations), evaluations, sources, strict=True):
        found = e.outcomes
        said[title] = {
            "model": e.model,
            "epsilon": e.epsilon,
            "images": {name: e.images(name) for name in found.correct},
        }
        said[title]["stages"] = {name: found.stages[name] for name in found.correct if name in found.stages}
        for name in found.correct:
            n, source = e.images(name), given[name]
            tensors |= {f"places of {n}": source.places, f"labels of {n}": source.images.labels}
            tensors[f"{title}/{name}/class"] = found.classes[name].int()
            if name in found.decided:
                tensors[f"{title}/{name}/stage"] = found.decided[name].int()
        tensors |= {f"{title}/{name}/loss": losses for name, losses in found.losses.items()}
        tensors[f"{title}/{CLEAN}/margin"] = found.margins[CLEAN]
    _write(path, tensors, {**about, "evaluations": said}, shared=shared)


def write_examples(path: Path, evaluations: Sequence[Evaluation], sources: Sequence[Mapping[str, Source]]) -> None:
    """``examples.safetensors``: for each evaluation the images that are most easily fooled and those that are least so,
    by the margin of the image itself, and what one attack makes of them. Those whose images an older version did not
    keep are left out; nothing is written where none is left.

    Args:
        path, evaluations, sources: as for ``write_outcomes``.
    """
    tensors: dict[str, Tensor] = {}
    said: dict[str, Any] = {}
    for title, e, given in zip(titles(evaluations), evaluations, sources, strict=True):
        name = shown(e)
        source, found = given[name], e.outcomes
        here = torch.zeros(len(source.images), dtype=torch.bool, device="cpu")
        for part, places in source.kept.places().items():
            if part in found.stages.get(name, (name,)):
                here[places] = True
        most, least = (rows[here[rows]] for rows in extremes(found.margins[CLEAN], EXAMPLES))
        rows = torch.cat([most, least])
        if not len(rows):
            continue
        clean = source.images.floats(rows, torch.device("cpu"))
        said[title] = {"model": e.model, "epsilon": e.epsilon, "attack": name, "most easily fooled": len(most)}
        of_title = {
            "clean": clean,
            "perturbed": composed(name, found, source.kept.get, rows, clean),
            "places": source.places[rows],
            "labels": source.images.labels[rows],
            "class clean": found.classes[CLEAN][rows].int(),
            "class perturbed": found.classes[name][rows].int(),
        }
        tensors |= {f"{title}/{key}": tensor for key, tensor in of_title.items()}
    if tensors:
        _write(path, tensors, {"evaluations": said})


def shown(e: Evaluation) -> str:
    """The attack whose images are shown: the strongest that had all images, or the first."""
    names = [name for name in e.outcomes.correct if name != CLEAN and e.images(name) == e.images(CLEAN)]
    return next((name for name in (*LEADING, *names) if name in names), CLEAN)


def write_images(
    folder: Path, evaluations: Sequence[Evaluation], sources: Sequence[Mapping[str, Source]]
) -> list[Path]:
    """A file of each evaluation and attack, ``images-MODEL-EPSILON-ATTACK.safetensors``, with all its images; one
    attack's are in memory at a time.

    Args:
        folder: where.
        evaluations, sources: as for ``write_outcomes``.
    """
    written = []
    for title, e, given in zip(titles(evaluations), evaluations, sources, strict=True):
        for name in filter(CLEAN.__ne__, e.outcomes.correct):
            source, found = given[name], e.outcomes
            rows = torch.arange(len(source.images), device="cpu")
            clean = source.images.floats(rows, torch.device("cpu"))
            tensors = {
                "images": composed(name, found, source.kept.get, rows, clean),
                "places": source.places,
                "labels": source.images.labels,
                "class": found.classes[name].int(),
            }
            written.append(folder / f"images-{title}-{name}.safetensors")
            _write(written[-1], tensors, {"model": e.model, "epsilon": e.epsilon, "attack": name})
    return written


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, shared: bool = False) -> None:
    write_whole(path, sealed(tensors, {"about": json.dumps(about)}), shared=shared)
