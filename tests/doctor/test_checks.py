"""Each check of the doctor's: red when what it checks is broken, with a remedy; green as the code is."""

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from broken import BROKEN, CPU, GPU, a_card, a_driver, a_gpu, updates

import fastait_kernels
from fastait.doctor import child, gpu, jobs, machine, operators, packages, processes, steps
from fastait.doctor.checks import INSTALLED, tries
from fastait.doctor.findings import OK, SKIPPED, WRONG, Setup
from fastait.runtime.threads import Cores

CHECKS = {check.name: check for job in (INSTALLED, *tries(False)) for check in job.checks}


def found(name, setup=CPU):
    """What the check finds, as the command would show it."""
    return jobs.with_remedy(child.answer(CHECKS[name].call, setup), CHECKS[name])


CASES = [
    pytest.param(name, *case, id=f"{name}-{number}")
    for name, cases in BROKEN.items()
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize(("name", "stand_in", "setup", "message", "remedy"), CASES)
def test_red(name, stand_in, setup, message, remedy, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path)
    seen = found(name, setup)
    monkeypatch.undo()
    assert seen.status == WRONG, seen
    assert re.search(message, seen.message), seen
    assert remedy in seen.remedy, seen


def test_each_check_is_seen_red():
    assert CHECKS.keys() == {"machine", *BROKEN}  # of the machine's, see test_jobs


def test_each_operator_is_tried():
    home = Path(fastait_kernels.__file__).parent
    assert operators.TRIALS.keys() == {
        path.stem for path in home.glob("*.py") if re.search(r"^def launch", path.read_text(), re.MULTILINE)
    }


HERE = {
    "machine": OK,
    "packages": OK,
    "torchvision": OK,
    "driver": SKIPPED,
    "gpu": SKIPPED,
    "shared memory": OK,
    "open files": OK,
    "compiler": OK,
    "operators": OK,
    "graph": SKIPPED,
    "workers": OK,
    "run folder": OK,
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is how it is without a GPU")
@pytest.mark.parametrize("name", HERE)
def test_as_it_is_here(name):
    seen = found(name, Setup("auto", "cpu", "a/folder"))
    assert seen.status == HERE[name], seen
    assert seen.message
    assert not seen.remedy
    assert not Path("a").exists()


@pytest.mark.parametrize(
    ("name", "stand_in", "message"),
    [
        ("driver", a_driver((13, 1), cuda="13.0", is_available=lambda: True), "for CUDA 13.1, torch is built for 13.0"),
        ("driver", a_driver((12, 2), cuda="12.8", is_available=lambda: True), "for CUDA 12.2, torch is built for 12.8"),
        ("gpu", a_gpu(), "a GPU, capability 8.0, 14.4 of 16.0 GB free"),
        ("graph", updates([1.0, 1.0], [1.0, 1.0]), "a captured step is an eager one: cosine 1.0000"),
    ],
)
def test_as_it_is_with_a_gpu(name, stand_in, message, monkeypatch, tmp_path):
    stand_in(monkeypatch, tmp_path)
    seen = found(name, GPU)
    monkeypatch.undo()
    assert (seen.status, seen.message) == (OK, message)


@pytest.mark.parametrize("name", ["driver", "gpu"])
def test_a_gpu_is_not_looked_for_where_none_is_wanted(name, monkeypatch, tmp_path):
    a_card(monkeypatch, tmp_path)
    assert found(name, Setup("cpu", "cpu", "runs")).status == SKIPPED


def test_what_torch_says_of_gpus(monkeypatch, tmp_path):
    about = SimpleNamespace(name="a GPU", major=7, minor=5, total_memory=2**34, multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    one = {"name": "a GPU", "memory_bytes": 2**34, "capability": "7.5", "processors": 40, "native": ["fp16"]}
    assert machine.gpus() == [one, one]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.compute_mode() is None
    for modes, expected in (("Default\nExclusive_Process", "Exclusive_Process"), ("Default", "Default")):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{modes}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        assert machine.compute_mode() == expected


@pytest.mark.parametrize(("gpus", "said"), [(1, "cpu"), (2, "cuda")])
def test_processes_meet_on_gpus_where_there_are_two(gpus, said, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    line = f"os.environ['{processes.DEVICE}'] + ' ' + os.environ['RANK'] + chr(10)"
    whole = f"import os; os.write(1, ({line}).encode())"  # both write to one file, and print writes word by word
    monkeypatch.setattr(processes, "PEER", whole)
    seen = found("processes", GPU)
    assert seen.status == OK
    assert ("NCCL, and agree" in seen.message) == (gpus == 2)
    assert sorted(capfd.readouterr().out.split()) == sorted([said, said, "0", "1"])


def test_only_variables_that_matter_are_shown(monkeypatch):
    for name in ("OMP_NUM_THREADS", "NCCL_DEBUG", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "TORCHINDUCTOR_X"):
        monkeypatch.setenv(name, "1")
    shown = found("machine").facts["variables"]
    assert {"OMP_NUM_THREADS", "NCCL_DEBUG", "TORCHINDUCTOR_X"} <= shown.keys()
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & shown.keys()


def test_dali_as_it_is():
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    assert found("dali").status == OK


def test_without_dali(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nvidia.dali" else real(name))
    assert found("dali").status == SKIPPED


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_amp_where_it_is_native_and_where_it_is_not(dtype, monkeypatch):
    monkeypatch.setattr("fastait.runtime.precision.native_half", lambda device: dtype)
    assert found("amp").status == (SKIPPED if dtype is None else OK)


def test_an_update_is_the_same_twice_and_another_at_the_next_step():
    device = torch.device("cpu")
    first, again, two = steps._update(device, None), steps._update(device, None), steps._update(device, None, steps=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, two)


@pytest.mark.parametrize("fast", [True, False])
def test_16_bits_pay_where_they_are_faster(fast, monkeypatch):
    monkeypatch.setattr("fastait.runtime.precision.native_half", lambda device: torch.bfloat16)
    monkeypatch.setattr(steps, "images_per_second", lambda device, dtype: 200.0 if fast and dtype else 100.0)
    assert found("training").facts["amp_pays"] is fast


@pytest.mark.parametrize(("device", "network"), [("cpu", "wrn-10-1"), ("cuda", "wrn-28-10")])
def test_what_is_timed_keeps_the_device_busy(device, network, monkeypatch):
    asked = []

    def made(device, dtype, batch_size, name, **options):
        asked.append(name)
        raise RuntimeError("seen")

    monkeypatch.setattr(steps, "_step", made)
    with pytest.raises(RuntimeError, match="seen"):
        steps.images_per_second(torch.device(device), None)
    assert asked == [network]


def test_a_speed_is_one_and_a_loss_that_is_not_finite_is_none(monkeypatch):
    monkeypatch.setattr(steps, "SECONDS", 0.0)
    monkeypatch.setattr(steps, "SPEED_SIZE", 8)
    assert steps.images_per_second(torch.device("cpu"), None) > 0
    real = steps._step

    def poisoned(*arguments, **options):
        step = real(*arguments, **options)
        with torch.no_grad():
            next(step.model.parameters()).fill_(torch.nan)
        return step

    monkeypatch.setattr(steps, "_step", poisoned)
    assert steps.images_per_second(torch.device("cpu"), None) == 0


def test_threads_of_ones_own(monkeypatch):
    """Python programs of the user's own are told what the commands do by themselves."""
    threads = [64]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    for module in ("fastait.doctor.limits", "fastait.runtime.threads"):
        monkeypatch.setattr(f"{module}.cores", lambda: Cores(64, 64, 2.0, 1))
    seen = found("threads")
    assert seen.status == OK
    assert "2 threads for 64 of 64 cores, quota 2; Python programs of your own start 64" in seen.message


@pytest.mark.parametrize(
    ("have", "wanted", "fit"),
    [
        ("2.14.1+cu130", ">=2.13", True),
        ("2.6.0", ">=2.13", False),
        ("3.8.0", "~=3.8.0", True),
        ("3.9.0", "~=3.8.0", False),
        ("3.8.5", "~=3.8.0", True),
        ("13.0.3.0", "==13.0.3", True),
        ("13.0.4", "==13.0.3", False),
        ("8.3.2", "!=8.3.*,>=5.3.0", False),
        ("8.4", "!=8.3.*,>=5.3.0", True),
        ("14.0", "<14,>=13.0.3", False),
        ("3", "==3.*", True),
        ("2.14.1rc2", ">=2.14.1", True),
        ("2.14.1rc2", ">=2.14.2", False),
        ("2.15.0.dev20260101+cu130", "==2.15.0.dev20260101", True),
        ("2.15.0.dev20260102+cu130", "==2.15.0.dev20260101", False),
        ("2.15.0.dev20260101+cu130", ">=2.14,<3", True),
        ("1.0", "of another kind", True),
        ("of another kind", ">=1.0", True),
    ],
)
def test_versions(have, wanted, fit):
    assert packages.fits(have, wanted) is fit


@pytest.mark.parametrize(
    ("capability", "built", "has"),
    [
        ((8, 0), ["sm_80"], True),
        ((8, 9), ["sm_75", "sm_86"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),
        ((12, 1), ["sm_120"], True),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((7, 0), ["compute_90"], False),
        ((7, 0), [], True),
    ],
)
def test_code_for_a_gpu(capability, built, has):
    assert gpu.has_code(capability, built) is has
