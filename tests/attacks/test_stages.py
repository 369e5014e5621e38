"""What AutoAttack's columns are made of, for few classes and many."""

import pytest

from fastait.attacks.columns import PARTS, VERSIONS, parse
from fastait.attacks.stages import AVERAGED, Stage, said, stages
from fastait.runtime.errors import InputError


def names(column, classes):
    return [stage.name for stage in stages(parse(column), classes)]


def towards(attack, count):
    return [f"{attack}-100 target {rank}" for rank in range(1, count + 1)]


@pytest.mark.parametrize("classes", [4, 5, 10, 12, 1000])
def test_the_papers_ensemble(classes):
    targets = min(9, classes - 1)
    quick = ["apgd-ce-100", *towards("apgd-t", targets)]
    assert names("quick", classes) == quick
    assert names("autoattack", classes) == [*quick, *towards("fab-t", targets), "square-5000"]
    assert names("autoattack-rand", classes) == ["apgd-ce-100 of 20", "apgd-dlr-100 of 20"]
    assert all(said(parse(version), classes) == "" for version in VERSIONS)


def test_two_and_three_classes():
    """Two: what needs no third logit. Three: the untargeted DLR where the targeted one would be."""
    assert names("autoattack", 2) == ["apgd-ce-100", *towards("fab-t", 1), "square-5000"]
    assert names("autoattack", 3) == ["apgd-ce-100", "apgd-dlr-100", *towards("fab-t", 2), "square-5000"]
    assert names("quick", 2) == ["apgd-ce-100"]
    assert names("quick", 3) == ["apgd-ce-100", "apgd-dlr-100"]
    assert names("autoattack-rand", 2) == ["apgd-ce-100 of 20"]
    assert said(parse("autoattack"), 2) == (
        "autoattack of 2 classes is apgd-ce, fab-t, square: the others' losses need more"
    )
    assert said(parse("autoattack"), 3) == (
        "autoattack of 3 classes is apgd-ce, apgd-dlr, fab-t, square: the others' losses need more"
    )
    assert said(parse("quick"), 2) == "quick of 2 classes is apgd-ce: the others' losses need more"
    assert said(parse("autoattack-rand"), 3) == ""


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_a_part_is_a_column_that_shares_its_stages(part, classes):
    least = {"apgd-dlr": 3, "apgd-t": 4}.get(part, 2)
    if classes < least:
        with pytest.raises(
            InputError, match=rf"{part} needs at least {least} classes, there are {classes}; autoattack"
        ):
            stages(parse(part), classes)
        return
    found = stages(parse(part), classes)
    assert said(parse(part), classes) == ""
    if (part == "apgd-dlr") == (classes == 3):
        assert set(found) <= set(stages(parse("autoattack"), classes))
    other = stages(parse(f"{part}-7"), classes)
    assert {stage.steps for stage in other} == {7}
    assert not {stage.name for stage in other} & {stage.name for stage in found}


@pytest.mark.parametrize("name", ["autoattack", "autoattack-rand", "quick", *PARTS])
def test_one_class(name):
    with pytest.raises(InputError, match=f"{name} needs at least . classes, there are 1"):
        stages(parse(name), 1)


def test_names_tell_stages_apart():
    every = [
        Stage(attack, steps, target, averaged)
        for attack in PARTS
        for steps in (9, 10)
        for target in (0, 1, 10)
        for averaged in (1, AVERAGED)
    ]
    assert len({stage.name for stage in every}) == len(every)
