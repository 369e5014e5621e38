"""Networks that a function of the user's own makes: ``--model package.module:function``."""

import difflib
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastait.models.names import LIBRARIES
from fastait.models.trial import said, try_gradient, try_on_images
from fastait.runtime.errors import InputError


def of_function(name: str, num_classes: int, image_size: int) -> nn.Module:
    """What the function makes, called with ``num_classes``, tried on images, in fp32 on the CPU.

    Its module is looked for in the current folder first, as Python does for a script.

    Args:
        name: ``package.module:function``, or a class.
        num_classes: its one argument.
        image_size: of the images that it is tried on.

    Raises:
        InputError: there is no such function, it raises, or what it returns is no network for such images.
    """
    with _current_folder(), _surroundings():
        function = _found(name)
        try:
            model = function(num_classes)
        except (Exception, SystemExit) as error:
            raise InputError(f"--model {name}: calling it with {num_classes} classes failed: {said(error)}") from None
        if not isinstance(model, nn.Module):
            raise InputError(f"--model {name} returns a {type(model).__name__}, where a torch.nn.Module is needed")
        model = model.float().cpu()
        try_on_images(model, name, num_classes, image_size)
        try_gradient(model, name, image_size)
    for part, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"--model {name} keeps a {type(value).__name__} in its state dict ({part}), where files of weights "
                "hold tensors"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"--model {name} returns a network without parameters to train")
    return model


def _found(name: str) -> Any:
    module_name, _, path = name.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise InputError(f"--model {name}: importing {module_name} failed: {said(error)}") from None
        near = difflib.get_close_matches(module_name, LIBRARIES, n=1)
        hint = f". Did you mean {near[0]}:{path}?" if near else ""
        raise InputError(
            f"--model {name}: there is no module {missing} in {os.getcwd()} or where Python looks for packages{hint}"
        ) from None
    for part in path.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, [each for each in dir(value) if callable(getattr(value, each))], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"--model {name}: {module_name} has no {part!r}{hint}")
        value = getattr(value, part)
    if not callable(value):
        raise InputError(f"--model {name} is a {type(value).__name__}, where a function or a class is needed")
    return value


@contextmanager
def _current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported."""
    here = os.getcwd()
    if {here, ""} & set(sys.path):
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


@contextmanager
def _surroundings() -> Iterator[None]:
    """What a function sets for the whole process is put back: torch's seed and default type, the current folder."""
    here, generator, dtype = os.getcwd(), torch.default_generator.get_state(), torch.get_default_dtype()
    try:
        yield
    finally:
        if os.getcwd() != here:
            os.chdir(here)
        if not torch.equal(torch.default_generator.get_state(), generator):
            torch.default_generator.set_state(generator)
        torch.set_default_dtype(dtype)
