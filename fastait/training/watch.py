"""What is measured after each epoch: which weights are the best, and whether the training has collapsed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastait.checkpoints.folder import WEIGHTS
from fastait.config import TrainConfig
from fastait.data import Dataset, ImageFiles, ImageSet
from fastait.evaluation import evaluate
from fastait.methods import METHODS
from fastait.runtime.processes import Ranks
from fastait.training.averaged import Averaged

WATCHED = "pgd10"
"""What the best epoch is chosen by, on the images that are held out: ten steps of a quarter of epsilon."""

IMAGES = 256
"""Of the training set, that are measured where none are held out."""

SHARE = 0.5
"""A collapse is PGD-10 below this share of FGSM, and below this share of its own best so far."""


class Watch:
    """Measures a run after each of its epochs.

    A network that is trained by single steps can lose its robustness within an epoch, to an attack that it has learnt
    to mislead: accuracy under FGSM jumps, under PGD it falls to zero (Wong et al., 2020). So both are measured, of
    methods that attack, and the weights of the epoch before are kept.

    Args:
        config: of the run.
        model: as it is trained.
        averaged: its averaged weights; None if there are none.
        held_out: images that the best weights are chosen by, the network's or averaged ones; None if there are none.
        trained_on: images that are measured where none are held out.
        note: called with a line for the user.
        ranks: the processes that share the images.

    Attributes:
        best: epoch and weights of the best, whether they are averaged, and their PGD-10 accuracy in percent; None
            before there are such.
        most: the highest accuracy under PGD-10 so far, in percent.
        before: the network's weights after the last epoch that was no collapse.
        collapsed: the first epoch that was one; None if none was.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        averaged: Averaged | None,
        held_out: ImageSet | None,
        trained_on: ImageSet,
        note: Callable[[str], None],
        ranks: Ranks,
    ):
        self.config, self.model, self.averaged = config, model, averaged
        self.held_out, self.trained_on = held_out, trained_on
        self.note, self.ranks = note, ranks
        self.attacks = METHODS[config.method].attacks
        self.best: dict[str, Any] | None = None
        self.most = 0.0
        self.before: dict[str, Tensor] | None = None
        self.collapsed: int | None = None

    def measure(self, epoch: int) -> dict[str, Any]:
        """What came of ``epoch``, counted from 1: how many images, accuracies in percent, if it is a collapse."""
        found: dict[str, Any] = {}
        kind, images = ("train", self.trained_on) if self.held_out is None else ("val", self.held_out)
        if self.attacks:
            seen = self._accuracy(self.model, images, ("fgsm", WATCHED))
            found |= {f"{kind}_{name}": accuracy for name, accuracy in seen.items()}
            found |= self._compare(epoch, seen["fgsm"], seen[WATCHED])
        if self.held_out is not None:
            self._choose(epoch, found)
        return {f"{kind}_images": len(images), **found} if found else found

    def said(self, record: dict[str, Any]) -> str:
        """The end of an epoch's line: what was measured after it."""
        if self.held_out is None:
            return f"  PGD-10 {record[f'train_{WATCHED}']:.1f} %" if self.attacks else ""
        averaged = "" if self.averaged is None else f", averaged {_shown(record, 'val_ema')}"
        return f"  held out: {_shown(record, 'val')}{averaged}"

    def _compare(self, epoch: int, fgsm: float, pgd: float) -> dict[str, bool]:
        collapse = pgd < SHARE * fgsm and pgd < SHARE * self.most
        if not collapse:
            self.most = max(self.most, pgd)
            if self.collapsed is None:
                self.before = _copied(self.model.state_dict())
            return {}
        if self.collapsed is None:
            self.collapsed = epoch
            self.note(
                f"warning: the training has collapsed in epoch {epoch}: {fgsm:.1f} % withstand FGSM and {pgd:.1f} % "
                f"PGD-10, {self.most:.1f} % before; {WEIGHTS['before-collapse']} keeps the weights of the epoch before"
            )
        return {"collapsed": True}

    def _choose(self, epoch: int, found: dict[str, Any]) -> None:
        """Keep the best weights; ``found`` takes up what they are chosen by."""
        assert self.held_out is not None
        candidates = {"val": self.model.state_dict()}
        if self.averaged is not None:
            candidates["val_ema"] = self.averaged.state_dict()
        for kind, weights in candidates.items():
            if f"{kind}_{WATCHED}" not in found:
                with holding(self.model, None if kind == "val" else weights):
                    accuracy = self._accuracy(self.model, self.held_out, (WATCHED,))
                found |= {f"{kind}_{name}": value for name, value in accuracy.items()}
            figure = found[f"{kind}_{WATCHED}"]
            if self.best is None or figure > self.best[WATCHED]:
                averaged = kind == "val_ema"
                self.best = {"epoch": epoch, "averaged": averaged, WATCHED: figure, "weights": _copied(weights)}

    def _accuracy(self, model: nn.Module, images: ImageSet, attacks: Sequence[str]) -> dict[str, float]:
        epsilon = self.config.epsilon
        outcomes = evaluate(
            model,
            images,
            attacks,
            epsilon=epsilon,
            step_size=epsilon / 4 or 2 / 255,
            seed=self.config.seed,
            note=self.note,
            ranks=self.ranks,
        )
        return {name: round(accuracy, 2) for name, accuracy in outcomes.accuracy().items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"best": self.best, "most": self.most, "before": self.before, "collapsed": self.collapsed}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        for name in self.state():
            setattr(self, name, state[name])


def _shown(record: dict[str, Any], kind: str) -> str:
    return f"clean {record[f'{kind}_clean']:.1f} %, PGD-10 {record[f'{kind}_{WATCHED}']:.1f} %"


def few(dataset: Dataset, places: Tensor) -> ImageSet:
    """``IMAGES`` of the training images at ``places``, int64 [n], or all where there are no more; spread evenly."""
    count = min(IMAGES, len(places))
    chosen = places[torch.arange(count) * len(places) // count]
    train: ImageSet | ImageFiles = dataset.train
    return train.at(chosen)


@contextmanager
def holding(model: nn.Module, weights: dict[str, Tensor] | None) -> Iterator[None]:
    """Within, ``model`` has other weights, in its own tensors; afterwards, its own bits. None for its own.

    Not in a copy: some networks cannot be copied, such as those whose weights torch's hooks make in each pass.
    """
    own = None if weights is None else _copied(model.state_dict())
    try:
        if weights is not None:
            model.load_state_dict(weights)
        yield
    finally:
        if own is not None:
            model.load_state_dict(own)


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
