"""What the benchmarks found: rows for the table at the end and for the JSON file."""

import json
import time

from rich.console import Console
from rich.table import Table

from fastait.runtime.hardware import environment

ROWS = []
NOTES = []


def record(group, medians, baseline, *, n, images, hide=(), **facts):
    """Add a row for each way of ``medians``, name -> seconds; ratios are to ``baseline``, one of the names.

    Args:
        group: what was done, with its shapes.
        n: rounds that the medians are of.
        images: images that one call works on.
        hide: ways that get no row.
        facts: further columns, name -> {way: text or number}.
    """
    for name, median in medians.items():
        if name in hide:
            continue
        ROWS.append(
            {
                "benchmark": group,
                "way": name,
                "seconds": median,
                "images_per_second": images / median,
                "ratio": medians[baseline] / median,
                "baseline": baseline,
                "n": n,
                **{fact: values[name] for fact, values in facts.items() if name in values},
            }
        )


def write(path, device):
    """Everything as JSON, with the machine it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {**environment(device), "date": time.strftime("%Y-%m-%d")}
    path.write_text(json.dumps({"machine": machine, "rows": ROWS, "notes": NOTES}, indent=2) + "\n")


def show(file, device):
    """A table a benchmark."""
    console = Console(file=file, width=140, highlight=False)
    machine = environment(device)
    console.print(
        f"\n{machine['device']}, {machine['threads']} threads, {machine['instructions']}, torch {machine['torch']}, "
        f"{time.strftime('%Y-%m-%d')}; medians of n rounds, all ways in turn in each round"
    )
    for group in dict.fromkeys(row["benchmark"] for row in ROWS):
        rows = [row for row in ROWS if row["benchmark"] == group]
        extra = [key for key in dict.fromkeys(k for row in rows for k in row) if key not in _COLUMNS]
        console.print(f"\n{group}; n = {rows[0]['n']}, ratio to {rows[0]['baseline']}")
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("")
        for title in ("ms", "images/s", "ratio", *extra):
            table.add_column(title.replace("_", " "), justify="right")
        for row in rows:
            figures = [
                f"{1e3 * row['seconds']:#.3g}".rstrip("."),
                f"{row['images_per_second']:.0f}",
                f"{row['ratio']:.2f}",
            ]
            table.add_row(row["way"], *figures, *(str(row.get(key, "")) for key in extra))
        console.print(table)
    for note in NOTES:
        console.print(note)


_COLUMNS = ("benchmark", "way", "seconds", "images_per_second", "ratio", "baseline", "n")
