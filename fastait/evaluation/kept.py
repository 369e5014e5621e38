"""Adversarial images, batch by batch as they are found."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from fastait.checkpoints.sealed import is_whole, sealed
from fastait.evaluation.outcomes import Outcomes
from fastait.runtime.errors import RunError
from fastait.runtime.files import write_whole

FOLDER = "adversarial"
"""Of an evaluation, where the batches are."""


PLACES = "places of "


class Kept(Protocol):
    """Where an evaluation's adversarial images go.

    Attributes:
        complete: whether an outcome is known only with its image, so that it is found again where that is missing.
    """

    complete: bool

    def wanted(self, margins: Tensor) -> Tensor:
        """bool [N]: whose images are to be kept, by their ``outcomes.MARGIN``, int64 [N]."""
        ...

    def places(self) -> dict[str, Tensor]:
        """{attack: the places int64 [n] of the images that are kept of it}."""
        ...

    def put(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Keep of each attack (places int64 [n], images float [n, C, H, W]), on the CPU, of a batch."""
        ...

    def get(self, name: str) -> tuple[Tensor, Tensor]:
        """All that is kept of an attack: (places int64 [n], images float [n, C, H, W]), later ones last."""
        ...


class InMemory:
    """All images of one evaluation."""

    complete = True

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def wanted(self, margins: Tensor) -> Tensor:
        """See ``Kept``."""
        return torch.ones_like(margins, dtype=torch.bool)

    def places(self) -> dict[str, Tensor]:
        """See ``Kept``."""
        return {name: _joined(batches)[0] for name, batches in self._found.items()}

    def put(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """See ``Kept``."""
        for name, batch in found.items():
            self._found.setdefault(name, []).append(batch)

    def get(self, name: str) -> tuple[Tensor, Tensor]:
        """See ``Kept``."""
        return _joined(self._found.get(name, []))


class InFolder:
    """Of one model, set and setting, a file for each batch of each process, written before the journal has the batch.

    Args:
        folder: of the evaluation.
        rank: of this process.
        subject: what identifies the model, the images and the setting, as in the journal.
        few: of how many of the most and of as many of the least easily fooled images these are; None for all images.
    """

    def __init__(self, folder: Path, rank: int, subject: dict[str, Any], few: int | None):
        self._folder, self._few = folder / FOLDER, few
        self.complete = few is None
        self._key = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:24]
        self._own = f"{self._key}-{rank}"
        self._written: int | None = None
        self._whole: dict[Path, bool] = {}  # what is read often is looked through once

    def wanted(self, margins: Tensor) -> Tensor:
        """See ``Kept``."""
        if self._few is None:
            return torch.ones_like(margins, dtype=torch.bool)
        chosen = torch.zeros_like(margins, dtype=torch.bool)
        chosen[torch.cat(extremes(margins, self._few))] = True
        return chosen

    def places(self) -> dict[str, Tensor]:
        """See ``Kept``."""
        found: dict[str, list[Tensor]] = {}
        for tensors in self._files():
            for name in tensors.keys():  # noqa: SIM118, it is no dictionary
                if name.startswith(PLACES):
                    found.setdefault(name.removeprefix(PLACES), []).append(tensors.get_tensor(name))
        return {name: torch.cat(places) for name, places in found.items()}

    def put(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """See ``Kept``.

        Raises:
            RunError: the disk is full; what was written before is unharmed.
        """
        tensors: dict[str, Tensor] = {}
        for name, (places, images) in found.items():
            if len(places):
                tensors |= {PLACES + name: places, name: images.contiguous()}
        if not tensors:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self._folder} could not be written: {error.strerror}; earlier batches are kept") from None
        if self._written is None:
            self._written = len(list(self._folder.glob(f"{self._own}-*.safetensors")))
        write_whole(self._folder / f"{self._own}-{self._written:06}.safetensors", sealed(tensors, {}))
        self._written += 1

    def get(self, name: str) -> tuple[Tensor, Tensor]:
        """See ``Kept``."""
        here = (tensors for tensors in self._files() if name in tensors.keys())  # noqa: SIM118
        return _joined([(tensors.get_tensor(PLACES + name), tensors.get_tensor(name)) for tensors in here])

    def _files(self) -> Iterator[Any]:
        for path in sorted(self._folder.glob(f"{self._key}-*.safetensors")):
            if path not in self._whole:
                self._whole[path] = is_whole(path)
            if self._whole[path]:  # of one that is damaged the images are found again
                with safe_open(path, "pt") as tensors:
                    yield tensors


def extremes(margins: Tensor, few: int) -> tuple[Tensor, Tensor]:
    """The places, int64 [n], of the images that are most and of those that are least easily fooled: the ``few`` of the
    smallest margins that are positive, and the ``few`` of the largest, none of which is among those."""
    places = torch.nonzero(margins > 0).flatten()
    ordered = places[margins[places].sort(stable=True).indices]
    first = ordered[:few]
    return first, ordered[len(first) :][-few:]


def composed(
    name: str, outcomes: Outcomes, get: Callable[[str], tuple[Tensor, Tensor]], places: Tensor, clean: Tensor
) -> Tensor:
    """The images that decided what came of some images under an attack, [n, C, H, W].

    Args:
        name: of the attack.
        outcomes: of all images.
        get: gives what is kept of an attack or of a stage.
        places: int64 [n], of the images.
        clean: the images themselves, [n, C, H, W], in the place of those that are not kept.
    """
    found = clean.clone()
    row = torch.full((len(outcomes.correct[name]),), -1, dtype=torch.int64, device="cpu")
    row[places] = torch.arange(len(places), device="cpu")
    stages = outcomes.stages.get(name)
    for i, part in enumerate(stages or (name,)):
        kept, images = get(part)
        chosen = row[kept] >= 0
        if stages is not None:
            chosen &= outcomes.decided[name][kept] == i
        for to, source in zip(row[kept[chosen]].tolist(), torch.nonzero(chosen).flatten().tolist(), strict=True):
            found[to] = images[source]  # the later one where there are two
    return found


def _joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if not batches:
        return torch.zeros(0, dtype=torch.int64, device="cpu"), torch.zeros(0, device="cpu")
    places, images = zip(*batches, strict=True)
    return torch.cat(places), torch.cat(images)
