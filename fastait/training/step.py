"""One training step, the same for every method, written so that a CUDA graph can hold it.

What a step reads and writes besides its batch lies in tensors that stay where they are: weights, gradients, momentum,
learning rate, BN statistics, the step's number, the share of an image that is mixed, the noise's counter and the
epoch's totals. Nothing is read from the device, and no shape depends on data. What the host decides, the layer that is
mixed, has a graph for each answer.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fastait.attacks import Noise
from fastait.data import Shard, to_float
from fastait.methods import Method, Settings
from fastait.methods.images import Moved
from fastait.methods.mixing import draw_mixing
from fastait.methods.sample import FeatureFn, Sample, choose_partners
from fastait.models import Features
from fastait.models.features import own_features
from fastait.models.mixing import Mixing, Partners, mixed, mixing_places
from fastait.runtime.eager import eagerly
from fastait.runtime.errors import RunError, SaidElsewhere
from fastait.runtime.precision import Precision
from fastait.runtime.processes import Ranks
from fastait.runtime.randomness import derive
from fastait.training.averaged import Averaged
from fastait.training.awp import kept_buffers, perturbed, perturbed_parameters
from fastait.training.bad_numbers import NEVER, BadNumbers, Number
from fastait.training.buffers import Buffers, in_their_places
from fastait.training.compiled import Compiled
from fastait.training.convolutions import timed_convolutions
from fastait.training.draws import Draws
from fastait.training.graph import DISTRIBUTED_WARMUP, WARMUP, CaptureError, Graph
from fastait.training.optimizer import clip_gradients, zero_gradients


class Totals:
    """Sums over an epoch that stay on the device: reading them is the only synchronisation.

    Attributes:
        loss: float64, the summed loss of the images seen.
        correct: int64, how many of the images that the last term trained on were classified as their label says.
        gradients: int64 [3], how many of the attack's input gradients were zero, were NaN, and were computed.
        first_bad_step: int64 [1], the first step whose loss was NaN or infinite, ``NEVER`` if none was.
        seen: images seen.
    """

    def __init__(self, device: torch.device):
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.gradients = torch.zeros(3, dtype=torch.int64, device=device)
        self.first_bad_step = torch.full((1,), NEVER, dtype=torch.int64, device=device)
        self.seen = 0

    def tensors(self) -> list[Tensor]:
        """What a step adds to."""
        return [self.loss, self.correct, self.gradients, self.first_bad_step]

    def add(self, loss: Tensor, logits: Tensor, y: Tensor, number: Tensor) -> None:
        """Count one step's batch; ``number``, int64 [1], is the step's. ``seen`` is left to the caller."""
        self.loss += loss.double() * len(y)
        self.correct += (logits.argmax(dim=1) == y).sum()
        bad = torch.where(loss.isfinite(), NEVER, number)
        torch.minimum(self.first_bad_step, bad, out=self.first_bad_step)

    def bad_step(self) -> int:
        """The first step whose loss was not finite, or ``NEVER``. Waits for the device."""
        return int(self.first_bad_step)

    def state(self, ranks: Ranks | None = None) -> dict[str, float | int]:
        """The sums as numbers, over all processes if ``ranks`` is given, which all must call. Waits for the device."""
        sums = [float(self.loss), int(self.correct), self.seen, *self.gradients.tolist()]
        if ranks is not None:
            sums = ranks.total(sums)
        names = ("loss", "correct", "seen", "zero_gradients", "nan_gradients", "gradients")
        return {name: value if name == "loss" else int(value) for name, value in zip(names, sums, strict=True)}

    def load(self, state: dict[str, float | int]) -> None:
        """Start from the sums of ``state``."""
        self.loss.fill_(state["loss"])
        self.correct.fill_(state["correct"])
        for place, name in enumerate(("zero_gradients", "nan_gradients", "gradients")):
            self.gradients[place] = state[name]
        self.seen = int(state["seen"])

    def reset(self) -> None:
        """Start from nothing, in place. What went wrong stays known."""
        for tensor in (self.loss, self.correct, self.gradients):
            tensor.zero_()
        self.seen = 0


class Passes(nn.Module):
    """Several batches through one network in one call, which is what DistributedDataParallel wraps.

    Args:
        model: makes logits of images.
        mixed: the same of images that are mixed on the way.
    """

    def __init__(self, model: nn.Module, mixed: Callable[[Tensor, Mixing], Tensor]):
        super().__init__()
        self.model = model
        self.mixed = mixed

    def forward(self, batches: list[Tensor], mixings: list[Mixing | None]) -> list[Tensor]:
        """The logits of each batch, mixed as its own entry says."""
        return [
            # A network may make them transposed, which losses do not take.
            (self.model(x) if mixing is None else self.mixed(x, mixing)).contiguous()
            for x, mixing in zip(batches, mixings, strict=True)
        ]


class TrainStep:
    """Move the images, move the labels, update the weights.

    Args:
        model: in train mode, on its device.
        method: ways to move images and ways to move labels.
        settings: what the method needs to know.
        optimizer: over the model's parameters, from ``make_optimizer``.
        precision: of the model's passes.
        seed: of everything drawn; an image's noise depends on (seed, step, its place in the batch) only.
        ranks: the processes that share each batch.
        features: of the model, for a method that interpolates; needed where its class has no method ``features``.
        clip_norm: gradients that are longer, all together, are scaled down to it.
        averaged: takes up the weights after each step.
        batch_size: of the batches that are compiled and captured, over all processes; others run eagerly. Needed for
            ``compile`` and ``graph``.
        compile: compile the model's passes.
        graph: capture the step at its first whole batch, for each layer that is mixed, and replay it from then on.
        insist: end with a RunError if the step cannot be captured. Several processes do so in any case: a capture that
            breaks off can leave their gradients' reduction half done.
        note: called with one line if the step cannot be captured; it then goes on without.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        settings: Settings,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        seed: int,
        ranks: Ranks = Ranks(),  # noqa: B008, immutable
        *,
        features: Features | None = None,
        clip_norm: float | None = None,
        averaged: Averaged | None = None,
        batch_size: int | None = None,
        compile: bool = False,
        graph: bool = False,
        insist: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ):
        self.clip_norm = clip_norm
        self.averaged = averaged
        self.batch_size = batch_size
        self.compiled = compile
        self.graphed = graph
        self.insist = insist or ranks.size > 1
        self.graphs: dict[tuple[int | None, ...], Graph] = {}
        self.note = note
        if method.interpolates and features is None:
            features = _own_features(model)
        self.features: FeatureFn | None = features
        self.network = model
        self.model = model
        self.mixed: Callable[[Tensor, Mixing], Tensor] = partial(mixed, model)
        if compile:
            layers = max((term.mixing.layers for term in method.terms if term.mixing is not None), default=1)
            compiled = Compiled(model, features, mixing_places(model)[: layers - 1])
            self.model, self.mixed, self.features = compiled, compiled.mixed, compiled.features
        self.terms = method.terms
        self.move_images = [term.image_part() for term in method.terms]
        self.losses = [term.label_part() for term in method.terms]
        self.pairs = method.pairs
        self.settings = settings
        self.optimizer = optimizer
        self.precision = precision
        self.ranks = ranks
        # Its hooks average the gradients; the attack's passes go by the model itself. What is compiled lies within it,
        # and is compiled at its first call: there torch knows its buckets and cuts between them.
        self.trained: nn.Module = ranks.data_parallel(Passes(self.model, self.mixed))
        weight = next(model.parameters())
        device, self.dtype = weight.device, weight.dtype
        names: list[tuple[str | int, ...]] = [("noise",), *(("noise", i) for i in range(1, len(method.terms)))]
        self.starts = [Noise.seeded(derive(seed, *name), device) for name in names]
        self.partner_noise = Noise.seeded(derive(seed, "partners"), device)
        self.mixing_seed = derive(seed, "mixing")  # one share for all terms and all processes
        self.layers: list[int | None] = [None] * len(method.terms)
        self.shares = [torch.ones((), dtype=torch.float32, device=device) for _ in method.terms]
        self.draws = Draws(model, seed, ranks.rank)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.totals = Totals(device)
        self.buffers = Buffers(model, ranks)
        self.bad_numbers = BadNumbers(model, optimizer, averaged, precision.scale)

    def __call__(
        self,
        images: Tensor,
        y: Tensor,
        step: int,
        shard: Shard | None = None,
        unlabeled: Tensor | None = None,
        unlabeled_shard: Shard | None = None,
    ) -> None:
        """Train on a batch as global step ``step``.

        Args:
            images: uint8 [B, H, W, 3].
            y: int64 [B].
            step: counted over all epochs.
            shard: which part of a batch that is shared by several processes this is; the whole one if None.
            unlabeled: uint8 [N, H, W, 3], for a method that needs such images.
            unlabeled_shard: the same of these.
        """
        shard = shard or Shard(0, len(y), len(y))
        shards = [shard]
        inputs = [images, y]
        if unlabeled is not None:
            shards.append(unlabeled_shard or Shard(0, len(unlabeled), len(unlabeled)))
            inputs.append(unlabeled)
        whole = all(part.batch == self.batch_size for part in shards)
        self._begin(step)
        if self.buffers.others is None:
            with self.draws.of(step), self.precision.autocast():
                self.buffers.find(images, self.dtype)
        timed = partial(timed_convolutions, self.number.device)
        if self.graphed and whole and tuple(self.layers) not in self.graphs:
            with self.draws.of(step), timed():
                self._capture(inputs, shards)
        graph = self.graphs.get(tuple(self.layers)) if whole else None
        with self.draws.of(step):
            if graph is not None and graph.takes(*inputs):
                graph.replay(*inputs)
            elif whole:
                with timed():
                    self.compute(inputs, shards)
            else:
                with eagerly() if self.compiled else nullcontext():
                    self.compute(inputs, shards)
        self.totals.seen += shard.size

    def _begin(self, step: int) -> None:
        """Draw and write down what the host decides of a step."""
        self.number.fill_(step)
        for i, term in enumerate(self.terms):
            if term.mixing is not None:
                self.layers[i], share = draw_mixing(term.mixing, self.mixing_seed, step)
                self.shares[i].fill_(share)

    def _capture(self, inputs: list[Tensor], shards: list[Shard]) -> None:
        try:
            self.graphs[tuple(self.layers)] = Graph(
                lambda *inputs: self._compute_in_place(inputs, shards),
                inputs,
                self.state(),
                self.ranks.stream,
                WARMUP if self.ranks.size == 1 else DISTRIBUTED_WARMUP,
                self.ranks.first_to_say,
                next((graph.pool for graph in self.graphs.values()), None),
            )
        except CaptureError as error:
            self.graphed = False
            self._close_graphs()
            self.precision.forget_step(self.optimizer)
            if not self.insist:
                self.note(f"warning: the step cannot be captured as a CUDA graph and runs without one: {error}")
            elif self.ranks.first:
                raise RunError(
                    f"--cuda-graph on: the step cannot be captured as a CUDA graph ({error}); go on with --cuda-graph "
                    "off, which a --resume takes too"
                ) from None
            else:
                raise SaidElsewhere(RunError.exit_code) from None

    def _compute_in_place(self, inputs: Sequence[Tensor], shards: Sequence[Shard]) -> None:
        with in_their_places(self.model):
            self.compute(inputs, shards)

    def close(self) -> None:
        """Give back the graphs, and what averages gradients over the processes. No step can follow.

        Whoever holds this object, a traceback for one, holds neither then.
        """
        self._close_graphs()
        self.trained = self.model

    def _close_graphs(self) -> None:
        for graph in self.graphs.values():
            graph.close()
        self.graphs.clear()

    def compute(self, inputs: Sequence[Tensor], shards: Sequence[Shard]) -> None:
        """What a CUDA graph holds: ``__call__`` for the step that ``_begin`` began, less what only the host needs.

        Args:
            inputs: images, classes and, where the method needs them, images without classes.
            shards: of the images, and of those without classes.
        """
        images, y = inputs[0], inputs[1]
        x = to_float(images, self.dtype)
        partner, mixings = self._draw(y, shards[0])
        samples, own = [], []
        for term, noise, mixing in zip(self.terms, self.starts, mixings, strict=True):
            shard = shards[1] if term.unlabeled else shards[0]
            noise.seek(self.number, shard.start)
            counts = self.totals.gradients if shard.size else None
            batch = to_float(inputs[2], self.dtype) if term.unlabeled else x
            samples.append(
                Sample(
                    *(batch, y, noise, partner, counts, self.features, mixing),
                    number=self.number,
                    network=self.network,
                )
            )
            own.append(shard)
        with self.precision.autocast():
            moved = [part(self.model, s, self.settings) for part, s in zip(self.move_images, samples, strict=True)]
        scaler = self.precision.scaler
        zero_gradients(self.optimizer)
        with self._perturbed(moved, samples, own):
            logits, losses, shared = self._losses(moved, samples, own)
            scaler.scale(shared).backward()
        self.buffers.agree(shards[0].size / shards[0].batch)
        gradients = self.bad_numbers.gradients()  # a clipping would make all of them bad
        if self.clip_norm is not None:
            scaler.unscale_(self.optimizer)
            clip_gradients(self.optimizer, self.clip_norm)
        scaler.step(self.optimizer)
        scaler.update()
        if self.averaged is not None:
            self.averaged.add(self.number)
        self.bad_numbers.add(gradients, self.number)
        if shards[0].size:
            self.totals.add(losses.detach(), logits[-1].detach(), y, self.number)

    def _losses(
        self, moved: Sequence[Moved], samples: Sequence[Sample], own: Sequence[Shard]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Logits of each term, the sum of their losses, and this process's share in what all of them go down."""
        with self.precision.autocast():
            logits = self.trained([m.images for m in moved], [sample.mixing for sample in samples])
        losses, shares = [], []
        for i, (term, part, shard) in enumerate(zip(self.terms, self.losses, own, strict=True)):
            sample = replace(samples[i], scores=moved[i].scores, earlier=tuple(logits[:i]))
            loss = term.weight * part(logits[i], sample, self.settings)
            penalty = moved[i].penalty
            losses.append(loss if penalty is None else loss + penalty)
            share = shard.size / shard.batch * self.ranks.size
            shares.append(losses[i] if self.ranks.size == 1 else losses[i] * share)
        return logits, _sum(losses), _sum(shares)

    def _perturbed(
        self, moved: Sequence[Moved], samples: Sequence[Sample], own: Sequence[Shard]
    ) -> AbstractContextManager[None]:
        """Within, the weights are where ``Settings.awp`` moves them; the same in all processes."""
        if not self.settings.awp:
            return nullcontext()
        weights = perturbed_parameters(self.network)
        # This pass's gradients are averaged here, not by hooks.
        with kept_buffers(self.network), getattr(self.trained, "no_sync", nullcontext)():
            loss = self.precision.scaler.scale(self._losses(moved, samples, own)[2])
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        self.ranks.average([gradient for gradient in gradients if gradient is not None], 1 / self.ranks.size)
        return perturbed(weights, gradients, self.settings.awp)

    def _draw(self, y: Tensor, shard: Shard) -> tuple[Partners, list[Mixing | None]]:
        """Who is whose partner in this step, and how each term's pairs are mixed."""
        self.partner_noise.seek(self.number, shard.start)
        partner = choose_partners(self.settings.partners if self.pairs else "reversed", y, self.partner_noise)
        mixings = [
            None if layer is None else Mixing(layer, share, partner)
            for layer, share in zip(self.layers, self.shares, strict=True)
        ]
        return partner, mixings

    def failure(self) -> tuple[int, Number] | None:
        """The first step in which a number of any process became NaN or infinite, and which did so first in it.

        None if none has. For all processes to call; waits for the device.
        """
        steps, numbers = self._first_steps()
        step, place = min(zip(steps, range(len(steps)), strict=True))
        found = -self.ranks.largest(-(NEVER if step == NEVER else step * len(steps) + place))[0]
        return None if found == NEVER else (found // len(steps), numbers[found % len(steps)])

    def bad(self) -> list[Number]:
        """All that became NaN or infinite in this process. Waits for the device."""
        return [number for step, number in zip(*self._first_steps(), strict=True) if step != NEVER]

    def _first_steps(self) -> tuple[list[int], list[Number]]:
        return [self.totals.bad_step(), *self.bad_numbers.first.tolist()], [Number("loss"), *self.bad_numbers.numbers]

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes, gradients aside, which every step makes anew."""
        momentum = [value for state in self.optimizer.state.values() for value in state.values()]
        model = [*self.model.parameters(), *self.model.buffers()]
        drawn = [noise.offset for noise in (*self.starts, self.partner_noise)]
        averaged = [] if self.averaged is None else self.averaged.tensors()
        counts = [*self.totals.tensors(), self.bad_numbers.first]
        return [*model, *momentum, *averaged, *self.precision.tensors(), *drawn, *counts]


def _own_features(model: nn.Module) -> Features:
    if own_features(model) is None:
        raise ValueError("the method interpolates features, and the model has no method of that name: give them")
    return Features(model, None)


def _sum(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])
