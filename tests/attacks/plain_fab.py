"""FAB as the paper says it: one image at a time, written to be read. Slow; fp64."""

from fractions import Fraction

import torch


def nearest_move(image, gradient, value):
    """The projection by walking over the rooms from the smallest; exact for fractions, in Python's floats else.

    Lists of numbers -> (a list: the move, whether the plane is reached).
    """
    zero = value * 0
    sign = [0 if w == 0 or value == 0 else (-1 if (w > 0) == (value > 0) else 1) for w in gradient]
    room = [1 - p if s > 0 else p if s < 0 else zero for p, s in zip(image, sign, strict=True)]
    needed = abs(value)
    if sum((abs(w) * r for w, r in zip(gradient, room, strict=True)), zero) <= needed:
        return [s * r for s, r in zip(sign, room, strict=True)], False
    order = sorted(range(len(room)), key=room.__getitem__)
    gained = zero
    size = zero
    for place, i in enumerate(order):
        slope = sum((abs(gradient[j]) for j in order[place:] if sign[j]), zero)
        if slope and gained + slope * (room[i] - size) >= needed:
            size += (needed - gained) / slope
            break
        gained += slope * (room[i] - size)
        size = room[i]
    return [s * min(r, size) for s, r in zip(sign, room, strict=True)], True


def exact(values):
    return [Fraction(v) for v in values]


def project(image, gradient, value):
    move, _ = nearest_move(image.flatten().tolist(), gradient.flatten().tolist(), float(value))
    return torch.tensor(move, dtype=image.dtype).view_as(image)


def fab(model, image, label, target, epsilon, steps, start=None):
    """One image [C, H, W] in fp64.

    Returns (the points whose class is asked for, the points that are linearised, the image found, does it fool?).
    """
    asked, linearised = [], []

    def logits(point):
        with torch.no_grad():
            return model(point[None])[0]

    def adversarial(point):
        asked.append(point)
        return int(logits(point).argmax()) != label

    def size(move):
        return float(move.abs().max())

    best = None
    point = image if start is None else start
    for step in range(steps + 1):
        if adversarial(point):
            if size(point - image) <= epsilon:
                return asked, linearised, point, True
            if best is None or size(point - image) < size(best - image):
                best = point
            next_from = image + 0.9 * (point - image)
        else:
            next_from = point
        if step == steps:
            break
        leaf = next_from.detach().requires_grad_()
        found = model(leaf[None])[0]
        value = found[target] - found[label]
        (gradient,) = torch.autograd.grad(value, leaf)
        value = value.detach()
        linearised.append(next_from)
        here = project(next_from, gradient, value)
        there = project(image, gradient, value + (gradient * (image - next_from)).sum())
        one, other = max(size(here), 1e-8), max(size(there), 1e-8)
        alpha = min(one / (one + other), 0.1)
        point = (1 - alpha) * (next_from + 1.05 * here) + alpha * (image + 1.05 * there)
        point = point.clamp(0, 1)
    if best is None:
        return asked, linearised, image, False
    inner, outer = image, best
    for _ in range(3):
        other = int(logits(outer).argmax())
        behind = float(logits(inner)[label] - logits(inner)[other])
        beyond = float(logits(outer)[other] - logits(outer)[label])
        middle = inner + behind / (behind + beyond) * (outer - inner)
        if adversarial(middle):
            if size(middle - image) <= epsilon:
                return asked, linearised, middle, True
            outer = middle
        else:
            inner = middle
    clipped = torch.minimum(torch.maximum(outer, image - epsilon), image + epsilon).clamp(0, 1)
    return asked, linearised, clipped, int(logits(clipped).argmax()) != label
