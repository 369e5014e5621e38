"""How images are laid out in memory and how many are attacked together, where nobody says."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastait.attacks import frozen
from fastait.data import ImageSet
from fastait.errors import InputError

GPU_BATCH = 500

CACHED_BYTES = 1 << 21
"""On a CPU the widest activation of a batch is at most this large, so that it stays in the cache until it is wanted.
Measured on 2 cores of an AMD EPYC (Zen 4), PGD on WRN-10-1: at 32x32, 32 images together are up to 1.4 times as fast as
128; at 16x16, 128 are 1.3 times as fast as 32. Both are what this size says."""


def placement(model: nn.Module) -> Tensor:
    """A parameter of ``model``, whose device and dtype images are brought to.

    Raises:
        InputError: it has none.
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise InputError(f"{type(model).__name__} has no parameters, so there is nothing to say where images belong")
    return parameter


def default_batch_size(model: nn.Module, images: ImageSet) -> int:
    """``GPU_BATCH``, or on a CPU what fits its cache: a multiple of four, at least 8."""
    weight = placement(model)
    if weight.device.type != "cpu":
        return GPU_BATCH
    widest = _widest_activation(model, images.floats(torch.zeros(1, dtype=torch.int64), weight.device, weight.dtype))
    return max(8, CACHED_BYTES // max(1, widest) // 4 * 4)


def _widest_activation(model: nn.Module, x: Tensor) -> int:
    """The most bytes that a module of ``model`` returns for the image ``x``, [1, C, H, W]."""
    largest = 0

    def look(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    try:
        with frozen(model), torch.no_grad():
            model(x.contiguous())
    finally:
        for hook in hooks:
            hook.remove()
    return largest


@contextmanager
def channels_last(model: nn.Module, x: Tensor) -> Iterator[torch.memory_format]:
    """Lay the model's weights out channels-last, which convolutions are fastest in, and put them back afterwards.

    Yields the format that images should have: channels-last, or contiguous for a model that cannot take them so.

    Args:
        model: in eval mode.
        x: a few images of its kind.
    """
    before = [(weight, weight.data) for weight in model.parameters() if weight.dim() == 4]
    try:
        for weight, data in before:
            weight.data = data.contiguous(memory_format=torch.channels_last)
        try:
            with torch.no_grad():
                model(x.contiguous(memory_format=torch.channels_last))
            usable = torch.channels_last
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # it calls view() on what only a contiguous image makes viewable
            for weight, data in before:
                weight.data = data
            usable = torch.contiguous_format
        yield usable
    finally:
        for weight, data in before:
            weight.data = data
