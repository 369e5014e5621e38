"""The tables of ``docs/RESULTS.md`` and of ``README.md``'s front, made of the files beside this one and of the records.

``--check`` says whether the pages show what the files hold, whether each sweep's table is that of its outcomes image by
image, and whether every decimal in the pages' own sentences stands in one of their tables.
"""

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.append(str(ROOT / "records"))

from rules import TARGETS  # noqa: E402
from table import Record, read  # noqa: E402 - of records/, see main

PAGES = {"docs/RESULTS.md": ("methods", "settings", "cost", "masking", "small"), "README.md": ("front",)}
SWEEPS = ("methods", "others", "paper", "settings", "beside", "epochs", "small")
PAPER = "adv-interp by the paper's practice"
METHODS = ("natural", "adv-interp", PAPER, "feature-scatter", "n-fgsm", "nu-at, penalty 4", "madry", "trades", "mart")
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


@dataclass(frozen=True)
class Figure:
    """Percent of the images, of each seed."""

    each: tuple[float, ...]
    n: int

    def __str__(self) -> str:
        mean = statistics.mean(self.each)
        error = f" ± {statistics.stdev(self.each) / len(self.each) ** 0.5:.1f}" if len(self.each) > 1 else ""
        return f"{mean:.1f}{error}"

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return statistics.mean(self.each)


@cache
def figures() -> dict[str, dict[str, Figure]]:
    """{row: {attack: figure}} of every sweep."""
    found: dict[str, dict[str, Figure]] = {}
    for name in SWEEPS:
        for row in _rows(name):
            each = tuple(map(float, (row["each_seed"] or row["ours"]).split()))
            title = f"small, {row['row']}" if name == "small" else row["row"]
            found.setdefault(title, {})[row["attack"]] = Figure(each, int(row["n"]))
    return found


def _rows(name: str) -> list[dict[str, str]]:
    with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["ours"] and row["attack"] in ATTACKS]


@cache
def costs() -> dict[str, dict[str, Any]]:
    """{row: what its training costs}."""
    return json.loads((FOLDER / "cost.json").read_text("utf-8"))["rows"]


@cache
def records() -> list[Record]:
    """All of them, the fastest first."""
    folders = sorted(path for path in (ROOT / "records").iterdir() if path.is_dir() and path.name[:2] == "20")
    return sorted((read(folder) for folder in folders), key=lambda one: one.mean("seconds"))


def passes(row: str) -> float:
    """Forward passes of all trained images, F times epochs."""
    return costs()[row]["passes"] * costs()[row]["epochs"]


def seconds(row: str) -> float:
    """Of the whole training, on the machine of ``cost.json``."""
    return costs()[row]["seconds_of_an_epoch"] * costs()[row]["epochs"]


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def methods() -> str:
    """Each method under each attack."""
    rows = []
    for row in METHODS:
        found = figures()[row]
        cost = f"{costs()[row]['passes']:.0f}"
        rows.append([row, str(len(found["clean"].each)), *(str(found[attack]) for attack in ATTACKS), cost])
    return _table(["method", "seeds", *ATTACKS.values(), "F a step"], rows)


def settings() -> str:
    """What changes adversarial interpolation, and what N-FGSM keeps at such a cost."""
    rows = [
        "adv-interp",
        *dict.fromkeys(row["row"] for name in ("settings", "beside") for row in _rows(name)),
        "n-fgsm",
    ]
    lines = []
    for row in rows:
        found = figures()[row]
        keeps = [str(found[attack]) for attack in ("clean", "pgd20", "autoattack")]
        lines.append([row, str(len(found["clean"].each)), *keeps, f"{passes(row):.0f}"])
    return _table(["setting", "seeds", "clean", "PGD-20", "AutoAttack", "F in all"], lines)


def cost() -> str:
    """Accuracy under AutoAttack against the cost of training, the cheapest first; bold where nothing cheaper does."""
    rows = sorted((row for row in figures() if "autoattack" in figures()[row] and row in costs()), key=seconds)
    best, lines = 0.0, []
    for row in rows:
        keeps = figures()[row]["autoattack"]
        shown = f"**{keeps}**" if keeps.mean > best else str(keeps)
        best = max(best, keeps.mean)
        lines.append([row, str(costs()[row]["epochs"]), f"{passes(row):.0f}", f"{seconds(row):.0f}", shown])
    return _table(["training", "epochs", "F in all", "seconds", "AutoAttack"], lines)


def masking() -> str:
    """What the signs of masked gradients say."""
    found = json.loads((FOLDER / "masking.json").read_text("utf-8"))["masking"]
    rows = []
    for model, signs in found.items():
        for one in signs if isinstance(signs, list) else signs["checks"]:
            rows.append([model, one["name"], "yes" if one["fired"] else "no", str(one["figure"])])
    return _table(["network", "sign", "fired", "figure"], rows)


def small() -> str:
    """The weights beside this file."""
    rows = []
    for row, file in (("small, n-fgsm", "robust.safetensors"), ("small, natural", "natural.safetensors")):
        found, size = figures()[row], (FOLDER / file).stat().st_size
        rows.append(
            [
                f"[{file}](results/{file})",
                *(str(found[a]) for a in ("clean", "pgd20", "autoattack")),
                f"{size / 1e3:.0f} kB",
            ]
        )
    return _table(["weights", "clean", "PGD-20", "AutoAttack", "size"], rows)


def front() -> str:
    """The records that reach each target first, and the main methods."""
    lines = []
    for track in ("CPU", "GPU"):
        for target in TARGETS:
            able = [one for one in records() if one.about["track"] == track and one.mean("autoattack") >= target]
            if able and (line := _record(able[0])) not in lines:
                lines.append(line)
    head = ["training", "clean", "PGD-20", "AutoAttack", "takes", "on"]
    where = json.loads((FOLDER / "cost.json").read_text("utf-8"))["about"]
    for row in ("n-fgsm", "madry", "adv-interp", "natural"):
        found = figures()[row]
        keeps = [f"{found[attack].mean:.1f}" for attack in ("clean", "pgd20", "autoattack")]
        epochs = f"{row}, {costs()[row]['epochs']} epochs"
        lines.append([epochs, *keeps, f"{seconds(row):.0f} s", f"{where['cores']} cores, {where['arithmetic']}"])
    return _table(head, lines)


def _record(one: Record) -> list[str]:
    machine, result = one.about["machine"], one.seeds[0].result
    where = f"{machine['cores']} cores, {result['precision']}" if one.about["track"] == "CPU" else machine["device"]
    keeps = [f"{one.mean('clean'):.1f}", "-", f"**{one.mean('autoattack'):.1f}**"]
    return [f"record: [{one.name}](records/{one.name})", *keeps, f"**{one.mean('seconds'):.0f} s**", where]


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made for made in (methods, settings, cost, masking, small, front)
}


def contradictions() -> Iterator[str]:
    """Where a sweep's table is not that of its outcomes."""
    for name in SWEEPS:
        told = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
        of_model = {one["model"]: one["correct"] for one in told["outcomes"]}
        for row in _rows(name):
            each = [outcomes for model, outcomes in of_model.items() if model.partition("-seed=")[0] == row["system"]]
            counted = [100 * one[row["attack"]].count("1") / len(one[row["attack"]]) for one in each]
            said = [*map(float, (row["each_seed"] or row["ours"]).split())]
            if len(said) != len(counted) or any(abs(a - b) > 0.002 for a, b in zip(said, counted, strict=True)):
                yield f"docs/results/{name}.csv: {row['row']}, {row['attack']}: {said}, its outcomes say {counted}"


def unfounded(page: str, text: str) -> Iterator[str]:
    """Decimals of a page's sentences that none of its tables has."""
    tables = " ".join(re.findall(r"<!-- table: .*?<!-- end -->", text, re.DOTALL))
    known = set(re.findall(r"\d+\.\d+", tables))
    for number in re.findall(
        r"(?<![\w./-])\d+\.\d+ (?:%|points|to)", re.sub(r"<!-- table: .*?<!-- end -->", "", text, flags=re.DOTALL)
    ):
        if number.split()[0] not in known:
            yield f"{page}: {number!r} stands in none of its tables"


def main(argv: list[str] | None = None) -> int:
    """1 where something does not agree."""
    parser = argparse.ArgumentParser(description="Write the tables of RESULTS.md and README.md, or check them.")
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args(argv)
    wrong = [*contradictions()]
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
    print("\n".join(wrong) or "the pages' tables, the sweeps' outcomes and the records agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
