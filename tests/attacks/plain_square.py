"""Square attack for Linf as the paper writes it, one image at a time: algorithms 1 and 2, AutoAttack's schedule."""

import math

import torch

from fastait_kernels.random_start import symmetric_uniform


def numbers(seed, place, query, count):
    """Philox 4x32-10 with counter (any, query, place) in [0, 1), by the operators' own code."""
    return symmetric_uniform(count, seed, place, 4 * (query << 32)).double().add(1).div(2).tolist()


def p_selection(p_init, iteration, queries):
    """The table of the paper's section 5 for 10,000 queries, rescaled."""
    iteration = 10_000 * iteration // queries
    for after, divisor in (
        (8000, 512),
        (6000, 256),
        (4000, 128),
        (2000, 64),
        (1000, 32),
        (500, 16),
        (200, 8),
        (50, 4),
        (10, 2),
    ):
        if iteration > after:
            return p_init / divisor
    return p_init


def projected(moved, x, epsilon):
    return torch.min(torch.max(moved, x - epsilon), x + epsilon).clamp(0, 1)


def loss(model, image, label):
    scores = model(image[None])[0].tolist()
    return scores[label] - max(score for k, score in enumerate(scores) if k != label)


def attack(model, x, label, seed, place, epsilon, queries):
    """(image, fooled, queries made, [(candidate, best before it) of each query after the first])."""
    channels, height, width = x.shape
    signs = [1 if end < 0.5 else -1 for end in numbers(seed, place, 0, channels * width)]
    best = projected(x + epsilon * torch.tensor(signs, dtype=x.dtype).view(channels, 1, width), x, epsilon)
    lowest, tried = loss(model, best, label), []
    if lowest < 0:
        return best, True, 1, tried
    for iteration in range(queries):
        p = p_selection(0.8, iteration, queries)
        side = min(max(round(math.sqrt(p * height * width)), 1), height, width)
        down, right, *ends = numbers(seed, place, iteration + 1, 2 + channels)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        delta = torch.zeros_like(x)
        for channel, end in enumerate(ends):
            delta[channel, top : top + side, left : left + side] = 2 * epsilon if end < 0.5 else -2 * epsilon
        candidate = projected(best + delta, x, epsilon)
        tried.append((candidate, best))
        margin = loss(model, candidate, label)
        if margin < lowest:
            best, lowest = candidate, margin
        if margin < 0:
            return candidate, True, iteration + 2, tried
    return best, False, queries + 1, tried
