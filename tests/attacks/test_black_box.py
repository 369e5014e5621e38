"""SPSA and Local-Search: their papers' algorithms, their budgets, and that they work."""

from functools import partial

import numpy as np
import pytest
import torch
import trained
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trajectory import Counting
from tolerances import BALL_FP32, ELEMENTWISE
from torch import nn

from fastait.attacks import local_search, spsa
from fastait.attacks.local_search import CANDIDATES, HALF_SIDE, PIXELS, P, R
from fastait.attacks.spsa import DELTA


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


def test_spsa_lowers_accuracy_and_counts_its_queries():
    model = trained.model("natural")
    x, y = trained.tensors(12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counting = Counting(model)
    moved, queries = spsa(counting, x, y, epsilon=50 / 255, directions=100, steps=20, generator=torch.Generator())
    assert accuracy(model, moved, y) <= accuracy(model, x, y) - 0.25
    # All are scored once more at each step's end, also those that are fooled, of which no query is asked.
    assert int(queries.sum()) <= counting.images
    fooled = model(moved).argmax(1) != y
    assert (queries[~fooled] == 1 + 20 * 201).all()
    assert (queries[fooled] % 201 == 1).all()
    assert queries[fooled].min() < 1 + 20 * 201
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_step_of_spsa_is_the_papers():
    """Written out for one image: signs from the same generator, two-sided differences, Adam, projection."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().eval()
    x, y = torch.rand(1, 3, 2, 2, dtype=torch.float64) * 0.6 + 0.2, torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        model[1].bias += torch.tensor([5.0, 0, 0])  # stays classified, so that both steps are taken
    moved, queries = spsa(model, x, y, epsilon=0.015, directions=5, steps=2, generator=torch.Generator().manual_seed(2))

    generator, image = torch.Generator().manual_seed(2), x[0].clone()
    mean, square = torch.zeros_like(image), torch.zeros_like(image)
    for step in (1, 2):
        signs = torch.randint(0, 2, (5, 3, 2, 2), generator=generator).double() * 2 - 1
        grad = torch.zeros_like(image)
        for v in signs:
            high, low = model((image + DELTA * v)[None])[0], model((image - DELTA * v)[None])[0]
            grad += ((high[1:].max() - high[0]) - (low[1:].max() - low[0])) / (2 * DELTA) * v / 5
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        image = image + 0.01 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        image = torch.min(torch.max(image, x[0] - 0.015), x[0] + 0.015).clamp(0, 1)
    torch.testing.assert_close(moved[0], image.detach(), **ELEMENTWISE[torch.float64])
    assert queries.tolist() == [1 + 2 * 11]


def test_local_search_lowers_accuracy_and_counts_its_queries():
    model = trained.model("natural")
    x, y = trained.tensors(16)
    counting = Counting(model)
    moved, queries = local_search(counting, x, y, rounds=20, generator=torch.Generator().manual_seed(0))
    assert int(queries.sum()) == counting.images
    assert accuracy(model, moved, y) <= accuracy(model, x, y) - 0.25
    changed = (moved != x).any(dim=1).flatten(1).sum(1)
    assert changed.max() <= 20 * PIXELS
    assert (changed > 0).sum() >= 4
    assert (moved - x).abs().max() > 0.3  # far out of any usual ball


def plain_local_search(model, image, label, rounds, seed):
    """Algorithm 3, a pixel and a channel at a time, on [-1/2, 1/2]; random choices are those of a torch generator."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = image.shape
    current = image.numpy().astype(np.float64) - 0.5

    def probability(pixels):
        with torch.no_grad():
            return model(torch.from_numpy(pixels + 0.5)[None]).softmax(1)[0, label].item()

    order = torch.randperm(height * width, generator=generator)[: max(1, min(height * width // 10, CANDIDATES))]
    pixels = [(int(i) // width, int(i) % width) for i in order]
    for _ in range(rounds):
        if len(pixels) > CANDIDATES:
            order = torch.randperm(len(pixels), generator=generator)[:CANDIDATES]
            pixels = [pixels[i] for i in order.tolist()]
        scores = []
        for row, column in pixels:
            probe = current.copy()
            probe[:, row, column] = P * np.sign(probe[:, row, column])
            scores.append(probability(probe))
        best = [pixels[i] for i in np.argsort(scores, kind="stable")[:PIXELS]]
        for row, column in best:
            for channel in range(channels):
                value = R * current[channel, row, column]
                current[channel, row, column] = value + 1 if value < -0.5 else value - 1 if value > 0.5 else value
        with torch.no_grad():
            if int(model(torch.from_numpy(current + 0.5)[None]).argmax()) != label:
                break
        near = {
            (row + i, column + j)
            for row, column in best
            for i in range(-HALF_SIDE, HALF_SIDE + 1)
            for j in range(-HALF_SIDE, HALF_SIDE + 1)
            if 0 <= row + i < height and 0 <= column + j < width
        }
        pixels = sorted(near)
    return current + 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_local_search_is_the_papers(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 13, 4)).double().eval()
    x = torch.rand(1, 3, 14, 13, dtype=torch.float64)
    y = model(x).argmax(1)
    with torch.no_grad():
        model[1].bias[y] += 1.0
    ours, _ = local_search(model, x, y, rounds=4, generator=torch.Generator().manual_seed(seed))
    theirs = plain_local_search(model, x[0], int(y), 4, seed)
    torch.testing.assert_close(ours[0], torch.from_numpy(theirs), **ELEMENTWISE[torch.float64])
    assert not torch.equal(ours, x)


@settings(deadline=None, max_examples=8)
@given(epsilon=st.floats(0, 1), seed=st.integers(0, 2**40), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_in_the_ball_and_in_range(epsilon, seed, dtype):
    model, (x, y) = trained.model("natural").to(dtype), trained.tensors(3)
    x, generator = x.to(dtype), torch.Generator().manual_seed(seed)
    try:
        found = [
            spsa(model, x, y, epsilon=epsilon, directions=2, steps=2, generator=generator)[0],
            local_search(model, x, y, rounds=2, epsilon=epsilon, generator=generator)[0],
            local_search(model, x, y, rounds=2, generator=generator)[0],
        ]
    finally:
        model.to(torch.float32)
    for moved in found:
        assert moved.shape == x.shape
        assert moved.dtype == dtype
        assert moved.min() >= 0
        assert moved.max() <= 1
    assert all((moved - x).abs().max() <= epsilon + BALL_FP32 for moved in found[:2])


def test_probes_of_the_search_in_the_ball_are_in_the_ball():
    model, (x, y) = trained.model("natural"), trained.tensors(1)
    farthest = []
    hook = model.register_forward_pre_hook(lambda module, inputs: farthest.append((inputs[0] - x).abs().max().item()))
    try:
        local_search(model, x, y, rounds=3, epsilon=0.1)
        assert max(farthest) <= 0.1 + BALL_FP32
        farthest.clear()
        local_search(model, x, y, rounds=3)
        assert max(farthest) > 2  # as published
    finally:
        hook.remove()


@pytest.mark.parametrize("attack", [partial(spsa, directions=9, steps=3), partial(local_search, rounds=3)])
def test_images_that_are_scored_at_a_time_do_not_matter(attack):
    model, (x, y) = trained.model("natural"), trained.tensors(6)
    passes, found = [], []

    def counting(images):
        passes.append(len(images))
        return model(images)

    for at_a_time in (None, 5):
        passes.clear()
        found.append(attack(counting, x, y, generator=torch.Generator().manual_seed(1), at_a_time=at_a_time))
        assert (max(passes) <= 5) == (at_a_time == 5)
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=BALL_FP32)
    with pytest.raises(ValueError, match="at_a_time must be at least 1"):
        attack(model, x, y, at_a_time=0)


def test_bad_budgets():
    model, (x, y) = trained.model("natural"), trained.tensors(2)
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        spsa(model, x, y, directions=0, steps=5)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        local_search(model, x, y, rounds=0)
