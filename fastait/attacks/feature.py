"""The feature attack: towards another image in feature space, with full knowledge of how adv-interp trains."""

from typing import Any

import torch
from torch import Tensor

from fastait.attacks.subject import Subject
from fastait.attacks.trajectory import Objective
from fastait.runtime.randomness import derive
from fastait_kernels import cosine_distance


def towards(model: Any, target_images: Tensor) -> Objective:
    """Ascend minus the cosine distance to the features of ``target_images``, float [B, C, H, W] in [0, 1].

    Raises:
        TypeError, InputError: the model has no features, or they are no tensor.
    """
    features = Subject.of(model).features
    with torch.no_grad():
        targets = features(target_images).flatten(1)

    def objective(images: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        return -cosine_distance(features(images).flatten(1), targets[rows], reduction="none"), None

    return objective


def targets(labels: Tensor, seed: int, restart: int) -> Tensor:
    """For each image the place of another one of another class: int64 [N] for ``labels``, int64 [N].

    A function of (seed, restart, place), so that every batch and every resumed evaluation finds the same. An image
    whose class is the only one is its own target.
    """
    labels = labels.cpu()
    generator = torch.Generator("cpu").manual_seed(derive(seed, "feature targets", restart))
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    others = len(labels) - counts[labels]
    # The n-th image that is not of class c, in the order of classes, comes after all of c's if it is not before them.
    pick = (torch.rand(len(labels), generator=generator, dtype=torch.float64, device=labels.device) * others).long()
    pick = torch.where(pick >= first[labels], pick + counts[labels], pick)
    return torch.where(
        others > 0, by_class[pick.clamp(max=len(labels) - 1)], torch.arange(len(labels), device=labels.device)
    )
