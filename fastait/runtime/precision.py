"""Devices, and the arithmetic that each has natively."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from fastait.runtime.errors import InputError
from fastait.runtime.hardware import cpu_features
from fastait.runtime.shared import Shared

T = TypeVar("T")


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device that exists, with an index if it is a GPU.

    Raises:
        InputError: the name is none of these or the machine has no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()) or name == "cuda:":
        raise InputError(f"--device: {name!r} is not auto, cpu, cuda or cuda:N")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= gpus:
        have = f"GPUs 0 to {gpus - 1}" if gpus else "no CUDA GPU that torch can use"
        raise InputError(f"--device {name}: this machine has {have}; use --device cpu or auto")
    return torch.device("cuda", int(index or 0))


def native_half(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that ``device`` multiplies natively, None if it would emulate both.

    Emulated bf16 convolutions have been seen to run ten times slower than fp32 on CPUs without bf16 instructions.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if hasattr(torch.cpu, "get_capabilities"):  # from torch 2.11
        has = {name for name, there in torch.cpu.get_capabilities().items() if there}
    else:
        has = cpu_features()
    return torch.bfloat16 if has & {"avx512_bf16", "amx_bf16", "bf16"} else None


HALF_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
"""What the 16-bit types are called."""


class Precision:
    """Autocast, and for fp16 the scaling of the loss.

    Attributes:
        dtype: the 16-bit type, or None for fp32 throughout.
        name: fp32, tf32, bf16 or fp16: what convolutions are computed in.
        scaler: scales the loss for fp16 and passes everything through otherwise.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None):
        self.device_type = device.type
        self.dtype = dtype
        self.name = _fp32_name(device) if dtype is None else HALF_NAMES[dtype]
        # With SGD(fused=True) it decides on the device whether a step counts, so a graph can hold it.
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        # Makes its tensors, which it otherwise does in a step.
        self.scaler.scale(torch.zeros((), dtype=torch.float32, device=device))

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision for the model's passes, or none, whatever autocast there is around."""
        try:
            with torch.autocast(self.device_type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
                yield
        finally:
            # torch does so only where there is no other around: the next step would go on with this one's weights.
            torch.clear_autocast_cache()

    def forget_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the scaler's host side between two steps again, after one that ended in an exception."""
        for name in ("grad_scale", "found_inf"):
            optimizer.__dict__.pop(name, None)
        if self.scaler.is_enabled():
            self.scaler._per_optimizer_states.clear()

    @property
    def scale(self) -> torch.Tensor | None:
        """By what the loss is multiplied, float32 [], in place; None where it is not."""
        return self.scaler._scale if self.scaler.is_enabled() else None

    def tensors(self) -> list[torch.Tensor]:
        """What a step changes of it."""
        return [] if self.scale is None else [self.scale, self.scaler._growth_tracker]  # type: ignore


def _fp32_name(device: torch.device) -> str:
    return "tf32" if in_tf32(device) else "fp32"


def in_tf32(device: torch.device) -> bool:
    """Whether fp32 convolutions are computed in TF32, as is torch's default on GPUs that have it: NVIDIA's since
    capability 8.0."""
    allowed = device.type == "cuda" and torch.version.hip is None and _convolutions_in_tf32()
    return allowed and torch.cuda.get_device_capability(device) >= (8, 0)


def _convolutions_in_tf32() -> bool:
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32


def _switches_of_torch() -> tuple[tuple[Any, Any], ...]:
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    if not hasattr(cudnn, "conv"):
        return ()  # before torch 2.9 the older names are all there is
    return (
        (cudnn, torch.backends),  # before what follows it
        *((part, cudnn) for part in (cudnn.conv, cudnn.rnn)),
        *((part, mkldnn) for part in (mkldnn.conv, mkldnn.rnn, mkldnn.matmul)),
        (torch.backends.cuda.matmul, cudnn),
    )


_SWITCHES = _switches_of_torch()
"""What can be computed in less than fp32, and what each follows where nothing was set for it alone."""


_Before = tuple[list[str], bool | None, str | None, bool | None]


def _strict(_: object) -> _Before:
    """Set every switch to fp32; returns what they were, and what torch's older names for some of them said."""
    # What follows another is set to follow it again, rather than to what it is now.
    before = ["none" if s.fp32_precision == parent.fp32_precision else s.fp32_precision for s, parent in _SWITCHES]
    convolutions, products = _asked(lambda: torch.backends.cudnn.allow_tf32), _asked(torch.get_float32_matmul_precision)
    cublas = _asked(lambda: torch.backends.cuda.matmul.allow_tf32)
    # Where only a part is set, torch raises in whatever reads the older names.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for switch, _ in _SWITCHES:
        switch.fp32_precision = "ieee"
    return before, convolutions, products, cublas


def _as_before(_: object, state: _Before) -> None:
    before, convolutions, products, cublas = state
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions
    if products is not None:
        torch.set_float32_matmul_precision(products)
    elif cublas is not None:
        torch.backends.cuda.matmul.allow_tf32 = cublas
    for (switch, _), value in zip(_SWITCHES, before, strict=True):
        switch.fp32_precision = value


def _asked(getter: Callable[[], T]) -> T | None:
    """None where torch refuses to answer, since the caller has set a part only."""
    try:
        return getter()
    except RuntimeError:
        return None


_switches = Shared(_strict, _as_before)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """fp32 as fp32: no autocast of a caller's, no TF32 or bf16 in convolutions and matrix products. Restores both.

    The switches are the process's: they are put back when the last of several threads leaves.
    """
    with _switches.held([_SWITCHES]), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def tf32_alone(device: torch.device) -> Iterator[None]:
    """Within ``full_precision``: TF32 in convolutions and matrix products of a GPU, for this thread's work alone.

    The switches are the process's: where other threads are within ``full_precision`` too they stay strict, and a thread
    that enters it meanwhile waits.
    """
    with _switches.alone(_SWITCHES) as alone:
        if not (alone and device.type == "cuda"):
            yield
            return
        try:
            _allow_tf32(True)
            yield
        finally:
            _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    if not _SWITCHES:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        return
    cudnn: Any = torch.backends.cudnn
    for switch in (cudnn, cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul):
        switch.fp32_precision = "tf32" if allowed else "ieee"


def current(device: torch.device) -> AbstractContextManager:
    """Make ``device`` torch's current GPU, if it is one: what allocates or launches without naming a device uses it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
