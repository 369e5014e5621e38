"""What each of two processes does for test_processes.py: train on its shards, evaluate its batches, decide with the
other one, and save what came of it.
"""

import copy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from fake_cuda import FakeCuda, recorded
from step_inputs import batch, make_step, unlabeled
from torch import nn
from torch._dynamo.backends import distributed

from fastait.attacks import ATTACKS
from fastait.data import BatchPlan, load_dataset
from fastait.evaluation import evaluate
from fastait.models import WideResNet
from fastait.runtime.errors import FastaitError, InputError, SaidElsewhere
from fastait.runtime.processes import join
from fastait.training import pace
from fastait.training.averaged import Averaged
from fastait.training.graph import DISTRIBUTED_WARMUP

METHODS = {
    "adv-interp": {},
    "iat-manifold-mixup": {"partners": "random"},
    "trades": {},
    "uat": {},
    "grad-align": {},
    "nu-at": {},
    "mart": {"awp": 0.05},
    "n-fgsm": {},
    "fgsm-rs": {},
}
"""Those that are trained with, and their settings."""

OPTIMISED = {
    "n-fgsm": {"by": {"nesterov": True}, "clip_norm": 0.5},
    "fgsm-rs": {"by": {"name": "adamw", "weight_decay": 0.1}},
}
"""How, where it is not as usual."""

EMA = 0.9

SIZES = (12, 6, 3)
"""Batches of one step each: equal shards, unequal shards, and one that leaves the second process nothing."""


def network(widen_factor=1):
    torch.manual_seed(1)
    return WideResNet(10, widen_factor, 10).double()


def shards(size, ranks):
    """The shards of one batch of ``size`` images, as the plan cuts it."""
    return [BatchPlan(0, size, size, 0, False, rank, ranks).shard(0) for rank in range(ranks)]


def said(call):
    """The type of the error that ``call`` ends with, and its text if it is this process's to say."""
    try:
        return call()
    except SaidElsewhere as error:
        return f"SaidElsewhere {error.exit_code}"
    except FastaitError as error:
        return f"{type(error).__name__} {error}"


def in_turn(ranks, failing):
    with ranks.one_by_one():
        if ranks.rank == failing:
            raise InputError(f"said by {failing}")


def own_batch(ranks, number, size=8):
    """This process's part of a batch, and its shard."""
    shard = shards(size, ranks.size)[ranks.rank]
    images, y = batch(number, size, image=9)
    own = slice(shard.start, shard.start + shard.size)
    return images[own], y[own], number, shard


def compiled_and_eager(ranks):
    """Weights after steps with and without torch.compile, where the gradients lie, in how many pieces of memory, and
    how the pass was cut.
    """
    weights, gradients, pieces, cuts = [], [], [], []
    plain = distributed.SubmodCompiler.__init__

    def noted(compiler, module, *args, **options):
        cuts.append(sum(node.op == "call_module" for node in module.graph.nodes))
        plain(compiler, module, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        # As inductor is called, and much faster than it.
        patch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        patch.setattr(distributed.SubmodCompiler, "__init__", noted)
        for compiled in (False, True):
            model = network(2).train()  # of two buckets
            step = make_step(model, ranks=ranks, batch_size=8, compile=compiled)
            for number, size in enumerate((8, 8, 6, 8)):
                step(*own_batch(ranks, number, size))
                gradients.append([p.grad.data_ptr() for p in model.parameters()])
            weights.append(model.state_dict())
            pieces.append(len({p.grad.untyped_storage().data_ptr() for p in model.parameters()}))
    return {"weights": weights, "gradients": gradients, "pieces": pieces, "cuts": cuts}


def plain_weights(ranks):
    """After three steps without a graph."""
    model = network().train()
    step = make_step(model, ranks=ranks)
    for number in range(3):
        step(*own_batch(ranks, number))
    return model.state_dict()


class Keeping(nn.Module):
    """An average of its own, put in the place of the one before; weights of a spectral norm; BN."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Flatten())
        self.fc = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 10))
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("scale", torch.tensor(1 / 3))

    def features(self, x):
        hidden = self.body(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return (hidden - self.mean) * self.scale

    def forward(self, x):
        return self.fc(self.features(x))


def kept(ranks):
    """After steps of a network that keeps more of its images than BN does."""
    torch.manual_seed(1)
    model = Keeping().double().train()
    step = make_step(model, ranks=ranks)
    for number, size in enumerate((8, 8, 3)):
        images, y = batch(number, size, image=9)
        shard = shards(size, ranks.size)[ranks.rank]
        own = slice(shard.start, shard.start + shard.size) if shard.size else slice(0, 1)
        step(images[own], y[own], number, shard)
    return {**model.state_dict(), "found": step.buffers.others}


def captured(ranks, failing=None, when="capture"):
    """What is said, the weights and how often the step ran if one process cannot capture it."""
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        cuda = FakeCuda(patch)
        model = network().train()
        step = make_step(model, ranks=ranks, batch_size=8, graph=True)
        compute = step.compute

        def counted(*args):
            compute(*args)
            runs.append(1)
            if when == "warm-up" and ranks.rank == failing and len(runs) == DISTRIBUTED_WARMUP:
                raise RuntimeError("full")

        step.compute = counted
        recorded(step)
        cuda.tensors = step.state()
        cuda.fails = when == "capture" and ranks.rank == failing
        before = copy.deepcopy(model.state_dict())
        words = said(lambda: [step(*own_batch(ranks, number)) for number in range(3)] and "captured")
        unchanged = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return {"said": words, "runs": len(runs), "unchanged": unchanged, "weights": model.state_dict()}


def decided(ranks, steps=200, signalled=50):
    """After which step both saw a signal that reached one of them after another step, and how often they spoke."""
    spoken = step = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace.time, "monotonic", lambda: step * (0.001, 0.002)[ranks.rank])
        decisions = pace.Decisions(ranks, 0)
        for step in range(1, steps + 1):
            if decisions.due(step):
                spoken += 1
                (number,) = decisions.largest(step, 15 if ranks.rank == 1 and step >= signalled else 0)
                if number:
                    return [step, number, spoken]
    return None


def main(folder):
    torch.set_num_threads(1)
    with join("cpu") as (ranks, device):
        assert device == "cpu"
        trained = {}
        for method, knobs in METHODS.items():
            model = network().train()
            averaged = Averaged(model, EMA)
            options = OPTIMISED.get(method, {})
            step = make_step(model, method, steps=2, ranks=ranks, knobs=knobs, averaged=averaged, **options)
            for number, size in enumerate(SIZES):
                shard = shards(size, ranks.size)[ranks.rank]
                images, y = batch(number, size, image=9)
                own = slice(shard.start, shard.start + shard.size) if shard.size else slice(0, 1)
                extra = unlabeled(method, images)
                step(images[own], y[own], number, shard, None if extra is None else extra[own], shard)
            trained[method] = {
                "model": model.state_dict(),
                "averaged": averaged.state_dict(),
                "totals": step.totals.state(ranks),
            }
        images = load_dataset("digits", image_size=8).test.stratified(23)
        done = []
        outcomes = evaluate(
            network().float(),
            images,
            tuple(ATTACKS),
            epsilon=0.1,
            seed=5,
            batch_size=5,
            ranks=ranks,
            advance=lambda name, images: done.append(images),
        )
        state = {
            "trained": trained,
            "outcomes": outcomes.correct,
            "attacked_images": sum(done),
            "largest": ranks.largest(ranks.rank, -ranks.rank),
            "refused": [said(partial(ranks.refuse, ranks.rank == wrong, "wrong")) for wrong in (0, 1, 2)],
            "one_by_one": [said(partial(in_turn, ranks, failing)) for failing in (0, 1, 2)],
            "first_to_say": [
                ranks.first_to_say(words[ranks.rank]) for words in ((None, None), (None, "1"), ("0", "1"))
            ],
            "compiled": compiled_and_eager(ranks),
            "eager": plain_weights(ranks),
            "kept": kept(ranks),
            "captured": captured(ranks),
            "not_captured": [captured(ranks, 1), captured(ranks, 0), captured(ranks, 1, "warm-up")],
            "decided": decided(ranks),
            "from_first": ranks.from_first(lambda: f"said by {ranks.rank}"),
        }
        torch.save(state, Path(folder, f"{ranks.rank}.pt"))


if __name__ == "__main__":
    main(sys.argv[1])
