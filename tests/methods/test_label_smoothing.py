"""Smoothed labels: torch's formula written out, in the loss that a network is trained by and not in its attack."""

import copy

import pytest
import torch
from step_inputs import CPU, batch, make_step
from test_step import images_trained_on
from tolerances import REDUCTION

from fastait.attacks import Noise
from fastait.methods import METHODS, Settings
from fastait.methods.labels import classes
from fastait.methods.sample import Sample, reversed_batch

SHARE = 0.3


def test_the_share_is_spread_over_all_classes():
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 3, 3, 9, 5, 1])
    sample = Sample(torch.rand(6, 3, 8, 8), y, Noise.seeded(0, CPU), reversed_batch)
    target = torch.full((6, 10), SHARE / 10)
    target[range(6), y] = 1 - SHARE + SHARE / 10
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    found = classes(logits, sample, Settings(0.1, 0.5, 1, 0.1, 10, label_smoothing=SHARE))
    torch.testing.assert_close(found, expected, **REDUCTION[torch.float32])


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.smooths and method.attacks])
def test_attacks_are_not_changed(network, method):
    seen, losses = [], []
    extra = batch(1)[0] if METHODS[method].needs_unlabeled else None
    for share in (0.0, SHARE):
        model = copy.deepcopy(network).train()
        seen.append(images_trained_on(model))
        step = make_step(model, method, knobs={"label_smoothing": share})
        step(*batch(0), 1, unlabeled=extra)
        losses.append(step.totals.loss.item())
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert losses[0] != losses[1]
