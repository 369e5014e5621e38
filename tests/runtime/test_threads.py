"""How many threads: by affinity, by quotas of control groups as containers have them, by processes that share."""

import os

import pytest
import torch

from fastait import recipe, run_training
from fastait.__main__ import main
from fastait.runtime import threads
from fastait.runtime.errors import InputError
from fastait.runtime.threads import CORE_CACHE, Cores, core_cache, cores, set_threads, usable_cores

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/pids rw - cgroup x rw,pids\n"
)
HYBRID = OTHER + V1.format(root="/") + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"

SYSTEMS = {
    "none": ({}, None),
    "version 2, in a container": (
        {"mountinfo": V2, "cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"},
        1.5,
    ),
    "version 2, no limit": ({"mountinfo": V2, "cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "version 2, the least of all above": (
        {
            "mountinfo": V2,
            "cgroup": "0::/slurm/job_7/step_0\n",
            "/sys/fs/cgroup/slurm/job_7/step_0/cpu.max": "max 100000\n",
            "/sys/fs/cgroup/slurm/job_7/cpu.max": "400000 100000\n",
            "/sys/fs/cgroup/slurm/cpu.max": "6400000 100000\n",
        },
        4.0,
    ),
    "version 1, in a container that sees the machine's paths": (
        {
            "mountinfo": OTHER + V1.format(root="/docker/ab12"),
            "cgroup": "12:pids:/docker/ab12\n5:cpu,cpuacct:/docker/ab12\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        2.0,
    ),
    "version 1, below the mounted one": (
        {
            "mountinfo": OTHER + V1.format(root="/"),
            "cgroup": "5:cpu,cpuacct:/pod\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "50000\n",
            "/sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "both versions, as systemd has them": (
        {
            "mountinfo": HYBRID,
            "cgroup": "1:cpu,cpuacct:/\n0::/\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    "a folder with a space": (
        {
            "mountinfo": V2.replace("/sys/fs/cgroup", r"/own\040groups"),
            "cgroup": "0::/\n",
            "/own groups/cpu.max": "100000 100000\n",
        },
        1.0,
    ),
    "outside of what is mounted": (
        {"mountinfo": V2, "cgroup": "0::/../../other\n", "/sys/fs/cgroup/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "files of no sense": ({"mountinfo": V2 + "x\n", "cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "a b c\n"}, None),
}


def stand_in(root, files):
    """Files of the system below ``root``."""
    for name, text in files.items():
        path = root / (name.lstrip("/") if name.startswith("/") else f"proc/self/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_RANK", *threads.SAID_BY):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", SYSTEMS)
def test_quotas(name, tmp_path):
    files, quota = SYSTEMS[name]
    assert cores(stand_in(tmp_path, files)) == Cores(64, 16, quota, 1)


@pytest.mark.parametrize(
    ("quota", "processes", "usable"),
    [(None, 1, 16), (None, 3, 5), (None, 32, 1), (0.5, 1, 1), (1.5, 1, 2), (2.05, 1, 2), (8.0, 2, 4), (100.0, 1, 16)],
)
def test_usable(quota, processes, usable):
    assert Cores(64, 16, quota, processes).usable == usable


def test_processes_of_a_launch_share(monkeypatch):
    monkeypatch.setattr(threads, "_quotas", lambda root: iter([4.0]))
    assert usable_cores() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert usable_cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "two")
    assert usable_cores() == 4


@pytest.fixture
def torchs(monkeypatch):
    """torch's number of threads, which it would start for each of 64 cores."""
    state = [64]
    monkeypatch.setattr(torch, "get_num_threads", lambda: state[-1])
    monkeypatch.setattr(torch, "set_num_threads", state.append)
    return state


def test_no_more_threads_than_cores(monkeypatch, torchs, capsys):
    monkeypatch.setattr(threads, "_quotas", lambda root: iter([2.0]))
    set_threads()
    assert torchs == [64, 2]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == ("2 threads instead of 64: 16 of 64 cores, a quota of 2 (OMP_NUM_THREADS says another number)\n")
    set_threads()
    assert torchs == [64, 2]
    assert capsys.readouterr().err == ""


def test_never_more_threads_than_torch_would_start(torchs, capsys):
    torchs[:] = [8]  # of 16 hyperthreads
    set_threads()
    assert torchs == [8]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", threads.SAID_BY)
def test_what_the_user_says_stays(name, monkeypatch, torchs):
    monkeypatch.setenv(name, "40")
    set_threads()
    assert torchs == [64]


def test_one_of_several_processes_speaks(monkeypatch, torchs, capsys):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    set_threads()
    assert torchs == [64, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    torchs.append(64)
    set_threads()
    assert "shared by 8 processes" in capsys.readouterr().err


COMMANDS = {
    "train": ["--device", "cpu"],
    "eval": ["RUN"],
    "data": ["digits"],
    "reproduce": ["table1"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_set_them(name, monkeypatch, capsys):
    def reached():
        raise InputError("here they are set")

    monkeypatch.setattr("fastait.runtime.threads.set_threads", reached)
    monkeypatch.setattr("fastait.data.__main__.set_threads", reached)
    assert main([name, *COMMANDS[name]]) == 2
    assert "here they are set" in capsys.readouterr().err


def test_the_library_does_not(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: pytest.fail("it is the caller's"))
    run_training(recipe("digits", image_size=8, epochs=1, eval_samples=10, device="cpu", out="run"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"index0": ("1", "48K"), "index2": ("2", "2048K"), "index3": ("3", "307200K")}, 1 << 21),
        ({"index0": ("1", "64K"), "index1": ("2", "512K")}, 1 << 19),
        ({"index2": ("2", "0K")}, CORE_CACHE),
        ({"index2": ("2", "")}, CORE_CACHE),
        ({}, CORE_CACHE),
    ],
)
def test_the_cache_of_a_core(tmp_path, files, expected):
    folder = tmp_path / f"sys/devices/system/cpu/cpu{min(os.sched_getaffinity(0))}/cache"
    for name, (level, size) in files.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "level").write_text(f"{level}\n")
        (folder / name / "size").write_text(f"{size}\n")
    assert core_cache(tmp_path) == expected
