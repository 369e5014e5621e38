"""The names of attacks."""

import pytest

from fastait.attacks.columns import EXAMPLES, Ascent, Column, groups, parse, parse_all
from fastait.runtime.errors import InputError


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("fgsm", Column("fgsm", "ascent", Ascent("pgd", one_step=True), steps=1)),
        ("pgd1000", Column("pgd1000", "ascent", Ascent("pgd"), steps=1000)),
        ("cw20-worst", Column("cw20-worst", "ascent", Ascent("cw"), "worst", 20)),
        ("pgd20-zero-best", Column("pgd20-zero-best", "ascent", Ascent("pgd", random_start=False), "best", 20)),
        ("pgd-min", Column("pgd-min", "ascent", Ascent("pgd", restarts=10), steps=20)),
        ("feature7-min3", Column("feature7-min3", "ascent", Ascent("feature", restarts=3), steps=7)),
        ("transfer-cw5", Column("transfer-cw5", "ascent", Ascent("cw", transfer=True), steps=5)),
        ("eot10-pgd20", Column("eot10-pgd20", "ascent", Ascent("pgd", eot=10), steps=20)),
        ("spsa-128x20", Column("spsa-128x20", "spsa", steps=20, directions=128)),
        ("local-search", Column("local-search", "local-search", steps=150, linf=False)),
        ("local-search-linf-9", Column("local-search-linf-9", "local-search", steps=9)),
        ("square", Column("square", "autoattack", steps=5000, attack="square")),
        ("apgd-t-20", Column("apgd-t-20", "autoattack", steps=20, attack="apgd-t")),
        ("quick", Column("quick", "autoattack")),
        (
            "fgsm+square",
            Column("fgsm+square", "union", parts=(parse("fgsm"), parse("square"))),
        ),
    ],
)
def test_names(name, column):
    assert parse(name) == column


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pdg20", "no attack is called 'pdg20'. Did you mean 'pgd20'"),
        ("autoatack", "Did you mean 'autoattack'"),
        ("pgd", "no attack is called 'pgd'"),
        ("pgd0", "'pgd0' has a 0 where at least 1 is needed"),
        ("spsa-0x5", "has a 0"),
        ("fab-t-0", "has a 0"),
        ("pgd" + 5000 * "9", "has a number above 1000000"),
        ("apgd-ce-1000001", "'apgd-ce-1000001' has a number above 1000000"),
        ("spsa-2x10000000", "has a number above 1000000"),
        ("pgd" + 5000 * "0", "has a 0"),
        ("autoattack-20", "Did you mean 'autoattack'"),
        ("pgd20-min0", "has a 0"),
        ("qwertz", "There are fgsm, pgd20,"),
        ("fgsm+", "'fgsm+' must join different attacks by +"),
        ("fgsm+fgsm", "must join different attacks"),
        ("pgd20-worst-min3", "no attack is called"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(InputError) as caught:
        parse(name)
    assert message in str(caught.value)


def test_examples_are_names():
    for name in EXAMPLES:
        parse(name)


def test_a_name_twice():
    with pytest.raises(InputError, match="pgd20 stands twice"):
        parse_all(["pgd20", "cw20", "pgd20"])


def test_points_of_one_trajectory_are_grouped():
    names = [
        "pgd20",
        "cw20",
        "fgsm",
        "pgd100",
        "pgd20-worst",
        "pgd20-zero",
        "pgd20-min2",
        "pgd30-min2",
        "cw5",
        "spsa-1x1",
    ]
    found = [[column.name for column in group] for group in groups(parse_all(names))]
    assert found == [
        ["pgd20", "pgd100", "pgd20-worst"],
        ["cw20", "cw5"],
        ["fgsm"],
        ["pgd20-zero"],
        ["pgd20-min2"],
        ["pgd30-min2"],
        ["spsa-1x1"],
    ]
