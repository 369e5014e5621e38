"""CSV that spreadsheets do not compute."""

import csv
import io

import pytest

from fastait.runtime.csv_text import csv_text


@pytest.mark.parametrize("name", ["=1+1", "+1+1", "-A1", "@sum"])
def test_a_formula_is_text(name):
    (title, _), (cell, number) = csv.reader(io.StringIO(csv_text([name, "n"], [[name, -1]])))
    assert title == cell == "'" + name
    assert number == "-1"


@pytest.mark.parametrize("number", ["-5.15124", "+1e-3", "-1"])
def test_a_number_is_one_as_text_too(number):
    assert csv_text([], [[number]]).splitlines()[1] == number


def test_a_name_is_one_cell():
    assert csv_text(["a"], [["\r=1"], ["\t=1"], ["x\n=1"]]) == 'a\n\\r=1\n\\t=1\n"x\n=1"\n'


def test_other_rows_are_as_they_are():
    assert csv_text(["a", "b"], [["x, y", None], [1.5, 'q"']]) == 'a,b\n"x, y",\n1.5,"q"""\n'
