"""AutoAttack's column against the package that others use, as strong as it with the same iterations."""

import pytest
import small
import torch
import trained

from fastait.evaluation import evaluate

pyautoattack = pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")

QUERIES, ITERATIONS, IMAGES = 500, 20, 40


def library(model, x, y, epsilon):
    """Who withstands its standard version, bool [B]."""
    with torch.random.fork_rng():
        attack = pyautoattack.AutoAttack(model, norm="Linf", eps=epsilon, seed=0, device="cpu")
        attack.square.n_queries = QUERIES
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = ITERATIONS
        moved = attack.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))[0]
    with torch.no_grad():
        return model(moved).argmax(1) == y


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epsilon"), [("natural", 0.03), ("madry", 0.12)])
def test_as_strong_as_the_library(method, epsilon, monkeypatch):
    """At most one image more withstands, and at most one that the library fools."""
    small.short_autoattack(monkeypatch, queries=QUERIES, iterations=ITERATIONS)
    model, (x, y) = trained.model(method), trained.tensors(IMAGES)
    theirs = library(model, x, y, epsilon)
    ours = evaluate(model, trained.digits(IMAGES), ["autoattack"], epsilon=epsilon).correct["autoattack"]
    assert ours.sum() <= theirs.sum() + 1
    assert (ours & ~theirs).sum() <= 1
    assert 5 < ours.sum() < IMAGES - 5
