"""Shared fixtures. Nothing here or in any test needs the network, a GPU or files outside the temporary folder."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: kernels then run on CPU tensors

os.environ.pop("PYTHONUNBUFFERED", None)  # processes that tests start buffer what they print, as most do
os.environ.setdefault("MPLCONFIGDIR", tempfile.mkdtemp())  # matplotlib keeps its list of fonts there

import small

QUICK = (
    *("attacks/test_attacks.py", "attacks/test_columns.py", "attacks/test_public.py"),
    *("data/test_bad_files.py", "data/test_opaque.py", "data/test_parquet.py", "data/test_sources.py"),
    *("evaluation/test_entrants.py", "evaluation/test_not_finite.py", "evaluation/test_results.py"),
    *("kernels/test_augment.py", "kernels/test_cross_entropy.py", "kernels/test_linf_step.py"),
    *("kernels/test_margin_loss.py", "kernels/test_random_start.py", "kernels/test_wrong_arguments.py"),
    *("methods/", "models/", "checkpoints/", "runtime/", "test_house.py", "test_interpolation.py", "test_reference.py"),
    *("training/test_optimizer.py", "training/test_resume.py"),
)
"""What the mark ``quick`` selects: something of everything, under a minute in all on two cores."""

OLDEST = (
    *(name for name in QUICK if name != "test_house.py"),
    *(
        "kernels/",
        "attacks/test_folded.py",
        "evaluation/test_files_of_others.py",
        "evaluation/test_own_networks.py",
        "training/test_any_network.py",
    ),
    *("training/test_callers_world.py", "training/test_cost.py", "training/test_draws.py", "training/test_memory.py"),
    *("training/test_networks.py", "training/test_run.py", "training/test_adamw_and_clipping.py"),
    *("training/test_averaged.py", "training/test_awp.py", "training/test_bad_numbers.py", "methods/test_alignment.py"),
)
"""What the mark ``oldest`` selects: what leans on the versions of torch, triton and numpy, which imports do not."""

LONG = (
    *(
        "evaluation/test_masking.py",
        "training/test_step.py",
        "evaluation/test_command.py",
        "training/test_processes.py",
    ),
    *("evaluation/test_evaluate.py", "training/test_run.py", "training/test_callers_world.py"),
    *("training/test_any_network.py", "training/test_memory.py", "attacks/test_trajectory.py", "test_cli.py"),
    *("reproduction/", "training/", "test_examples.py", "kernels/test_ahead_of_time.py", "attacks/", "evaluation/"),
)
"""What begins first, so that two processes end together."""


def pytest_collection_modifyitems(items):
    for item in items:
        for mark, names in (("quick", QUICK), ("oldest", OLDEST)):
            if any(f"/tests/{name}" in item.path.as_posix() for name in names):
                item.add_marker(mark)
    items.sort(
        key=lambda item: next((i for i, n in enumerate(LONG) if f"/tests/{n}" in item.path.as_posix()), len(LONG))
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The networks are small: on threads that wait for each other these tests take twice as long, or more. How many
    images are taken together does not hang on this machine's caches."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # of the commands that tests start
        patch.setattr("fastait.attacks.suited.core_cache", lambda: 1 << 21)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """A background shell starts its children with SIGINT ignored, and what is ignored stays so."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Every test runs in an empty folder and from one random state."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)  # which test runners give their worker processes
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_is_compiled():
    """A function is compiled eight times at most, whichever tests it was for, and runs as it is from then on."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture
def network():
    """A small network whose BN statistics and weights are not at their initial values."""
    return small.wide_resnet()


def write_folder(
    root: Path, classes: dict[str, int], test_classes: dict[str, int] | None = None, size=(10, 12)
) -> Path:
    """An image folder with this many random PNGs per class."""
    random = np.random.default_rng(0)
    for split, counts in (("train", classes), ("test", classes if test_classes is None else test_classes)):
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def image_folder(tmp_path):
    """Two classes of eight 10x12 images."""
    return write_folder(tmp_path / "images", {"cat": 8, "dog": 8})
