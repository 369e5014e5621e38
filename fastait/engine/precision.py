"""Devices, and the arithmetic that each has natively."""

from contextlib import AbstractContextManager

import torch

from fastait.errors import InputError


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
    if kind != "cuda" or (index and not index.isdigit()) or name == "cuda:":
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
    has = torch.cpu.get_capabilities()
    native = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else None


class Precision:
    """Autocast, and for fp16 the scaling of the loss.

    Attributes:
        dtype: the 16-bit type, or None for fp32 throughout.
        scaler: scales the loss for fp16 and passes everything through otherwise.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None):
        self.device_type = device.type
        self.dtype = dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def autocast(self) -> AbstractContextManager:
        """Mixed precision for the model's passes, or a context that does nothing."""
        return torch.autocast(self.device_type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def describe(self) -> str:
        """fp32, bf16 or fp16."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
