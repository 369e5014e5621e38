"""Training curves: a chart for each kind of figure, all runs in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fastait.report.charts import Chart, Line, draw
from fastait.report.run_files import CHOSEN_BY, Run, is_number


@dataclass(frozen=True)
class Kind:
    """What is drawn of ``metrics.jsonl``.

    Attributes:
        key: in it.
        title: of the chart.
        unit: of the y axis.
        images: under which key it says of how many images; empty where that is no matter.
        log: whether the y axis is logarithmic.
    """

    key: str
    title: str
    unit: str
    images: str = ""
    log: bool = False


_ACCURACY = "accuracy in %"
_WATCHED = (("clean", "clean accuracy"), ("fgsm", "accuracy under FGSM"), ("pgd10", "accuracy under PGD-10"))

KINDS = (
    Kind("loss", "loss that is trained by", "loss", "images"),
    Kind("accuracy", "accuracy on the training images as moved", _ACCURACY, "images"),
    *(
        Kind(f"{kind}_{key}", f"{attack}, {which}", _ACCURACY, images)
        for kind, which, images in (
            ("val", "held-out images", "val_images"),
            ("val_ema", "held-out images, averaged weights", "val_images"),
            ("train", "a part of the training images", "train_images"),
        )
        for key, attack in _WATCHED
    ),
    Kind("lr", "learning rate at the end of the epoch", "learning rate", log=True),
    Kind("zero_gradients", "zero gradients of the attack", "zero in %"),
    Kind("nan_gradients", "gradients of the attack that are not finite", "NaN in %"),
    Kind("images_per_second", "speed of training", "images/s"),
)


_FROM_ZERO = ("zero_gradients", "nan_gradients", "images_per_second")


@dataclass(frozen=True)
class Panel:
    """A chart and what stands above it.

    Attributes:
        title: what it shows.
        n: how many images it is of, in words; empty where that is no matter.
        picture: the SVG.
    """

    title: str
    n: str
    picture: Markup


def panels(runs: Sequence[tuple[int, Run]], group: int) -> list[Panel]:
    """The charts of runs that can be compared.

    Args:
        runs: each with its place among the page's series.
        group: the place of these among the page's groups of runs.
    """
    found = []
    for kind in KINDS:
        curves = [(series, run, run.curve(kind.key)) for series, run in runs]
        curves = [(series, run, points) for series, run, points in curves if points]
        if not curves:
            continue
        log = kind.log and all(y > 0 for _, _, points in curves for _, y in points)
        log = log and len({y for _, _, points in curves for _, y in points}) > 1
        chart = Chart(
            kind.title,
            "epoch",
            kind.unit,
            [
                Line(points, series, run.best if kind.key in CHOSEN_BY else None, run.collapsed)
                for series, run, points in curves
            ],
            percent=kind.unit == _ACCURACY,
            from_zero=kind.key in _FROM_ZERO,
            log_y=log,
        )
        found.append(Panel(kind.title, _counts(kind, [run for _, run, _ in curves]), draw(chart, f"{kind.key}{group}")))
    return found


def _counts(kind: Kind, runs: Sequence[Run]) -> str:
    if not kind.images:
        return ""
    found = [epoch.get(kind.images) for run in runs for epoch in run.epochs]
    whole = sorted({int(count) for count in found if is_number(count)})
    if not whole:
        return "n was not written down"
    return f"n = {whole[0]:,}" if len(whole) == 1 else f"n = {whole[0]:,} to {whole[-1]:,}"
