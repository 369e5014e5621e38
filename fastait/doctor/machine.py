"""What there is: versions, GPUs, CPU, cores, memory, limits, and settings in the environment."""

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
from typing import Any

from fastait.doctor.findings import Finding, Setup, ok, wrong
from fastait.runtime.errors import InputError

PACKAGES = (
    *("fastait", "torch", "triton", "torchvision", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "apex"),
    *("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-nccl-cu13", "nvidia-nccl-cu12", "scikit-learn", "pillow"),
    *("pyarrow", "cyclopts", "rich", "safetensors"),
)

VARIABLES = (
    *(
        "OMP_",
        "GOMP_",
        "KMP_",
        "MKL_",
        "OPENBLAS_",
        "CUDA_",
        "CUBLAS_",
        "NCCL_",
        "GLOO_",
        "TORCH",
        "PYTORCH_",
        "TRITON_",
    ),
    *("ATEN_", "DALI_", "FASTAIT_"),
)
"""Beginnings of the names of variables that change how a run runs. No others are shown, but for ``OTHERS``."""

OTHERS = ("CC", "CXX", "LD_PRELOAD")


def machine(setup: Setup) -> Finding:
    """Everything, as ``facts``, and the device that the run would have.

    ``facts["refused"]`` is there if ``--device`` names none.
    """
    import torch

    from fastait.runtime.hardware import environment
    from fastait.runtime.precision import resolve_device

    try:
        device = resolve_device(setup.asked)
    except InputError as error:
        return wrong(str(error), "", refused=True)
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        **environment(device),
        "packages": versions(),
        "cuda": {
            "torch": torch.version.cuda,
            "driver": _driver_text(),
            "hip": torch.version.hip,
            "architectures": torch.cuda.get_arch_list(),
        },
        "gpus": gpus(),
        "compute_mode": compute_mode() if device.type == "cuda" else None,
        "native_16_bit": _native(device),
        "cores": cores_facts(),
        "shared_memory_bytes": shared_memory_bytes(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "compilers": {name: shutil.which(name) for name in ("gcc", "g++", "clang", "clang++")},
        "variables": {n: os.environ[n] for n in sorted(os.environ) if n.startswith(VARIABLES) or n in OTHERS},
    }
    facts["device_name"], facts["device"] = facts["device"], str(device)
    return ok(_summary(facts), **facts)


def versions() -> dict[str, str]:
    """The installed version of each of ``PACKAGES``."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores_facts() -> dict[str, Any]:
    """What ``fastait.runtime.threads`` sees."""
    from fastait.runtime.threads import cores

    found = cores()
    return {"host": found.host, "affinity": found.affinity, "quota": found.quota, "usable": found.usable}


def shared_memory_bytes() -> int | None:
    """What is free in /dev/shm, through which a DataLoader's processes hand batches over; None if there is none."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def gpus() -> list[dict[str, Any]]:
    """Name, memory, capability and native precisions of each GPU that torch can use."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        capability = (about.major, about.minor)
        found.append(
            {
                "name": about.name,
                "memory_bytes": about.total_memory,
                "capability": f"{about.major}.{about.minor}",
                "processors": about.multi_processor_count,
                "native": [
                    name
                    for name, first in (("fp16", (7, 0)), ("bf16", (8, 0)), ("tf32", (8, 0)))
                    if torch.version.cuda and capability >= first
                ],
            }
        )
    return found


def compute_mode() -> str | None:
    """How many processes may use a GPU: Default, Exclusive_Process, Prohibited; None if nvidia-smi does not say."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return next((mode for mode in said if mode != "Default"), "Default") if said else None


def _native(device: Any) -> str | None:
    from fastait.runtime.precision import native_half

    dtype = native_half(device)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _driver_text() -> str | None:
    from fastait.doctor.gpu import driver_version

    found = driver_version()
    return None if found is None else f"{found[0]}.{found[1]}"


def _summary(facts: dict[str, Any]) -> str:
    packages, cores = facts["packages"], facts["cores"]
    installed = ", ".join(f"{name} {packages[name]}" for name in ("torch", "triton", "torchvision") if name in packages)
    quota = "" if cores["quota"] is None else f", quota {cores['quota']:g}"
    return (
        f"Python {facts['python']}, {installed}; {facts['device_name']}; native 16 bit: "
        f"{facts['native_16_bit'] or 'none'}; {cores['affinity']} of {cores['host']} cores{quota}"
    )
