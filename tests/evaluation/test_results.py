"""Tables, intervals, files and plain words."""

import csv
import io
import json

import pytest
import torch

from fastait.evaluation import Outcomes
from fastait.evaluation.intervals import wilson
from fastait.evaluation.results import UNION, Evaluation, as_csv, as_json, from_json, markdown, rows, table, words


def outcome(correct, n=100):
    return torch.arange(n) < correct


def evaluation(model="run", epsilon=8 / 255, **correct):
    names = {name.replace("_", "-"): outcome(count) for name, count in correct.items()}
    return Evaluation(model, epsilon, Outcomes({"clean": outcome(98), **names}))


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(0, 10, 0, 27.75), (10, 10, 72.25, 100), (50, 100, 40.38, 59.62), (81, 263, 25.53, 36.62)],
)
def test_wilsons_interval(correct, n, low, high):
    """The last is Newcombe's (1998) example."""
    assert wilson(correct, n) == pytest.approx((low, high), abs=0.01)


def test_rows_and_the_worst_case():
    pgd, cw = outcome(70), ~outcome(40)  # each fools others: 30 images withstand both
    search = outcome(5)
    found = Evaluation(
        "run", 0.1, Outcomes({"clean": outcome(98), "pgd20": pgd, "cw20": cw, "local-search": search}, {})
    )
    by_name = {row["attack"]: row for row in rows([found])}
    assert by_name["pgd20"]["accuracy"] == 70
    assert by_name[UNION]["correct"] == 30  # of those in the ball; the search is not
    assert by_name["cw20"]["low"] < 60 < by_name["cw20"]["high"]
    assert [row["attack"] for row in rows([evaluation(pgd20=70)])] == ["clean", "pgd20"]


def test_the_union_counts_clean_errors():
    found = Evaluation("run", 0.1, Outcomes({"clean": outcome(50), "pgd20": ~outcome(10), "cw20": ~outcome(20)}))
    assert found.count(UNION) == 30


def test_tables_of_several_models_and_budgets():
    found = [evaluation("a", pgd20=70), evaluation("a", 16 / 255, pgd20=40), evaluation("b", pgd20=60)]
    header, lines = table(found)
    assert header == ["attack", "a", "b"]
    assert [line[0] for line in lines] == ["clean", "pgd20, eps 8/255", "pgd20, eps 16/255"]
    assert lines[1][1] == "70.0 [60.4, 78.1]"
    assert lines[2] == ["pgd20, eps 16/255", "40.0 [30.9, 49.8]", ""]


def test_black_boxes_may_have_fewer_images():
    found = Evaluation("run", 0.1, Outcomes({"clean": outcome(98), "pgd20": outcome(70), "spsa-2x2": outcome(9, 10)}))
    assert [line[0] for line in table([found])[1]] == ["clean", "pgd20", "spsa-2x2 (n = 10)"]
    assert found.attacks() == ["pgd20"]


def test_files():
    queries = {"spsa-2x2": torch.tensor([5, 10])}
    found = Evaluation("run", 0.1, Outcomes({"clean": outcome(2, 2), "spsa-2x2": outcome(1, 2)}, queries))
    lines = list(csv.DictReader(io.StringIO(as_csv([found]))))
    assert [(line["attack"], line["accuracy"], line["queries"]) for line in lines] == [
        ("clean", "100.0", ""),
        ("spsa-2x2", "50.0", "7.5"),
    ]
    content = json.loads(as_json([found], {"seed": 3}))
    assert content["seed"] == 3
    assert content["outcomes"][0]["correct"] == {"clean": "11", "spsa-2x2": "10"}
    assert content["outcomes"][0]["queries"] == {"spsa-2x2": [5, 10]}
    text = markdown([found], "heading")
    assert text.startswith("heading\n\n| attack | run |\n| --- | ---: |\n| clean | 100.0 [34.2, 100.0] |\n")


def test_words_when_autoattack_disagrees():
    (sentence,) = words([evaluation(pgd20=70, cw20=68, autoattack=36)])
    assert "autoattack finds 36.0 % where cw20 claims 68.0 %, 32.0 points more. Quote autoattack" in sentence


def test_words_when_autoattack_agrees():
    (sentence,) = words([evaluation(pgd20=45, autoattack=44)])
    assert "autoattack (44.0 %) and pgd20 (45.0 %) agree to 2 points" in sentence


def test_words_when_autoattack_is_the_weaker_one():
    (sentence,) = words([evaluation(pgd20=20, autoattack=60)])
    assert "pgd20 finds 20.0 % where autoattack leaves 60.0 %" in sentence
    assert "Quote pgd20" in sentence


def test_words_of_single_parts_of_autoattack():
    first, caveat = words([evaluation(pgd20=20, square=60)])
    assert "the lowest single attack is pgd20 with 20.0 %" in first
    assert caveat.startswith("None of these attacks is AutoAttack")
    assert "the paper's" not in caveat


def test_words_of_autoattack_and_another_as_one_column():
    assert words([evaluation(**{"autoattack+pgd20": 20})]) == []


def test_words_without_autoattack():
    first, caveat = words([evaluation(pgd20=70, cw20=68)])
    assert "the lowest single attack is cw20 with 68.0 %" in first
    assert "none of them is AutoAttack" in caveat


def test_what_was_written_is_read_again():
    """All that the table and the sentences are made of."""
    found = [
        Evaluation(
            model,
            epsilon,
            Outcomes(
                {"clean": outcome(98), "pgd20": outcome(70), "autoattack": outcome(40), "spsa-8x2": outcome(6, 10)},
                {"spsa-8x2": torch.arange(10)},
                {"pgd20": outcome(3)},
                warnings=("the logits take few values",),
            ),
        )
        for model, epsilon in (("a", 8 / 255), ("a: b", 0.1))
    ]
    text = as_json(found, {"dataset": "digits"})
    again = from_json(json.loads(text))
    assert as_json(again, {"dataset": "digits"}) == text
    assert words(again) == words(found)
    assert table(again) == table(found)
    for broken in ({}, {"outcomes": []}, {"outcomes": [{"model": "a", "epsilon": 0.1, "correct": {"pgd20": "01"}}]}):
        with pytest.raises((KeyError, ValueError)):
            from_json(broken)
    with pytest.raises(ValueError, match="Did you mean"):
        from_json(json.loads(text.replace("pgd20", "pdg20")))
