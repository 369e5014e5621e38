"""What each of two processes does in test_distributed.py: train on its shards, evaluate its batches, save both."""

import sys
from functools import partial
from pathlib import Path

import torch
from step_inputs import batch, make_step, unlabeled

from fastait.attacks import ATTACKS
from fastait.data import BatchPlan, load_dataset
from fastait.evaluation import evaluate
from fastait.models import WideResNet
from fastait.runtime.errors import InputError, SaidElsewhere
from fastait.runtime.processes import join

METHODS = {
    "adv-interp": {},
    "iat-manifold-mixup": {"partners": "random"},
    "trades": {},
    "uat": {},
}
"""Those that are trained with, and their settings."""

SIZES = (12, 6, 3)
"""Batches of one step each: equal shards, unequal shards, and one that leaves the second process nothing."""


def network():
    torch.manual_seed(1)
    return WideResNet(10, 1, 10).double()


def shards(size, ranks):
    """The shards of one batch of ``size`` images, as the plan cuts it."""
    return [BatchPlan(0, size, size, 0, False, rank, ranks).shard(0) for rank in range(ranks)]


def said(call):
    """The type of the error that ``call`` ends with, and its text if it is this process's to say."""
    try:
        return call()
    except InputError as error:
        return f"InputError {error}"
    except SaidElsewhere as error:
        return f"SaidElsewhere {error.exit_code}"


def in_turn(ranks, failing):
    with ranks.one_by_one():
        if ranks.rank == failing:
            raise InputError(f"said by {failing}")


def main(folder):
    torch.set_num_threads(1)
    with join("cpu") as (ranks, device):
        assert device == "cpu"
        trained = {}
        for method, knobs in METHODS.items():
            model = network().train()
            step = make_step(model, method, steps=2, ranks=ranks, knobs=knobs)
            for number, size in enumerate(SIZES):
                shard = shards(size, ranks.size)[ranks.rank]
                images, y = batch(number, size, image=9)
                own = slice(shard.start, shard.start + shard.size) if shard.size else slice(0, 1)
                extra = unlabeled(method, images)
                step(images[own], y[own], number, shard, None if extra is None else extra[own], shard)
            trained[method] = {"model": model.state_dict(), "totals": step.totals.state(ranks)}
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
            "from_first": ranks.from_first(lambda: f"said by {ranks.rank}"),
        }
        torch.save(state, Path(folder, f"{ranks.rank}.pt"))


if __name__ == "__main__":
    main(sys.argv[1])
