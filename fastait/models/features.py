"""A network's features: what the linear layer that makes its logits is given, unless its class says otherwise.

The layer is found from one real pass of a few images, by following the logits' gradient back to it: whatever scales,
orders or normalises its outputs may come after it, further weights may not.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastait.models.apart import Draws
from fastait.models.tapped import copied, layer_at, places, unwrapped, watch
from fastait.runtime.errors import InputError
from fastait_kernels._support import check_float

PROBED = 2
"""Images that a model is tried on: one alone has no statistics of a batch."""

DEFINE = "define a method features(x) in its class, images -> [B, ...], or give a feature_fn where a function takes one"


@dataclass(frozen=True)
class Head:
    """The layer that makes a model's logits.

    Attributes:
        places: its names in the model; several where it is registered more than once, "" for the model itself.
        call: which of its calls in a pass makes them, from 0.
        shape: of what it is given, for one image.
        classes: how many outputs it has.
    """

    places: tuple[str, ...]
    call: int
    shape: tuple[int, ...]
    classes: int

    def containers(self) -> list[str]:
        """The names of what contains it, and its own."""
        found = [""]
        for place in self.places:
            parts = place.split(".") if place else []
            found += [".".join(parts[: i + 1]) for i in range(len(parts))]
        return found

    @property
    def place(self) -> str:
        """Its name in messages."""
        return self.places[0] or "the network itself"


class Features:
    """Images [B, C, H, W] in [0, 1] -> features [B, ...], in the mode that the model is in.

    They are those of the model as it is when it is called, autocast and frozen as it is then; its submodules do the
    work, and nothing is registered in them. Those of what ``torch.compile(model)`` returned are compiled in its way.
    Several threads may call it. Nothing is drawn or read from the device that the model's own ``forward`` does not draw
    or read.

    Args:
        model: a module, or any object with a method ``features(x)``.
        head: whose input they are; None for the method.

    Attributes:
        source: where they come from, for a report.
    """

    def __init__(self, model: Any, head: Head | None):
        self.model = model
        self.head = head
        if head is None:
            self.source = "features(x) of its class"
        else:
            size = "x".join(map(str, head.shape))
            self.source = f"what {head.place} is given ({size} an image)"

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self.model, nn.Module) and "_orig_mod" in self.model._modules:
            return _compiled_as(self.model, self)(x)
        if self.head is None:
            return _plain(self.model).features(x)
        return _Tapped(self.model, self.head)(x)

    def part(self) -> nn.Module:
        """The same for torch.compile: a module that calls the model's parts as they are now.

        It shares the model's parameters and buffers. Where a layer is watched, what contains that layer is copied once
        and for all: put the part into the mode that the model is in, and make another if the model's modules change.
        """
        return _Method(self.model) if self.head is None else _Tapped(self.model, self.head)


class _Method(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = _plain(model)

    def forward(self, x: Tensor) -> Tensor:
        return self.model.features(x)


class _Tapped(nn.Module):
    """``model`` as a function to what its head is given."""

    def __init__(self, model: nn.Module, head: Head):
        super().__init__()
        self.call = head.call
        self.given: list[Tensor] = []
        self.model, copies = copied(model, head.places)
        given, place = self.given, head.places[0]
        watch(copies[place], lambda x, made: given.append(x))

    def forward(self, x: Tensor) -> Tensor:
        self.given.clear()
        self.model(x)
        features = self.given[self.call]
        self.given.clear()
        return features


_compiled: "WeakKeyDictionary[nn.Module, tuple[Any, nn.Module, Callable[[Tensor], Tensor]]]" = WeakKeyDictionary()
"""Of what torch.compile returned: parameters, the part that is compiled, and that."""


def _compiled_as(model: nn.Module, features: Features) -> Callable[[Tensor], Tensor]:
    """``features`` of ``model``, compiled as it is: made once for each set of parameters."""
    now = _signature(model)
    with _lock:
        found = _compiled.get(model)
        if found is None or found[0] != now:
            part = features.part()
            compiling: Any = getattr(model, "dynamo_ctx", torch.compile)
            found = _compiled[model] = now, part, compiling(part.forward)
    _, part, compiled = found
    if isinstance(part, _Tapped):
        assert features.head is not None
        for name in features.head.containers():  # copies, which have a mode of their own
            layer_at(part.model, name).__dict__["training"] = layer_at(model, name).training
    return compiled


def feature_function(model: Any, sample: Tensor) -> Features:
    """The features of ``model``: its class's method ``features(x)``, or else what its last linear layer is given.

    A submodule called ``features`` is no such method (torchvision's VGG, DenseNet and MobileNet have one). Wrappers of
    torch.compile and of data parallelism are looked through. The layer is found once for each set of parameters.

    Args:
        model: a module on images in [0, 1], or any object with the method.
        sample: float [B, C, H, W], a batch that it takes; ``PROBED`` of its images are passed through it in eval mode,
            its own mode left alone, with random numbers that nobody else draws. A scripted part is in its own mode.

    Raises:
        InputError: it has neither; the message says what it has and what to define.
        TypeError, ValueError: ``sample`` is no floating-point tensor, or not dense.
    """
    check_float("sample", sample, "images, in [0, 1]")
    if own_features(model) is not None:
        return Features(model, None)
    if not isinstance(model, nn.Module):
        raise InputError(f"{_title(model)} has no features: {DEFINE}")
    plain, now = unwrapped(model), _signature(model)
    with _lock:
        found = _heads.get(plain)
    if found is None or found[0] != now:
        found = now, find_head(plain, sample)
        with _lock:
            _heads[plain] = found
    return Features(model, found[1])


_heads: "WeakKeyDictionary[nn.Module, tuple[Any, Head]]" = WeakKeyDictionary()
_lock = threading.Lock()


def _signature(model: nn.Module) -> tuple[Any, ...]:
    return tuple((id(parameter), parameter.shape) for parameter in model.parameters())


def own_features(model: Any) -> Callable[[Tensor], Any] | None:
    """The method ``features`` of a model, behind torch's wrappers; None without one."""
    method = getattr(_plain(model), "features", None)
    return method if callable(method) and not isinstance(method, nn.Module) else None


def logits_of(output: Any) -> Tensor | None:
    """The logits in what a model returns: that tensor, or its ``logits`` (Hugging Face's classifiers)."""
    if not isinstance(output, Tensor):
        output = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    return output if isinstance(output, Tensor) else None


@dataclass(eq=False)
class _Call:
    place: str
    number: int
    given: Tensor
    made: Tensor
    node: Any


def find_head(model: nn.Module, sample: Tensor) -> Head:
    """The linear layer, or the convolution of one pixel, that makes the logits of ``sample``'s images.

    Args:
        model, sample: as for ``feature_function``.

    Raises:
        InputError: there is none, or more than one, or further weights come after it.
    """
    model, calls = unwrapped(model), list[_Call]()
    title = _title(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{title} is scripted, so that what its layers are given cannot be seen; {DEFINE}")
    names: dict[nn.Module, list[str]] = {}
    for place, module in places(model):
        names.setdefault(module, []).append(place)
    root, twins = copied(model, [place for found in names.values() for place in found])
    for module, found in names.items():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        twin = twins[found[0]]
        twin.__dict__["training"] = False
        twin.__dict__["_parameters"] = {name: _followed(weight) for name, weight in module._parameters.items()}
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}):
            watch(twin, _recorder(calls, found[0]))
    # Of its own, and no leaf, so that the model may normalise it in place.
    with torch.inference_mode(False), torch.enable_grad(), Draws(0):
        leaf = sample[:PROBED].detach().clone().requires_grad_()
        images = leaf.clone()
        logits = logits_of(root(images))
    if logits is None or logits.dim() != 2:
        raise InputError(f"{title} returns no logits [B, K], so that no layer makes them")
    reached = _makers(logits, calls, leaf, title)
    if not reached:
        raise InputError(f"{title} has no linear layer that makes its logits, so that it has no features; {DEFINE}")
    if len(reached) > 1:
        several = ", ".join(dict.fromkeys(call.place or "itself" for call in reached))
        raise InputError(f"{title}'s logits are made of {len(reached)} outputs of linear layers ({several}); {DEFINE}")
    call = reached[0]
    width = call.made.shape[1] if call.made.dim() == 4 else call.made.shape[-1]
    if len(call.given) != len(images) or width != logits.shape[1]:
        raise InputError(
            f"{title}'s last linear layer, {call.place}, makes {list(call.made.shape)} of {len(images)} images, not "
            f"their {logits.shape[1]} logits; {DEFINE}"
        )
    every = next(tuple(found) for found in names.values() if found[0] == call.place)
    return Head(every, call.number, tuple(call.given.shape[1:]), logits.shape[1])


def _followed(weight: nn.Parameter | None) -> Tensor | None:
    """The same weight where the gradient reaches it, though it is frozen, maybe by an attack in another thread."""
    if weight is None or weight.is_inference() or not weight.is_floating_point():
        return weight
    return weight.detach().requires_grad_()


def _recorder(calls: list[_Call], place: str) -> Callable[[Tensor, Tensor], None]:
    def seen(given: Tensor, made: Tensor) -> None:
        number = sum(call.place == place for call in calls)
        calls.append(_Call(place, number, given, made, made.grad_fn))

    return seen


def _makers(logits: Tensor, calls: list[_Call], leaf: Tensor, title: str) -> list[_Call]:
    """The calls whose outputs the logits are made of, next to them."""
    if logits.grad_fn is None:  # a model that keeps gradients out
        return [call for call in calls if call.made is logits][:1]
    by_node = {call.node: call for call in calls if call.node is not None}
    reached: list[_Call] = []
    waiting: list[Any] = [logits.grad_fn]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in by_node:
            reached.append(by_node[node])
            continue
        weight = getattr(node, "variable", None)
        if isinstance(weight, Tensor) and weight is not leaf and sum(length > 1 for length in weight.shape) > 1:
            raise InputError(
                f"the last weights of {title}, {list(weight.shape)}, are no linear layer's, so that it has no "
                f"features; {DEFINE}"
            )
        waiting.extend(next_node for next_node, _ in node.next_functions)
    return sorted(reached, key=calls.index)


def renew_head(model: nn.Module, head: Head, num_classes: int) -> None:
    """Put a layer of ``num_classes`` outputs, drawn anew, in the place of ``head``, where the model has that.

    The model is changed; its other parameters are not. Needs ``head.places`` other than the model itself.
    """
    old = layer_at(model, head.places[0])
    if isinstance(old, nn.Conv2d):
        new: nn.Module = nn.Conv2d(old.in_channels, num_classes, 1, bias=old.bias is not None)
    else:
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)  # type: ignore[arg-type]
    weight = old.get_parameter("weight")
    new.to(weight.device, weight.dtype).train(old.training)
    for place in head.places:
        parent, _, name = place.rpartition(".")
        setattr(layer_at(model, parent), name, new)


def _plain(model: Any) -> Any:
    return unwrapped(model) if isinstance(model, nn.Module) else model


def _title(model: Any) -> str:
    return getattr(model, "__name__", type(_plain(model)).__name__)
