"""Names of classes, matched."""

import pytest

from fastait.checkpoints.classes import Match, match, shown
from fastait.runtime.errors import InputError

PETS = ("cat", "dog", "emu")


def test_same_names_in_whatever_order():
    assert match(PETS, 3, PETS) == Match((0, 1, 2))
    found = match(PETS, 3, ("emu", "cat", "dog"))
    assert found.columns == found.order(3) == (2, 0, 1)
    assert found.note == "its classes stand in another order, matched by name"
    assert match(PETS, 3, PETS).order(3) is None


def test_a_part_of_the_names():
    found = match(PETS, 3, ("emu", "dog"))
    assert (found.columns, found.order(3)) == ((2, 1), (2, 1, 0))
    assert found.note == "the data set has 2 of its 3 classes, in another order, matched by name"
    assert match(PETS, 3, ("cat", "dog")).order(3) is None


def test_other_names_are_refused():
    with pytest.raises(InputError, match=r"not the model's, which knows no 'zcat' \(but 'cat', which the data set"):
        match(("cat", "dog"), 2, ("dog", "zcat"))
    with pytest.raises(InputError, match=r"tells 2 classes apart, the data set has 3; it knows no 'emu'$"):
        match(("cat", "dog"), 2, PETS)
    with pytest.raises(InputError, match="the data set has several classes called 'cat'"):
        match(PETS, 3, ("cat", "cat", "dog"))


def test_spellings():
    composed, decomposed = "d\u00e9", "de\u0301"
    assert match(("cat", composed), 2, ("cat", decomposed)) == Match((0, 1))
    assert match((composed, "cat"), 2, ("cat", decomposed)).columns == (1, 0)
    assert match((composed, decomposed), 2, (decomposed, composed)).columns == (1, 0)
    with pytest.raises(InputError):
        match(("cat", "d\u00e9"), 2, ("cat", "de"))


def test_without_names_by_position():
    assert "unknown" in match(None, 2, ("cat", "dog")).note
    with pytest.raises(InputError, match="tells 3 classes apart, the data set has 2"):
        match(None, 3, ("cat", "dog"))
    found = match(PETS, 3, ("0", "1"), numbered=True)
    assert found.columns == (0, 1)
    assert found.note.endswith("matched by position with 'cat', 'dog', 'emu'")
    assert match(("0", "1", "2"), 3, PETS, own_numbered=True).columns == (0, 1, 2)
    with pytest.raises(InputError):
        match(PETS, 3, ("0", "1"))
    with pytest.raises(InputError):
        match(PETS, 3, ("0", "1", "2", "3"), numbered=True)


def test_names_that_a_terminal_would_obey():
    names = ["a\x1b[2Jb\n", "[red]", "\udce9", *"abcd"]
    assert shown(names) == r"'a\x1b[2Jb\n', '[red]', '\udce9', 'a', 'b' and 2 more"
