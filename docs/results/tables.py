"""The tables of ``docs/RESULTS.md`` and of ``README.md``'s front, made of the folders beside it and of the records.

``--check`` says whether the pages and the picture show what the folders hold, whether these are of the settings of
their TOML files and of their outcomes image by image, and whether every decimal and large number in the manual's own
sentences stands in one of its tables or their files.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fastait.checkpoints.sealed import opened
from fastait.config import PLACES
from fastait.reproduction.sweep import Sweep, read_sweep

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.append(str(ROOT / "records"))

import beside  # noqa: E402, F401 - its methods
from rules import TARGETS, TEST_IMAGES  # noqa: E402
from table import Record, folders, read  # noqa: E402 - of records/

PAGES = {"docs/RESULTS.md": ("methods", "settings", "cost", "masking", "small"), "README.md": ("front",)}
PICTURES = ("docs/pictures/results-light.svg", "docs/pictures/results-dark.svg")
EPSILON, LEAST = 8 / 255, 1000
"""Of every evaluation; and on how many images at least."""

SHOWN = ("natural", "adv-interp", "feature-scatter", "n-fgsm", "nu-at, penalty 4", "madry", "trades", "mart")
SMALL = {"small, n-fgsm": "robust.safetensors", "small, natural": "natural.safetensors"}
ATTACKS = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "cw20": "CW-20",
    "cw100": "CW-100",
    "feature-min": "Feature-min",
    "square-1000": "Square",
    "autoattack": "AutoAttack",
}
FULL, SHORT = tuple(ATTACKS)[1:], ("pgd20", "autoattack")
CHANGED = ("settings", "paper", "beside")
"""The sweeps whose rows are adversarial interpolation changed."""


def attacks(sweep: str) -> tuple[str, ...]:
    """What its networks are measured by."""
    return FULL if sweep in ("methods", "others") else SHORT


@dataclass(frozen=True)
class Figure:
    """Percent of the images, of each seed."""

    each: tuple[float, ...]
    n: int

    def __str__(self) -> str:
        error = f" ± {statistics.stdev(self.each) / len(self.each) ** 0.5:.1f}" if len(self.each) > 1 else ""
        return f"{self.mean:.1f}{error}"

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return statistics.mean(self.each)

    @property
    def of(self) -> str:
        """How many seeds and images."""
        return f"{len(self.each)} x {self.n}"


@dataclass(frozen=True)
class Run:
    """A network of a sweep, of which the folder ``SWEEP/RUN`` beside this file tells once it is measured."""

    folder: Path
    title: str
    sweep: Sweep
    system: str
    seed: int

    @property
    def file(self) -> str:
        """What its TOML file is called."""
        return self.folder.parent.name

    def told(self, name: str) -> dict[str, Any]:
        """One of its files."""
        return json.loads((self.folder / name).read_text("utf-8"))


def titled(sweep: str, row: str) -> str:
    """How a row is called among those of all sweeps."""
    return f"small, {row}" if sweep == "small" else row


def planned(file: Path) -> Iterator[Run]:
    """What a TOML file says, row by row."""
    sweep = read_sweep(file)
    for title, system in zip(sweep.rows, sweep.systems, strict=True):
        for seed in sweep.seeds:
            folder = FOLDER / file.stem / (system + (f"-seed={seed}" if seed else ""))
            yield Run(folder, titled(file.stem, title), sweep, system, seed)


@cache
def runs() -> tuple[Run, ...]:
    """All that are measured, in the order of their files."""
    found = (run for file in sorted(FOLDER.glob("*.toml")) for run in planned(file))
    return tuple(run for run in found if (run.folder / "eval.json").exists())


@cache
def figures() -> dict[str, dict[str, Figure]]:
    """{row: {attack: figure}} of every sweep."""
    counted: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for run in runs():
        for row in run.told("eval.json")["rows"]:
            if row["attack"] in ATTACKS:
                counted.setdefault(run.title, {}).setdefault(row["attack"], []).append(row)
    return {title: {attack: _figure(rows) for attack, rows in found.items()} for title, found in counted.items()}


def _figure(rows: list[dict[str, Any]]) -> Figure:
    return Figure(tuple(100 * row["correct"] / row["n"] for row in rows), rows[0]["n"])


@cache
def costs() -> dict[str, dict[str, Any]]:
    """{row: what its training costs}."""
    return json.loads((FOLDER / "cost.json").read_text("utf-8"))["rows"]


@cache
def records() -> list[Record]:
    """All of them, the fastest first."""
    return sorted(map(read, folders()), key=lambda one: one.mean("seconds"))


def passes(row: str) -> float:
    """Forward passes of all trained images, F times epochs."""
    return costs()[row]["passes"] * costs()[row]["epochs"]


def seconds(row: str) -> float:
    """Of the whole training, on the machine of ``cost.json``."""
    return costs()[row]["seconds_of_an_epoch"] * costs()[row]["epochs"]


@dataclass(frozen=True)
class Point:
    """What a training costs, and what it keeps under AutoAttack.

    Attributes:
        title: of the row, or of the record.
        seconds: estimated from its steps, a record's measured.
        keeps: in percent.
        record: whether it is one.
    """

    title: str
    seconds: float
    keeps: Figure
    record: bool = False


def points() -> list[Point]:
    """Methods and records, the cheapest first."""
    rows = dict.fromkeys(run.title for run in runs() if run.file not in CHANGED)
    found = [Point(row, seconds(row), figures()[row]["autoattack"]) for row in rows]
    found += [Point(one.name, one.mean("seconds"), _kept(one, "autoattack"), True) for one in recorded()]
    return sorted(found, key=lambda point: point.seconds)


def recorded() -> list[Record]:
    """The measured records of two cores, the fastest first."""
    return [one for one in records() if one.about["track"] == "CPU" and not math.isnan(one.mean("autoattack"))]


def _kept(one: Record, attack: str) -> Figure:
    return Figure(tuple(seed.accuracy(attack) for seed in one.seeds), TEST_IMAGES)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def methods() -> str:
    """Each method under each attack."""
    rows = []
    for row in (row for row in SHOWN if row in figures()):
        found = figures()[row]
        cost = f"{costs()[row]['passes']:.0f}"
        rows.append([row, str(len(found["clean"].each)), *(str(found[attack]) for attack in ATTACKS), cost])
    return _table(["method", "seeds", *ATTACKS.values(), "F a step"], rows)


def settings() -> str:
    """What changes adversarial interpolation, and what N-FGSM's records keep."""
    lines = []
    changed = [run.title for sweep in CHANGED for run in runs() if run.file == sweep]
    for row in dict.fromkeys(changed):
        found = figures()[row]
        keeps = [str(found[attack]) for attack in ("clean", "pgd20", "autoattack")]
        lines.append([row, *keeps, f"{passes(row):.0f}", f"{seconds(row):.0f} (est.)", found["autoattack"].of])
    for one in recorded():
        keeps = [str(_kept(one, "clean")), "-", str(_kept(one, "autoattack"))]
        took = [f"{passes(one.name):.0f}", f"{one.mean('seconds'):.0f}", _kept(one, "clean").of]
        lines.append([f"n-fgsm, {_linked(one.name)}", *keeps, *took])
    return _table(["training", "clean", "PGD-20", "AutoAttack", "F in all", "seconds", "seeds x images"], lines)


def _linked(record: str) -> str:
    return f"record [{record}](../records/{record}/record.json)"


def cost() -> str:
    """Accuracy under AutoAttack against the cost of training, the cheapest first; bold where nothing cheaper does."""
    best, lines = 0.0, []
    for point in points():
        row, keeps = point.title, point.keeps
        shown = f"**{keeps}**" if keeps.mean > best else str(keeps)
        best = max(best, keeps.mean)
        title = _linked(row) if point.record else row
        took = f"{point.seconds:.0f}" + ("" if point.record else " (est.)")
        lines.append([title, str(costs()[row]["epochs"]), f"{passes(row):.0f}", took, shown, keeps.of])
    return _table(["training", "epochs", "F in all", "seconds", "AutoAttack", "seeds x images"], lines)


def masking() -> str:
    """What the signs of masked gradients say of the networks that were asked, together those of all seeds."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for run in runs():
        for signs in run.told("eval.json")["masking"].values():
            found.setdefault(run.title, []).append(signs)
    rows = []
    for title, networks in found.items():
        signs = [sign for network in networks for sign in network]
        fired = [sign["name"] for sign in signs if sign["fired"]]
        which = ", ".join(dict.fromkeys(fired)) or "-"
        rows.append([title, str(len(networks)), f"{len(fired)} of {len(signs)}", which])
    return _table(["training", "networks", "signs that fired", "which"], rows)


def small() -> str:
    """The weights beside this file."""
    rows = []
    for row, file in SMALL.items():
        found, size = figures()[row], (FOLDER / file).stat().st_size
        keeps = [str(found[attack]) for attack in ("clean", "pgd20", "autoattack")]
        rows.append([f"[{file}](results/{file})", *keeps, f"{size / 1e3:.0f} kB"])
    return _table(["weights", "clean", "PGD-20", "AutoAttack", "size"], rows)


def front() -> str:
    """The records that reach each target first, and the main methods."""
    lines = []
    for track in ("CPU", "GPU"):
        for target in TARGETS:
            able = [one for one in records() if one.about["track"] == track and one.mean("autoattack") >= target]
            if able and (line := _record(able[0])) not in lines:
                lines.append(line)
    head = ["training", "clean", "PGD-20", "AutoAttack", "seeds x images", "takes", "on"]
    about = json.loads((FOLDER / "cost.json").read_text("utf-8"))["about"]
    where = f"{about['cores']} cores of {about['device']}, {about['arithmetic']}"
    for row in ("n-fgsm", "madry", "adv-interp", "natural"):
        found = figures()[row]
        keeps = [f"{found[attack].mean:.1f}" for attack in ("clean", "pgd20", "autoattack")]
        name = f"{row}, {costs()[row]['epochs']} epochs"
        lines.append([name, *keeps, found["autoattack"].of, f"{seconds(row):.0f} s (est.)", where])
    return _table(head, lines)


def _record(one: Record) -> list[str]:
    machine, result = one.about["machine"], one.seeds[0].result
    where = f"{machine['cores']} cores of {machine['device']}" if one.about["track"] == "CPU" else machine["device"]
    keeps = [f"{one.mean('clean'):.1f}", "-", f"**{one.mean('autoattack'):.1f}**", f"{len(one.seeds)} x {TEST_IMAGES}"]
    link = f"record: [{one.name}](records/{one.name})"
    return [link, *keeps, f"**{one.mean('seconds'):.0f} s**", f"{where}, {result['precision']}"]


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made for made in (methods, settings, cost, masking, small, front)
}


def contradictions() -> Iterator[str]:
    """Where a folder contradicts itself or its TOML file."""
    for run in runs():
        name = run.folder.relative_to(ROOT)
        config, told = run.told("config.json"), run.told("eval.json")
        meant = replace(run.sweep.systems[run.system], seed=run.seed, out=run.folder).resolved().to_json()
        for setting in (one for one in meant if one not in PLACES and meant[one] != config[one]):
            yield f"{name}: {setting} is {config[setting]!r}, its TOML file says {meant[setting]!r}"
        if run.told("weights.json")["weights"].split(".")[0] != run.sweep.weights.replace("last", "model"):
            yield f"{name}: the weights are not those that its TOML file says"
        (outcomes,) = (one["correct"] for one in told["outcomes"])
        for row in told["rows"]:
            counted = outcomes.get(row["attack"]) or _worst(outcomes)
            if abs(row["epsilon"] - EPSILON) > 1e-9 or row["n"] < LEAST or len(counted) != row["n"]:
                yield f"{name}: {row['attack']} is not of {LEAST} images at 8/255"
            if counted.count("1") != row["correct"]:
                yield f"{name}: {row['attack']}: {row['correct']} correct, its outcomes say {counted.count('1')}"
        if run.title in SMALL:
            metadata = opened((FOLDER / SMALL[run.title]).read_bytes())[1]
            if metadata["sha256"] != run.told("weights.json")["sha256"] or metadata["accuracy"] != accuracy(run.title):
                yield f"{name}: {SMALL[run.title]} says that it is another network"
        for attack in {"clean", *attacks(run.file)}.difference(row["attack"] for row in told["rows"]):
            yield f"{name}: {attack} is missing"


def accuracy(row: str) -> str:
    """What the weights of a row say that they keep: JSON, in percent."""
    found = figures()[row]
    kept = {attack: figure.mean for attack, figure in found.items()}
    return json.dumps({**kept, "epsilon": "8/255", "images": found["autoattack"].n})


def _worst(outcomes: dict[str, str]) -> str:
    """Of all attacks, image by image."""
    return "".join(map(min, zip(*outcomes.values(), strict=False)))


def unfounded(page: str, text: str) -> Iterator[str]:
    """Decimals and large numbers of a page's sentences that none of its tables or of their files has."""
    shown = re.compile(r"<!-- table: .*?<!-- end -->", re.DOTALL)
    known = set(re.findall(r"\d+\.\d+", " ".join(shown.findall(text))))
    known |= {f"{one['parameters']:,}" for one in costs().values() if "parameters" in one}
    known |= {f"{figure.n:,}" for found in figures().values() for figure in found.values()}
    sentences = shown.sub("", text)
    for number in re.findall(r"(?<![\w./-])(?:\d+\.\d+(?= (?:%|points|to))|\d{1,3}(?:,\d{3})+)", sentences):
        if number not in known:
            yield f"{page}: {number} stands in none of its tables"


def pictured() -> str:
    """What the picture shows, as its file says it too."""
    return "; ".join(f"{one.title}: {one.keeps.mean:.1f} % after {one.seconds:.0f} s" for one in points())


def main(argv: list[str] | None = None) -> int:
    """1 where something does not agree."""
    parser = argparse.ArgumentParser(description="Write the tables of RESULTS.md and README.md, or check them.")
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args(argv)
    if wrong := [*contradictions()]:  # of which no table can be made
        print("\n".join(wrong))
        return 1
    for page, names in PAGES.items():
        path = ROOT / page
        text = made = path.read_text("utf-8")
        for name in names:
            begin, end = f"<!-- table: {name} -->", "<!-- end -->"
            head, _, rest = made.partition(begin)
            if not rest:
                wrong.append(f"{page} has no {begin}")
                continue
            made = f"{head}{begin}\n{TABLES[name]()}\n{end}{rest.partition(end)[2]}"
        if given.check and made != text:
            wrong.append(f"{page}: its tables are not those of the files; python docs/results/tables.py writes them")
        elif not given.check:
            path.write_text(made, "utf-8")
        wrong += unfounded(page, made) if page.startswith("docs/") else []
    for picture in PICTURES:
        if pictured() not in (ROOT / picture).read_text("utf-8"):
            wrong.append(f"{picture} is not of the files; python docs/results/picture.py draws it")
    print("\n".join(wrong) or "the pages' tables, the sweeps' outcomes and the records agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
