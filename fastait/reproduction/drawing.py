"""What the figures share: a sheet, its small print, its files, and the state that networks are looked at in."""

import io
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastait.runtime.csv_text import csv_text
from fastait.runtime.errors import InputError, words
from fastait.runtime.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastait.data import Dataset

    Models = dict[str, nn.Module]
    Advance = Callable[[], None]

STEP = 1 / 4
"""Of PGD in the figures, as a share of epsilon: 2/255 of 8/255, as in the paper's evaluation."""

DPI = 150
"""Of pictures in pixels."""


def available() -> None:
    """Raise an InputError unless matplotlib is there; it says what to install."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"figures need matplotlib, which cannot be imported ({error}); install it with pip install 'fastait[train]'"
        ) from None


def first_weight(model: "nn.Module") -> "Tensor":
    """A parameter, whose device and type images are brought to."""
    return next(model.parameters())


@contextmanager
def looked_at(model: "nn.Module") -> "Iterator[nn.Module]":
    """As an evaluation has it: fp32, eval mode, frozen."""
    from fastait.attacks import frozen
    from fastait.runtime.precision import full_precision

    with full_precision(first_weight(model).device), frozen(model):
        yield model


def plain(name: str) -> str:
    """A class's name on a picture: one line, and no dollar signs, which would make mathematics of it."""
    return words(name).replace("$", r"\$")


def about(dataset: "Dataset", models: "list[nn.Module]", epsilon: float, seed: int) -> str:
    """What a picture says of how it came about."""
    from fastait.runtime.report import epsilon_text

    height, width = dataset.test.images.shape[1:3]
    sizes = sorted({sum(weight.numel() for weight in model.parameters()) for model in models})
    return (
        f"{plain(dataset.name)} at {width}x{height}, networks of {' and '.join(f'{size:,}' for size in sizes)} "
        f"parameters, fp32 on {first_weight(models[0]).device.type}, Linf {epsilon_text(epsilon)}, seed {seed}."
    )


def blank_sheet(width: float, height: float) -> Any:
    """A matplotlib figure of this many inches that no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet((width, height), layout="constrained")
    FigureCanvasAgg(sheet)
    return sheet


def caption(sheet: Any, *texts: str) -> None:
    """Small print below the panels, wrapped to the sheet's width."""
    lines = textwrap.wrap(" ".join(texts), int(sheet.get_figwidth() * 16))
    sheet.supxlabel("\n".join(lines), fontsize=8, color="0.3", x=0.01, ha="left")


def write_sheet(sheet: Any, path: Path) -> Path:
    """As PNG; returns the file."""
    buffer = io.BytesIO()
    sheet.savefig(buffer, format="png", dpi=DPI)
    write_whole(path, buffer.getbuffer())
    return path


def write_csv(columns: tuple[str, ...], rows: list[tuple[Any, ...]], path: Path) -> Path:
    """A table as CSV; returns the file."""
    write_whole(path, csv_text(columns, rows).encode())
    return path


def write_svg(sheet: Any, path: Path, description: str | None = None) -> Path:
    """A sheet as SVG without a date, a version or random names, and with a description that is not shown.

    Returns:
        the path.
    """
    from matplotlib import rc_context

    text, about = io.BytesIO(), {"Date": None, "Creator": None, "Description": description}
    with rc_context({"svg.hashsalt": "fastait", "svg.fonttype": "path"}):
        sheet.savefig(text, format="svg", transparent=True, metadata=about)
    write_whole(path, text.getbuffer())
    return path
