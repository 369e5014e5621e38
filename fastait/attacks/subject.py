"""What is attacked: any classifier, seen as a module from images to logits."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastait.models.features import DEFINE, feature_function, logits_of, own_features
from fastait.runtime.errors import InputError


class Subject(nn.Module):
    """A classifier as attacks call it.

    Each pass is given images of its own, so that a model may normalise them in place. Logits are the tensor that the
    model returns, or its ``logits`` where it returns an object with such (Hugging Face's classifiers).

    Args:
        model: a module, or a function of images. Modules that a function belongs to or refers to by name, itself or by
            functions of its file, lists and dictionaries, are part of it: they are put into eval mode and frozen while
            it is attacked.
        classes: how many it must tell apart, at least, since labels name so many.
        who: what messages call it where it is none.
    """

    def __init__(self, model: Any, classes: int = 1, who: str = "the model"):
        super().__init__()
        self.classes = classes
        if not callable(model) or inspect.isclass(model):
            got = f"the class {model.__name__}" if inspect.isclass(model) else type(model).__name__
            raise TypeError(f"{who} must be a module or a function of images, got {got}")
        self.called: Callable[[Tensor], Any]
        # Not as an attribute: a module would be registered, and a traced one renamed.
        self.__dict__["called"] = model
        self.parts = nn.ModuleList([model] if isinstance(model, nn.Module) else _modules_of(model))
        self.title = getattr(model, "__name__", type(model).__name__)
        self.before: Callable[[Tensor], None] | None = None

    @classmethod
    def of(cls, model: Any, classes: int = 1, who: str = "the model") -> "Subject":
        """``model`` as a subject; itself if it is one that must tell so many classes apart."""
        if isinstance(model, cls):
            return model if model.classes >= classes else cls(model.called, classes)
        return cls(model, classes, who)

    def watched(self, before: Callable[[Tensor], None]) -> "Subject":
        """Another subject of the same model, of which each pass calls ``before`` with its images first; that may raise.

        This one, and others' of the same model, are not watched, so each of several threads has its own."""
        found = Subject(self.called, self.classes)
        found.before = before
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W] in [0, 1].

        Raises:
            InputError: the model returns something else, or cannot take one image alone.
            ValueError: there are labels of classes that it does not know.
        """
        if self.before is not None:
            self.before(x)
        try:
            output = self.called(x.clone())
        except ValueError as error:
            if len(x) == 1 and "more than 1 value per channel" in str(error):
                raise InputError(
                    f"{self.title} normalises an image by the batch that it is in, so that one alone has no logits and "
                    "no robustness of its own; keep running statistics (track_running_stats=True)"
                ) from None
            raise
        found = logits_of(output)
        if found is None:
            raise InputError(
                f"{self.title} returns {_kind(output)} where logits [B, K] are needed; attack a function that "
                "picks them out, such as lambda x: model(x)[0]"
            )
        output = found
        if output.dim() != 2 or len(output) != len(x) or not output.is_floating_point():
            raise InputError(
                f"{self.title} returns {tuple(output.shape)} where logits [B, K] are needed: a row for each of the "
                f"{len(x)} images, floating-point; their type is {output.dtype}"
            )
        if output.shape[1] < self.classes:
            raise ValueError(
                f"y must be in [0, {output.shape[1]}), the classes that {self.title} tells apart, "
                f"got {self.classes - 1}"
            )
        return output.contiguous()  # a network may make them transposed

    def features(self, x: Tensor) -> Tensor:
        """The model's features [B, ...] of images: see ``fastait.models.feature_function``.

        Raises:
            TypeError: it is a function without ``features``, or they are no tensor.
            InputError: it is a module that has none.
        """
        if not isinstance(self.called, nn.Module) and own_features(self.called) is None:
            raise TypeError(f"{self.title} has no features(x): {DEFINE}")
        if self.before is not None:
            self.before(x)
        return feature_tensor(feature_function(self.called, x)(x.clone()), f"features(x) of {self.title}")

    def reseed(self, seed: int) -> None:
        """Make a random defence draw as after any other call with the same seed; others have nothing to draw."""
        if hasattr(self.called, "reseed"):
            self.called.reseed(seed)

    def placement(self, x: Tensor) -> tuple[torch.device, torch.dtype]:
        """The device and type that images like ``x`` are brought to: a module's parameters', else their own."""
        if isinstance(self.called, nn.Module):
            for t in (*self.called.parameters(), *self.called.buffers()):
                if t.is_floating_point():
                    return t.device, t.dtype
        return x.device, x.dtype if x.is_floating_point() else torch.float32


def feature_tensor(features: Any, what: str) -> Tensor:
    """``features`` if they are a tensor.

    Raises:
        TypeError: they are something else; the message calls them ``what``.
    """
    if not isinstance(features, Tensor):
        raise TypeError(f"{what} returns {_kind(features)} where a tensor of features [B, ...] is needed")
    return features


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _modules_of(function: Any) -> list[nn.Module]:
    """The modules that a function belongs to or refers to, each once."""
    found: dict[int, nn.Module] = {}
    seen: dict[int, Any] = {}
    waiting = [function]
    file = _globals_of(function)
    while waiting:
        value = waiting.pop()
        if isinstance(value, nn.Module):
            found[id(value)] = value
        elif id(value) not in seen:
            seen[id(value)] = value
            waiting.extend(_referred(value, file))
    return list(found.values())


def _globals_of(function: Any) -> Any:
    """The names of the file that a callable is defined in."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__globals__", getattr(type(function).__call__, "__globals__", None))


def _referred(value: Any, file: Any) -> Iterable[Any]:
    """What a function, a container or a callable object refers to; functions of other files have too much to say."""
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if inspect.ismethod(value):
        return (value.__func__, value.__self__, *_attributes(value.__self__))
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return value
    if not inspect.isfunction(value):
        return (type(value).__call__, *_attributes(value)) if callable(value) else ()
    if value.__globals__ is not file:
        return ()
    try:
        names = inspect.getclosurevars(value)
    except ValueError:  # a name of an enclosing function that is not bound yet
        return ()
    return (*names.nonlocals.values(), *names.globals.values(), *(value.__defaults__ or ()))


def _attributes(owner: Any) -> list[Any]:
    held = isinstance(owner, nn.Module) or inspect.isclass(owner) or not hasattr(owner, "__dict__")
    return [] if held else list(vars(owner).values())
