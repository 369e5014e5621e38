"""Which images withstand which attacks: fp32, eval mode, one outcome per image and column."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fastait.attacks import NOT_FINITE, RIGHT, Noise, Subject, frozen, verdict
from fastait.attacks.batch import AttackedBatch, Found
from fastait.attacks.checks import budget, classes_of, count, number, whole
from fastait.attacks.columns import Column, groups, parse_all
from fastait.attacks.feature import targets
from fastait.data import ImageSet
from fastait.evaluation.batches import default_batch_size, memory_format
from fastait.runtime.errors import InputError
from fastait.runtime.precision import full_precision
from fastait.runtime.processes import Ranks
from fastait.runtime.randomness import derive

CLEAN = "clean"

BLACK_BOX_BATCH = 16
"""Images that a kill of a black-box attack can cost, at most."""


class Journal(Protocol):
    """What remembers the finished batches of an evaluation."""

    def get(self, unit: dict[str, Any]) -> dict[str, list[int]]:
        """What is known of ``unit``: {column, or "queries of" column: a number per image}."""
        ...

    def put(self, unit: dict[str, Any], found: dict[str, list[int]]) -> None:
        """Remember, so that a kill from here on does not lose it."""
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
    journal: Journal | None = None,
    advance: Callable[[str], None] = lambda name: None,
    ranks: Ranks = Ranks(),  # noqa: B008, immutable
) -> Outcomes:
    """Whether each image is classified correctly, clean and under each attack.

    Columns that are points of one trajectory are computed together, and an image that no column needs any more leaves
    its batch. Random starts, targets and the choices of black-box attacks are addressed by (seed, place in the set), so
    outcomes of a model that is not random itself do not depend on batches or on what is asked for together; only
    pyautoattack's choices are those of a batch.

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
        journal: what is in it is not computed again.
        advance: called with a column's name after each batch of its group.
        ranks: the processes that share the batches; the outcomes are those of one process.

    Raises:
        InputError: an attack's name is wrong, the surrogate or pyautoattack is missing, or the model returns no logits
            for the set's classes.
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
    if batch_size is None:
        with full_precision(device):
            batch_size = default_batch_size(model, images)
    if images.images[0].numel() % 4 and batch_size % 4:
        batch_size = max(4, batch_size - batch_size % 4)  # noise is drawn in fours
    black_boxes = [column.name for column in columns if column.kind in ("spsa", "local-search")]
    verdicts = {name: torch.zeros(len(images), dtype=torch.int8, device="cpu") for name in (CLEAN, *attacks)}
    queries = {name: torch.zeros(len(images), dtype=torch.int64, device="cpu") for name in black_boxes}
    setting = {"epsilon": epsilon, "step_size": step_size, "seed": seed}
    models = [model] if surrogate is None else [model, surrogate]
    with full_precision(device), ExitStack() as stack:
        for network in models:
            stack.enter_context(frozen(network))
        sample = images.floats(torch.arange(min(2, len(images)), device=images.labels.device), device, dtype)
        if surrogate is not None:
            _check_surrogate(surrogate, sample)
        formats = {memory_format(network, sample) for network in models}
        layout = torch.channels_last if formats == {torch.channels_last} else torch.contiguous_format
        for group in ([], *groups(columns)):
            names = [column.name for column in group] or [CLEAN]
            # A black box takes its images one by one, and as long for a few as a gradient attack for many.
            size = min(batch_size, BLACK_BOX_BATCH) if names[0] in queries else batch_size
            for place in places(len(images), size)[ranks.rank :: ranks.size]:
                unit = {**setting, "first": place.start, "size": place.stop - place.start}
                known = {} if journal is None else journal.get(unit)
                missing = [column for column in group if column.name not in known]
                if missing or (not group and CLEAN not in known):
                    batch = _Batch(model, surrogate, images, place, setting, layout, where)
                    found = batch.run(missing) if group else batch.clean()
                    lists = {name: values.tolist() for name, values in found.verdicts.items()}
                    lists |= {_queries_of(name): values.tolist() for name, values in found.queries.items()}
                    if journal is not None:
                        journal.put(unit, lists)
                    known = {**known, **lists}
                for name in names:
                    verdicts[name][place] = torch.tensor(known[name], dtype=torch.int8, device="cpu")
                    if name in queries:
                        queries[name][place] = torch.tensor(known[_queries_of(name)], device="cpu")
                advance(names[-1])
    verdicts = {name: ranks.merge(found) for name, found in verdicts.items()}
    return Outcomes(
        {name: found == RIGHT for name, found in verdicts.items()},
        {name: ranks.merge(counts) for name, counts in queries.items()},
        {name: found == NOT_FINITE for name, found in verdicts.items() if bool((found == NOT_FINITE).any())},
    )


def places(images: int, size: int) -> list[slice]:
    """Cut so many images into batches of ``size``. The last is smaller, or larger by one image that would be alone:

    a model that normalises by the batch has nothing to say of it.
    """
    firsts = range(0, images - (images > size and images % size == 1), size)
    return [slice(first, first + size) for first in firsts[:-1]] + [slice(firsts[-1], images)]


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
        check_logits(surrogate(sample), of="the surrogate")


class _Batch:
    """A batch of a test set under attack: randomness is addressed by (seed, place in the set, restart)."""

    def __init__(
        self,
        model: Subject,
        surrogate: Subject | None,
        images: ImageSet,
        place: slice,
        setting: dict[str, Any],
        layout: torch.memory_format,
        where: tuple[torch.device, torch.dtype],
    ):
        self.models = [model] if surrogate is None else [model, surrogate]
        self.images = images
        self.place = place
        self.seed: int = setting["seed"]
        self.layout = layout
        self.device, self.dtype = where
        x = self._floats(torch.arange(place.start, place.stop, device=images.labels.device))
        y = images.labels[place].to(self.device)
        self.attacked = AttackedBatch(model, surrogate, x, y, setting["epsilon"], setting["step_size"], self)

    def _floats(self, places: Tensor) -> Tensor:
        return self.images.floats(places, self.device, self.dtype).contiguous(memory_format=self.layout)

    def clean(self) -> Found:
        """Verdicts on the images themselves."""
        self._reseed(CLEAN)
        attacked = self.attacked
        with torch.no_grad():
            logits = attacked.model(attacked.x)
        check_logits(logits)
        return Found({CLEAN: verdict(logits, attacked.y)})

    def run(self, group: Sequence[Column]) -> Found:
        """What one group's columns come to."""
        return self.attacked.run(group)

    def begin(self, column: Column) -> None:
        """See ``Draws``."""
        self._reseed(repr(column.ascent or column.name))

    def start(self, restart: int) -> Tensor:
        """See ``Draws``."""
        noise = Noise.seeded(derive(self.seed, "evaluation"), self.device)
        noise.seek(torch.tensor([restart], device=self.device), self.place.start)
        # Noise follows the order in memory, which must not be the models' to decide.
        x = self.attacked.x.contiguous(memory_format=torch.channels_last)
        return noise.start(x, self.attacked.epsilon).contiguous(memory_format=self.layout)

    def targets(self, restart: int) -> Tensor:
        """See ``Draws``."""
        return self._floats(targets(self.images.labels, self.seed, restart)[self.place])

    def generator(self, column: Column, row: int) -> torch.Generator:
        """See ``Draws``."""
        seed = derive(self.seed, column.name, self.place.start + row)
        return torch.Generator(self.device).manual_seed(seed)

    def seed_of(self, column: Column) -> int:
        """See ``Draws``."""
        return derive(self.seed, column.name, self.place.start) % 2**31

    def _reseed(self, name: str) -> None:
        for model in self.models:
            model.reseed(derive(self.seed, "defence", name, self.place.start))


def _queries_of(name: str) -> str:
    return f"queries of {name}"
