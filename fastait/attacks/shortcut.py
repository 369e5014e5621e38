"""A faster form of a model, for attacks to search by; what they find is judged by the model itself."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastait.attacks.folded import folded, hooked
from fastait.attacks.subject import Subject, feature_tensor
from fastait.attacks.suited import watched
from fastait.models.apart import Draws
from fastait.models.features import feature_function, logits_of, own_features
from fastait.runtime.errors import words
from fastait.runtime.memory import ran_out
from fastait.runtime.precision import tf32_alone

Note = Callable[[str], None]
Pass = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] -> logits or features [B, ...]."""


class Shortcut(Subject):
    """``subject`` with compiled passes, or in TF32, or both. Logits and features are nearly those of the subject.

    What cannot be compiled, forwards or backwards, runs as it was written from then on, which is noted.

    Args:
        subject: frozen wherever it is attacked.
        layout: of the images that passes are compiled for.
        by: the same network in a form whose passes to the logits are to be taken; its own if None.
        compile: whether torch.compile compiles them: at their first call, for all numbers of images.
        tf32: whether a GPU may use TF32, forwards and backwards.
        note: called with a line for the user.
    """

    def __init__(
        self,
        subject: Subject,
        layout: torch.memory_format,
        *,
        by: nn.Module | None = None,
        compile: bool = False,
        tf32: bool = False,
        note: Note = lambda text: None,
    ):
        super().__init__(subject.called, subject.classes)
        self.before, subject = subject.before, Subject(subject.called, subject.classes)
        network = subject if by is None else Subject(by, subject.classes)
        arithmetic = tf32_alone if tf32 else _as_it_is
        way = _Way(subject.title, layout, arithmetic, note)
        compiled = (lambda x: _compiled(subject.called, network.called, x)) if compile else None
        self._logits = _Pass(way, network.forward, compiled)
        self._features = _Pass(way, subject.features, (lambda x: _compiled_features(subject, x)) if compile else None)

    def forward(self, x: Tensor) -> Tensor:
        """See ``Subject``."""
        if self.before is not None:
            self.before(x)
        return self._logits(x)

    def features(self, x: Tensor) -> Tensor:
        """See ``Subject``."""
        if self.before is not None:
            self.before(x)
        return self._features(x)


@dataclass(frozen=True)
class _Way:
    """How passes of a model are made: what it is called, the images' layout, the arithmetic, and whom to tell."""

    title: str
    layout: torch.memory_format
    arithmetic: Callable[[torch.device], AbstractContextManager[None]]
    note: Note


class _Pass:
    """A pass of a model: compiled while that works, then as it was written.

    Args:
        way: how it is made.
        written: the model's own.
        compiled: images -> the same compiled, called once; None if it is not to be.
    """

    def __init__(self, way: _Way, written: Pass, compiled: Callable[[Tensor], Pass] | None):
        self.way, self.written, self.make = way, written, compiled
        self.compiled: Pass | None = None
        self.most = 0

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Differentiable.apply(x, self)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        """What the pass makes of ``x``, differentiable if that is."""
        with self.way.arithmetic(x.device):
            if self.make is not None and len(x):
                try:
                    self.compiled = self.compiled or self.make(x)
                    return self.compiled(self._padded(x))[: len(x)]
                except Exception as error:
                    self.give_up(error)
            return self.written(x)

    def give_up(self, error: Exception) -> None:
        """Run as it was written from here on, unless what failed is memory, which fewer images need less of."""
        if ran_out(error):
            raise error
        if self.make is not None:
            self.way.note(f"{self.way.title} cannot be compiled and runs as it is ({words(error, 200)})")
        self.make = self.compiled = None

    def _padded(self, x: Tensor) -> Tensor:
        """``x`` laid out as the compiled pass takes it, with more of its last image up to the next of few sizes."""
        self.most = max(self.most, len(x))
        size = padded(len(x), self.most) if x.is_cuda else max(2, len(x))
        if size > len(x):
            x = torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])
        x = x.contiguous(memory_format=self.way.layout)
        x = x.view_as(x)  # what is said of it must not stay with a caller's tensor
        torch._dynamo.mark_dynamic(x, 0)
        return x


class _Differentiable(torch.autograd.Function):
    """A pass whose way back is in the same arithmetic, and runs as it was written where it cannot be compiled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, of: _Pass) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            made = of.run(leaf)
        ctx.of, ctx.leaf, ctx.made = of, leaf, made
        if not made.requires_grad:
            ctx.mark_non_differentiable(made)
            return made
        return made.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        of: _Pass = ctx.of
        with of.way.arithmetic(ctx.leaf.device):
            try:
                (found,) = torch.autograd.grad(ctx.made, ctx.leaf, grad)
            except Exception as error:
                if of.make is None:
                    raise
                of.give_up(error)
                with torch.enable_grad():
                    made = of.written(ctx.leaf)
                (found,) = torch.autograd.grad(made, ctx.leaf, grad)
        return found, None


def shortcut(
    subject: Subject,
    x: Tensor,
    layout: torch.memory_format,
    *,
    compile: bool = False,
    tf32: bool = False,
    note: Note = lambda text: None,
) -> Subject | None:
    """A faster form of ``subject`` for images like ``x``, float [B, C, H, W], or None if it is not to have one.

    With its batch normalisation folded; compiled or in TF32 where that is asked for. A random model is asked for
    verdicts on the very draws that its gradients come from, and what watches a model by hooks would miss passes: both
    run as they are, which is noted where something else was asked for.
    """
    tf32 = tf32 and x.is_cuda
    if not (compile or tf32):
        return folded(subject, x)
    if is_random(subject, x):
        note(f"{subject.title} is searched by as it is: it draws random numbers")
        return None
    if compile and (kind := _hooked(subject)):
        note(f"{subject.title} is searched by as it is: its {kind} has hooks")
        return None
    by = folded(subject, x)
    return Shortcut(subject, layout, by=by and by.network, compile=compile, tf32=tf32, note=note)


def padded(images: int, most: int) -> int:
    """The next power of two, or three quarters of one, at least 2 and at most ``most``, if there are fewer images."""
    power = 1 << max(1, (images - 1).bit_length())
    size = power * 3 // 4 if power > 2 and images <= power * 3 // 4 else power
    return max(2, images, min(size, most))


def is_random(subject: Subject, x: Tensor) -> bool:
    """Whether a frozen ``subject`` draws numbers in a pass of ``x``, or says that it does."""
    if hasattr(subject.called, "reseed"):
        return True
    with Draws(0):
        return watched(subject, x).draws


def _hooked(subject: Subject) -> str:
    """The class of a module in ``subject`` that has hooks; empty if none has."""
    return next((type(module).__name__ for module in subject.modules() if hooked(module)), "")


def _passed(called: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    logits = logits_of(called(x.clone()))
    assert logits is not None
    return logits.contiguous()


def _featured(features: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    return feature_tensor(features(x.clone()), "features(x)")


_known: "WeakKeyDictionary[Any, dict[torch.device, Callable[..., Tensor]]]" = WeakKeyDictionary()
"""What has been compiled for whom, so that another evaluation of a model finds it."""


def _compiled(called: Callable[[Tensor], Any], by: Callable[[Tensor], Any], x: Tensor) -> Pass:
    """Images like ``x`` -> logits by ``by``, compiled; the same whenever it is asked for ``called``'s."""
    try:
        of = _known.setdefault(called, {})
    except TypeError:  # of a type that nothing can be remembered of
        of = {}
    if x.device not in of:
        of[x.device] = _artefact(_passed, x.device)
    return partial(of[x.device], by)


def _compiled_features(subject: Subject, x: Tensor) -> Pass:
    if isinstance(subject.called, nn.Module):
        features: Any = feature_function(subject.called, x).part().eval()
    else:
        features = own_features(subject.called)
    return partial(_artefact(_featured, x.device), features)


def _artefact(function: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """``function`` through torch.compile, in one piece or not at all, and on a GPU replayed from CUDA graphs.

    A model is an argument, so that nothing that is kept here keeps it alive. The code is copied, since torch counts
    what it has compiled by that, and gives up after a few, whichever models they were of.
    """
    own = FunctionType(function.__code__.replace(), function.__globals__)
    if device.type != "cuda":
        return torch.compile(own, fullgraph=True)
    replayed = torch.compile(own, fullgraph=True, options={"triton.cudagraphs": True})
    return lambda *args: replayed(*args).clone()  # the next replay writes over what this one returns


@contextmanager
def _as_it_is(device: torch.device) -> Iterator[None]:
    yield
