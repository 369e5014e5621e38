"""What a reproduction would do and cost, without doing it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from fastait.checkpoints.folder import RunFolder
from fastait.config import TrainConfig
from fastait.evaluation.journal import Recorded
from fastait.reproduction import attempts
from fastait.reproduction.grids import CLEAN, Cell
from fastait.reproduction.points import Point, points
from fastait.reproduction.session import check, systems_of
from fastait.reproduction.standing import Standing, journal_folder
from fastait.reproduction.systems import Choices
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
        systems: whose networks are needed.
        cells: that are to be measured.
        choices: of the user. Nothing is written.

    Attributes:
        networks: what those cost that are left to be trained, by their names.
    """

    def __init__(self, systems: Iterable[str], cells: Iterable[Cell], choices: Choices):
        self.systems, self.cells = list(systems), list(cells)
        self.choices = choices
        self.device = resolve_device(choices.device)
        self.environment = environment(self.device)
        self.networks: dict[str, Cost] = {}
        self.rate = cache(self._rate)
        self.fp32_rate = cache(self._rate)  # in which TF32 has no part
        recorded = Recorded(journal_folder(choices))
        recorded.read()
        self.standings = [Standing(one, recorded) for one in choices.each_seed()]

    def runs(self) -> list[Job]:
        """Every network that is needed, in the order in which they are trained."""
        found = {}
        for choices in self.choices.each_seed():
            for system in self.systems:
                if choices.run(system) not in found:
                    found[choices.run(system)] = self._run(system, choices)
        return list(found.values())

    def evaluations(self) -> list[Job]:
        """Every evaluation that is needed; what tables share is listed once."""
        asked = points(cell for cell in self.cells if not self.choices.lacks_images(cell.system))
        return [
            self._evaluation(point, attacks, standing)
            for standing in self.standings
            for point, attacks in asked.items()
        ]

    def _run(self, system: str, choices: Choices) -> Job:
        from fastait.reproduction.cost import run_cost

        config, run = choices.config(system), choices.run(system)
        name, method = choices.run_name(system), config.method
        if attempts.finished(run):
            return Job(name, method, "finished")
        at = attempts.begun(run)
        done = 0
        if at is not None and (metrics := RunFolder(at).metrics_file).is_file():
            done = len(metrics.read_bytes().splitlines())
        begun = f"begun, {done} of {config.epochs} epochs" if at is not None else "missing"
        classes, images = choices.classes(system), choices.training_images(system)
        cost = run_cost(config, classes)
        self.networks[f"{config.model} of {classes} classes"] = cost
        flop = cost.step * images * (config.epochs - done)
        return Job(name, method, begun, flop, flop / self.rate(_shape(config, classes)), cost.passes)

    def _evaluation(self, point: Point, attacks: list[str], standing: Standing) -> Job:
        from fastait.reproduction.cost import evaluation_flops

        choices = standing.choices
        config, images, classes = choices.config(point.system), standing.images(point), choices.classes(point.system)
        measured = {name: len(verdicts) for name, verdicts in standing.known(point, attacks).items()}
        missing = [attack for attack in attacks if measured.get(attack, 0) < images]
        share = sum(measured.get(attack, 0) for attack in (CLEAN, *attacks)) / images / (1 + len(attacks))
        state = "missing" if share == 0 else "finished" if share >= 1 else f"begun, {100 * share:.0f} %"
        # A surrogate has no more than a name here, noise no more than a sign.
        which = choices.weights(point.system)
        name = choices.run_name(point.system) + ("" if which == "last" else f", {which}")
        name += " with input noise" if point.noisy else ""
        name += f" on images of {choices.run_name(point.surrogate)}" if point.surrogate else ""
        what = f"{', '.join(attacks)} ({epsilon_text(point.epsilon)}, {images} images)"
        if share >= 1:
            return Job(name, what, state)
        flop = evaluation_flops(config, classes, missing, images)
        with full_precision(self.device):
            return Job(name, what, state, flop, flop / self.fp32_rate(_shape(replace(config, amp=False), classes)))

    def _rate(self, shape: tuple[TrainConfig, int]) -> float:
        from fastait.reproduction.cost import measured_rate

        return measured_rate(*shape, self.device)


def show_plan(names: Iterable[str], choices: Choices) -> None:
    """Print the jobs of ``names``, what is left of each, and the totals."""
    names = list(names)
    check(names, choices)
    cells = [cell for name in names if name in TABLES for cell in TABLES[name].cells(choices.scale)]
    show_costs(Plan(systems_of(names, choices), cells, choices))
    for system in dict.fromkeys(s for n in names if n in TABLES for s in TABLES[n].systems(choices.scale)):
        if choices.lacks_images(system):
            say(f"{system} is left out: it needs images without labels, --unlabeled DIR.")


def show_costs(plan: Plan) -> None:
    """Print a plan's jobs and the totals."""
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


def _shape(config: TrainConfig, classes: int) -> tuple[TrainConfig, int]:
    """What decides a machine's rate: configs that are equal in it are measured once."""
    shape = replace(
        TrainConfig(),
        method="natural",
        dataset=config.dataset,
        image_size=config.image_size,
        batch_size=config.batch_size,
        model=config.model,
        amp=config.amp,
    )
    return shape, classes
