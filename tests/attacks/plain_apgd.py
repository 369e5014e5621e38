"""APGD as its paper has it, one image at a time: slow, plain, fp64. Losses of one row of logits."""

import math

import torch
import torch.nn.functional as F


def cross_entropy(logits, y):
    return -F.log_softmax(logits, 0)[y]


def dlr(logits, y):
    ordered = sorted(logits, reverse=True)
    others = max(z for i, z in enumerate(logits) if i != y)
    return -(logits[y] - others) / (ordered[0] - ordered[2] + 1e-12)


def targeted_dlr(logits, y, target):
    ordered = sorted(logits, reverse=True)
    return -(logits[y] - logits[target]) / (ordered[0] - (ordered[2] + ordered[3]) / 2 + 1e-12)


def checkpoints(steps):
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return [math.ceil(round(share * steps, 6)) for share in p]


def apgd(loss, image, start, epsilon, steps):
    """(iterates, their losses, after which steps the length was halved, the image of the highest loss).

    ``loss`` takes an image [C, H, W].
    """

    def project(z):
        return torch.min(torch.max(z, image - epsilon), image + epsilon).clamp(0, 1)

    def look(z):
        leaf = z.clone().requires_grad_()
        value = loss(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0]

    w = checkpoints(steps)
    eta, halved_at = 2 * epsilon, []
    x = [project(start)]
    value, gradient = look(x[0])
    f = [value]
    f_max, x_max, gradient_max = value, x[0], gradient
    f_max_before, halved_before = None, True
    current, previous = x[0], x[0]
    for k in range(1, steps + 1):
        z = project(current + eta * gradient.sign())
        following = z if k == 1 else project(current + 0.75 * (z - current) + 0.25 * (current - previous))
        previous, current = current, following
        value, gradient = look(current)
        x.append(current)
        f.append(value)
        if value > f_max:
            f_max, x_max, gradient_max = value, current, gradient
        if k in w and k < steps:
            last = max(v for v in w if v < k)
            rises = sum(f[i + 1] > f[i] for i in range(last, k))
            first_condition = rises < 0.75 * (k - last)
            second_condition = not halved_before and f_max == f_max_before
            halved_before, f_max_before = first_condition or second_condition, f_max
            if halved_before:
                eta /= 2
                halved_at.append(k)
                current, gradient = x_max, gradient_max
    return x, f, halved_at, x_max
