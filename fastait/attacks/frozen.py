"""The state of a model while it is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode with frozen parameters, so that a backward pass computes input gradients only.

    Every module's train/eval mode and every parameter's ``requires_grad`` are as they were afterwards, also after an
    exception, also where they were mixed.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)
