"""The first line of a run: what is trained, on what and by what means."""

from pathlib import Path
from typing import Any

from fastait.runtime.precision import HALF_NAMES, native_half
from fastait.training.prepare import Prepared


def headline(prepared: Prepared, environment: dict[str, Any], step: int, folder: Path) -> str:
    """What a run that goes on from ``step`` says of itself.

    Args:
        prepared: what it has.
        environment: the machine's, as ``result.json`` has it.
        step: counted from 0.
        folder: the run's.
    """
    config, data = prepared.config, prepared.dataset
    return (
        f"{config.method} on {config.dataset}: {prepared.plan.size} training and {len(data.test)} test images, "
        + (f"{len(prepared.validation)} held out, " if prepared.validation else "")
        + (f"{prepared.unlabeled[1].size} without labels, " if prepared.unlabeled else "")
        + f"{len(data.classes)} classes; {config.model}, {_arithmetic(prepared, step)}, {environment['device']}, "
        f"{prepared.loader.name} loader"
        + (", CUDA graph" if prepared.graph else "")
        + (", compiled" if config.compile else "")
        + (f", {prepared.ranks.size} processes" if prepared.ranks.size > 1 else "")
        + f"; run folder {folder}"
    )


def _arithmetic(prepared: Prepared, step: int) -> str:
    """What the run computes in, and at its beginning, the only time to choose, what ``--amp`` would make of it."""
    precision = prepared.precision
    half = native_half(prepared.device) if precision.dtype is None and not step else None
    return precision.name if half is None else f"{precision.name} ({HALF_NAMES[half]} with --amp)"
