"""Signs of false robustness: what holds where gradients tell the truth, checked.

After Athalye et al. (2018) and Carlini et al. (2019), section 3.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastait.attacks import Noise, Subject, cross_entropy, frozen, input_gradient, sign_step
from fastait.data import ImageSet
from fastait.evaluation.batches import Together, default_batch_size, tried
from fastait.evaluation.collected import Journal
from fastait.evaluation.evaluate import evaluate
from fastait.evaluation.intervals import wilson
from fastait.evaluation.outcomes import CLEAN, Outcomes
from fastait.models.features import PROBED
from fastait.runtime.arguments import count, number, whole
from fastait.runtime.errors import InputError
from fastait.runtime.precision import full_precision
from fastait.runtime.randomness import derive
from fastait.runtime.report import epsilon_text

STEPS, RESTARTS = 20, 5
BUDGETS = (2, 4, 8, 16)
"""Multiples of epsilon that are tried on the way to 1."""

BLACK_BOX = "spsa-64x10"
BLACK_BOX_IMAGES = 40
STRONG = "quick"
"""What stands for AutoAttack where its own figures are not given: the first of its attacks, which find nearly all."""

LEAST_POINTS = 5.0
"""Gaps below this many points of accuracy are no sign, however sure."""

STRONGER_POINTS = 15.0
"""What AutoAttack may find beyond one PGD-20 of an honest model: some points always, as it is the stronger attack."""

RESTART_POINTS, RESTART_IMAGES = 10.0, 5
"""What restarts may find of an honest model."""

SIGMAS = 2.0
LEAST_ZEROS = 10.0
"""Percent of images without any gradient, or with one that is not finite, from which on it is a sign."""


@dataclass(frozen=True)
class Check:
    """One sign.

    Attributes:
        name: what was checked.
        fired: whether it points to masked gradients.
        figure: what was measured.
        sentence: what that means.
        numbers: what was measured, as numbers.
    """

    name: str
    fired: bool
    figure: str
    sentence: str
    numbers: dict[str, float | list[float]] = field(default_factory=dict)


def masking_report(
    model: Any,
    images: ImageSet,
    *,
    epsilon: float = 8 / 255,
    seed: int = 0,
    batch_size: int | None = None,
    surrogate: Any = None,
    compile: bool = False,
    outcomes: Outcomes | None = None,
    journal: Callable[[ImageSet], Journal] | None = None,
    advance: Callable[[str], None] = lambda name: None,
    tick: Callable[[str, int], None] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Check]:
    """Check a model for signs of masked gradients; none of them firing is no proof of their absence.

    Args:
        model: logits [B, K] of images in [0, 1]. Left as it was.
        images: a few dozen to a few hundred test images.
        epsilon: radius of the Linf ball, on images in [0, 1]; attacks take steps of 2.5 epsilon / 20.
        seed: of everything random.
        batch_size: images at a time; None for ``default_batch_size``.
        surrogate: another model of the task, for a transfer attack.
        compile: attacks search by passes through torch.compile, see ``evaluate``.
        outcomes: of the same images, where they have been attacked already; ``autoattack`` in it is used.
        journal: gives the journal of a set of images; what is in it is not computed again.
        advance: called with the name of each finished check.
        tick: called before each pass of the model, as ``evaluate`` does; may raise to stop.
        note: called with a line for the user, that memory did not suffice.

    Raises:
        OutOfMemory: a single image is too much.
        InputError: the model returns no logits, or gives its images no gradient.
        ValueError, TypeError: a number is out of its range or none.
    """
    epsilon, model = number("epsilon", epsilon, 0, 1, above=True), Subject.of(model)
    if tick is not None:
        model = model.watched(lambda x, tick=tick: tick("gradients", len(images)))

    def attack(*names: str, epsilon: float = epsilon, images: ImageSet = images) -> dict[str, Tensor]:
        found = evaluate(
            model,
            images,
            names,
            epsilon=epsilon,
            step_size=2.5 * epsilon / STEPS,
            seed=seed,
            batch_size=batch_size,
            surrogate=surrogate,
            compile=compile,
            journal=None if journal is None else journal(images),
            tick=tick,
            note=note,
        )
        return found.correct

    seed = whole("seed", seed)
    batch_size = batch_size if batch_size is None else count("batch_size", batch_size)
    pgd = f"pgd{STEPS}"
    base = attack("fgsm", pgd, f"{pgd}-min{RESTARTS}")
    classes = _classes(model, images)
    together = Together(batch_size or default_batch_size(model, images), note)
    losses, zeros, broken = _losses(model, images, epsilon, seed, together)
    checks: list[Callable[[], Check | None]] = [
        lambda: _one_step(base["fgsm"], base[pgd]),
        lambda: _budgets(base[pgd], epsilon, lambda e: attack(pgd, epsilon=e), classes),
        lambda: _black_box(base[pgd], attack, images, surrogate is not None),
        lambda: _strong(base[pgd], attack, outcomes),
        lambda: _loss(losses),
        lambda: _gradients(zeros, broken),
        lambda: _restarts(base[pgd], base[f"{pgd}-min{RESTARTS}"]),
    ]
    return list(_run(checks, advance))


def _run(checks: list[Callable[[], Check | None]], advance: Callable[[str], None]) -> Iterator[Check]:
    for check in checks:
        done = check()
        if done is not None:
            advance(done.name)
            yield done


def _accuracy(correct: Tensor) -> float:
    return 100 * correct.double().mean().item()


def _beats(weaker: Tensor, stronger: Tensor, points: float = LEAST_POINTS) -> bool:
    """Whether the attack that should be weaker fools more images, by more than chance (McNemar) and by enough."""
    only_weaker = int((~weaker & stronger).sum())
    only_stronger = int((weaker & ~stronger).sum())
    gap = only_weaker - only_stronger
    return gap > SIGMAS * math.sqrt(max(1, only_weaker + only_stronger)) and 100 * gap / len(weaker) >= points


def _one_step(fgsm: Tensor, pgd: Tensor) -> Check:
    fired = _beats(fgsm, pgd)
    return Check(
        "one step against many",
        fired,
        f"FGSM {_accuracy(fgsm):.1f} %, PGD-{STEPS} {_accuracy(pgd):.1f} %",
        "One step fools more images than many steps do: the steps do not follow the loss."
        if fired
        else "One step fools no more images than many do, or no more than chance explains.",
        {"fgsm": _accuracy(fgsm), f"pgd{STEPS}": _accuracy(pgd)},
    )


def _budgets(first: Tensor, epsilon: float, attack: Callable[[float], dict[str, Tensor]], classes: int) -> Check:
    tried = [epsilon, *(m * epsilon for m in BUDGETS if m * epsilon < 1), *([1.0] if epsilon < 1 else [])]
    found = [first, *(attack(e)[f"pgd{STEPS}"] for e in tried[1:])]
    chance = 100 / classes
    low, _ = wilson(int(found[-1].sum()), len(first))
    stands = low > chance
    # A larger ball holds the smaller one.
    rises = any(_beats(small, large) for small, large in itertools.pairwise(found))
    figures = ", ".join(f"{epsilon_text(e)}: {_accuracy(c):.1f} %" for e, c in zip(tried, found, strict=True))
    if stands:
        sentence = f"At epsilon 1 any image is allowed, yet more than chance ({chance:.0f} %) withstand: PGD fails."
    elif rises:
        sentence = "Accuracy rises with epsilon, though a larger ball holds the smaller one: PGD fails."
    else:
        sentence = f"At epsilon 1 no more images withstand than chance ({chance:.0f} %) explains."
    numbers: dict[str, float | list[float]] = {
        "epsilon": tried,
        "accuracy": [_accuracy(c) for c in found],
        "chance": chance,
    }
    return Check("unbounded attack", stands or rises, figures, sentence, numbers)


def _black_box(pgd: Tensor, attack: Callable[..., dict[str, Tensor]], images: ImageSet, transfer: bool) -> Check:
    few = images if len(images) <= BLACK_BOX_IMAGES else images.stratified(BLACK_BOX_IMAGES)
    found = attack(BLACK_BOX, f"pgd{STEPS}", images=few)
    fired = _beats(found[BLACK_BOX], found[f"pgd{STEPS}"])
    numbers: dict[str, float | list[float]] = {
        name: _accuracy(correct) for name, correct in found.items() if name != CLEAN
    }
    figure = f"{BLACK_BOX} {_accuracy(found[BLACK_BOX]):.1f} %, PGD-{STEPS} {_accuracy(found[f'pgd{STEPS}']):.1f} %"
    if transfer:
        name = f"transfer-pgd{STEPS}"
        moved = attack(name)[name]
        fired = fired or _beats(moved, pgd)
        numbers |= {name: _accuracy(moved), f"pgd{STEPS} on all": _accuracy(pgd)}
        figure += f"; transferred {_accuracy(moved):.1f} %, PGD-{STEPS} {_accuracy(pgd):.1f} %"
    return Check(
        "black box against white box",
        fired,
        f"{figure} ({len(few)} images for SPSA)",
        "An attack that cannot see the gradients fools more images than one that can: the gradients mislead."
        if fired
        else "No attack without the gradients fools more images than one with them, beyond what chance explains.",
        {**numbers, "images": len(few)},
    )


def _strong(pgd: Tensor, attack: Callable[..., dict[str, Tensor]], outcomes: Outcomes | None) -> Check | None:
    name = "autoattack"
    known = None if outcomes is None else outcomes.correct.get(name)
    if known is None:
        name = STRONG
        try:
            known = attack(name)[name]
        except InputError as error:
            return Check("PGD against AutoAttack", False, "not measured", f"{error}.")
    fired = _beats(known, pgd, STRONGER_POINTS)
    return Check(
        "PGD against AutoAttack",
        fired,
        f"PGD-{STEPS} {_accuracy(pgd):.1f} %, {name} {_accuracy(known):.1f} %",
        f"PGD overestimates by {_accuracy(pgd) - _accuracy(known):.1f} points; quote AutoAttack."
        if fired
        else "AutoAttack's attacks find no more than a stronger attack should.",
        {f"pgd{STEPS}": _accuracy(pgd), name: _accuracy(known)},
    )


def _classes(model: Subject, images: ImageSet) -> int:
    """How many classes the model tells apart; the images need not have them all."""
    device, dtype = model.placement(images.images)
    places = torch.arange(min(PROBED, len(images)), device=images.labels.device)
    with frozen(model), torch.no_grad():
        return tried(model, images.floats(places, device, dtype)).shape[1]


def _losses(
    model: Subject, images: ImageSet, epsilon: float, seed: int, together: Together
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean cross-entropy at each iterate of PGD, [STEPS + 1]; which images have no gradient at all, and which one
    that is not a number somewhere, bool [N] each."""
    device, dtype = model.placement(images.images)

    def ascend(places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y = images.floats(places, device, dtype), images.labels[places].to(device)

        def loss(leaf: Tensor) -> Tensor:
            return cross_entropy(model(leaf), y).sum()

        grad = input_gradient(loss, x).flatten(1)
        losses = []
        moved = Noise.seeded(derive(seed, "masking", 0), device).start_at(x, epsilon, 0, places).clamp(0, 1)
        for step in range(STEPS + 1):
            with torch.no_grad():
                losses.append(cross_entropy(model(moved), y).double().cpu())
            if step < STEPS:
                moved = sign_step(moved, input_gradient(loss, moved), x, 2.5 * epsilon / STEPS, epsilon)
        return torch.stack(losses), (grad == 0).all(dim=1).cpu(), (~grad.isfinite()).any(dim=1).cpu()

    with full_precision(device), frozen(model):
        parts = list(together.over(torch.arange(len(images), device="cpu"), ascend))
    losses, zeros, broken = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    return losses.mean(dim=1), zeros, broken


def _loss(losses: Tensor) -> Check:
    first, last, highest = losses[1].item(), losses[-1].item(), losses.max().item()
    fired = not bool(losses.isfinite().all()) or last <= losses[0].item() or last < 0.95 * highest
    return Check(
        "loss along the steps",
        fired,
        f"mean loss {losses[0]:.3g} at the start, {first:.3g} after 1 step, {last:.3g} after {STEPS}",
        "The loss does not rise with the steps that ascend it: the gradients mislead."
        if fired
        else "The loss rises with the steps and stays high.",
        {"loss": losses.tolist()},
    )


def _gradients(zeros: Tensor, broken: Tensor) -> Check:
    none, nan = _accuracy(zeros), _accuracy(broken)
    fired = none + nan >= LEAST_ZEROS
    if nan:
        sentence = "Gradients are NaN or infinite, so that no step follows them: what survives is not robust."
    elif fired:
        sentence = "Many images have no gradient to follow: the loss is flat or not differentiable there."
    else:
        sentence = f"All images have gradients, or all but {none:.1f} %." if none else "All images have gradients."
    return Check(
        "zero gradients",
        fired,
        f"{none:.1f} % of the images have no input gradient" + (f", {nan:.1f} % one that is not finite" if nan else ""),
        sentence,
        {"zero": none, "not finite": nan},
    )


def _restarts(once: Tensor, several: Tensor) -> Check:
    gain = _accuracy(once) - _accuracy(several)
    fired = gain >= RESTART_POINTS and int((once & ~several).sum()) >= RESTART_IMAGES
    return Check(
        "restarts",
        fired,
        f"{_accuracy(once):.1f} % after 1 start, {_accuracy(several):.1f} % after {RESTARTS}",
        "Restarts keep finding more: one start says little, and more of them would find more still."
        if fired
        else "Restarts find little more.",
        {"1 start": _accuracy(once), f"{RESTARTS} starts": _accuracy(several)},
    )


def as_rows(checks: list[Check]) -> list[dict[str, Any]]:
    """As plain JSON values; a number that is not finite, which JSON lacks, as None."""

    def plain(value: float | list[float]) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value if math.isfinite(value) else None

    return [{**vars(check), "numbers": {name: plain(v) for name, v in check.numbers.items()}} for check in checks]
