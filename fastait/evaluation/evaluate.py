"""Which images withstand which attacks: fp32, eval mode, one outcome per image and column."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fastait.attacks import RIGHT, Subject, frozen
from fastait.attacks.checks import budget, classes_of
from fastait.attacks.columns import Column, groups, parse_all
from fastait.attacks.shortcut import shortcut
from fastait.attacks.spsa import AT_A_TIME
from fastait.attacks.stages import Attempt, said, stages
from fastait.attacks.suited import memory_format
from fastait.data import ImageSet
from fastait.evaluation.batches import Together, default_batch_size, share, tried
from fastait.evaluation.collected import Collected, Journal
from fastait.evaluation.kept import Kept
from fastait.evaluation.logits import check_surrogate, random_model
from fastait.evaluation.outcomes import CLEAN, MARGIN, Outcomes, class_under, queries_of
from fastait.evaluation.progress import Effort, called, costs, passes, stage_passes
from fastait.evaluation.set_batch import Result, SetBatch
from fastait.evaluation.staged import attack_in_stages
from fastait.runtime.arguments import count, number, whole
from fastait.runtime.errors import InputError
from fastait.runtime.precision import full_precision
from fastait.runtime.processes import Ranks

COMPILED = 2
"""How many times as many images are attacked together on a CPU by compiled passes, which write fewer activations.
Measured on two cores of an Intel Xeon (Sapphire Rapids), gradients of WRN-16-2 at 32x32: 2.72 ms an image with 32
together, 2.39 with 64, 2.75 with 128."""

STAGED = 2
"""The same of AutoAttack's stages, which images leave as they are fooled: those that stand are to suit the cache, not
those that it begins with. Measured there, 40 images of which half stand: 100 iterations of APGD 4.3 s with 16 together,
3.6 with 48; 10 of FAB for each of nine targets 7.1 and 6.1."""

BLACK_BOX_BATCH = 16
"""Images that a kill of a black-box attack can cost, at most."""


def evaluate(
    model: Any,
    images: ImageSet,
    attacks: Sequence[str],
    *,
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    seed: int = 0,
    batch_size: int | None = None,
    surrogate: Any = None,
    compile: bool = False,
    tf32: bool = False,
    journal: Journal | None = None,
    advance: Callable[[str, int], None] = lambda name, images: None,
    tick: Callable[[str, int], None] | None = None,
    effort: Effort | None = None,
    kept: Kept | None = None,
    note: Callable[[str], None] = lambda text: None,
    caution: Callable[[str], None] = lambda text: None,
    ranks: Ranks = Ranks(),  # noqa: B008, immutable
) -> Outcomes:
    """Whether each image is classified correctly, clean and under each attack.

    Columns that are points of one trajectory are computed together, and an image that no column needs any more leaves
    its batch. Random starts, targets and the choices of black-box attacks are addressed by (seed, place in the set), so
    outcomes of a model that is not random itself do not depend on batches or on what is asked for together. Where
    memory does not suffice, fewer images are attacked at a time.

    Args:
        model: logits [B, K] of images in [0, 1], a module or a function; a module's parameters' device and type are
            used. Left as it was. Several threads may evaluate one model.
        images: the test set.
        attacks: names, see ``fastait.attacks.columns``.
        epsilon: radius of the Linf ball, on images in [0, 1].
        step_size: of gradient attacks, > 0; FGSM's is epsilon.
        seed: of everything random.
        batch_size: images at a time; None for ``default_batch_size``.
        surrogate: the model that ``transfer-`` attacks are made on.
        compile: attacks search by passes through torch.compile. An image counts as fooled only if the model as it is
            says so too of the very image; else the attack goes on. What cannot be compiled runs as it is, with a note.
        tf32: attacks may search in TF32 on a GPU; the same holds.
        journal: what is in it is not computed again.
        advance: called with a column's name and how many images its group is done with, ``units`` in all.
        tick: called before each pass of a model with what it is for and how many of this process's images stand; may
            raise to stop, which costs one batch of one column, or of one of its stages.
        effort: told of everything that is done, so that it can say how long the rest takes.
        kept: where adversarial images go; none are kept without it. ``composed`` makes a column of them.
        note: called with a line for the user: that memory did not suffice, that AutoAttack is less than usual, or that
            a model is not compiled.
        caution: called with each of the ``warnings`` of the outcomes, as early as it is known.
        ranks: the processes that share the images; the outcomes are those of one process.

    Raises:
        OutOfMemory: a single image is too much. What is in the journal stays there.
        InputError: an attack's name is wrong, the surrogate is missing, or the model returns no logits for the set's
            classes.
        ValueError, TypeError: a number is out of its range or none.
    """
    columns = parse_all(attacks)
    if surrogate is None and any(column.needs_surrogate for column in columns):
        raise InputError("transfer attacks need the model that they are made on: --surrogate RUN, or surrogate=")
    epsilon, step_size = budget(epsilon), number("step_size", step_size, 0, above=True)
    batch_size, seed = batch_size if batch_size is None else count("batch_size", batch_size), whole("seed", seed)
    classes = classes_of(images.labels)
    effort, own = effort or Effort(), share(len(images), ranks)

    def watch(x: Tensor) -> None:
        effort.passed(x)
        if tick is not None:
            tick(effort.part, effort.standing)

    model = Subject.of(model, classes).watched(watch)
    surrogate = None if surrogate is None else Subject.of(surrogate, classes, "the surrogate").watched(watch)
    device, dtype = where = model.placement(images.images)
    setting = {"epsilon": epsilon, "step_size": step_size, "seed": seed}
    models = [model] if surrogate is None else [model, surrogate]
    with full_precision(device), ExitStack() as stack:
        for network in models:
            stack.enter_context(frozen(network))
        few = torch.arange(min(2, len(images)), device=images.labels.device)
        sample = images.floats(few, device, dtype).contiguous()  # as any model can take them
        if surrogate is not None:
            check_surrogate(surrogate, sample)
        formats = {tried(partial(memory_format, network, tf32=tf32), sample) for network in models}
        layout = torch.channels_last if formats == {torch.channels_last} else torch.contiguous_format
        sample = sample.contiguous(memory_format=layout)
        with torch.no_grad():
            logits = tried(model, sample)
        outputs = logits.shape[1]
        parts = {column.name: stages(column, outputs) for column in columns if column.in_stages}
        for column in chain.from_iterable(column.parts or (column,) for column in columns):
            if less := said(column, outputs):
                note(less)
        warnings = [line for line in (random_model(model, sample, logits, columns),) if line]
        for line in warnings:
            caution(line)
        effort.plan(costs(columns, outputs), len(own))
        collected = Collected(columns, parts, own, len(images), setting, journal, kept, ranks)
        known = collected.known

        def faster(network: Subject) -> Subject | None:
            way = partial(shortcut, network, layout=layout, compile=compile, tf32=tf32, note=note)
            return tried(way, sample)

        search = faster(model)
        if surrogate is not None:
            surrogate = faster(surrogate) or surrogate
        make = partial(SetBatch, model, surrogate, search, images, setting, layout, where)

        more = COMPILED if search is not None and compile and device.type == "cpu" else 1

        @cache
        def suits(passes: int) -> int:
            return min(default_batch_size(network, images, passes) for network in models)

        def size(passes: int, times: int = more) -> int:
            return batch_size or times * suits(passes)

        for_stages = cache(lambda: Together(size(1, STAGED if device.type == "cpu" else 1), note))

        def scored() -> int:
            """Images that black boxes score in a pass. On a CPU none is so long that a signal has to wait for it."""
            return min(AT_A_TIME, default_batch_size(model, images)) if device.type == "cpu" else AT_A_TIME

        @cache
        def company(*group: Column) -> tuple[Together, int | None]:
            """How many images a group of columns attacks together, and how many of them a batch has at most."""
            if group and group[0].black_box:
                # A black box takes its images one by one, and as long for a few as a gradient attack for many.
                return Together(scored(), note), min(size(1), BLACK_BOX_BATCH)
            return Together(size(max([1, *(column.held for column in group)])), note), None

        def over(
            places: Tensor, together: Together, at_most: int | None, attack: Callable[[SetBatch], Result]
        ) -> Iterator[Result]:
            def work(places: Tensor) -> Result:
                return attack(make(places, together.limit if at_most is None else together.size))

            return together.over(places, work, at_most)

        def taken(name: str, results: Iterator[Result]) -> Iterator[Result]:
            for result in results:
                collected.take(result)
                effort.finished(len(result.places), sum(verdict != RIGHT for verdict in result.numbers[name]))
                yield result

        for group in ([], *groups(columns)):
            effort.begin()
            names = [column.name for column in group] or [CLEAN]
            name = names[-1]
            if group and group[0].in_stages:

                def attacked(i: int, places: Tensor, standing: int, name: str = name) -> Iterator[Result]:
                    stage, after = parts[name][i], sum(map(stage_passes, parts[name][i + 1 :]))
                    effort.work(called(name, stage, parts[name]), stage_passes(stage), len(places), standing, after)
                    if not len(places):
                        return iter(())

                    def attack(batch: SetBatch) -> Result:
                        return batch.under_stage(stage, partial(effort.stand, len(batch.places)))

                    how = company(stage.column) if isinstance(stage, Attempt) else (for_stages(), None)
                    return taken(stage.name, over(places, *how, attack))

                attack_in_stages(name, parts[name], group[0].of_autoattack, known, attacked, partial(advance, name))
                continue
            alone = bool(group) and group[0].black_box
            needed = [name, queries_of(name)] if alone else names if group else [CLEAN, class_under(CLEAN), MARGIN]
            lacking = known.lacking(needed)
            missing = sum(len(places) for _, places in lacking)
            if before := len(own) - missing:
                advance(name, before)
            if lacking:
                cost = max((passes(column, outputs) for column in group), default=1)
                effort.work(name, cost, missing, len(own) - known.count_other(name, RIGHT))
            for unknown, places in lacking:
                wanted = [column for column in group if column.name in unknown] or group

                def attack(batch: SetBatch, wanted: list[Column] = wanted) -> Result:
                    return batch.under(wanted) if wanted else batch.clean()

                last = wanted[-1].name if wanted else CLEAN
                for result in taken(last, over(places, *company(*group), attack)):
                    advance(name, len(result.places))
            if not group:
                collected.clean_is_known()
        found = collected.outcomes()
    for line in found.warnings:
        caution(line)
    return replace(found, warnings=(*warnings, *found.warnings))


def units(images: int, attacks: Sequence[str], ranks: Ranks = Ranks()) -> int:  # noqa: B008, immutable
    """How many images ``evaluate`` tells ``advance`` of in all: this process's, clean and for each group of columns."""
    return len(share(images, ranks)) * (1 + len(groups(parse_all(attacks))))
