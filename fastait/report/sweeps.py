"""Accuracy against epsilon, and against the number T of an attack's steps."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from fastait.evaluation.outcomes import CLEAN
from fastait.evaluation.results import LEADING
from fastait.report.charts import Chart, Line, draw
from fastait.report.compared import Entry
from fastait.report.curves import Panel
from fastait.runtime.report import epsilon_text

_STEPS = re.compile(r"(fgsm|pgd|cw|feature)(\d+)(-[a-z]+)?")


def against_epsilon(entries: Sequence[Entry], group: int) -> list[Panel]:
    """A chart for each attack that some model was attacked by under several epsilons.

    Args:
        entries: models that were measured on the same images.
        group: the place of these among the page's groups of models.
    """
    attacks = dict.fromkeys(
        attack for entry in entries for e in entry.evaluations.values() for attack in e.outcomes.correct
    )
    found = []
    for attack in sorted(attacks, key=lambda name: name not in LEADING):
        lines, counts = [], set()
        for entry in entries:
            points, at = [], sorted(e for e, one in entry.evaluations.items() if attack in one.outcomes.correct)
            for epsilon in at:
                one = entry.evaluations[epsilon]
                points.append((255 * epsilon, one.accuracy(attack)))
                counts.add(one.images(attack))
            if attack == CLEAN or len(points) < 2:
                continue
            clean = entry.evaluations[at[0]]
            if clean.images(CLEAN) == clean.images(attack):
                points.insert(0, (0.0, clean.accuracy(CLEAN)))
            lines.append(Line(points, entry.series))
        if not lines:
            continue
        trained = {e.run.config.epsilon for e in entries if e.run is not None and e.run.config is not None}
        marks = [(255 * epsilon, f"trained with {epsilon_text(epsilon)}") for epsilon in trained if len(trained) == 1]
        chart = Chart(
            f"accuracy against epsilon under {attack}",
            "epsilon (Linf) in 1/255 of the pixels' range",
            "accuracy in %",
            lines,
            percent=True,
            marks=marks,
        )
        found.append(Panel(attack, _n(counts), draw(chart, f"epsilon-{attack}-{group}")))
    return found


def against_steps(entries: Sequence[Entry], group: int) -> list[Panel]:
    """A chart for each kind of attack that some model was attacked by with several numbers of steps; else as above."""
    found = []
    for epsilon in dict.fromkeys(entry.shown for entry in entries):
        curves: dict[str, list[Line]] = {}
        counts: dict[str, set[int]] = {}
        for entry in entries:
            one = entry.evaluations.get(epsilon)
            if one is None:
                continue
            points: dict[str, list[tuple[float, float]]] = {}
            for attack in one.outcomes.correct:
                named = _STEPS.fullmatch(attack)
                if named:
                    kind = f"{named[1].upper()}-T{named[3] or ''}"
                    points.setdefault(kind, []).append((float(named[2]), one.accuracy(attack)))
                    counts.setdefault(kind, set()).add(one.images(attack))
            for kind, of_kind in points.items():
                if len(of_kind) > 1:
                    curves.setdefault(kind, []).append(Line(sorted(of_kind), entry.series))
        for kind, lines in curves.items():
            title = f"{kind}, Linf {epsilon_text(epsilon)}"
            chart = Chart(f"accuracy under {title}", "steps T", "accuracy in %", lines, percent=True, log_x=True)
            name = f"steps-{kind}-{epsilon_text(epsilon)}-{group}"
            found.append(Panel(title, _n(counts[kind]), draw(chart, name)))
    return found


def along_steps(entries: Sequence[Entry], group: int) -> list[Panel]:
    """A chart for each attack whose loss was written down, the longest of those that share steps; else as above."""
    found = []
    for epsilon in dict.fromkeys(entry.shown for entry in entries):
        curves: dict[str, list[Line]] = {}
        for entry in entries:
            one = entry.evaluations.get(epsilon)
            losses = {} if one is None else one.outcomes.losses
            for attack in _longest(losses):
                points = [
                    (float(step), loss) for step, loss in enumerate(losses[attack].tolist()) if math.isfinite(loss)
                ]
                if len(points) > 1:
                    curves.setdefault(attack, []).append(Line(points, entry.series))
        for attack, lines in curves.items():
            title = f"{attack}, Linf {epsilon_text(epsilon)}"
            chart = Chart(f"loss of {title}", "step", "mean loss", lines)
            found.append(Panel(title, "", draw(chart, f"loss-{attack}-{epsilon_text(epsilon)}-{group}")))
    return found


def _longest(losses: Mapping[str, Tensor]) -> list[str]:
    """The attacks with a loss but those that another one of the same kind goes on from; no targets of AutoAttack's."""
    found: dict[str, str] = {}
    for attack, values in losses.items():
        named = _STEPS.fullmatch(attack)
        kind = f"{named[1]}{named[3] or ''}" if named else attack
        longer = kind not in found or values.numel() > losses[found[kind]].numel()
        if values.ndim == 1 and longer and (named or _STAGE.fullmatch(attack)):
            found[kind] = attack
    return list(found.values())


_STAGE = re.compile(r"apgd-(ce|dlr)(-\d+)?")


def _n(counts: Iterable[int]) -> str:
    return f"n = {' and '.join(f'{count:,}' for count in sorted(counts))}"
