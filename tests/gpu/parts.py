"""What ``run.py`` runs: the parts, in the order of what one wants to know first."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SECONDS = 540
"""A part that takes longer is stopped: commands on lent machines often may take ten minutes."""

FIRST = ("operators", "unaligned", "fp32", "step", "failed_capture", "evaluation", "runs", "memory", "processes")
"""Test files of this folder in their order; others come behind them."""

PYTEST = ("pytest", "numpy", "PIL")
RUNS = (*PYTEST, "rich", "safetensors", "sklearn")
BENCH = (*RUNS, "pytest_benchmark", "torchvision")
WITH_RUNS = ("step", "evaluation", "runs", "memory", "processes")
"""Of the test files, those that train and evaluate by the project's own commands, on scikit-learn's digits."""


@dataclass(frozen=True)
class Part:
    """A process of its own.

    Attributes:
        name: how it is asked for and what its log is called.
        argv: Python's arguments.
        needs: modules without which it is skipped.
        answers: whether it prints one JSON document; the others are pytest's.
        measures: whether it writes ``.benchmarks/fastait.json``.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    answers: bool = False
    measures: bool = False


OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "-p", "recorder", "--continue-on-collection-errors"),
    *("-o", "addopts=--import-mode=importlib --strict-markers"),
)
"""Instead of the project's own, which ask for plugins."""


def _pytest(name: str, *argv: str, needs: tuple[str, ...] = PYTEST, measures: bool = False) -> Part:
    return Part(name, ("-m", "pytest", *OPTIONS, *argv), needs, measures=measures)


def parts(rehearsed: bool) -> dict[str, Part]:
    """All of them by name."""
    files = {
        path.stem.removeprefix("test_").removesuffix("_on_gpu"): path
        for path in (ROOT / "tests/gpu").glob("*_on_gpu.py")
    }
    order = sorted(files, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    timed = () if rehearsed else ("--benchmark-only", "-m", "not slow")
    found = [
        Part("doctor", ("-m", "fastait.doctor", "--json"), ("fastait.doctor", "cyclopts", "rich"), answers=True),
        *(
            _pytest(name, f"tests/gpu/{files[name].name}", needs=RUNS if name in WITH_RUNS else PYTEST)
            for name in order
        ),
        _pytest(
            "kernels",
            "tests/kernels",
            "--ignore=tests/kernels/test_ahead_of_time.py",
            needs=(*PYTEST, "hypothesis", "triton"),
        ),
        Part("profile", ("bench/step_profile.py", "--json", *(["--little"] if rehearsed else [])), answers=True),
        *(
            _pytest(f"bench-{name}", f"bench/test_{name}.py", *timed, needs=BENCH, measures=True)
            for name in ("step", "single_step", "operators", "evaluation", "eval_autoattack", "loaders")
        ),
    ]
    return {part.name: part for part in found}
