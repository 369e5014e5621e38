"""What an evaluation found: a table with confidence intervals, JSON with every outcome, CSV, Markdown, plain words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastait.attacks.columns import Column, parse
from fastait.evaluation.intervals import cell, wilson
from fastait.evaluation.masking import Check
from fastait.evaluation.outcomes import CLEAN, Outcomes
from fastait.runtime.console import say, show_table
from fastait.runtime.csv_text import csv_text
from fastait.runtime.errors import one_line
from fastait.runtime.report import AUTOATTACK_CAVEAT, BOUNDS, epsilon_text

FILE = "eval.json"
"""Of an evaluation's folder, what ``as_json`` makes."""

UNION = "all of these"
"""The row of images that withstand every attack of the table that stays in the ball and had all images, and none."""

STRONG = ("autoattack", "autoattack-rand")
"""What other figures are compared with."""

QUICK = "quick"
"""AutoAttack's first two parts."""

LEADING = (*STRONG, QUICK)
"""What is shown first, and what figures are believed with."""

AGREEMENT = 2.0
"""Points of accuracy that attacks on the same images may differ by and agree."""


@dataclass(frozen=True)
class Evaluation:
    """One model under one epsilon.

    Attributes:
        model: what it is called.
        epsilon: radius of the Linf ball.
        outcomes: of each image under each attack.
    """

    model: str
    epsilon: float
    outcomes: Outcomes

    def images(self, attack: str) -> int:
        """How many were attacked so; black-box attacks may have been given fewer."""
        return len(self.outcomes.correct[CLEAN if attack == UNION else attack])

    def count(self, attack: str) -> int:
        """How many images are classified correctly under ``attack``; ``UNION`` is all of ``attacks`` together."""
        if attack != UNION:
            return int(self.outcomes.correct[attack].sum())
        standing = self.outcomes.correct[CLEAN].clone()
        for name in self.attacks():
            standing &= self.outcomes.correct[name]
        return int(standing.sum())

    def accuracy(self, attack: str) -> float:
        """In percent."""
        return 100 * self.count(attack) / self.images(attack)

    def attacks(self) -> list[str]:
        """The attacks that stay in the ball, on all images: those that a worst case can be made of."""
        return [
            name
            for name, correct in self.outcomes.correct.items()
            if name != CLEAN and _in_ball(name) and len(correct) == len(self.outcomes.correct[CLEAN])
        ]


def rows(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """One row per model, epsilon and attack, ``UNION`` last where there are several attacks."""
    found = []
    for e in evaluations:
        union = [UNION] if len(e.attacks()) > 1 else []
        for attack in (*e.outcomes.correct, *union):
            correct, n = e.count(attack), e.images(attack)
            low, high = wilson(correct, n)
            queries = e.outcomes.queries.get(attack)
            found.append(
                {
                    "model": e.model,
                    "epsilon": e.epsilon,
                    "attack": attack,
                    "n": n,
                    "correct": correct,
                    "accuracy": round(100 * correct / n, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                    "queries": None if queries is None else round(queries.double().mean().item(), 1),
                }
            )
    return found


def table(evaluations: list[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: attacks down, models across; one block per epsilon, named in the attack's cell if several."""
    models = list(dict.fromkeys(e.model for e in evaluations))
    budgets = list(dict.fromkeys(e.epsilon for e in evaluations))
    lines = []
    by_key = {(row["model"], row["epsilon"], row["attack"]): row for row in rows(evaluations)}
    for epsilon in budgets:
        for attack in dict.fromkeys(row["attack"] for row in by_key.values()):
            if attack == CLEAN and epsilon != budgets[0]:
                continue
            found = [by_key.get((model, epsilon, attack)) for model in models]
            name = attack + (f", eps {epsilon_text(epsilon)}" if len(budgets) > 1 and attack != CLEAN else "")
            counts = {row["n"] for row in found if row is not None}
            if counts != {evaluations[0].images(CLEAN)}:
                name += f" (n = {', '.join(map(str, sorted(counts)))})"
            lines.append([name, *("" if row is None else cell(row["correct"], row["n"]) for row in found)])
    return ["attack", *models], lines


def markdown(evaluations: list[Evaluation], heading: str) -> str:
    """The table as Markdown, under its heading."""
    header, lines = table(evaluations)
    text = [heading, "", "| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*text, *("| " + " | ".join(line) + " |" for line in lines), "", *words(evaluations)]) + "\n"


def as_csv(evaluations: list[Evaluation]) -> str:
    """``rows`` as CSV."""
    found = rows(evaluations)
    return csv_text(list(found[0]), [list(row.values()) for row in found])


def as_json(evaluations: list[Evaluation], about: dict[str, Any]) -> str:
    """``about``, ``warnings``, the rows, and each image's outcome under each attack as a text of 0 and 1."""
    outcomes = [
        {
            "model": e.model,
            "epsilon": e.epsilon,
            "correct": {name: "".join("01"[int(v)] for v in values) for name, values in e.outcomes.correct.items()},
            "queries": {name: values.tolist() for name, values in e.outcomes.queries.items()},
            "not_finite": {name: int(values.sum()) for name, values in e.outcomes.not_finite.items()},
        }
        for e in evaluations
    ]
    found = {"warnings": warnings(evaluations), "rows": rows(evaluations), "outcomes": outcomes}
    return json.dumps({**about, **found}, indent=1) + "\n"


def from_json(found: Mapping[str, Any]) -> list[Evaluation]:
    """What ``as_json`` was made of, as far as it is in there: the inverse, without classes, margins, stages and losses.

    Args:
        found: the parsed JSON; what an older version did not write is left out.

    Raises:
        KeyError, TypeError, ValueError: it is something else, or an attack of this name is unknown.
    """
    evaluations = []
    for one in found["outcomes"]:
        correct = {name: _bits(bits) for name, bits in one["correct"].items()}
        for name in correct:
            if name != CLEAN:
                parse(name)
        counts = one.get("not_finite", {})
        outcomes = Outcomes(
            correct=correct,
            queries={name: torch.tensor(values, device="cpu") for name, values in one.get("queries", {}).items()},
            not_finite={n: torch.arange(len(correct[n]), device="cpu") < count for n, count in counts.items()},
        )
        if not 0 < one["epsilon"] <= 1:
            raise ValueError(f"epsilon is {one['epsilon']}")
        evaluation = Evaluation(str(one["model"]), float(one["epsilon"]), outcomes)
        start = f"{_where(evaluation)}: "
        own = tuple(line.removeprefix(start) for line in found.get("warnings", ()) if line.startswith(start))
        evaluations.append(replace(evaluation, outcomes=replace(outcomes, warnings=own)))
    if not evaluations or any(CLEAN not in e.outcomes.correct for e in evaluations):
        raise ValueError("there are no outcomes of clean images in it")
    return evaluations


def warnings(evaluations: list[Evaluation]) -> list[str]:
    """What speaks against the figures, a line each."""
    return [f"{_where(e)}: {line}" for e in evaluations for line in e.outcomes.warnings]


def words(evaluations: list[Evaluation]) -> list[str]:
    """What the figures say together, a sentence each."""
    found = [f"{line}." for line in warnings(evaluations)]
    for e in evaluations:
        found += [
            f"{_where(e)}, {name}: the logits of {int(rows.sum())} of {len(rows)} "
            "images are NaN or infinite; none of them counts as classified correctly."
            for name, rows in e.outcomes.not_finite.items()
        ]
        where = _where(e)
        if QUICK in e.outcomes.correct:
            found.append(
                f"{where}: the {e.accuracy(QUICK):.1f} % of quick are an upper bound of AutoAttack's robust accuracy, "
                "measured by APGD alone; FAB-T and Square, the remaining parts, can only lower it."
            )
        if len(e.attacks()) < 2:
            continue
        accuracy = {name: e.accuracy(name) for name in e.attacks()}
        lowest = min(accuracy, key=lambda name: accuracy[name])
        strong = [name for name in accuracy if name in STRONG]
        weak = {name: value for name, value in accuracy.items() if name not in strong}
        if strong and weak:
            best, claimed = min(strong, key=lambda name: accuracy[name]), min(weak, key=lambda name: weak[name])
            gap = weak[claimed] - accuracy[best]
            if gap >= AGREEMENT:
                found.append(
                    f"{where}: {best} finds {accuracy[best]:.1f} % where {claimed} claims {weak[claimed]:.1f} %, "
                    f"{gap:.1f} points more. Quote {best}; the other figures are too high."
                )
            elif gap <= -AGREEMENT:
                found.append(
                    f"{where}: {claimed} finds {weak[claimed]:.1f} % where {best} leaves {accuracy[best]:.1f} %: the "
                    f"gradients that {best} follows may mislead. Quote {claimed}."
                )
            else:
                found.append(
                    f"{where}: {best} ({accuracy[best]:.1f} %) and {claimed} ({weak[claimed]:.1f} %) agree to "
                    f"{AGREEMENT:g} points."
                )
        else:
            found.append(
                f"{where}: the lowest single attack is {lowest} with {accuracy[lowest]:.1f} %; "
                f"{e.accuracy(UNION):.1f} % withstand all of them{_excluded(e)}."
            )
    columns = columns_of(name for e in evaluations for name in e.outcomes.correct if name != CLEAN)
    if not any(column.name in STRONG for column in columns):
        found.append(BOUNDS if any(column.of_autoattack for column in columns) else AUTOATTACK_CAVEAT)
    return found


def columns_of(names: Iterable[str]) -> list[Column]:
    """The attacks that ``names`` stand for; those that are joined by + one by one."""
    return [part for column in map(parse, names) for part in column.parts or (column,)]


def show(evaluations: list[Evaluation], heading: str, masking: Mapping[str, list[Check]], folder: str) -> None:
    """Print the table, what it says, and the signs of masking."""
    header, lines = table(evaluations)
    show_table(header, lines, title=heading)
    for sentence in words(evaluations):
        say(sentence)
    for model, checks in masking.items():
        say(f"\n{masking_heading(model, checks)}")
        for check in checks:
            say(f"  {'!' if check.fired else ' '} {check.name}: {check.figure}. {check.sentence}")
    say(f"Written to {one_line(folder)}")


def masking_heading(model: str, checks: Sequence[Check]) -> str:
    """How many of a model's checks fired."""
    fired = sum(check.fired for check in checks)
    return f"{model}: {fired} of {len(checks)} checks point to masked gradients"


def _bits(text: str) -> Tensor:
    """bool [N] of a text of 0 and 1."""
    if not text or set(text) - {"0", "1"}:
        raise ValueError("an outcome is neither 0 nor 1")
    return torch.tensor([c == "1" for c in text], device="cpu")


def _where(e: Evaluation) -> str:
    return f"{e.model}, epsilon {epsilon_text(e.epsilon)}"


def _excluded(e: Evaluation) -> str:
    names = [name for name in e.outcomes.correct if name != CLEAN and name not in e.attacks()]
    return f", {', '.join(names)} not counted" if names else ""


def _in_ball(name: str) -> bool:
    column = parse(name)
    return column.linf and all(part.linf for part in column.parts)
