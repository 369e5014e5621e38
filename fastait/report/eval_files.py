"""What an evaluation's folder holds, as far as it can be read; what cannot is left out, with a word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fastait.checkpoints.sealed import opened
from fastait.evaluation.details import EXAMPLES_FILE, OUTCOMES_FILE, titles
from fastait.evaluation.masking import Check
from fastait.evaluation.outcomes import CLEAN
from fastait.evaluation.results import FILE, Evaluation, from_json
from fastait.report.gaps import Gap
from fastait.report.run_files import is_number
from fastait.reproduction.evaluated import BY
from fastait.runtime.errors import InputError, first_line
from fastait.runtime.files import json_of

AGAIN = "The same command with the same --out writes it anew."


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of one model and epsilon.

    Attributes:
        attack: what they were attacked by.
        most: how many of them, the first ones, are those that are most easily fooled.
        clean, perturbed: float [n, 3, H, W] in [0, 1].
        places, labels, before, after: int [n]: places in the test set, classes, and what the model takes them for.
    """

    attack: str
    most: int
    clean: Tensor
    perturbed: Tensor
    places: Tensor
    labels: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True, eq=False)
class Measurement:
    """An evaluation, as its folder tells it.

    Attributes:
        name: in the page, no two alike.
        path: the folder.
        about: the data set, its classes, where the models lay, the step size and the noise, as ``eval.json`` has them.
        evaluations: a model under an epsilon each, with classes and losses where the folder has them.
        masking: of each model, the checks.
        labels: {number of images: their classes, int64}.
        examples: of each of ``evaluations``, None where there are none.
        gaps: what is missing.
    """

    name: str
    path: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    masking: Mapping[str, Sequence[Check]] = field(default_factory=dict)
    labels: Mapping[int, Tensor] = field(default_factory=dict)
    examples: Sequence[Examples | None] = ()
    gaps: Sequence[Gap] = ()

    @property
    def of_sweep(self) -> bool:
        """Whether it is what a comparison measured."""
        return BY in self.about

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the data set's classes."""
        names = self.about.get("classes")
        return tuple(map(str, names)) if isinstance(names, list) else None

    def class_name(self, label: int) -> str:
        """What a class is called; ``label`` may be -1 for none."""
        if label < 0:
            return "none: not finite"
        return self.classes[label] if self.classes is not None and label < len(self.classes) else str(label)

    def model_path(self, model: str) -> Path | None:
        """Where a model's weights lay."""
        paths = self.about.get("models")
        return Path(str(paths[model])) if isinstance(paths, dict) and model in paths else None


def read_evaluation(path: Path, name: str) -> Measurement:
    """The evaluation in ``path``.

    Raises:
        InputError: there is no such folder, or nothing of an evaluation in it.
    """
    file = path / FILE
    try:
        begun = file.is_file() or any(path.glob("progress-*.jsonl"))
    except OSError as error:
        raise InputError(f"--eval {path} cannot be read: {error.strerror}") from None
    if not begun:
        raise InputError(f"--eval {path} is no evaluation (no {file.name}); give a folder that fastait eval wrote")
    if not file.is_file():
        what = f"the evaluation is not finished: no {file.name}"
        return Measurement(
            name, path, gaps=[Gap(name, what, "It is still going, or goes on by the same command with the same --out.")]
        )
    try:
        about = json_of(file.read_bytes())
        evaluations = from_json(about)
        masking = {str(model): [_check(row) for row in rows] for model, rows in about.get("masking", {}).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"{file.name} cannot be read ({type(error).__name__}: {first_line(error)})"
        return Measurement(name, path, gaps=[Gap(name, what, AGAIN)])
    gaps: list[Gap] = []
    tensors, _ = _read(path / OUTCOMES_FILE, name, "no confusions, no losses along the steps", gaps)
    images, said = ({}, {}) if BY in about else _read(path / EXAMPLES_FILE, name, "no images", gaps)
    called = titles(evaluations)
    return Measurement(
        name,
        path,
        {key: about[key] for key in _KEPT if key in about}
        | {key: about[key] for key in _NUMBERS if is_number(about.get(key))},
        [_with_classes(e, title, tensors) for e, title in zip(evaluations, called, strict=True)],
        masking,
        {labels.numel(): labels for key, labels in tensors.items() if key.startswith("labels of ")},
        [_examples(title, images, said) for title in called],
        gaps,
    )


_KEPT = (BY, "dataset", "classes", "models")
_NUMBERS = ("step_size", "input_noise")
"""What of ``eval.json`` the page says besides its outcomes."""


def _check(row: Mapping[str, Any]) -> Check:
    return Check(
        str(row["name"]), bool(row["fired"]), str(row["figure"]), str(row["sentence"]), dict(row.get("numbers", {}))
    )


def _read(path: Path, name: str, without: str, gaps: list[Gap]) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a file and what its metadata say of them; nothing, with a word, where it cannot be read."""
    try:
        tensors, metadata = opened(path.read_bytes())
        return tensors, dict(json_of(metadata.get("about", "{}")))
    except FileNotFoundError:
        gaps.append(Gap(name, f"no {path.name}, which older versions do not write: {without}", AGAIN))
    except (OSError, ValueError, TypeError) as error:
        gaps.append(Gap(name, f"{path.name} cannot be read ({first_line(error)}): {without}", AGAIN))
    return {}, {}


def _with_classes(e: Evaluation, title: str, tensors: Mapping[str, Tensor]) -> Evaluation:
    def found(what: str) -> dict[str, Tensor]:
        start, end = f"{title}/", f"/{what}"
        return {
            key[len(start) : -len(end)]: tensor.squeeze()
            for key, tensor in tensors.items()
            if key.startswith(start) and key.endswith(end)
        }

    classes = {
        name: tensor.long()
        for name, tensor in found("class").items()
        if name in e.outcomes.correct and tensor.shape == e.outcomes.correct[name].shape
    }
    return replace(e, outcomes=replace(e.outcomes, classes=classes, losses=found("loss")))


def _examples(title: str, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> Examples | None:
    try:
        about = said["evaluations"][title]
        keys = ("clean", "perturbed", "places", "labels", "class clean", "class perturbed")
        parts = [tensors[f"{title}/{key}"] for key in keys]
        attack, most = str(about["attack"]), int(about["most easily fooled"])
    except (KeyError, TypeError, ValueError):
        return None
    whole = parts[0].ndim == 4 and parts[0].shape == parts[1].shape and len({len(part) for part in parts}) == 1
    return Examples(attack, most, *parts) if whole and attack != CLEAN else None
