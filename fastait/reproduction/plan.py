"""What a reproduction would do and cost, without doing it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fastait.checkpoints.folder import WEIGHTS, RunFolder
from fastait.config import TrainConfig
from fastait.evaluation.journal import recorded
from fastait.evaluation.model_files import load_model
from fastait.reproduction.grids import CLEAN
from fastait.reproduction.measure import Point, checksum, journal_folder, points, subject
from fastait.reproduction.session import check, systems_of
from fastait.reproduction.systems import DATA_SIZES, SYSTEMS, Choices
from fastait.reproduction.tables import TABLES
from fastait.runtime.console import say, show_table
from fastait.runtime.hardware import environment
from fastait.runtime.precision import full_precision, resolve_device
from fastait.runtime.report import epsilon_text
from fastait.training.cost import Cost, gflop


@dataclass(frozen=True)
class Job:
    """A run or an evaluation.

    Attributes:
        name: of its system or point.
        what: the method, or the attacks.
        state: finished, missing, or begun and how far.
        flop: floating-point operations that are left to do.
        seconds: estimated, for those.
        passes: F, how many forward passes' worth a step of a run is.
    """

    name: str
    what: str
    state: str
    flop: float = 0.0
    seconds: float = 0.0
    passes: float = 0.0


class Plan:
    """The jobs of some tables and figures.

    Args:
        names: of the tables and figures.
        choices: of the user. Nothing is written.

    Attributes:
        networks: what those cost that are left to be trained, by their names.
    """

    def __init__(self, names: Iterable[str], choices: Choices):
        self.names = list(names)
        self.choices = choices
        self.device = resolve_device(choices.device)
        self.environment = environment(self.device)
        self.networks: dict[str, Cost] = {}
        self.rate = cache(self._rate)
        self.fp32_rate = cache(self._rate)  # in which TF32 has no part
        self.checksum = cache(self._checksum)

    def runs(self) -> list[Job]:
        """Every network that is needed, in the order in which they are trained."""
        systems = {self.choices.run(system): system for system in reversed(systems_of(self.names, self.choices))}
        return [self._run(system) for system in reversed(systems.values())]

    def evaluations(self) -> list[Job]:
        """Every evaluation that is needed; what tables share is listed once."""
        cells = [cell for name in self.names if name in TABLES for cell in TABLES[name].cells(self.choices.scale)]
        asked = points(cell for cell in cells if not self.choices.lacks_images(cell.system))
        return [self._evaluation(point, attacks) for point, attacks in asked.items()]

    def _run(self, system: str) -> Job:
        from fastait.reproduction.cost import run_cost

        config, folder = self.choices.config(system), RunFolder(self.choices.run(system))
        name, method = SYSTEMS[system].run_name(self.choices.scale), SYSTEMS[system].method
        if folder.result_file.is_file():
            return Job(name, method, "finished")
        done = len(folder.metrics_file.read_bytes().splitlines()) if folder.metrics_file.is_file() else 0
        begun = f"begun, {done} of {config.epochs} epochs" if RunFolder.begun(folder.path) else "missing"
        size = DATA_SIZES[config.dataset]
        cost = run_cost(config, size.classes)
        self.networks[f"{config.model} of {size.classes} classes"] = cost
        flop = cost.step * size.train * (config.epochs - done)
        return Job(name, method, begun, flop, flop / self.rate(_shape(config)), cost.passes)

    def _evaluation(self, point: Point, attacks: list[str]) -> Job:
        from fastait.reproduction.cost import evaluation_flops

        config, scale = self.choices.config(point.system), self.choices.scale
        size = DATA_SIZES[config.dataset]
        wanted = scale.black_box_images if point.black_box else scale.images
        images = size.test if wanted is None else min(wanted, size.test)
        measured = self._measured(point, images)
        missing = [attack for attack in attacks if measured.get(attack, 0) < images]
        share = sum(measured.get(attack, 0) for attack in (CLEAN, *attacks)) / images / (1 + len(attacks))
        state = "missing" if share == 0 else "finished" if share >= 1 else f"begun, {100 * share:.0f} %"
        # A surrogate has no more than a name here, noise no more than a sign.
        system = SYSTEMS[point.system]
        name = system.run_name(scale) + ("" if system.weights == "last" else f", {system.weights}")
        name += " with input noise" if point.noisy else ""
        name += f" on images of {SYSTEMS[point.surrogate].run_name(scale)}" if point.surrogate else ""
        what = f"{', '.join(attacks)} ({epsilon_text(point.epsilon)}, {images} images)"
        if share >= 1:
            return Job(name, what, state)
        flop = evaluation_flops(config, size.classes, missing, images)
        with full_precision(self.device):
            return Job(name, what, state, flop, flop / self.fp32_rate(_shape(replace(config, amp=False))))

    def _measured(self, point: Point, images: int) -> dict[str, int]:
        """How many images each attack's outcome is known of."""
        weights = self.checksum(point.system)
        surrogate = point.surrogate and self.checksum(point.surrogate)
        if weights is None or (point.surrogate and surrogate is None):
            return {}
        wanted = {
            **subject(weights, surrogate, point, images, self.environment),
            "epsilon": point.epsilon,
            "step_size": self.choices.scale.step_size,
            "seed": self.choices.seed,
        }
        known: dict[str, set[int]] = {}
        for unit, findings in recorded(journal_folder(self.choices)).items():
            if wanted.items() <= json.loads(unit).items():
                for places, found in findings:
                    for attack in found:
                        known.setdefault(attack, set()).update(places)
        return {attack: len(places) for attack, places in known.items()}

    def _checksum(self, system: str) -> str | None:
        folder = self.choices.run(system)
        if not RunFolder(folder).result_file.is_file():
            return None
        name = self.choices.config(system).model
        return checksum(load_model(folder / WEIGHTS[SYSTEMS[system].weights], model=name)[0], name)

    def _rate(self, config: TrainConfig) -> float:
        from fastait.reproduction.cost import measured_rate

        return measured_rate(config, DATA_SIZES[config.dataset].classes, self.device)


def show_plan(names: Iterable[str], choices: Choices) -> None:
    """Print the jobs of ``names``, what is left of each, and the totals."""
    names = list(names)
    check(names, choices)
    plan = Plan(names, choices)
    runs, evaluations = plan.runs(), plan.evaluations()
    if runs:
        _show_jobs("runs", "method", runs, passes=True)
    for network, cost in plan.networks.items():
        say(f"{network}: F, a forward pass, is {gflop(cost.forward)} GFLOP an image; {cost.parameters:,} parameters.")
    if evaluations:
        _show_jobs("evaluations", "attacks", evaluations)
    left = [job for job in (*runs, *evaluations) if job.flop]
    seconds = _time(sum(job.seconds for job in left))
    say(
        f"Left to do: {sum(job.flop for job in left) / 1e15:.3g} PFLOP, estimated at {seconds} "
        f"on {plan.environment['device']}, from a measurement of some seconds of training steps. Evaluations are at "
        "most this: fooled images leave. Loading data, a run's own small evaluation and drawing are not counted."
    )
    for system in {s for n in plan.names if n in TABLES for s in TABLES[n].systems(choices.scale)}:
        if choices.lacks_images(system):
            say(f"{system} is left out: it needs images without labels, --unlabeled DIR.")


def _show_jobs(title: str, what: str, jobs: list[Job], *, passes: bool = False) -> None:
    lines = []
    for job in jobs:
        step = [f"{job.passes:.1f}" if job.passes else ""] if passes else []
        left = [f"{job.flop / 1e15:.3g}", _time(job.seconds)] if job.flop else ["", ""]
        lines.append([job.name, job.what, job.state, *step, *left])
    columns = ["name", what, "state", *(["F a step"] if passes else []), "PFLOP left", "estimated time"]
    show_table(columns, lines, title=title, words=(0, 1, 2))


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _shape(config: TrainConfig) -> Any:
    """What decides a machine's rate: configs that are equal in it are measured once."""
    base = TrainConfig()
    return replace(
        base,
        method="natural",
        dataset=config.dataset,
        image_size=config.image_size,
        batch_size=config.batch_size,
        model=config.model,
        amp=config.amp,
    )
