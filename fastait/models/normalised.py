"""Other people's networks on images in [0, 1]: they normalise first, and their parameters' names stay."""

from collections.abc import Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn


def normalised(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """``model``, whose ``forward`` is from now on of images in [0, 1], which become (x - mean) / std first.

    It is the same object, of a subclass of its class, with buffers ``image_mean`` and ``image_std``, [3, 1, 1], that
    its state dict leaves out; torch.fx, torch.jit, copying and pickling see what they see of any module. What its class
    has besides ``forward``, such as timm's ``forward_features``, takes normalised images as before.
    """
    for name, values in (("image_mean", mean), ("image_std", std)):
        buffer = torch.tensor(values, dtype=torch.float32)[:, None, None]
        model.register_buffer(name, buffer, persistent=False)
    model.__class__ = _subclass(type(model))  # type: ignore[arg-type]
    return model


@cache
def _subclass(base: type[nn.Module]) -> type[nn.Module]:
    members = {
        "forward": _forward,
        "forward_normalised": _renamed(base.forward, "forward_normalised"),
        "__reduce_ex__": _reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (base,), members)


def _renamed(function: Any, name: str) -> Any:
    """A function of the same code: torch.jit compiles what is called by the function's own name."""
    if not isinstance(function, FunctionType):
        return function
    copy = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, function.__annotations__
    return copy


def _forward(self: Any, x: Tensor) -> Tensor:
    """Logits [B, K] of images [B, 3, H, W] in [0, 1]."""
    return self.forward_normalised((x - self.image_mean) / self.image_std)


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    return _blank, (type(self).__base__,), self.__getstate__()


def _blank(base: type[nn.Module]) -> nn.Module:
    subclass = _subclass(base)  # type: ignore[arg-type]
    return subclass.__new__(subclass)
