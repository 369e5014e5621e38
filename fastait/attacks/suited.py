"""How a batch is best brought to a model: how it is laid out in memory, and how many images at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastait.attacks.checks import readable
from fastait.attacks.frozen import frozen
from fastait.attacks.subject import Subject
from fastait.models.apart import Draws
from fastait.models.features import PROBED
from fastait.runtime.eager import eagerly
from fastait.runtime.memory import ran_out
from fastait.runtime.precision import in_tf32
from fastait.runtime.threads import core_cache

FEW = 8
"""No fewer images than this together; and so few are not worth a try of what suits a model."""


class Suited(NamedTuple):
    """What suits a model.

    Attributes:
        layout: of its images; None as they are.
        together: so many images at a time at most; None for all.
    """

    layout: torch.memory_format | None = None
    together: int | None = None

    def laid(self, x: Tensor) -> Tensor:
        """``x`` in this layout; itself if it is."""
        return x if self.layout is None else x.contiguous(memory_format=self.layout)

    def both(self, other: "Suited") -> "Suited":
        """What suits two models."""
        counts = [count for count in (self.together, other.together) if count is not None]
        return Suited(self.layout if self.layout == other.layout else None, min(counts, default=None))


def like(images: Tensor, x: Tensor) -> Tensor:
    """``images`` laid out as ``x``; themselves if they are."""
    return images if images.stride() == x.stride() else torch.empty_like(x).copy_(images)


def suited(subject: Subject, x: Tensor) -> Suited:
    """What suits ``subject`` for images like ``x``, float [B, C, H, W]: nothing of it changes what is computed.

    A pass of two images finds out, once for each model, size, type and device. A model that draws random numbers draws
    them for the images as they are; so does what runs where no value can be read, as in a captured graph.
    """
    if len(x) <= FEW or not readable(x):
        return Suited()
    autocast, threads = torch.is_autocast_enabled(x.device.type), torch.get_num_threads()
    key = (x.shape[1:], x.dtype, x.device, autocast, threads, *map(id, subject.parameters()))
    try:
        known = _known.setdefault(subject.called, {})
    except TypeError:  # of a type that nothing can be remembered of
        known = {}
    if key not in known:
        known[key] = _tried(subject, x[:PROBED])
    return known[key]


_known: "WeakKeyDictionary[Any, dict[Any, Suited]]" = WeakKeyDictionary()


def _tried(subject: Subject, x: Tensor) -> Suited:
    if hasattr(subject.called, "reseed"):
        return Suited()
    with frozen(subject), Draws(0):
        layout = memory_format(subject, x)
        seen = watched(subject, x.contiguous(memory_format=layout))
    if seen.draws:
        return Suited()
    return Suited(layout, images_cached(seen.widest) if x.device.type == "cpu" else None)


def images_cached(nbytes: int) -> int:
    """How many images stay in a CPU's cache of which each needs so many bytes: a multiple of four, at least 8."""
    return max(FEW, cached_bytes() // max(1, nbytes) // 4 * 4)


def cached_bytes() -> int:
    """How large the widest activation of a batch on a CPU may be to stay in the cache until it is wanted: as large as
    the second-level caches of the cores that work on it.

    Measured, gradients: on 2 cores of an AMD EPYC (Zen 4, 1 MB each), WRN-10-1 of 32x32, 32 images together are up to
    1.4 times as fast as 128, of 16x16 128 are 1.3 times as fast as 32. On an Intel Xeon (Sapphire Rapids, 2 MB each),
    WRN-16-2 of 32x32: with one core an image takes 4.94 ms with 16 together, 5.16 with 32, 5.33 with 64; with two 2.32,
    2.13 and 1.96 in one run, 2.39, 2.33 and 2.67 in another; ResNet-18 15.3 ms with 8, 13.5 with 16.
    """
    return torch.get_num_threads() * core_cache()


def memory_format(model: nn.Module, x: Tensor, tf32: bool = False) -> torch.memory_format:
    """Channels-last, which convolutions are fastest on; contiguous for a model that cannot take its images so.

    And on a GPU that computes in fp32 proper, where tensor cores have no part: on an H100, ResNet-18 takes 256 images
    forwards and backwards in 27.2 ms contiguous and in 30.5 channels-last; in TF32, folded, in 7.0 and 4.9.

    The weights stay laid out as they are: another thread may be in a pass of the model, which reads them where they
    lie. A convolution brings them to its images' format itself, which costs little beside a batch.

    Args:
        model: in eval mode.
        x: a few images of its kind.
        tf32: whether it is to be in TF32, whatever torch's switches say now.
    """
    proper = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    if x.device.type == "cuda" and proper and not (tf32 or in_tf32(x.device)):
        return torch.contiguous_format
    try:
        with torch.no_grad():
            model(x.contiguous(memory_format=torch.channels_last))
    except RuntimeError as error:  # it calls view() on what only a contiguous image makes viewable
        if ran_out(error):
            raise
        return torch.contiguous_format
    return torch.channels_last


def widest_activation(model: Any, x: Tensor) -> int:
    """The most bytes that an operation of ``model`` returns for an image of ``x``, float [n, C, H, W], n >= 2."""
    with frozen(model):
        return watched(model, x.contiguous()).widest


class Watched(TorchDispatchMode):
    """Watches this thread's operations on so many images.

    Attributes:
        widest: the most bytes for an image of any result that has a row for each.
        draws: whether there was an operation that draws random numbers.
    """

    def __init__(self, images: int):
        super().__init__()
        self.images = images
        self.widest = 0
        self.draws = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.draws = self.draws or torch.Tag.nondeterministic_seeded in func.tags
        output = func(*args, **(kwargs or {}))
        for result in output if isinstance(output, tuple | list) else (output,):
            if isinstance(result, Tensor) and result.shape[:1] == (self.images,):
                self.widest = max(self.widest, result.nbytes // self.images)
        return output


def watched(model: Callable[[Tensor], Any], x: Tensor) -> Watched:
    """What there is to see in a pass of ``x``, without gradients and as the model was written."""
    # Hooks would miss what is no module, and traced modules refuse them.
    with torch.no_grad(), eagerly(), Watched(len(x)) as seen:
        model(x)
    return seen
