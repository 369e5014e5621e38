"""Prints the machine as one JSON object: GPU, driver, versions of everything that matters, commit."""

import importlib.metadata
import json
import shutil
import subprocess
import sys

import torch
from parts import ROOT

from fastait.runtime.hardware import environment

PACKAGES = (
    *(
        "torch",
        "triton",
        "numpy",
        "torchvision",
        "pillow",
        "safetensors",
        "scikit-learn",
        "pyarrow",
        "cyclopts",
        "rich",
    ),
    *("pytest", "pytest-benchmark", "hypothesis", "pyautoattack", "foolbox", "torchattacks"),
)


def said(*command):
    """What a command prints, None if there is none or it fails."""
    if shutil.which(command[0]) is None:
        return None
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    return ended.stdout.strip() if ended.returncode == 0 else None


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def dali():
    """Of whichever CUDA."""
    return next(filter(None, (version(f"nvidia-dali-cuda{cuda}") for cuda in (130, 120))), None)


def gpu():
    """The first one."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpus": torch.cuda.device_count(),
        "capability": list(torch.cuda.get_device_capability(0)),
        "memory": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cudnn": torch.backends.cudnn.version(),
        "nccl": list(torch.cuda.nccl.version()) if torch.distributed.is_nccl_available() else None,
    }


def main(rehearsed):
    """Of a rehearsal: the CPU."""
    device = torch.device("cpu") if rehearsed else torch.device("cuda", 0)
    machine = {
        "rehearsed": rehearsed,
        **environment(device),
        **({} if rehearsed else gpu()),
        "packages": {package: version(package) for package in PACKAGES} | {"DALI": dali()},
        "commit": said("git", "rev-parse", "HEAD"),
        "changed": bool(said("git", "status", "--porcelain", "--untracked-files=no")),
    }
    print(json.dumps(machine))


if __name__ == "__main__":
    main("--rehearse" in sys.argv)
