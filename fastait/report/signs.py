"""The masking report: each check with its figure, its sentence and a picture of its numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fastait.evaluation.masking import STEPS, Check
from fastait.evaluation.outcomes import CLEAN
from fastait.evaluation.results import masking_heading
from fastait.evaluation.session import MASKING_IMAGES
from fastait.report.charts import Chart, Line, draw
from fastait.report.compared import Entry
from fastait.report.eval_files import Measurement
from fastait.report.run_files import is_number
from fastait.runtime.report import epsilon_text

NO_PROOF = "None of them firing is no proof that gradients are not masked."


@dataclass(frozen=True)
class Shown:
    """A check.

    Attributes:
        check: what was found.
        chart: of its numbers along something, or empty.
        bars: its numbers in percent, where they are of that kind.
    """

    check: Check
    chart: Markup
    bars: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Report:
    """The checks of a model, and what they were made on."""

    heading: str
    images: str
    series: int
    checks: Sequence[Shown]


def reports(entries: Sequence[Entry]) -> list[Report]:
    """Of each model that was checked."""
    found = []
    for number, entry in enumerate(entries):
        checks = entry.measurement.masking.get(entry.model)
        if checks:
            shown = [_shown(check, entry.series, f"masking-{number}-{place}") for place, check in enumerate(checks)]
            epsilon, first = next(iter(entry.evaluations.items()))
            images = min(MASKING_IMAGES, first.images(CLEAN))
            said = f"n = {images}, Linf {epsilon_text(epsilon)}, but where a check says otherwise"
            found.append(Report(masking_heading(entry.name, checks), said, entry.series, shown))
    return found


def unchecked(measurement: Measurement) -> bool:
    """Whether an evaluation has models and checked none of them."""
    return bool(measurement.evaluations) and not measurement.masking


def numbers_lack(entries: Sequence[Entry]) -> bool:
    """Whether some check has no numbers, as those of older versions."""
    return any(not check.numbers for entry in entries for check in entry.measurement.masking.get(entry.model, ()))


def _shown(check: Check, series: int, name: str) -> Shown:
    numbers: Mapping[str, Any] = check.numbers
    losses = _values(numbers.get("loss"))
    if losses:
        # Where a loss is not finite there is a gap.
        points = [(float(step), loss) for step, loss in enumerate(losses) if loss is not None]
        chart = Chart("mean loss along the steps", f"step of PGD-{STEPS}", "mean cross-entropy", [Line(points, series)])
        return Shown(check, draw(chart, name) if points else Markup(""), ())
    budgets, accuracies = _values(numbers.get("epsilon")), _values(numbers.get("accuracy"))
    if budgets and len(budgets) == len(accuracies):
        points = sorted((e, a) for e, a in zip(budgets, accuracies, strict=True) if e and a is not None)
        chance = numbers.get("chance")
        chart = Chart(
            f"accuracy under PGD-{STEPS} against epsilon up to 1",
            "epsilon (Linf), of images in [0, 1]",
            "accuracy in %",
            [Line(points, series)],
            percent=True,
            levels=[(chance, "chance")] if is_number(chance) else [],
        )
        return Shown(check, draw(chart, name) if points else Markup(""), ())
    bars = [(label, min(100.0, max(0.0, value))) for label, value in numbers.items() if _is_share(label, value)]
    return Shown(check, Markup(""), bars)


def _values(found: Any) -> list[float | None]:
    if not isinstance(found, list):
        return []
    return [float(value) if is_number(value) else None for value in found]


def _is_share(label: str, value: Any) -> bool:
    return label != "images" and is_number(value) and math.isfinite(value)
