"""The GPU and its driver."""

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path

from fastait.doctor.findings import Finding, Setup, ok, skipped, wrong
from fastait.runtime.errors import words

DEVICES = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"
"""A vendor's number, and the class of graphics cards."""

AGREES = 1e-9
"""Largest error of a product of 256x256 matrices in fp64, of values up to one."""

FREE = 0.25
"""Less of the GPU's memory than this share free: others are on it."""


def driver(setup: Setup) -> Finding:
    """Whether the driver can run what torch was built for."""
    import torch

    if setup.asked == "cpu":
        return skipped("--device cpu")
    if torch.version.hip:
        return skipped(f"torch is built for ROCm {torch.version.hip}, whose driver is not looked at")
    found, cards = driver_version(), nvidia_cards()
    if found is None:
        if cards:
            return wrong(
                f"{cards} NVIDIA GPU{'s' * (cards > 1)} in this machine, but no driver's library (libcuda.so.1)",
                "install the driver; in a container start it with --gpus all, or train with --device cpu",
            )
        return skipped("no NVIDIA driver, no NVIDIA GPU")
    if torch.version.cuda is None:
        return wrong(
            f"a driver for CUDA {_text(found)}, but torch {torch.__version__} is built for CPUs only",
            "install torch's CUDA build, or train with --device cpu",
        )
    built = tuple(map(int, torch.version.cuda.split(".")[:2]))
    if found[0] < built[0]:
        return wrong(
            f"the driver is for CUDA {_text(found)}, torch is built for CUDA {torch.version.cuda}",
            f"install a driver for CUDA {built[0]}, or what is built for CUDA {found[0]}: torch and "
            f"nvidia-dali-cuda{found[0]}0",
        )
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
            why = "torch does not say why"
        except (RuntimeError, AssertionError) as error:
            why = words(error)
        return wrong(
            f"the driver is for CUDA {_text(found)}, but torch sees no GPU: {why}",
            "look at CUDA_VISIBLE_DEVICES and nvidia-smi; in a container start it with --gpus all; after an update of "
            "the driver restart the machine",
        )
    return ok(f"for CUDA {_text(found)}, torch is built for {torch.version.cuda}")


def gpu(setup: Setup) -> Finding:
    """Whether torch has code for the GPU and computes on it."""
    import torch

    if not setup.on_gpu:
        return skipped("--device cpu" if setup.asked == "cpu" else "no GPU that torch can use")
    about = torch.cuda.get_device_properties(setup.device)
    capability = (about.major, about.minor)
    if torch.version.cuda and not has_code(capability, torch.cuda.get_arch_list()):
        return wrong(
            f"{about.name} has capability {about.major}.{about.minor}; torch has code for "
            f"{', '.join(torch.cuda.get_arch_list())} only",
            "install a newer build of torch, or an older one for an old GPU",
        )
    free, whole = torch.cuda.mem_get_info(setup.device)
    a, b = torch.rand(2, 256, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = float(((a.to(setup.device) @ b.to(setup.device)).cpu() - a @ b).abs().max())
    if not error <= AGREES:
        return wrong(f"{about.name}: a matrix product is wrong by {error:g}", "restart the machine; test its memory")
    room = f"{free / 2**30:.1f} of {whole / 2**30:.1f} GB free"
    if free < FREE * whole:
        return wrong(
            f"{about.name}: {room}; other processes are on it",
            "see them by nvidia-smi; end them, or choose another GPU by --device cuda:N",
        )
    return ok(
        f"{about.name}, capability {about.major}.{about.minor}, {free / 2**30:.1f} of {whole / 2**30:.1f} GB free"
    )


def has_code(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether one of torch's ``sm_..`` or ``compute_..`` runs on a GPU of ``capability``.

    Machine code runs on GPUs of its own major number, from its minor number on; that of sm_90a and the like on that one
    alone; what is compiled at load (compute) on all later GPUs.
    """
    for name in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if match is None:
            continue
        built, suffix = (int(match[2]), int(match[3])), match[4]
        if built == capability or (match[1] == "compute" and not suffix and built <= capability):
            return True
        if match[1] == "sm" and suffix != "a" and built[0] == capability[0] and built <= capability:
            return True
    return not architectures


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows; None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int()
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else (version.value // 1000, version.value % 1000 // 10)


def nvidia_cards() -> int:
    """NVIDIA's graphics cards in this machine, whether or not they can be used."""
    found = 0
    for device in DEVICES.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        found += vendor == NVIDIA and kind.startswith(DISPLAY)
    return found


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
