"""Rows as CSV, which spreadsheets show and do not compute: somebody's names may begin as formulas do."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from fastait.runtime.errors import one_line

FORMULAS = ("=", "+", "-", "@")
"""What a text begins with that a spreadsheet computes."""


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A line of titles and one for each of ``rows``; before what begins as a formula stands an apostrophe."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([_shown(cell) if isinstance(cell, str) else cell for cell in row])
    return file.getvalue()


def _shown(text: str) -> str:
    shown = "\n".join(map(one_line, text.split("\n")))  # a cell may have several lines, in quotes
    return f"'{shown}" if text.startswith(FORMULAS) and not _is_number(text) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
