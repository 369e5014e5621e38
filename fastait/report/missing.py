"""What the runs and evaluations of a page lack together, and how to get it."""

from collections.abc import Iterator, Sequence

from fastait.evaluation.results import LEADING
from fastait.report.compared import Entry
from fastait.report.confusions import strongest
from fastait.report.eval_files import Measurement
from fastait.report.gaps import Gap, quoted
from fastait.report.run_files import Run
from fastait.report.signs import numbers_lack, unchecked

ADVISED = 4
"""Networks of a sweep that are advised to be measured by themselves, at most."""

ASKED = "quick,fgsm,pgd20,pgd100,cw20"
"""Attacks that are advised."""


def gaps(
    runs: Sequence[Run], measurements: Sequence[Measurement], entries: Sequence[Entry], against_epsilon: bool
) -> Iterator[Gap]:
    """What is left out of a page.

    Args:
        runs, measurements: those of the page.
        entries: the models of the latter.
        against_epsilon: whether some model was measured under several epsilons.
    """
    for run in runs:
        yield from run.gaps
    for measurement in measurements:
        yield from measurement.gaps
    measured = {id(entry.run) for entry in entries}
    for run in runs:
        if id(run) not in measured and run.result is not None:
            yield Gap(
                run.name,
                "no evaluation of it was given (--eval): no AutoAttack, no intervals of attacks, no masking report, no "
                "confusions, no images",
                "Measure it, and give the folder to the page by --eval:",
                quoted("fastait", "eval", run.path, "--attacks", ASKED, "--masking", "--out", f"{run.path}-eval"),
            )
    for measurement in measurements:
        yield from _of_sweep(measurement) if measurement.of_sweep else _of_evaluation(measurement, entries)
    if numbers_lack(entries):
        yield Gap("masking", "checks of an older version have no numbers: their plots are left out")
    if entries and not against_epsilon:
        yield Gap(
            "accuracy against epsilon",
            "each model was measured under one epsilon",
            "List several epsilons under [evaluation]."
            if all(measurement.of_sweep for measurement in measurements)
            else "Repeat --epsilon, such as --epsilon 4/255 --epsilon 8/255 --epsilon 16/255.",
        )
    data = {(str(run.config.dataset), run.classes) for run in runs if run.config is not None and run.classes}
    if len(data) > 1:
        yield Gap(
            "runs",
            "they are of different data sets or class names",
            "Their curves and tables stand apart, since their figures cannot be compared.",
        )


def _of_evaluation(measurement: Measurement, entries: Sequence[Entry]) -> Iterator[Gap]:
    if _weak(measurement):
        yield Gap(
            measurement.name,
            "it was not measured by AutoAttack",
            "Add quick or autoattack to --attacks, with the same --out.",
        )
    if unchecked(measurement):
        yield Gap(measurement.name, "no masking report", "Add --masking to the same command, with the same --out.")
    if measurement.labels and any(_no_classes(entry) for entry in entries if entry.measurement is measurement):
        yield Gap(measurement.name, "its classes under attack were not written down: no confusions for some models")
    if measurement.evaluations and not measurement.gaps and not any(measurement.examples):
        yield Gap(measurement.name, "no images were kept", "--save-images has them attacked again.")


def _of_sweep(measurement: Measurement) -> Iterator[Gap]:
    if _weak(measurement):
        yield Gap(
            measurement.name,
            "it was not measured by AutoAttack",
            "Add quick or autoattack to the attacks under [evaluation].",
        )
    models = dict.fromkeys(e.model for e in measurement.evaluations)
    paths = [path for path in map(measurement.model_path, models) if path is not None][:ADVISED]
    yield Gap(
        measurement.name,
        "no masking report and no images, which a sweep does not make",
        "Measure networks that matter by themselves, and make a page of that folder by --eval:",
        quoted("fastait", "eval", *paths, "--attacks", ASKED, "--masking", "--out", f"{measurement.path}-closer"),
    )


def _weak(measurement: Measurement) -> bool:
    attacks = {attack for e in measurement.evaluations for attack in e.outcomes.correct}
    return bool(attacks) and not attacks.intersection(LEADING)


def _no_classes(entry: Entry) -> bool:
    return strongest(entry.evaluations[entry.shown]) is None
