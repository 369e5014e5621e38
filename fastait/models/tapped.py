"""A model whose layers can be watched, without the model being touched.

What contains a watched layer is copied, and nothing else: a copy has its module's class, attributes, parameters and
buffers, but children and a mode of its own. So no hook comes and goes in a model that other threads may be using, and
what torch.compile has guarded stays as it was.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

Seen = Callable[[Tensor, Tensor], None]
"""Is given what a layer was given, and what it made of that."""

After = Callable[[Any, Any], Any]
"""The same, and returns what the layer is to return."""


def unwrapped(module: nn.Module) -> nn.Module:
    """What torch.compile, DataParallel or DistributedDataParallel is wrapped around; any other module itself."""
    while True:
        if "_orig_mod" in module._modules:
            module = module._orig_mod  # type: ignore[assignment]
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def places(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of all modules of ``model``, which is "", under each of their names, wrappers left out.

    A scripted module has none within.
    """

    def below(module: nn.Module, place: str, above: tuple[nn.Module, ...]) -> Iterator[tuple[str, nn.Module]]:
        module = unwrapped(module)
        if any(module is other for other in above):
            return
        yield place, module
        if not isinstance(module, torch.jit.ScriptModule):
            for name, child in module._modules.items():
                if child is not None:
                    yield from below(child, f"{place}.{name}" if place else name, (*above, module))

    return below(model, "", ())


def layer_at(model: nn.Module, place: str) -> nn.Module:
    """The module called ``place``, as ``places`` has it."""
    module = unwrapped(model)
    for name in place.split(".") if place else ():
        module = unwrapped(module._modules[name])  # type: ignore[arg-type]
    return module


def copied(model: nn.Module, names: Iterable[str]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """A copy of ``model``, and copies of the modules called ``names`` in it, which are what it runs.

    Whatever contains them is copied too; everything else is ``model``'s own.
    """
    model = unwrapped(model)
    copies: dict[int, nn.Module] = {}

    def copy(module: nn.Module) -> nn.Module:
        if id(module) not in copies:
            copies[id(module)] = _copy(module)
        return copies[id(module)]

    root, found = copy(model), {}
    for place in names:
        module, twin = model, root
        for name in place.split(".") if place else ():
            module = unwrapped(module._modules[name])  # type: ignore[arg-type]
            twin._modules[name] = twin = copy(module)
        found[place] = twin
    return root, found


def _copy(module: nn.Module) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        return module
    twin: nn.Module = object.__new__(type(module))
    for name, value in vars(module).items():
        if isinstance(value, MethodType) and value.__self__ is module:
            value = MethodType(value.__func__, twin)
        twin.__dict__[name] = value
    twin.__dict__["_modules"] = dict(module._modules)
    twin.__dict__.pop("_compiled_call_impl", None)  # it runs the module itself
    twin.__dict__.pop("train", None)  # what stands there while the module is attacked is of the module itself
    return twin


def follow(copy: nn.Module, after: After) -> None:
    """Have each pass of ``copy``, which ``copied`` made, return what ``after`` makes of what it was given and made.

    The layer itself is not run: what its hooks compute lies in the copy, and the copy's mode counts.

    Raises:
        RuntimeError: it is scripted.
    """
    if isinstance(copy, torch.jit.ScriptModule):
        raise RuntimeError("it is scripted, so that nothing can be done within it")
    own = copy.__dict__.get("forward")
    if own is None:  # by a class of its own: a function that held the copy would keep it alive
        copy.__dict__["_after"] = after
        copy.__class__ = _followed(type(copy))  # type: ignore[arg-type]
        return

    def forward(*args: Any, **options: Any) -> Any:
        return after((*args, *options.values())[0], own(*args, **options))

    copy.__dict__["forward"] = forward


@cache
def _followed(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        return self._after((*args, *options.values())[0], base.forward(self, *args, **options))

    members = {"forward": forward, "__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (base,), members)


def watch(copy: nn.Module, seen: Seen) -> None:
    """Call ``seen`` in each pass of ``copy``, which ``copied`` made."""

    def after(given: Tensor, made: Tensor) -> Tensor:
        seen(given, made)
        return made

    follow(copy, after)
