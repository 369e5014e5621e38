"""What a model's logits must be, and what of them says that attacks may not be believed."""

import torch
from torch import Tensor

from fastait.attacks import Subject
from fastait.attacks.columns import Column
from fastait.evaluation.batches import tried
from fastait.runtime.arguments import count
from fastait.runtime.errors import InputError
from fastait_kernels._support import FLOAT_DTYPES, described

RANDOM = 1e-4
"""How far two passes' logits, each of norm one, lie apart if the model is random (AutoAttack's library has this)."""

REMEDY = "attack it by autoattack-rand, or by eotN- attacks, whose gradients are means of N"


def check_logits(logits: Tensor, classes: int | None = None, *, of: str = "the model") -> None:
    """Raise an InputError unless ``logits`` are finite, [B, K], no probabilities, and K is ``classes``."""
    if not isinstance(logits, Tensor):
        raise InputError(f"{of} returns {described(logits)} where logits [B, K] are needed")
    if logits.dim() != 2 or logits.dtype not in FLOAT_DTYPES:
        raise InputError(
            f"{of} returns {described(logits)} where logits [B, K], floating-point of 16, 32 or 64 bits, are needed"
        )
    if classes is not None and logits.shape[1] != count("classes", classes):
        raise InputError(f"{of} tells {logits.shape[1]} classes apart, the data set has {classes}")
    if not bool(logits.isfinite().all()):
        raise InputError(f"{of} returns NaN or infinity for clean images")
    rows = logits.sum(dim=1)
    if len(logits) and bool((logits >= 0).all()) and bool((rows - 1).abs().max() < 1e-3):
        raise InputError(f"{of} returns probabilities; attacks need logits, from before the softmax")


def check_surrogate(surrogate: Subject, sample: Tensor) -> None:
    """Raise an InputError unless ``surrogate`` takes images like ``sample`` and returns logits."""
    device, dtype = surrogate.placement(sample)
    if (device, dtype) != (sample.device, sample.dtype):
        raise InputError(
            f"the surrogate is on {device} in {dtype}, the model on {sample.device} in {sample.dtype}; "
            "bring both to one device and type"
        )
    with torch.no_grad():
        check_logits(tried(surrogate, sample), of="the surrogate")


def random_model(model: Subject, sample: Tensor, logits: Tensor, columns: list[Column]) -> str:
    """A line if a model returns other logits than ``logits`` for ``sample``, and a column takes it for one that does
    not; empty if all is well."""
    if all(map(_made_for_it, columns)):
        return ""
    with torch.no_grad():
        again = tried(model, sample)
    if len(again) != len(logits):
        return ""
    first, second = (rows.double() / (rows.double().norm(dim=1, keepdim=True) + 1e-10) for rows in (logits, again))
    if not bool((first - second).norm(dim=1).max() > RANDOM):
        return ""
    return f"the model is random, two passes of an image differ: its single gradients are noise, {REMEDY}"


def _made_for_it(column: Column) -> bool:
    """Whether a column is for random models, or asks for no gradients."""
    if column.kind == "union":
        return all(map(_made_for_it, column.parts))
    if column.ascent is not None:
        return column.ascent.eot > 1
    return column.black_box or column.name == "autoattack-rand"
