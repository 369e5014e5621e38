"""A table in the paper's layout, as text, Markdown and CSV."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastait.evaluation.intervals import wilson
from fastait.reproduction.grids import WORST, Block, Cell
from fastait.reproduction.measured import Figure, Mean, Measured
from fastait.reproduction.orderings import Entry, Series
from fastait.reproduction.systems import Scale
from fastait.runtime.console import say, show_table
from fastait.runtime.csv_text import csv_text


@dataclass(frozen=True)
class Grid:
    """One block, as strings.

    Attributes:
        title: of its part, or empty.
        header: a title per column, the rows' first.
        lines: a row each, its title first.
    """

    title: str
    header: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class Sheet:
    """A table that is ready to be shown.

    Attributes:
        heading: sentences above: what it is and how its figures came about.
        grids: its blocks.
        notes: sentences below.
        records: for CSV, a figure each.
    """

    heading: list[str]
    grids: list[Grid]
    notes: list[str]
    records: list[dict[str, Any]] = field(default_factory=list)

    def markdown(self) -> str:
        """The sheet as Markdown."""
        text = [*_spaced(self.heading)]
        for grid in self.grids:
            text += [*([f"{grid.title}", ""] if grid.title else [])]
            text += [_row(grid.header), "| --- |" + " --- |" * (len(grid.header) - 1), *map(_row, grid.lines), ""]
        return "\n".join([*text, *_spaced(self.notes)]).rstrip() + "\n"

    def csv(self) -> str:
        """``records`` as CSV."""
        titles = list(self.records[0])
        return csv_text(titles, [[record[title] for title in titles] for record in self.records])

    def show(self) -> None:
        """Print the sheet to stdout; wide cells are broken where the terminal ends."""
        for sentence in self.heading:
            say(sentence)
        for grid in self.grids:
            show_table(grid.header, grid.lines, title=grid.title, words=range(len(grid.header)), ruled=True)
        for sentence in self.notes:
            say(sentence)


def entries(block: Block, found: Mapping[Cell, Figure], scale: Scale) -> list[list[Entry]]:
    """Each row's figures, ours beside the paper's; a worst is the lowest of its row's, as in the paper."""
    rows = []
    for row, papers in zip(block.rows, block.figures, strict=True):
        cells = [block.cell(row, column, scale) for column in block.columns]
        ours = [None if cell is None else found.get(cell) for cell in cells]
        lowest = min((figure for figure in ours if figure is not None), key=lambda m: m.accuracy, default=None)
        rows.append(
            [
                Entry(lowest if cell is None else figure, paper)
                for cell, figure, paper in zip(cells, ours, papers, strict=True)
            ]
        )
    return rows


def grid(block: Block, rows: list[list[Entry]]) -> Grid:
    """The block as strings; where nothing is published, ours alone."""
    compared = any(entry.paper is not None for line in rows for entry in line)
    return Grid(
        f"({block.part}) {block.title}" if block.part else block.title,
        [block.corner, *(column.title for column in block.columns)],
        [[row.title, *(_text(entry, compared) for entry in line)] for row, line in zip(block.rows, rows, strict=True)],
    )


def series(block: Block, rows: list[list[Entry]]) -> list[Series]:
    """The figures that are compared: those of a column, or of a row where models stand across; a worst is none."""
    rows_titles, column_titles = [row.title for row in block.rows], [column.title for column in block.columns]
    if block.models_across:
        return [
            (what, list(zip(column_titles, line, strict=True))) for what, line in zip(rows_titles, rows, strict=True)
        ]
    return [
        (line.title, list(zip(rows_titles, column, strict=True)))
        for line, column in zip(block.columns, zip(*rows, strict=True), strict=True)
        if line.attack != WORST
    ]


def records(table: str, block: Block, rows: list[list[Entry]], scale: Scale) -> list[dict[str, Any]]:
    """The block's figures for CSV: accuracy in percent, its 95 % interval (Wilson), the images, the paper's figure.

    Of several seeds the mean, its standard error and each one's accuracy, in the place of the interval.
    """
    found = []
    for row, line in zip(block.rows, rows, strict=True):
        for column, entry in zip(block.columns, line, strict=True):
            ours, cell = entry.ours, block.cell(row, column, scale)
            low, high = wilson(ours.correct, ours.n) if isinstance(ours, Measured) else (None, None)
            each = ours.each if isinstance(ours, Mean) else ()
            found.append(
                {
                    "table": table + block.part,
                    "scale": scale.name,
                    "row": row.title,
                    "column": column.title,
                    "system": cell and cell.system,
                    "attack": WORST if cell is None else cell.attack,
                    "epsilon": cell and round(cell.epsilon, 6),
                    "surrogate": cell and cell.surrogate,
                    "ours": None if ours is None else round(ours.accuracy, 3),
                    "low": None if low is None else round(low, 3),
                    "high": None if high is None else round(high, 3),
                    "n": None if ours is None else ours.n,
                    "standard_error": round(ours.standard_error, 3) if isinstance(ours, Mean) else None,
                    "each_seed": " ".join(f"{one.accuracy:.3f}" for one in each) or None,
                    "paper": entry.paper,
                    "difference": None if entry.difference is None else round(entry.difference, 3),
                }
            )
    return found


def _text(entry: Entry, compared: bool) -> str:
    ours = "-" if entry.ours is None else f"{entry.ours.accuracy:.1f}"
    if isinstance(entry.ours, Mean):
        ours += f" ± {entry.ours.standard_error:.1f}"
    if not compared:
        return ours
    paper = "-" if entry.paper is None else f"{entry.paper:.1f}"
    difference = "" if entry.difference is None else f", {entry.difference:+.1f}"
    return f"{ours} (paper {paper}{difference})"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _spaced(sentences: list[str]) -> list[str]:
    return [line for sentence in sentences for line in (sentence, "")]
