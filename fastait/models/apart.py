"""Networks made apart from what a caller has set: random numbers of their own, in fp32, on the CPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_OF_THE_DEFAULT_TYPE = {
    _aten.empty.memory_format,
    _aten.empty_strided.default,
    _aten.zeros.default,
    _aten.ones.default,
    _aten.rand.default,
    _aten.randn.default,
    _aten.linspace.default,
}
"""What makes tensors of torch's default type if it is told no other."""

_FILLED = {_aten.rand_like.default: Tensor.uniform_, _aten.randn_like.default: Tensor.normal_}
"""What takes no generator in some of torch's versions, and what fills the same numbers in."""


class Draws(TorchDispatchMode):
    """This thread draws from generators of its own; torch's are neither read nor changed.

    The numbers are those that torch's own would give, seeded so. What no generator can be given to (``native_dropout``)
    draws from torch's.

    Args:
        seed: of what is drawn; None where nothing need be: what layers would fill with random numbers is then zero.
        dtype: of what is made without one, in place of torch's default type; that if None.
    """

    def __init__(self, seed: int | None, dtype: torch.dtype | None = None):
        super().__init__()
        self.seed = seed
        self.dtype = dtype
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.dtype is not None and func in _OF_THE_DEFAULT_TYPE and kwargs.get("dtype") is None:
            kwargs = {**kwargs, "dtype": self.dtype}
        if kwargs.get("generator") is None and torch.Tag.nondeterministic_seeded in func.tags:
            if self.seed is None and func._schema.name.endswith("_"):
                return args[0].zero_()
            generator, found = self._generator(args, kwargs), _with_generator(func)
            if generator is not None and found is not None:
                return found(*args, **{**kwargs, "generator": generator})
            if generator is not None and func in _FILLED:
                return _FILLED[func](torch.empty_like(args[0], **kwargs), generator=generator)
        return func(*args, **kwargs)

    def _generator(self, args: Sequence[Any], kwargs: Any) -> torch.Generator | None:
        own = next((value.device for value in args if isinstance(value, Tensor)), None)
        device = torch.device(own or kwargs.get("device") or "cpu")
        if device.type == "meta":  # where drawing does nothing
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed or 0)
        return self._generators[device]


def _with_generator(func: Any) -> Any:
    """The operator, or its overload, that takes a generator; None if there is none."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = func._overloadname
    return getattr(func.overloadpacket, "generator" if name == "default" else f"{name}_generator", None)


@contextmanager
def apart(seed: int | None) -> Iterator[None]:
    """What this thread makes is fp32 on the CPU and drawn from ``seed``, whatever its caller has set.

    Nobody notices: torch's generators, default type and default device stay as they are, for other threads too.

    Args:
        seed: as for ``Draws``.
    """
    # A gradient, or a tensor that no gradient can pass, is not what a caller's mode should decide either.
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), Draws(seed, torch.float32):
        yield
