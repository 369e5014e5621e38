"""Which images withstand which attacks: fp32, eval mode, one outcome per image and column."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from fastait.attacks import NOT_FINITE, RIGHT, Noise, Subject, frozen, verdict
from fastait.attacks.addressed import Addressed
from fastait.attacks.batch import AttackedBatch, Found
from fastait.attacks.checks import budget, classes_of, count, number, whole
from fastait.attacks.columns import Column, groups, parse_all
from fastait.attacks.feature import targets
from fastait.attacks.shortcut import shortcut
from fastait.attacks.spsa import AT_A_TIME
from fastait.attacks.stages import Stage, said, stages
from fastait.attacks.suited import memory_format
from fastait.data import ImageSet
from fastait.evaluation.batches import Together, default_batch_size, share, tried
from fastait.evaluation.journal import Finding
from fastait.evaluation.known import Known
from fastait.evaluation.staged import attack_in_stages, stage_names
from fastait.runtime.errors import InputError
from fastait.runtime.precision import full_precision
from fastait.runtime.processes import Ranks
from fastait.runtime.randomness import derive

CLEAN = "clean"

COMPILED = 4
"""How many times as many images are attacked together on a CPU by compiled passes, which write fewer activations.
Measured on one core of an Intel Xeon with 2 MB of L2, gradients at 32x32: WRN-16-2 3.18 ms an image with 16 together,
2.87 with 64; WRN-10-1 0.70 with 32, 0.58 with 128."""

BLACK_BOX_BATCH = 16
"""Images that a kill of a black-box attack can cost, at most."""


class Journal(Protocol):
    """What remembers the finished batches of an evaluation."""

    def get(self, unit: dict[str, Any]) -> list[Finding]:
        """What is known in the setting ``unit``, the oldest first."""
        ...

    def put(self, unit: dict[str, Any], places: Sequence[int], found: dict[str, list[int]]) -> None:
        """Remember what was found of the images at ``places``, so that a kill from here on does not lose it."""
        ...


@dataclass(frozen=True)
class Outcomes:
    """What ``evaluate`` found, on the CPU.

    Attributes:
        correct: {"clean" or an attack's name: bool [N], whether the image is classified correctly}.
        queries: {a black-box attack's name: int64 [N], how many images were scored for each}.
        not_finite: {an attack's name: bool [N], whether the logits that decided were NaN or infinite}, of those
            attacks that found such; these images are not classified correctly.
    """

    correct: dict[str, Tensor] = field(default_factory=dict)
    queries: dict[str, Tensor] = field(default_factory=dict)
    not_finite: dict[str, Tensor] = field(default_factory=dict)

    def joined(self, other: "Outcomes") -> "Outcomes":
        """With what ``other`` found beside; of what both did, this one's."""
        return Outcomes(
            {**other.correct, **self.correct},
            {**other.queries, **self.queries},
            {**other.not_finite, **self.not_finite},
        )

    def accuracy(self) -> dict[str, float]:
        """In percent."""
        return {name: 100 * int(outcome.sum()) / len(outcome) for name, outcome in self.correct.items()}


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
    note: Callable[[str], None] = lambda text: None,
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
        tick: called after each iteration of AutoAttack's parts with the part's name and how many images of its batch
            stand; may raise to stop, which costs that batch of that part alone.
        note: called with a line for the user: that memory did not suffice, that AutoAttack is less than usual, or that
            a model is not compiled.
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
    model, surrogate = Subject.of(model, classes), None if surrogate is None else Subject.of(surrogate, classes)
    device, dtype = where = model.placement(images.images)
    black_boxes = [column.name for column in columns if column.black_box]
    setting = {"epsilon": epsilon, "step_size": step_size, "seed": seed}
    models = [model] if surrogate is None else [model, surrogate]
    with full_precision(device), ExitStack() as stack:
        for network in models:
            stack.enter_context(frozen(network))
        few = torch.arange(min(2, len(images)), device=images.labels.device)
        sample = images.floats(few, device, dtype).contiguous()  # as any model can take them
        if surrogate is not None:
            _check_surrogate(surrogate, sample)
        formats = {tried(partial(memory_format, network), sample) for network in models}
        layout = torch.channels_last if formats == {torch.channels_last} else torch.contiguous_format
        sample = sample.contiguous(memory_format=layout)
        with torch.no_grad():
            outputs = tried(model, sample).shape[1]
        parts = {column.name: stages(column, outputs) for column in columns if column.staged}
        for column in columns:
            if column.staged and (less := said(column, outputs)):
                note(less)
        every = (CLEAN, *attacks, *map(_queries_of, black_boxes), *stage_names(list(parts.values())))
        known = Known(every, share(len(images), ranks), len(images))
        for finding in () if journal is None else journal.get(setting):
            known.add(*finding)
        faster = partial(shortcut, x=sample, layout=layout, compile=compile, tf32=tf32, note=note)
        search = faster(model)
        if surrogate is not None:
            surrogate = faster(surrogate) or surrogate
        make = partial(_Batch, model, surrogate, search, images, setting, layout, where)

        more = COMPILED if search is not None and compile and device.type == "cpu" else 1

        @cache
        def size(passes: int) -> int:
            return batch_size or more * min(default_batch_size(network, images, passes) for network in models)

        for group in ([], *groups(columns)):
            names = [column.name for column in group] or [CLEAN]
            if group and group[0].staged:
                name = names[0]
                together = Together(size(1), note)

                def over(stage: Stage, places: Tensor, together: Together = together) -> Iterator[Finding]:
                    def attack(places: Tensor) -> Finding:
                        told = None if tick is None else partial(tick, stage.name)
                        return make(places, together.limit).stage_finding(stage, told)

                    for done, lists in together.over(places, attack):
                        if journal is not None:
                            journal.put(setting, done, lists)
                        yield done, lists

                attack_in_stages(name, parts[name], known, CLEAN, over, partial(advance, name))
                continue
            alone = names[0] in black_boxes
            lacking = known.lacking([*names, _queries_of(names[0])] if alone else names)
            if before := len(known.own) - sum(len(places) for _, places in lacking):
                advance(names[-1], before)
            if not lacking:
                continue
            # A black box takes its images one by one, and as long for a few as a gradient attack for many.
            at_most = min(size(1), BLACK_BOX_BATCH) if alone else None
            together = Together(AT_A_TIME if alone else size(max([1, *(column.passes for column in group)])), note)
            for unknown, places in lacking:
                wanted = [column for column in group if column.name in unknown] or group

                def attack(places: Tensor, wanted: list[Column] = wanted, together: Together = together) -> Finding:
                    return make(places, together.limit).finding(wanted)

                for done, lists in together.over(places, attack, at_most):
                    if journal is not None:
                        journal.put(setting, done, lists)
                    known.add(done, lists)
                    advance(names[-1], len(done))
    verdicts = {name: known.merged(name, ranks) for name in (CLEAN, *attacks)}
    return Outcomes(
        {name: found == RIGHT for name, found in verdicts.items()},
        {name: known.merged(_queries_of(name), ranks) for name in black_boxes},
        {name: found == NOT_FINITE for name, found in verdicts.items() if bool((found == NOT_FINITE).any())},
    )


def units(images: int, attacks: Sequence[str], ranks: Ranks = Ranks()) -> int:  # noqa: B008, immutable
    """How many images ``evaluate`` tells ``advance`` of in all: this process's, clean and for each group of columns."""
    return len(share(images, ranks)) * (1 + len(groups(parse_all(attacks))))


def check_logits(logits: Tensor, classes: int | None = None, *, of: str = "the model") -> None:
    """Raise an InputError unless ``logits`` are finite, [B, K], no probabilities, and K is ``classes``."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise InputError(f"{of} returns {tuple(logits.shape)} where logits [B, K] are needed")
    if classes is not None and logits.shape[1] != classes:
        raise InputError(f"{of} tells {logits.shape[1]} classes apart, the data set has {classes}")
    if not bool(logits.isfinite().all()):
        raise InputError(f"{of} returns NaN or infinity for clean images")
    rows = logits.sum(dim=1)
    if bool((logits >= 0).all()) and bool((rows - 1).abs().max() < 1e-3):
        raise InputError(f"{of} returns probabilities; attacks need logits, from before the softmax")


def _check_surrogate(surrogate: Subject, sample: Tensor) -> None:
    device, dtype = surrogate.placement(sample)
    if (device, dtype) != (sample.device, sample.dtype):
        raise InputError(
            f"the surrogate is on {device} in {dtype}, the model on {sample.device} in {sample.dtype}; "
            "bring both to one device and type"
        )
    with torch.no_grad():
        check_logits(tried(surrogate, sample), of="the surrogate")


class _Batch:
    """A batch of a test set under attack: randomness is addressed by (seed, place in the set, restart)."""

    def __init__(
        self,
        model: Subject,
        surrogate: Subject | None,
        search: Subject | None,
        images: ImageSet,
        setting: dict[str, Any],
        layout: torch.memory_format,
        where: tuple[torch.device, torch.dtype],
        places: Tensor,
        at_a_time: int | None,
    ):
        self.model, self.surrogate, self.search = model, surrogate, search
        self.images = images
        self.places = places
        self.first = int(places[0])
        self.setting = setting
        self.seed: int = setting["seed"]
        self.layout = layout
        self.device, self.dtype = where
        self.at_a_time = at_a_time
        self.x, self.y = self._floats(places), images.labels[places].to(self.device)

    def _floats(self, places: Tensor) -> Tensor:
        return self.images.floats(places, self.device, self.dtype).contiguous(memory_format=self.layout)

    def finding(self, group: Sequence[Column]) -> Finding:
        """What columns of one group come to, or the images themselves where there are none."""
        found = self._attacked().run(group) if group else self._clean()
        lists = {name: values.tolist() for name, values in found.verdicts.items()}
        lists |= {_queries_of(name): values.tolist() for name, values in found.queries.items()}
        return self.places.tolist(), lists

    def stage_finding(self, stage: Stage, tick: Callable[[int], None] | None) -> Finding:
        """What a stage of AutoAttack comes to."""
        self._reseed(stage.name)
        rows = torch.arange(len(self.x), device=self.device)
        found = replace(self._attacked(), tick=tick).stage(stage, rows)
        return self.places.tolist(), {stage.name: found.verdicts[stage.name].tolist()}

    def _attacked(self) -> AttackedBatch:
        # Not kept: two that know each other would hold their images until Python looks for such.
        budgets = self.setting["epsilon"], self.setting["step_size"]
        ways: dict[str, Any] = {"search": self.search, "at_a_time": self.at_a_time}
        return AttackedBatch(self.model, self.surrogate, self.x, self.y, *budgets, self, **ways)

    def _clean(self) -> Found:
        self._reseed(CLEAN)
        with torch.no_grad():
            logits = self.model(self.x)
        check_logits(logits)
        return Found({CLEAN: verdict(logits, self.y)})

    def begin(self, column: Column) -> None:
        """See ``Draws``."""
        self._reseed(repr(column.ascent or column.name))

    def start(self, restart: int) -> Tensor:
        """See ``Draws``."""
        return self._start(derive(self.seed, "evaluation"), restart)

    def _start(self, seed: int, offset: int) -> Tensor:
        noise = Noise.seeded(seed, self.device)
        # Noise follows the order in memory, which must not be the models' to decide.
        x = self.x.contiguous(memory_format=torch.channels_last)
        start = noise.start_at(x, self.setting["epsilon"], offset, self.places)
        return start.contiguous(memory_format=self.layout)

    def targets(self, restart: int) -> Tensor:
        """See ``Draws``."""
        return self._floats(targets(self.images.labels, self.seed, restart)[self.places])

    def generator(self, column: Column, row: int) -> torch.Generator:
        """See ``Draws``."""
        seed = derive(self.seed, column.name, int(self.places[row]))
        return torch.Generator(self.device).manual_seed(seed)

    def start_of(self, stage: Stage) -> Tensor:
        """See ``Draws``."""
        return self._start(derive(self.seed, "evaluation", stage.name), 0)

    def numbers_of(self, stage: Stage) -> Addressed:
        """See ``Draws``."""
        return Addressed(derive(self.seed, "evaluation", stage.name), self.places.to(self.device))

    def _reseed(self, name: str) -> None:
        for model in (self.model, self.surrogate):
            if model is not None:
                model.reseed(derive(self.seed, "defence", name, self.first))


def _queries_of(name: str) -> str:
    return f"queries of {name}"
