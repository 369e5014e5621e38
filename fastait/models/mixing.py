"""Mixup on the way through a network (Zhang et al., 2018; Verma et al., 2019): of its input or of what a block makes.

A network is plain ``forward(x)``. Its class says which of its submodules' outputs, [B, ...], may be mixed, by their
names from the input on: ``mixing_places = ("layer1", "layer2")``. Each is called once in a pass. Every network can be
mixed at its input.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastait.models.tapped import copied, layer_at, unwrapped


@dataclass(frozen=True)
class Partners:
    """Who is whose partner in a batch, and a function to the partners' rows.

    Attributes:
        index: int64 [B], the place of each image's partner; None in the reversed batch.
        inverse: int64 [B], whose partner each image is; None where that is not one image each.
    """

    index: Tensor | None = None
    inverse: Tensor | None = None

    def __call__(self, t: Tensor) -> Tensor:
        """The rows of each image's partner, of ``t`` [B, ...], in the same memory format."""
        return _rows(t, self.index, self.inverse)


def _rows(t: Tensor, index: Tensor | None, inverse: Tensor | None) -> Tensor:
    if index is None:
        return t.flip(0)
    return t[index] if inverse is None else _Permuted.apply(t, index, inverse)


class _Permuted(torch.autograd.Function):
    """``x[index]``, whose gradient is a gather too. An index's own is sorted first: it might not be one to one."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        return x[index]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


class Mixing(NamedTuple):
    """How a batch is mixed with its partners in one pass (Verma et al., 2019, equation 1).

    Attributes:
        layer: where: 0 is the input, i what the i-th of the network's ``mixing_places`` makes.
        own: float32 [], each image's own share.
        partners: of the batch.
    """

    layer: int
    own: Tensor
    partners: Partners

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The share, and the partners' index and its inverse: what a compiled pass takes."""
        return self.own, self.partners.index, self.partners.inverse


def mix(x: Tensor, own: Tensor, index: Tensor | None, inverse: Tensor | None) -> Tensor:
    """own x + (1 - own) x' in ``x``'s dtype; ``index`` and ``inverse`` are those of ``Partners``."""
    own = own.to(x.dtype)
    return own * x + (1 - own) * _rows(x, index, inverse)


def mixing_places(model: nn.Module) -> tuple[str, ...]:
    """The submodules whose outputs can be mixed, as the class of ``model`` says; none if it says nothing."""
    return tuple(getattr(unwrapped(model), "mixing_places", ()))


def mixed(model: nn.Module, x: Tensor, mixing: Mixing) -> Tensor:
    """The logits of images [B, C, H, W], mixed on the way. Nothing is registered in the model or left there."""
    if mixing.layer == 0:
        return model(mix(x, *mixing.tensors))
    return Mixed(model, mixing_places(model)[mixing.layer - 1])(x, *mixing.tensors)


class Mixed(nn.Module):
    """``model`` with what its submodule ``place`` makes mixed. It shares the model's parameters and buffers.

    What contains the place is copied once and for all: put this into the mode that the model is in, and make another if
    the model's modules change.

    Raises:
        RuntimeError: when called, if the place is not called once.
    """

    def __init__(self, model: nn.Module, place: str):
        super().__init__()
        self.due: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
        self.place = place
        self.model, copies = copied(model, [place])
        layer, due = layer_at(model, place), self.due

        def forward(*args: Any, **options: Any) -> Tensor:
            if not due:
                raise RuntimeError(f"{place} is called more than once in a pass, so it cannot be mixed there")
            return mix(layer.forward(*args, **options), *due.pop())

        copies[place].__dict__["forward"] = forward

    def forward(self, x: Tensor, own: Tensor, index: Tensor | None, inverse: Tensor | None) -> Tensor:
        """The logits of images [B, C, H, W], mixed by a ``Mixing``'s ``tensors``."""
        self.due.clear()
        self.due.append((own, index, inverse))
        logits = self.model(x)
        if self.due:
            raise RuntimeError(f"{self.place} is not called in a pass, so it cannot be mixed there")
        return logits
