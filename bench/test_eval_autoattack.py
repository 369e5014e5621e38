"""Standard AutoAttack against its authors' library, whole: FAB's 100 iterations, Square's 5,000 queries."""

import copy

import torch
from alternating import DEVICE, alternate, seconds
from compiling import compilation, counted
from results import NOTES, record
from small import short_autoattack
from undefended import DIFFERENT, undefended

from fastait.evaluation import evaluate
from fastait.runtime.precision import full_precision

IMAGES, ROUNDS = 40, 1
BATCHES, TRIED = (32, 128, 250), 250
"""Images at a time, and how many the fastest of these is found on."""

STEPS, QUERIES = 2, 4
"""Where benchmarks are only called."""


def library(model, epsilon, iterations=None, **options):
    """The library's AutoAttack, whole or of so many iterations."""
    from pyautoattack import AutoAttack

    attack = AutoAttack(model, norm="Linf", eps=epsilon, device=str(DEVICE), seed=0, **options)
    if iterations is not None:
        for part in (attack.apgd, attack.apgd_targeted, attack.fab):
            part.n_iter, part.n_restarts = iterations, 1
        attack.square.n_queries = QUERIES
    return attack


def fastest(of):
    """(the batch at which the library is fastest, {batch: seconds}): APGD of two iterations on ``TRIED`` images."""
    _, x, y = of.images(TRIED)
    attack = library(of.network, of.epsilon, STEPS, version="custom", attacks=["apgd-ce"])
    took = {}
    for _ in range(2):  # the first is for warming up
        for batch in BATCHES:
            took[batch] = seconds(lambda batch=batch: attack.run_standard_evaluation(x, y, batch_size=batch))
    return min(took, key=took.get), took


def test_eval_autoattack(benchmark, monkeypatch):
    """One run of each where about half of the images stand."""
    of = undefended(benchmark.enabled)
    size = IMAGES if of.timed else 4
    images, x, y = of.images(size)
    batch, iterations = BATCHES[0], None
    if of.timed:
        batch, took = fastest(of)
    else:
        short_autoattack(monkeypatch, QUERIES, STEPS)
        iterations = STEPS
    robust = {}

    def theirs():
        attack = library(of.network, of.epsilon, iterations)
        with full_precision(DEVICE):
            moved, _ = attack.run_standard_evaluation(x, y, batch_size=batch)
            with torch.no_grad():
                robust["pyautoattack"] = int((of.network(moved).argmax(1) == y).sum())

    def ours(way, model, compiled):
        def call():
            found = evaluate(model, images, ["autoattack"], epsilon=of.epsilon, compile=compiled)
            robust[way] = int(found.correct["autoattack"].sum())

        return call

    ways, costs = {"pyautoattack": theirs, "evaluate": ours("evaluate", of.network, False)}, {}
    if of.timed:
        again = copy.deepcopy(of.network)
        few = ["apgd-ce-2", "fab-t-1", "square-4"]
        costs["compiled"] = compilation(lambda: evaluate(again, images, few, epsilon=of.epsilon, compile=True))
        ways["compiled"] = ours("compiled", again, True)
    medians = alternate(benchmark, ways, rounds=ROUNDS, warmup=0)
    for way, standing in robust.items():
        assert standing <= robust["pyautoattack"] + DIFFERENT, (way, robust)
    if medians is not None:
        record(
            f"standard AutoAttack, {of.title}, {size} images",
            counted(medians, costs),
            "pyautoattack",
            n=ROUNDS,
            images=size,
            accuracy={way: f"{100 * count / size:.1f} %" for way, count in robust.items()},
            aim={"evaluate": "1.40", "compiled": "1.75"},
        )
        tried = ", ".join(f"{batch}: {s:.2f} s" for batch, s in took.items())
        NOTES.append(
            f"AutoAttack: pyautoattack as its users call it, {batch} images at a time, the fastest by APGD of {STEPS} "
            f"iterations on {TRIED} ({tried})."
        )
