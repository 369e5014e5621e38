"""What breaks each of the doctor's checks: stand-ins, which take ``monkeypatch`` and ``tmp_path``, and ``BROKEN``."""

import importlib
import importlib.metadata
import shutil
from types import SimpleNamespace

import pytest
import torch

from fastait.doctor import folder, gpu, limits, operators, processes, steps
from fastait.doctor.findings import Setup
from fastait.runtime.errors import RunError
from fastait.runtime.threads import Cores

CPU, GPU = Setup("auto", "cpu", "runs"), Setup("auto", "cuda:0", "runs")


def attribute(target, value):
    """A stand-in, ``module.name`` for it."""
    return lambda patch, tmp_path: patch.setattr(target, value)


def variables(**values):
    return lambda patch, tmp_path: [patch.setenv(name, value) for name, value in values.items()]


def raising(target, error):
    """``module:name`` raises ``error``."""

    def stand_in(patch, tmp_path):
        def call(*arguments, **options):
            raise error

        module, _, name = target.partition(":")
        patch.setattr(importlib.import_module(module), name, call)

    return stand_in


def other_version(name, version):
    def stand_in(patch, tmp_path):
        real = importlib.metadata.version
        patch.setattr(importlib.metadata, "version", lambda n: version if n == name else real(n))

    return stand_in


def other_apex(patch, tmp_path):
    (tmp_path / "apex.py").touch()
    patch.syspath_prepend(tmp_path)


def a_driver(version, **attributes):
    def stand_in(patch, tmp_path):
        patch.setattr(gpu, "driver_version", lambda: version)
        for name, value in attributes.items():
            patch.setattr(f"torch.version.{name}" if name in ("cuda", "hip") else f"torch.cuda.{name}", value)

    return stand_in


def a_card(patch, tmp_path):
    for number, (vendor, kind) in enumerate((("0x10de", "0x030200"), ("0x10de", "0x0c0330"), ("0x8086", "0x030000"))):
        place = tmp_path / f"0000:0{number}:00.0"
        place.mkdir()
        (place / "vendor").write_text(vendor + "\n")
        (place / "class").write_text(kind + "\n")
    patch.setattr(gpu, "DEVICES", tmp_path)
    patch.setattr(gpu, "driver_version", lambda: None)


def a_gpu(capability=(8, 0), free=0.9, error=0.0):
    """What torch says of one, computed on the CPU."""

    def stand_in(patch, tmp_path):
        about = SimpleNamespace(name="a GPU", major=capability[0], minor=capability[1])
        patch.setattr(torch.cuda, "get_device_properties", lambda device: about)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * 2**34), 2**34))
        patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90a"])
        patch.setattr(torch.Tensor, "to", lambda self, *where: self + error)

    return stand_in


def some_cores(quota, threads):
    def stand_in(patch, tmp_path):
        patch.setenv("OMP_NUM_THREADS", str(threads))
        patch.setattr(limits, "cores", lambda: Cores(64, 16, quota, 1))
        patch.setattr(torch, "get_num_threads", lambda: threads)

    return stand_in


def nothing_in_path(patch, tmp_path):
    patch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        patch.delenv(name, raising=False)


def wrong_kernel(module, launch):
    """Writes what is a hundredth too large."""

    def stand_in(patch, tmp_path):
        operator = importlib.import_module(f"fastait_kernels.{module}")
        real = getattr(operator, launch)

        def launched(out, *rest):
            real(out, *rest)
            out.mul_(1.01)

        patch.setattr(operator, launch, launched)

    return stand_in


def updates(*moved, notes=()):
    """Steps that move the weights so, one after another."""

    def stand_in(patch, tmp_path):
        left = [torch.tensor(values, dtype=torch.float64) for values in moved]

        def update(device, dtype, *, steps=1, graph=False, note=print):
            if graph:
                for text in notes:
                    note(text)
            return left.pop(0)

        patch.setattr(steps, "_update", update)
        patch.setattr("fastait.runtime.precision.native_half", lambda device: torch.bfloat16)

    return stand_in


def wrong_compiler(patch, tmp_path):
    patch.setattr(torch, "compile", lambda model, **options: lambda x: model(x) * 1.01)


def dali_for_other_cuda(patch, tmp_path):
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    patch.setattr(dali, "__cuda_version__", 12090)
    patch.setattr(torch.version, "cuda", "13.0")


def other_batches(loader):
    def stand_in(patch, tmp_path):
        if "dali" in loader:
            pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        module, _, name = loader.rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        real = kind.batches

        def batches(self, first, last):
            other = "DaliLoader" in loader or self.workers  # what is compared with has no workers
            return ((x.flip(0) if other else x, y) for x, y in real(self, first, last))

        patch.setattr(kind, "batches", batches)

    return stand_in


def peers(code, seconds=30.0):
    def stand_in(patch, tmp_path):
        patch.setattr(processes, "PEER", code)
        patch.setattr(processes, "SECONDS", seconds)

    return stand_in


def a_disk(free=10**12, seconds=0.0, error=None):
    def stand_in(patch, tmp_path):
        def write(path, data):
            if error is not None:
                raise error
            clock.append(clock[-1] + seconds)

        clock = [0.001]
        patch.setattr(folder, "write_whole", write)
        patch.setattr(folder, "time", SimpleNamespace(perf_counter=lambda: clock[-1]))
        patch.setattr(folder, "WRITTEN", 1 << 20)
        patch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))

    return stand_in


def a_file_there(patch, tmp_path):
    (tmp_path / "runs").touch()


def speeds(one, all_of_them):
    def stand_in(patch, tmp_path):
        threads = [4]
        patch.setattr(torch, "get_num_threads", lambda: threads[-1])
        patch.setattr(torch, "set_num_threads", threads.append)
        patch.setattr(steps, "images_per_second", lambda device, dtype: one if threads[-1] == 1 else all_of_them)

    return stand_in


HANGS = "import os, time\nif os.environ['RANK'] == '1':\n    time.sleep(60)"
FAILS = "raise RuntimeError('Error: connect to [localhost]: Connection refused')"

BROKEN = {
    "packages": [
        (other_version("triton", "3.2.0"), CPU, "torch needs triton.*, but 3.2.0 is installed", "pip install 'triton"),
        (other_version("torchvision", "0.19.1"), CPU, "fastait needs torchvision>=0", "pip install 'torchvision>=0"),
        (other_version("torch", "2.1.0+cu121"), CPU, "needs torch[>=]=2", "pip install 'torch"),
    ],
    "torchvision": [
        (
            raising("torchvision.ops:nms", RuntimeError("no torchvision::nms")),
            CPU,
            "RuntimeError: no torchvision::nms",
            "install the torchvision that fits torch",
        ),
        (attribute("torchvision.ops.nms", lambda boxes, *a: boxes), CPU, "operators are wrong", "fits torch"),
    ],
    "apex": [(other_apex, GPU, "is not NVIDIA's", "leave --optimizer apex out")],
    "driver": [
        (a_driver((12, 4), cuda="13.0"), CPU, "is for CUDA 12.4, torch is built for CUDA 13.0", "nvidia-dali-cuda120"),
        (a_driver((13, 0), cuda=None), CPU, "built for CPUs only", "CUDA build"),
        (
            a_driver((13, 0), cuda="13.0", is_available=lambda: False, init=lambda: None),
            CPU,
            "torch sees no GPU",
            "CUDA_VISIBLE_DEVICES",
        ),
        (a_card, CPU, "1 NVIDIA GPU in this machine, but no driver", "--gpus all"),
    ],
    "gpu": [
        (a_gpu(capability=(12, 0)), GPU, "capability 12.0; torch has code for sm_80, sm_90a only", "newer build"),
        (a_gpu(free=0.1), GPU, "1.6 of 16.0 GB free; other processes", "nvidia-smi"),
        (a_gpu(error=0.001), GPU, "a matrix product is wrong by", "restart"),
    ],
    "threads": [
        (
            some_cores(2.0, 8),
            CPU,
            r"8 threads \(OMP_NUM_THREADS=8\) for 16 of 64 cores, quota 2",
            "set OMP_NUM_THREADS=2",
        ),
        (variables(OMP_WAIT_POLICY="PASSIVE"), CPU, "OMP_WAIT_POLICY=PASSIVE: threads", "unset OMP_WAIT_POLICY"),
        (variables(GOMP_SPINCOUNT="0"), CPU, "GOMP_SPINCOUNT=0: threads", "unset GOMP_SPINCOUNT"),
    ],
    "shared memory": [
        (attribute("fastait.doctor.limits.shared_memory_bytes", lambda: 1 << 20), CPU, "too little", "--shm-size 8g")
    ],
    "open files": [
        (attribute("resource.getrlimit", lambda kind: (64, 1024)), CPU, "at most 64 files", "ulimit -n 1024"),
        (attribute("resource.getrlimit", lambda kind: (64, -1)), CPU, "at most 64 files", "ulimit -n 4096"),
    ],
    "compiler": [
        (nothing_in_path, CPU, r"no C\+\+ compiler", "install g"),
        (nothing_in_path, GPU, "no C compiler", "install gcc"),
        (variables(CXX="/nowhere/c++"), CPU, r"no C\+\+ compiler", "set CXX"),
    ],
    "operators": [
        *(
            (wrong_kernel(module, launch), CPU, rf"not what torch computes: .*{module}.* in float32", "triton")
            for module in operators.TRIALS
            for launch in dir(importlib.import_module(f"fastait_kernels.{module}"))
            if launch in ("launch", "launch_forward", "launch_backward")
        ),
        (
            raising("fastait_kernels.augment:launch", RuntimeError("PassManager::run failed")),
            CPU,
            "augment in float32 does not run: RuntimeError: PassManager",
            "--json",
        ),
        (variables(TRITON_INTERPRET="1"), GPU, "TRITON_INTERPRET=1", "unset TRITON_INTERPRET"),
        (attribute("fastait_kernels._support.HAS_TRITON", False), GPU, "triton is not installed", "install triton"),
    ],
    "triton": [
        (
            attribute("fastait_kernels.report.compile_case", lambda c, t: SimpleNamespace(spills=8, registers=255)),
            CPU,
            "linf_step for sm_90 spills 8 bytes",
            "install the triton",
        ),
        (
            raising("fastait_kernels.report:compile_case", OSError("no ptxas")),
            CPU,
            "OSError: no ptxas",
            "install the triton",
        ),
    ],
    "amp": [
        (updates([1.0, 1.0], [1.0, -1.0]), CPU, "another way than in fp32: cosine 0.000", "leave --amp out"),
        (updates([1.0, 1.0], [0.0, 0.0]), CPU, "moves no weights", "leave --amp out"),
        (updates([1.0, 1.0], [1.0, float("nan")]), CPU, "or makes them NaN", "leave --amp out"),
    ],
    "graph": [
        (updates([1.0, 1.0], [1.0, 0.9]), GPU, "another way than an eager one", "--cuda-graph off"),
        (updates([1.0], [1.0], notes=["warning: cannot be captured"]), GPU, "cannot be captured", "--cuda-graph off"),
    ],
    "compile": [
        (wrong_compiler, CPU, "differs from the eager one by", "leave --compile out"),
        (
            raising("torch:compile", RuntimeError("InvalidCxxCompiler")),
            CPU,
            "RuntimeError: InvalidCxxCompiler",
            "leave --compile out",
        ),
    ],
    "dali": [
        (dali_for_other_cuda, GPU, "is for CUDA 12, torch is for CUDA 13; pip uninstall", "leave --dali out"),
        (other_batches("fastait.data.loaders.dali.DaliLoader"), CPU, "other batches", "leave --dali out"),
    ],
    "workers": [
        (other_batches("fastait.data.loaders.torch.TorchLoader"), CPU, "other batches", "--workers 0"),
        (
            raising("fastait.data.loaders.torch:TorchLoader", RunError("--workers 2: Cannot allocate memory")),
            CPU,
            "--workers 2: Cannot allocate memory",
            "--workers 0",
        ),
    ],
    "processes": [
        (peers(HANGS, 1.0), CPU, "number 1 did not end within 1", "GLOO_SOCKET_IFNAME"),
        (peers(FAILS), CPU, "Connection refused", "GLOO_SOCKET_IFNAME"),
    ],
    "run folder": [
        (a_disk(error=RunError("x could not be written: Read-only file system")), CPU, "Read-only file", "--out"),
        (a_disk(error=PermissionError(13, "Permission denied")), CPU, "Permission denied", "mend its permissions"),
        (a_disk(free=10**9), CPU, "1.0 GB free in .*; a run of WRN-28-10 can write 2.8 GB", "make room"),
        (a_disk(seconds=1.0), CPU, "a checkpoint of WRN-28-10 can take 696 s", "--out"),
        (a_file_there, CPU, "is a file, not a folder", "--out"),
    ],
    "training": [
        (speeds(900.0, 60.0), CPU, "4 threads are slower than one .*900 .*60 ", "set OMP_NUM_THREADS=1"),
        (speeds(0.0, 0.0), CPU, "the loss of a step is not finite", "the checks above"),
    ],
}
"""For each check what breaks it, where, what it then says, and what it says to do."""
