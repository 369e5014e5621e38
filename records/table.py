"""The table of ``records/README.md``, made of the records' folders; ``--check`` says whether it is, and whether they
keep the rules."""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rules import (
    BUSY,
    DRIFT,
    EPSILON,
    LARGEST,
    RECIPE,
    SEEDS,
    TARGETS,
    TEST_IMAGES,
    TRAINING_IMAGES,
    WEIGHTS,
    seed_folder,
)

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER / "README.md"
BEGIN, END = "<!-- the table -->", "<!-- end of the table -->"
KEPT = ("config.json", "train.log", "metrics.jsonl", "result.json", "time.json")
SEED_ONLY = ("seed", "out", "cache_dir")
"""Settings in which a record's trainings differ."""


@dataclass(frozen=True)
class Seed:
    """One training of a record, and what its weights keep."""

    seed: int
    config: dict[str, Any]
    epochs: list[dict[str, Any]]
    result: dict[str, Any]
    time: dict[str, Any]
    evaluation: dict[str, Any] | None

    def accuracy(self, attack: str) -> float:
        """In percent, of the test images; NaN where it is not evaluated yet."""
        if self.evaluation is None:
            return math.nan
        (row,) = (row for row in self.evaluation["rows"] if row["attack"] == attack)
        return row["accuracy"]

    @property
    def units(self) -> float:
        """Its time in those of a hundred reference steps, before and after."""
        return self.time["seconds"] / statistics.mean(self.time["reference_seconds"])


@dataclass(frozen=True)
class Record:
    """A folder of ``records/``."""

    name: str
    about: dict[str, Any]
    seeds: list[Seed]

    def mean(self, what: str) -> float:
        """Of its seeds: ``seconds``, ``units``, or accuracy under an attack."""
        values = {"seconds": lambda one: one.time["seconds"], "units": lambda one: one.units}
        return statistics.mean(map(values.get(what, lambda one: one.accuracy(what)), self.seeds))


def folders() -> list[Path]:
    """Of all records, the oldest first."""
    return sorted(path for path in FOLDER.iterdir() if path.is_dir() and path.name[:2] == "20")


def read(folder: Path) -> Record:
    """A record's files.

    Raises:
        OSError, ValueError: one is missing or is no JSON.
    """
    seeds = []
    for seed in SEEDS:
        kept = folder / seed_folder(seed)
        config, result, time = (
            json.loads((kept / name).read_text("utf-8")) for name in ("config.json", "result.json", "time.json")
        )
        evaluated = kept / "eval.json"
        evaluation = json.loads(evaluated.read_text("utf-8")) if evaluated.exists() else None
        epochs = [json.loads(line) for line in (kept / "metrics.jsonl").read_text("utf-8").splitlines()]
        seeds.append(Seed(seed, config, epochs, result, time, evaluation))
    return Record(folder.name, json.loads((folder / "record.json").read_text("utf-8")), seeds)


def faults(record: Record) -> list[str]:
    """What of the rules a record does not keep, and what of its files contradicts what; a line each."""
    first, found = record.seeds[0], []

    def must(holds: bool, what: str) -> None:
        found.extend([] if holds else [f"{record.name}: {what}"])

    must(re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z0-9.-]+", record.name) is not None, "its name must be a date and a name")
    must(record.about["name"] == record.name, "record.json is another's")
    for one in record.seeds:
        at = seed_folder(one.seed)
        alike = {**one.config, **{name: first.config[name] for name in SEED_ONLY}} == first.config
        must(alike, f"{at} was trained with other settings than {seed_folder(first.seed)}")
        must(one.config["recipe"] == RECIPE and one.config["seed"] == one.seed, f"{at} is of another recipe or seed")
        must(
            one.config["val_fraction"] == 0 and all(epoch["images"] == TRAINING_IMAGES for epoch in one.epochs),
            f"{at} was not trained on {TRAINING_IMAGES} images",
        )
        must(one.config["init_from"] is None and not one.config["pretrained"], f"{at} began with trained weights")
        must([epoch["epoch"] for epoch in one.epochs] == [*range(1, one.config["epochs"] + 1)], f"{at} lacks epochs")
        must(
            sum(epoch["seconds"] for epoch in one.epochs) <= one.time["seconds"] <= one.result["wall_seconds"] + 60,
            f"{at}: time.json and metrics.jsonl contradict each other",
        )
        before, after = one.time["reference_seconds"]
        quiet = one.time["others"] <= BUSY and max(before, after) <= DRIFT * min(before, after)
        must(quiet, f"{at} was timed beside others")
        must(one.time["weights"] == WEIGHTS, f"{at} are other weights")
        if one.evaluation is not None:
            _check_evaluation(one.evaluation, at, must)
    return found


def _check_evaluation(evaluation: dict[str, Any], at: str, must: Callable[[bool, str], None]) -> None:
    attacked = [row for row in evaluation["rows"] if row["attack"] == "autoattack"]
    must(
        len(attacked) == 1 and attacked[0]["n"] == TEST_IMAGES and abs(attacked[0]["epsilon"] - EPSILON) < 1e-9,
        f"{at} was not measured by AutoAttack at 8/255 on {TEST_IMAGES} images",
    )
    for row in evaluation["rows"]:
        must(abs(row["accuracy"] - 100 * row["correct"] / row["n"]) < 0.06, f"{at}: eval.json contradicts itself")
        outcomes = evaluation["outcomes"][0]["correct"][row["attack"]]
        must(outcomes.count("1") == row["correct"], f"{at}: eval.json's outcomes are others than its figures")
    must(evaluation["images"] == TEST_IMAGES, f"{at} was measured on {evaluation['images']} images")


def table(records: list[Record]) -> str:
    """In Markdown, the newest first, of a day's the fastest; then who is the first at each target."""
    rows = [
        "| record | track | AutoAttack | its seeds | clean | seconds | its seeds | in units | machine | images |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    records = sorted(records, key=lambda one: one.mean("seconds"))
    for record in sorted(records, key=lambda one: one.name[:10], reverse=True):
        robust = ", ".join(_percent(one.accuracy("autoattack")) for one in record.seeds)
        seconds = ", ".join(f"{one.time['seconds']:.0f}" for one in record.seeds)
        machine, precision = record.about["machine"], record.seeds[0].result["precision"]
        cores = (
            f"{machine['cores']} cores of {machine['device']}" if record.about["track"] == "CPU" else machine["device"]
        )
        rows.append(
            f"| [{record.name}]({record.name}) | {record.about['track']} | **{_percent(record.mean('autoattack'))}** | "
            f"{robust} | {_percent(record.mean('clean'))} | **{record.mean('seconds'):.0f}** | {seconds} | "
            f"{record.mean('units'):.0f} | {cores}, {precision}, torch {machine['torch']} | {record.about['images']} |"
        )
    rows += ["", "The fastest that keep so much:", "", "| track | at least | seconds | record |"]
    rows.append("| --- | --- | --- | --- |")
    for track in ("CPU", "GPU"):
        for target in TARGETS:
            able = [one for one in records if one.about["track"] == track and one.mean("autoattack") >= target]
            best = f"{able[0].mean('seconds'):.0f} | [{able[0].name}]({able[0].name})" if able else "- | -"
            rows.append(f"| {track} | {target} % | {best} |")
    return "\n".join(rows)


def _percent(accuracy: float) -> str:
    return "not yet" if math.isnan(accuracy) else f"{accuracy:.1f}"


def main(argv: list[str] | None = None) -> int:
    """1 where the page is not the folders', or a record is not by the rules."""
    parser = argparse.ArgumentParser(description="Write the table of records/README.md, or check it.")
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args(argv)
    records, wrong = [], []
    for folder in folders():
        missing = [f"{seed_folder(seed)}/{name}" for seed in SEEDS for name in KEPT]
        missing = [name for name in ["record.json", *missing] if not (folder / name).is_file()]
        if missing:
            wrong.append(f"{folder.name}: {missing[0]} is missing")
        else:
            records.append(read(folder))
            wrong += faults(records[-1])
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    if size > LARGEST:
        wrong.append(f"records/ is {size / 1e6:.1f} MB, of at most {LARGEST / 1e6:.0f}")
    text = PAGE.read_text("utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    made = f"{head}{begin}\n{table(records)}\n{end}{tail}"
    if given.check and made != text:
        wrong.append("records/README.md: its table is not the folders'; python records/table.py writes it")
    elif not given.check and not wrong:
        PAGE.write_text(made, "utf-8")
    print("\n".join(wrong) or f"{len(records)} records, {size / 1e6:.1f} MB: table and folders agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
