"""Networks from files as networks of a data set: of its classes in its order, and normalised as they were trained."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastait.checkpoints.classes import Match, are_numbers, match
from fastait.data import ImageSet
from fastait.evaluation.batches import Together, default_batch_size, tried
from fastait.evaluation.journal import weights_checksum
from fastait.evaluation.logits import check_logits
from fastait.evaluation.model_files import Loaded
from fastait.evaluation.normalization import MINUS_ONE_ONE, ZERO_ONE, Normalization, Ordered
from fastait.models.names import LIBRARIES, ModelName, parse
from fastait.models.trial import said
from fastait.runtime.errors import FastaitError, InputError
from fastait.runtime.precision import full_precision
from fastait.runtime.processes import Ranks

PROBED = 200
"""Test images that show how a network normalises, where its file does not say, and whether it is better than chance."""

CHANCE = 0.25
"""Clean accuracy is near chance where it is not this part of the way from guessing to all correct."""


@dataclass(frozen=True)
class Entrant:
    """A network that is evaluated, or a surrogate.

    Attributes:
        path: of its file.
        network: its name, as ``--model`` has it.
        named_by: what says so.
        code: what it is made by, besides its weights: another version of that may compute otherwise.
        model: on images in [0, 1], its logits in the order of the data set's classes.
        normalized: the same in its own order.
        outputs: how many classes it tells apart.
        normalization: the one that is assumed.
        why: it is.
        match: of its classes with the data set's.
        notes: what else a user should know, a line each.
        checksum: of its weights.
    """

    path: Path
    network: str
    named_by: str
    code: str
    model: nn.Module
    normalized: nn.Module
    outputs: int
    normalization: Normalization
    why: str
    match: Match
    notes: tuple[str, ...]
    checksum: str

    def decides(self) -> dict[str, Any]:
        """What decides outcomes, for the journal."""
        return {
            "model": self.checksum,
            "network": self.network,
            "code": self.code,
            "mean": self.normalization.mean,
            "std": self.normalization.std,
            "order": self.match.order(self.outputs),
        }

    def described(self) -> dict[str, Any]:
        """For ``eval.json``."""
        return {
            "network": self.network,
            "mean": self.normalization.mean,
            "std": self.normalization.std,
            "why": self.why,
            "outputs": self.match.columns,
            "notes": self.notes,
        }


def make_entrant(
    loaded: Loaded,
    classes: Sequence[str],
    *,
    numbered: bool,
    asked: Normalization | None,
    images: ImageSet,
    device: torch.device,
    ranks: Ranks,
) -> Entrant:
    """A loaded network on ``device``, for a data set.

    How it normalises is what is asked for, or what its file says, or else what more of the images are classified
    correctly with.

    Args:
        loaded: the network.
        classes: the data set's, in the order of its labels.
        numbered: whether numbers stand in ``classes`` for want of names.
        asked: the normalisation that a user asks for, if any.
        images: the test images; ``PROBED`` of them are looked at.
        device: to put it on.
        ranks: the processes; the first one's figures decide for all.

    Raises:
        InputError: the network does not tell these classes apart, or returns no logits.
    """
    outputs = loaded.num_classes
    own_numbered = loaded.config.get("dataset", "parquet") == "parquet" and are_numbers(loaded.classes)
    try:
        found = match(loaded.classes, outputs, classes, numbered=numbered, own_numbered=own_numbered)
        loaded.network.to(device).to(memory_format=torch.channels_last)
        few = images if len(images) <= PROBED else images.stratified(PROBED)
        candidates = loaded.normalizations if asked is None else (asked,)
        why = loaded.why if asked is None else "as asked for"
        models = [_model(loaded, candidate, found, device) for candidate in candidates]
        sample = few.floats(torch.arange(min(4, len(few))), device)
        _try(models[0], sample, loaded.name)
        accuracies = [_accuracy(model, few, device, ranks) for model in models]
        best = accuracies.index(max(accuracies))  # the first of equals
        with torch.no_grad(), full_precision(device):
            check_logits(tried(models[best], sample))
    except InputError as error:
        raise InputError(f"{loaded.path}: {error}") from None
    chosen, named = candidates[best], parse(loaded.name)
    notes = [*loaded.notes, *([f"classes: {found.note}"] if found.note else [])]
    if len(candidates) > 1:
        figures = (f"{candidate} {value:.1f} %" for candidate, value in zip(candidates, accuracies, strict=True))
        why += f"; clean accuracy on {len(few)} test images: {', '.join(figures)}"
    elif len(loaded.normalizations) == 1 and not chosen.like(loaded.normalizations[0]) and named.kind != "own":
        notes.append(f"warning: it was trained with another one: {loaded.normalizations[0]} ({loaded.why})")
    if accuracies[best] < 100 * (1 + CHANCE * (outputs - 1)) / outputs:
        others = [one for one in (MINUS_ONE_ONE, ZERO_ONE) if not any(one.like(tried) for tried in candidates)]
        figures = (f"{o} {_accuracy(_model(loaded, o, found, device), few, device, ranks):.1f} %" for o in others)
        notes.append(
            f"warning: near chance: {accuracies[best]:.1f} % of {len(few)} clean test images are classified correctly, "
            f"guessing is right in {100 / outputs:.3g} %; are these its images and classes, and its normalisation "
            f"(--inputs, --mean and --std)?" + (f" With {', '.join(figures)}." if others else "")
        )
    return Entrant(
        loaded.path,
        loaded.name,
        loaded.named_by,
        code_of(named, loaded.network),
        models[best],
        loaded.normalized(chosen),
        outputs,
        chosen,
        why,
        found,
        tuple(notes),
        weights_checksum(loaded.network),
    )


def _try(model: nn.Module, images: torch.Tensor, name: str) -> None:
    """Raise an InputError where a network fails on images of such a size."""
    try:
        with torch.no_grad(), full_precision(images.device):
            tried(model, images)
    except FastaitError:
        raise
    except Exception as error:  # whatever a network raises
        size = "x".join(map(str, images.shape[2:]))
        raise InputError(f"{name} does not take images of {size}: {said(error)}") from None


def code_of(name: ModelName, network: nn.Module) -> str:
    """What makes a network that is not of this package, for a journal; empty of one that is.

    A library's version; of a function of the user's own a checksum of the files that it and the classes of the
    network's modules are in. What these call in further files is not seen.
    """
    if name.kind in LIBRARIES:
        return f"{name.kind} {version(name.kind)}"
    if name.kind != "own":
        return ""
    modules = {name.name.partition(":")[0], *(type(module).__module__ for module in network.modules())}
    files = [
        getattr(sys.modules.get(module), "__file__", None)
        for module in sorted(modules)
        if module.partition(".")[0] != "torch"  # whose version a journal knows
    ]
    code = b"".join(Path(file).read_bytes() for file in files if file and os.path.isfile(file))
    return hashlib.sha256(code).hexdigest() if code else ""


def _model(loaded: Loaded, normalization: Normalization, found: Match, device: torch.device) -> nn.Module:
    normalized, order = loaded.normalized(normalization), found.order(loaded.num_classes)
    return (normalized if order is None else Ordered(normalized, order).eval()).to(device)


def _accuracy(model: nn.Module, images: ImageSet, device: torch.device, ranks: Ranks) -> float:
    """Clean accuracy in percent, the same for all processes: what is assumed must not differ between them."""

    def right(places: torch.Tensor) -> int:
        logits = model(images.floats(places, device)).cpu()
        return int(((logits.argmax(dim=1) == images.labels[places]) & logits.isfinite().all(dim=1)).sum())

    def measure() -> float:
        with torch.no_grad(), full_precision(device):
            parts = Together(default_batch_size(model, images)).over(torch.arange(len(images)), right)
            return 100 * sum(parts) / len(images)

    return ranks.from_first(measure)
