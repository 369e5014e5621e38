"""A network is tried on two images before a run begins."""

import traceback
from pathlib import Path

import torch
from torch import Tensor, nn

from fastait.models.features import PROBED
from fastait.runtime.errors import InputError, first_line, one_line

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def try_on_images(model: nn.Module, name: str, num_classes: int, image_size: int) -> None:
    """Raise an InputError unless ``model`` makes logits [B, ``num_classes``] of images, in eval and in train mode.

    Args:
        model: on the CPU, nobody else's yet; its buffers are what they were afterwards, and it is in train mode.
        name: what the message calls it.
        num_classes, image_size: of what it is to be trained on.
    """
    images = torch.linspace(0, 1, PROBED * 3 * image_size**2).reshape(PROBED, 3, image_size, image_size)
    before: dict[str, Tensor] = {}
    for mode in ("eval", "train"):
        model.train(mode == "train")
        try:
            with torch.no_grad():
                if mode == "train":  # not before: layers may have been made by the first pass
                    before = {place: buffer.clone() for place, buffer in model.named_buffers()}
                logits = model(images.clone())
                for place, buffer in model.named_buffers():  # which may be other objects now
                    if place in before:
                        buffer.copy_(before[place])
        except Exception as error:  # whatever a network raises
            raise InputError(
                f"--model {name} does not take images of {image_size}x{image_size} in {mode} mode: {said(error)}"
            ) from None
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != PROBED:
            found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise InputError(
                f"--model {name} returns {found} for {PROBED} images in {mode} mode, where logits [{PROBED}, "
                f"{num_classes}] are needed"
            )
        if logits.shape[1] != num_classes:
            raise InputError(
                f"--model {name} tells {logits.shape[1]} classes apart, the data set has {num_classes}; a function is "
                "given their number"
            )


def try_gradient(model: nn.Module, name: str, image_size: int) -> None:
    """Raise an InputError unless the logits' gradient reaches the images, as attacks need it.

    Args:
        model, name, image_size: as for ``try_on_images``, which has been there; the model is in train mode afterwards.
    """
    images = torch.zeros(PROBED, 3, image_size, image_size, requires_grad=True)
    model.eval()
    try:
        with torch.enable_grad():
            logits = model(images)
            grad = torch.autograd.grad(logits.sum(), images, allow_unused=True)[0] if logits.requires_grad else None
    except Exception as error:  # whatever a network raises
        raise InputError(f"--model {name} cannot be differentiated by its images: {said(error)}") from None
    if grad is None:
        raise InputError(f"--model {name} cannot be differentiated by its images: no gradient reaches them")
    model.train()


def said(error: BaseException) -> str:
    """An error in one line, with the place in the user's own code where there is one."""
    kind = type(error).__name__
    text = f"{kind}: {first_line(error)}" if str(error) else kind
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<", *_NOT_THE_USERS)):
            text += f" ({frame.filename}:{frame.lineno})"
            break
    return one_line(text)
