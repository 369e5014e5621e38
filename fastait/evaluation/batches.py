"""How many images are attacked together: what fits, and what fits after all."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fastait.attacks import Subject, frozen
from fastait.attacks.suited import images_cached, widest_activation
from fastait.data import ImageSet
from fastait.models.features import PROBED
from fastait.runtime.eager import eagerly
from fastait.runtime.errors import OutOfMemory, first_line
from fastait.runtime.memory import free_bytes, ran_out, release
from fastait.runtime.precision import full_precision
from fastait.runtime.processes import Ranks

T = TypeVar("T")

GPU_BATCH = 500
"""Images at a time on a GPU, at most, however much memory it has. A batch is what a kill can cost, and so many small
images are work enough: in WRN-28-10's last layers, 8x8 pixels and 640 channels each, 1,250 tiles of 128x128."""

SHARE = 0.8
"""Of a GPU's free memory, for activations. The rest is for the copies of the images that an attack holds, for
convolutions' workspaces, and for pieces too small to be of use."""

WORKING = 4
"""Of the widest activation, besides those that a backward pass needs: an operation's result, the gradients on both of
its sides, and what it needs itself."""

SHARED = 16
"""Images that fall to one of several processes in turn, so that a set sorted by class is shared out evenly."""


def default_batch_size(model: Any, images: ImageSet, passes: int = 1) -> int:
    """On a CPU what fits its cache: a multiple of four, at least 8. On a GPU what fits its memory, see ``fitting``.

    Args:
        model: what is attacked; left as it was.
        images: some of these are tried.
        passes: how many passes' activations an attack holds at once.
    """
    subject = Subject.of(model)
    device, dtype = subject.placement(images.images)
    places = torch.zeros(2 * PROBED, dtype=torch.int64, device=images.labels.device)
    try:
        with full_precision(device), torch.inference_mode(False):
            x = images.floats(places, device, dtype)
            if device.type == "cpu":
                return images_cached(widest_activation(subject, x[:PROBED]))
            if device.type != "cuda":
                return GPU_BATCH
            return fitting(bytes_per_image(subject, x, passes), free_bytes(device))
    except Exception as error:
        if not ran_out(error):
            raise
    release()
    return 1


def fitting(needs: int, free: int) -> int:
    """How many images that need so many bytes each have room in ``SHARE`` of so many free ones.

    A multiple of four from four on, at least 1, at most ``GPU_BATCH``.
    """
    return max(1, _in_fours(min(GPU_BATCH, int(SHARE * free) // max(1, needs))))


def bytes_per_image(model: Subject, x: Tensor, passes: int = 1) -> int:
    """What an image's gradient needs of memory: all that a pass saves for it, and what is worked on beside.

    Args:
        model: what is attacked.
        x: float [n, C, H, W], an even n: the difference of two passes of half and all of them says what an image needs,
            weights and whatever else is no image's left out.
        passes: how many of them are saved before a gradient is taken.
    """
    half = len(x) // 2
    saved = _saved_bytes(model, x) - _saved_bytes(model, x[:half])
    return max(0, saved) // half * passes + WORKING * widest_activation(model, x)


def _saved_bytes(model: Subject, x: Tensor) -> int:
    """What a pass of a frozen ``model`` saves for the gradient for ``x``, each piece of memory once."""
    pieces: dict[StorageWeakRef, int] = {}

    def pack(saved: Tensor) -> Tensor:
        if saved.layout == torch.strided:
            storage = saved.untyped_storage()
            pieces[StorageWeakRef(storage)] = storage.nbytes()
        return saved.detach()  # a node that kept its own output as it is would keep itself alive

    leaf = x.contiguous().detach().requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved)
    try:
        with frozen(model), torch.enable_grad(), eagerly(), hooks:
            model(leaf)
    except RuntimeError as error:
        if ran_out(error):
            raise
        return 0  # it cannot be differentiated: the attacks that need that say so, the others hold nothing
    return sum(pieces.values())


class Together:
    """How many images are worked on together: half as many from each time on that memory does not suffice.

    Args:
        size: to begin with.
        note: called once with a line about it.

    Attributes:
        size: now.
        begun: with.
    """

    def __init__(self, size: int, note: Callable[[str], None] = lambda text: None):
        self.size = self.begun = size
        self._note = note
        self._first = 0  # how many there was no room for at first, until that has been said

    @property
    def limit(self) -> int | None:
        """``size`` once memory has not sufficed; None until then."""
        return self.size if self.size < self.begun else None

    def attempt(self, work: Callable[[int], T], images: int | None = None) -> T:
        """``work(size)``, again with half of it where it runs out of memory, of which nothing must be left.

        Args:
            work: at most so many images at a time -> anything.
            images: how many there are, if ``work`` cannot have taken more.

        Raises:
            OutOfMemory: a single image is too much.
        """
        while True:
            try:
                result = work(self.size)
            except Exception as error:
                if not ran_out(error):
                    raise
                why = first_line(error)
            else:
                if self._first:
                    self._note(f"out of memory with {self._first} images at a time; {self.size} are taken from here on")
                    self._note, self._first = lambda text: None, 0
                return result
            # Not in the handler, which holds what the work had made so far.
            release()
            taken = self.size if images is None else min(self.size, images)
            if taken == 1:
                raise OutOfMemory(f"out of memory with a single image at a time ({why})")
            self._first = self._first or taken
            self.size = _in_fours(taken // 2)

    def over(self, places: Tensor, work: Callable[[Tensor], T], at_most: int | None = None) -> Iterator[T]:
        """What ``work`` makes of ``places``, int64 [n], a batch of ``size`` or ``at_most`` of them at a time.

        Raises:
            OutOfMemory: a single image is too much.
        """

        def first(size: int) -> tuple[int, T]:
            batch = places[batches(len(places), size if at_most is None else min(size, at_most))[0]]
            return len(batch), work(batch)

        while len(places):
            # Of ``at_most`` images a black box may have scored any number at a time.
            done, result = self.attempt(first, len(places) if at_most is None else None)
            places = places[done:]
            yield result


def tried(work: Callable[[Tensor], T], x: Tensor) -> T:
    """What ``work`` makes of a few images, float [n, C, H, W], or of the first of them where there is no room for all.

    Raises:
        OutOfMemory: a single image is too much.
    """
    return Together(len(x)).attempt(lambda size: work(x[:size]))


def batches(images: int, size: int) -> list[slice]:
    """Cut so many images into batches of ``size``. The last is smaller, or larger by one image that would be alone:

    a model that normalises by the batch has nothing to say of it.
    """
    firsts = range(0, images - (images > size and images % size == 1), size)
    return [slice(first, first + size) for first in firsts[:-1]] + [slice(firsts[-1], images)]


def share(images: int, ranks: Ranks) -> Tensor:
    """The places, int64 [n] on the CPU and ascending, that fall to this process; whatever its batches are."""
    at_a_time = images if ranks.size == 1 else max(2, min(SHARED, -(-images // ranks.size)))
    own = batches(images, at_a_time)[ranks.rank :: ranks.size]
    return torch.cat([torch.arange(s.start, s.stop, device="cpu") for s in own] or [torch.arange(0, device="cpu")])


def _in_fours(images: int) -> int:
    """The next smaller multiple of four, or what is smaller than four itself."""
    return images // 4 * 4 or images
