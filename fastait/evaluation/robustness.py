"""Robustness of any model on any tensors, as functions for other people's code."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastait.attacks import Subject, frozen
from fastait.attacks.checks import checked_images, checked_labels
from fastait.data import FloatSet
from fastait.evaluation.batches import tried
from fastait.evaluation.evaluate import evaluate
from fastait.evaluation.kept import InMemory, composed
from fastait.evaluation.logits import check_logits
from fastait.evaluation.masking import Check, masking_report
from fastait.evaluation.outcomes import CLEAN, Outcomes
from fastait.models.features import PROBED
from fastait.runtime.arguments import number
from fastait.runtime.precision import full_precision
from fastait_kernels._support import described


def evaluate_robustness(
    model: Any,
    x: Tensor,
    y: Tensor,
    attacks: str | Sequence[str] = ("fgsm", "pgd20", "cw20"),
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    seed: int = 0,
    batch_size: int | None = None,
    surrogate: Any = None,
    compile: bool = False,
    tf32: bool = False,
    keep_images: bool = False,
) -> Outcomes:
    """Which images a model classifies correctly, clean and under attacks, in eval mode and its parameters' dtype.

    Args:
        model: logits [B, K] of images in [0, 1], as a tensor or as ``logits`` of what it returns; a module, whose
            parameters' device and type are used, or any function. ``featureT`` moves what its last linear layer is
            given, or its method ``features(x)``. Left as it was; several threads may evaluate one model.
        x: float [N, C, H, W] in [0, 1].
        y: whole numbers [N], the true classes: a tensor, an array or a list.
        attacks: names, see ``fastait.attacks.columns``: ``pgd100``, ``cw-min``, ``autoattack``, ...; as a sequence, or
            as one text with commas between.
        epsilon: radius of the Linf ball, in (0, 1].
        step_size: of gradient attacks, > 0; FGSM's is epsilon.
        seed: of everything random.
        batch_size: images at a time; None for what suits the device. Fewer, with a RuntimeWarning, where memory does
            not suffice.
        surrogate: the model that ``transfer-`` attacks are made on.
        compile: attacks search by passes through torch.compile: faster from some minutes of work on. An image counts as
            fooled only if the model as it was given says so too of that very image; else the attack goes on. What
            cannot be compiled runs as it is, with a RuntimeWarning.
        tf32: attacks may search in TF32 on a GPU; the same holds. Elsewhere it changes nothing.
        keep_images: whether ``.images["pgd20"]`` of what is returned is to have the adversarial images.

    Returns:
        Outcomes per image: ``.correct["pgd20"]`` is bool [N], ``.accuracy()`` the percentages. What speaks against them
        is in ``.warnings`` and raised as a RuntimeWarning.

    Raises:
        OutOfMemory: a single image is too much for the device's memory.
        TypeError: ``x`` is not floating-point or ``y`` no whole numbers.
        ValueError: a shape, a value of ``x`` or ``y``, or a number is out of its range.
        InputError: an attack's name is wrong, something that it needs is missing, or the model returns no logits.
    """
    epsilon = number("epsilon", epsilon, 0, 1, above=True)
    if isinstance(attacks, str):
        attacks = [name.strip() for name in attacks.split(",") if name.strip()]
    elif isinstance(attacks, Iterable):
        attacks = list(attacks)
    kept = InMemory() if keep_images else None
    with torch.inference_mode(False):
        images = _checked(model, x, y)
        outcomes = evaluate(
            model,
            images,
            attacks,
            epsilon=epsilon,
            step_size=step_size,
            seed=seed,
            batch_size=batch_size,
            surrogate=surrogate,
            compile=compile,
            tf32=tf32,
            kept=kept,
            note=_warn,
            caution=_warn,
        )
        if kept is not None:
            outcomes = replace(outcomes, images=_images(outcomes, kept, images, Subject.of(model)))
    for name, rows in outcomes.not_finite.items():
        warnings.warn(
            f"{name}: the logits of {int(rows.sum())} of {len(rows)} images are NaN or infinite; none of them counts "
            "as classified correctly",
            RuntimeWarning,
            stacklevel=2,
        )
    return outcomes


def masking_signs(
    model: Any,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float = 8 / 255,
    seed: int = 0,
    batch_size: int | None = None,
    surrogate: Any = None,
    compile: bool = False,
) -> list[Check]:
    """``masking_report`` on tensors; they and ``compile`` are as for ``evaluate_robustness``."""
    epsilon = number("epsilon", epsilon, 0, 1, above=True)
    with torch.inference_mode(False):
        images = _checked(model, x, y)
        return masking_report(
            model,
            images,
            epsilon=epsilon,
            seed=seed,
            batch_size=batch_size,
            surrogate=surrogate,
            compile=compile,
            note=_warn,
        )


def _images(outcomes: Outcomes, kept: InMemory, images: FloatSet, model: Subject) -> dict[str, Tensor]:
    places, (_, dtype) = torch.arange(len(images), device="cpu"), model.placement(images.images)
    clean = images.images.to("cpu", dtype)
    return {name: composed(name, outcomes, kept.get, places, clean) for name in outcomes.correct if name != CLEAN}


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _checked(model: Any, x: Any, y: Any) -> FloatSet:
    x = checked_images(x)
    if x.is_meta:
        raise TypeError(f"x must have values, got {described(x)}")
    y = checked_labels(y, x).cpu()
    if not len(x):
        raise ValueError("x must hold at least one image, got none")
    subject = Subject.of(model)
    device, dtype = subject.placement(x)
    with full_precision(device), frozen(subject), torch.no_grad():
        logits = tried(subject, x[:PROBED].to(device, dtype).contiguous())
    check_logits(logits)
    if int(y.max()) >= logits.shape[1]:
        raise ValueError(f"y must be in [0, {logits.shape[1]}), got {int(y.min())} to {int(y.max())}")
    return FloatSet(x, y)
