"""How images are laid out in memory and how many are attacked together, where nobody says."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastait.attacks import Subject, frozen
from fastait.attacks.subject import PROBED
from fastait.data import ImageSet

GPU_BATCH = 500

CACHED_BYTES = 1 << 21
"""On a CPU the widest activation of a batch is at most this large, so that it stays in the cache until it is wanted.
Measured on 2 cores of an AMD EPYC (Zen 4), PGD on WRN-10-1: at 32x32, 32 images together are up to 1.4 times as fast as
128; at 16x16, 128 are 1.3 times as fast as 32. Both are what this size says."""


def default_batch_size(model: Any, images: ImageSet) -> int:
    """``GPU_BATCH``, or on a CPU what fits its cache: a multiple of four, at least 8."""
    subject = Subject.of(model)
    device, dtype = subject.placement(images.images)
    if device.type != "cpu":
        return GPU_BATCH
    places = torch.zeros(PROBED, dtype=torch.int64, device=images.labels.device)
    widest = _widest_activation(subject, images.floats(places, device, dtype))
    return max(8, CACHED_BYTES // max(1, widest) // 4 * 4)


def _widest_activation(model: Subject, x: Tensor) -> int:
    """The most bytes that an operation of ``model`` returns for an image of ``x``, [n, C, H, W]."""
    # Hooks would miss what is no module, and traced modules refuse them.
    with frozen(model), torch.no_grad(), torch.compiler.set_stance("force_eager"), _Widest(len(x)) as seen:
        model(x.contiguous())
    return seen.nbytes // len(x)


class _Widest(TorchDispatchMode):
    """Watches this thread's operations for the largest result that has a row for each image."""

    def __init__(self, images: int):
        super().__init__()
        self.images = images
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for result in output if isinstance(output, tuple | list) else (output,):
            if isinstance(result, Tensor) and result.shape[:1] == (self.images,):
                self.nbytes = max(self.nbytes, result.nbytes)
        return output


def memory_format(model: nn.Module, x: Tensor) -> torch.memory_format:
    """Channels-last, which convolutions are fastest on, or contiguous for a model that cannot take its images so.

    The weights stay laid out as they are: another thread may be in a pass of the model, which reads them where they
    lie. A convolution brings them to its images' format itself, which costs little beside a batch.

    Args:
        model: in eval mode.
        x: a few images of its kind.
    """
    try:
        with torch.no_grad():
            model(x.contiguous(memory_format=torch.channels_last))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # it calls view() on what only a contiguous image makes viewable
        return torch.contiguous_format
    return torch.channels_last
