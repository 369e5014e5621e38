"""What is measured after each epoch: which weights are the best, and whether the training has collapsed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastait.config import TrainConfig
from fastait.data import Dataset, ImageSet
from fastait.evaluation import evaluate
from fastait.runtime.processes import Ranks

BEST_BY = "pgd10"
"""What the best epoch is chosen by, on the images that are held out: ten steps of a quarter of epsilon."""

SEEN_BY = ("fgsm", "pgd10")
"""What shows a collapse: the one goes up and the other down."""

IMAGES = 256
"""Of the training set, that are measured where none are held out."""

SHARE = 0.5
"""A collapse: PGD-10 below this share of FGSM and below this share of its own best so far."""


class Watch:
    """A run's eyes after each epoch.

    Args:
        config: of the run.
        model: as it is trained.
        averaged: the same network, to hold its averaged weights; None without ``--ema``.
        images: what is measured, for the network on its own device.
        held_out: whether these are held out, so that the best epoch can be chosen by them.
        note: called with a line for the user.
        ranks: the processes that share the images.

    Attributes:
        best: epoch, figures and weights of the epoch that held-out images are withstood in best, averaged weights where
            there are such; None before the first epoch, or without such images.
        most: the highest accuracy under PGD-10 so far.
        collapsed: the epoch that the first collapse was seen after; None if none was.
        before: the weights after the epoch before the last one, or before the collapse once there was one.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        images: ImageSet,
        *,
        held_out: bool,
        note: Callable[[str], None],
        ranks: Ranks,
    ):
        self.config, self.model, self.images, self.held_out = config, model, images, held_out
        self.note, self.ranks = note, ranks
        self.best: dict[str, Any] | None = None
        self.most = 0.0
        self.collapsed: int | None = None
        self.before: dict[str, Tensor] | None = None
