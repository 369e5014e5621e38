"""Optimisers, ready for a captured step: nothing of them is allocated, moved or read while they step."""

import importlib.util
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fastait.runtime.errors import InputError

MOMENTUM = 0.9
"""Of the authors' release, as is the absence of Nesterov's variant and of dampening."""


def make_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser ``--optimizer`` names, over those of the parameters that ask for a gradient, on their device.

    ``sgd`` and ``adamw`` keep their learning rate in a tensor that ``set_lr`` fills, and begin with moments and
    gradients of zero instead of none: without them fused SGD leaves the momentum uninitialised if fp16 overflows in the
    first step, and a capture would hold what only a first step does. ``adamw`` (Loshchilov & Hutter, 2019; torch's
    betas 0.9 and 0.999) does not let vectors decay: biases, and the weights of norms.

    Raises:
        InputError: ``apex`` and NVIDIA's apex is not installed, or the parameters are not on a GPU.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]  # others would decay
    if name == "apex":
        return _apex(parameters, lr, weight_decay)
    device = parameters[0].device
    rate = torch.tensor(lr, dtype=torch.float32, device=device)
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD(
            parameters, lr=rate, momentum=MOMENTUM, weight_decay=weight_decay, nesterov=nesterov, fused=True
        )
    else:
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=rate, fused=True, capturable=device.type == "cuda"
        )
    for parameter in parameters:
        optimizer.state[parameter] = _state(name, parameter)
        parameter.grad = torch.zeros_like(parameter)
    return optimizer


def _state(name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What the optimiser remembers of a parameter before its first step."""
    if name == "sgd":
        return {"momentum_buffer": torch.zeros_like(parameter)}
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


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


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float) -> None:
    """Scale all gradients together down to the 2-norm ``norm`` where theirs is longer; nothing is read from the device.

    A gradient that is not finite makes all of them so, or zero: ``BadNumbers`` looks at them before.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, norm, error_if_nonfinite=False)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """``load_state_dict`` into the tensors that are there; a captured graph knows no others."""
    rates = [group["lr"] for group in optimizer.param_groups]
    held = {parameter: dict(values) for parameter, values in optimizer.state.items()}
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"] = rate.fill_(float(group["lr"]))
    for parameter, values in held.items():
        loaded = optimizer.state[parameter]
        for name, value in values.items():
            if isinstance(value, Tensor) and isinstance(loaded.get(name), Tensor):
                loaded[name] = value.copy_(loaded[name])


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
