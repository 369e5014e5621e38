"""SGD with momentum, ready for a captured step: nothing of it is allocated, moved or read while it steps."""

import importlib.util
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fastait.runtime.errors import InputError

MOMENTUM = 0.9
"""Of the authors' release, as is the absence of Nesterov's variant and of dampening."""


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimiser ``--optimizer`` names, over those of the parameters that ask for a gradient, on their device.

    ``sgd`` keeps its learning rate in a tensor that ``set_lr`` fills, and begins with momentum and gradients of zero
    instead of none: without them fused SGD leaves the momentum uninitialised if fp16 overflows in the first step.

    Raises:
        InputError: ``apex`` and NVIDIA's apex is not installed, or the parameters are not on a GPU.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]  # others would decay
    if name == "apex":
        return _apex(parameters, lr, weight_decay)
    device = parameters[0].device
    optimizer = torch.optim.SGD(
        parameters,
        lr=torch.tensor(lr, dtype=torch.float32, device=device),
        momentum=MOMENTUM,
        weight_decay=weight_decay,
        fused=True,
    )
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        parameter.grad = torch.zeros_like(parameter)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Make ``lr`` the learning rate of the next step, also of a captured one."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def zero_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Fill the gradients with zeros in place: captured graphs, and the processes' buckets, know them by address."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if gradients:
        torch._foreach_zero_(gradients)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """``load_state_dict`` into the tensors that are there; a captured graph knows no others."""
    rates = [group["lr"] for group in optimizer.param_groups]
    momenta = {p: values["momentum_buffer"] for p, values in optimizer.state.items() if "momentum_buffer" in values}
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"] = rate.fill_(float(group["lr"]))
    for parameter, momentum in momenta.items():
        loaded = optimizer.state[parameter]
        loaded["momentum_buffer"] = momentum.copy_(loaded["momentum_buffer"])


def _apex(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    build = "build NVIDIA's from github.com/NVIDIA/apex with its CUDA extensions, or use --optimizer sgd"
    package = importlib.util.find_spec("apex")
    if package is None:
        raise InputError(f"--optimizer apex: apex is not installed; {build}")
    # The extension that apex.optimizers is made of; PyPI's "apex" of 2013 is something else and has none.
    if importlib.util.find_spec("amp_C") is None:
        raise InputError(
            f"--optimizer apex: the apex in {package.origin} is not NVIDIA's, or was built without its CUDA "
            f"extensions (there is no amp_C; the package of that name on PyPI is an unrelated one); {build}"
        )
    if parameters[0].device.type != "cuda":
        raise InputError("--optimizer apex needs a CUDA GPU; use --optimizer sgd")
    from apex.optimizers import FusedSGD

    return FusedSGD(parameters, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay)
