"""A comparison of one's own, as a TOML file says it: rows that are trained, and what they are measured by."""

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from fastait.attacks.columns import parse, parse_all
from fastait.config import PLACES, TrainConfig
from fastait.evaluation.journal import images_checksum
from fastait.recipes import recipe
from fastait.reproduction.grids import CLEAN, WORST, Block, Cell, Line, Table
from fastait.reproduction.images import Datasets, images_of
from fastait.reproduction.systems import DATA_SIZES, GLANCE, Choices, DataSize, Scale
from fastait.runtime.errors import InputError, check_choice
from fastait.runtime.report import epsilon_text
from fastait.runtime.settings import as_written, fraction, near_match

SECTIONS = ("seeds", "settings", "product", "rows", "evaluation")
EVALUATION = ("attacks", "epsilons", "step_size", "samples", "black_box_samples", "weights")
EVERYWHERE = ("seed", "out", "device")
"""Settings that cannot differ between rows: seeds are a list of their own, runs lie in the comparison's folder."""

SPEAKING = ("recipe", "method", "dataset", "model")
"""Settings whose values say what they are of."""

ALL = Scale("sweep", None, 0, {})


@dataclass(frozen=True)
class Sweep:
    """What a file says.

    Attributes:
        rows: {title: settings}, in the file's order; seed and folder are given later.
        seeds: that each row is trained with.
        attacks: columns, see ``fastait.attacks.columns``.
        epsilons: budgets of the evaluation on images in [0, 1]; empty for what each row is trained with.
        step_size: of the evaluation's attacks.
        samples, black_box_samples: test images that are attacked, classes in proportion; all if None.
        weights: which of a run's: last, best or ema.
    """

    rows: Mapping[str, TrainConfig]
    seeds: tuple[int, ...] = (0,)
    attacks: tuple[str, ...] = ("fgsm", "pgd20", "cw20")
    epsilons: tuple[float, ...] = ()
    step_size: float = 2 / 255
    samples: int | None = None
    black_box_samples: int | None = None
    weights: str = "last"

    @property
    def systems(self) -> dict[str, TrainConfig]:
        """{what can stand in a file's name: settings}, a row each."""
        return dict(zip(_file_names(self.rows), self.rows.values(), strict=True))

    def table(self) -> Table:
        """Its rows and columns; nothing is published to compare with."""
        systems = self.systems
        rows = tuple(Line(title, system=system) for title, system in zip(self.rows, systems, strict=True))
        several = len(self.epsilons) > 1
        columns, budgets = [Line("Clean", attack=CLEAN)], {"Clean": self.epsilons[0] if self.epsilons else None}
        for epsilon in self.epsilons or (None,):
            for attack in self.attacks:
                title = attack + (f" {epsilon_text(epsilon)}" if several and epsilon is not None else "")
                columns.append(Line(title, attack=attack))
                budgets[title] = epsilon
        if len(columns) > 2 and not several:
            columns.append(Line("Worst", attack=WORST))
        nothing = tuple((None,) * len(columns) for _ in rows)
        own = {system: config.epsilon for system, config in systems.items()}
        return Table("Comparison", "", (_Block("", "", "", rows, tuple(columns), nothing, False, own, budgets),))


@dataclass(frozen=True)
class _Block(Block):
    own: Mapping[str, float] = field(default_factory=dict)
    budgets: Mapping[str, float | None] = field(default_factory=dict)

    def cell(self, row: Line, column: Line, scale: Scale) -> Cell | None:
        assert row.system is not None
        assert column.attack is not None
        if column.attack == WORST:
            return None
        epsilon, black_box = self.budgets[column.title], column.attack != CLEAN and parse(column.attack).black_box
        epsilon = self.own[row.system] if epsilon is None else epsilon
        return Cell(row.system, column.attack, epsilon, black_box=black_box)


@dataclass(frozen=True)
class SweepChoices(Choices):
    """The choices of a comparison of one's own: its systems are the rows."""

    sweep: Sweep = field(default_factory=lambda: Sweep({}))

    @property
    def folder(self) -> Path:
        return self.out

    @property
    def step_size(self) -> float:
        return self.sweep.step_size

    def run_name(self, system: str) -> str:
        return system + (f"-seed={self.seed}" if self.seed else "")

    def weights(self, system: str) -> str:
        return self.sweep.weights

    def needs_unlabeled(self, system: str) -> bool:
        return False  # a row that does says itself where its images lie

    def config(self, system: str) -> TrainConfig:
        return replace(self.sweep.systems[system], seed=self.seed, out=self.run(system)).resolved()

    def test_images(self, system: str, black_box: bool) -> int:
        wanted = [self.sweep.samples, self.sweep.black_box_samples if black_box else None]
        return min(filter(None, [_size(self.config(system)).test, *wanted]))

    def images_wanted(self, system: str, black_box: bool) -> dict[str, Any]:
        config, wanted = self.config(system), super().images_wanted(system, black_box)
        return wanted if config.dataset in DATA_SIZES else {**wanted, "images": _pixels(images_of(config), wanted["n"])}

    def classes(self, system: str) -> int:
        return _size(self.config(system)).classes

    def training_images(self, system: str) -> int:
        return _size(self.config(system)).train

    def may_call(self, model: str) -> bool:
        return True  # the file that the command names does

    @property
    def again(self) -> str:
        return f"the same command and --out {self.out}"

    def decides(self) -> dict[str, Any]:
        rows = {system: self.config(system).to_json() for system in self.sweep.systems}
        kept = ("seed", *PLACES)
        return {f"row {system}": {k: v for k, v in row.items() if k not in kept} for system, row in rows.items()}


def read_sweep(file: Path) -> Sweep:
    """What ``file`` says.

    Raises:
        InputError: naming the file and the place, it cannot be read, is no TOML, has a key that is unknown, a list that
            is empty, or a value that is not what it must be.
    """
    try:
        with open(file, "rb") as opened:
            said = tomllib.load(opened)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML: {error}") from None
    try:
        return _sweep(said)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{file}: {error}") from None


def _sweep(said: dict[str, Any]) -> Sweep:
    _known("the file", said, SECTIONS)
    settings = _settings("settings", said.get("settings", {}), but=("seed", "out"))
    product, rows = _product(said.get("product", {})), _rows(said.get("rows"))
    if product and rows:
        raise InputError("[product] and [[rows]] are two ways to say what is compared; leave one out")
    if not product and not rows:
        raise InputError("nothing is compared: say [product] or [[rows]]")
    if product:
        combined = [dict(zip(product, values, strict=True)) for values in itertools.product(*product.values())]
        rows = {_title(row): row for row in combined}
    made = {title: _config(title, {**settings, **row}) for title, row in rows.items()}
    evaluation = _evaluation(said.get("evaluation", {}))
    weights = evaluation.get("weights", "last")
    for title, config in made.items():
        if (weights == "best" and config.val_fraction == 0) or (weights == "ema" and config.ema is None):
            raise InputError(f"[evaluation] weights = {weights!r}: {title!r} has none; see val_fraction and ema")
    seeds = tuple(_list("seeds", said.get("seeds", [0])))
    if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
        raise InputError(f"seeds must be whole numbers, got {list(seeds)}")
    return Sweep(made, seeds, **evaluation)


def _product(said: Any) -> dict[str, list[Any]]:
    if not isinstance(said, dict):
        raise InputError("[product] must be a table of lists")
    found = {}
    for name, values in said.items():
        each = [_settings("product", {name: value}, EVERYWHERE) for value in _list(f"[product] {name}", values)]
        found[next(iter(each[0]))] = [value for one in each for value in one.values()]
    return found


def _rows(said: Any) -> dict[str, dict[str, Any]]:
    if said is None:
        return {}
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(_list("[[rows]]", said), 1):
        if not isinstance(row, dict):
            raise InputError("[[rows]] must be tables of settings")
        settings = _settings(f"row {number}", {k: v for k, v in row.items() if k != "title"}, EVERYWHERE)
        title = row.get("title", _title(settings))
        if not isinstance(title, str) or not title.strip():
            raise InputError(f"row {number}: title must be a text, got {title!r}")
        if title in rows:
            raise InputError(f"row {number}: another row is called {title!r} too; give it a title")
        rows[title] = settings
    return rows


def _evaluation(said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise InputError("[evaluation] must be a table")
    said = {name.replace("-", "_"): value for name, value in said.items()}
    _known("[evaluation]", said, EVALUATION)
    found: dict[str, Any] = {}
    if "attacks" in said:
        found["attacks"] = tuple(map(str, _list("[evaluation] attacks", said["attacks"])))
        for column in parse_all(found["attacks"]):
            if column.needs_surrogate:
                raise InputError(f"[evaluation] attacks: {column.name} needs another model, which a sweep has not")
    if "epsilons" in said:
        found["epsilons"] = tuple(map(_number, _list("[evaluation] epsilons", said["epsilons"])))
        if not all(0 < epsilon <= 1 for epsilon in found["epsilons"]):
            raise InputError("[evaluation] epsilons must be in (0, 1] for images in [0, 1] (8/255 is usual)")
    if "step_size" in said:
        found["step_size"] = _number(said["step_size"])
        if not 0 < found["step_size"] <= 1:
            raise InputError("[evaluation] step_size must be in (0, 1] for images in [0, 1] (2/255 is usual)")
    for name in ("samples", "black_box_samples"):
        if name in said:
            if type(said[name]) is not int or said[name] < 1:
                raise InputError(f"[evaluation] {name} must be a whole number of at least 1, got {said[name]!r}")
            found[name] = said[name]
    if "weights" in said:
        check_choice("[evaluation] weights", said["weights"], ("last", "best", "ema"))
        found["weights"] = said["weights"]
    return found


def _config(title: str, settings: dict[str, Any]) -> TrainConfig:
    settings = {"eval_samples": GLANCE, **settings}
    name = settings.pop("recipe", "digits")
    try:
        config = recipe(name, **settings)
        config.check()
    except (InputError, TypeError) as error:
        raise InputError(f"{title!r}: {error}") from None
    return config


def _settings(where: str, said: Any, but: Sequence[str]) -> dict[str, Any]:
    """Settings of a run, with fractions as numbers."""
    if not isinstance(said, dict):
        raise InputError(f"[{where}] must be a table of settings")
    said = {name.replace("-", "_"): value for name, value in said.items()}
    known = {one.name: one.type for one in fields(TrainConfig) if one.name not in but}
    for name in said:
        if name in but:
            raise InputError(f"[{where}] {name}: " + _INSTEAD[name])
    _known(f"[{where}]", said, known)
    return {
        name: _number(value) if isinstance(value, str) and _is_number(known[name]) else value
        for name, value in said.items()
    }


_INSTEAD = {
    "seed": "say seeds = [...] at the top of the file",
    "out": "runs lie in the sweep's folder, which --out names",
    "device": "is the same for all rows; say it under [settings]",
}


def _known(where: str, said: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    for name in said:
        if name not in known:
            raise InputError(f"{where} has an unknown key {name!r}{near_match(name, known)}")


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{what} must be a list that is not empty, got {value!r}")
    if any(value.count(one) > 1 for one in value):
        raise InputError(f"{what} names something twice: {value!r}")
    return value


def _number(value: Any) -> float:
    return fraction(str(value))


def _is_number(annotation: Any) -> bool:
    return annotation is float or any(map(_is_number, get_args(annotation)))


def _title(settings: Mapping[str, Any]) -> str:
    """What a row is called by what is its own."""
    shown = {name: as_written(tuple(v) if isinstance(v, list) else v) for name, v in settings.items()}
    return ", ".join(value if name in SPEAKING else f"{name} {value}" for name, value in shown.items())


def _file_names(titles: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for title in titles:
        name = re.sub(r"[^\w.=+-]+", "-", title.replace("/", "over"), flags=re.ASCII).strip("-.")[:80] or "row"
        while name in found:
            name += "+"
        found.append(name)
    return found


def _size(config: TrainConfig) -> DataSize:
    return DATA_SIZES[config.dataset] if config.dataset in DATA_SIZES else _counted(images_of(config))


@cache
def _counted(config: TrainConfig) -> DataSize:
    found = Datasets().of(config)
    return DataSize(len(found.classes), len(found.train), len(found.test))


@cache
def _pixels(config: TrainConfig, wanted: int) -> str:
    test = Datasets().of(config).test
    return images_checksum(test if wanted >= len(test) else test.stratified(wanted))
