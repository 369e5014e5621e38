"""The image half of the step with single ingredients switched off, to see what each is worth."""

import copy
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F

from fastait.attacks import frozen
from fastait.methods.images import Moved
from fastait_kernels import cosine_distance, linf_step


@contextmanager
def _eval_only(model):
    model.eval()
    yield
    model.train()


def interpolate(*, freeze=True, graph_free_partner=True, fused=True, copied=False):
    """``fastait.methods.images.adversarial_interpolation`` for one step, less what is switched off."""

    def part(model, sample, settings):
        x, counts, epsilon = sample.x, sample.counts, settings.epsilon
        start = sample.noise.start(x, epsilon) if fused else x + torch.empty_like(x).uniform_(-epsilon, epsilon)
        attacked = copy.deepcopy(model) if copied else model
        partners = x.flip(0)
        at_a_time = settings.at_a_time or len(x)
        moved = []
        with frozen(attacked) if freeze else _eval_only(attacked):
            for first in range(0, len(x), at_a_time):
                own = slice(first, first + at_a_time)
                with torch.no_grad() if graph_free_partner else nullcontext():
                    target = attacked.features(partners[own])
                leaf = start[own].detach().requires_grad_()
                distance = _distance(attacked.features(leaf), target, fused)
                if freeze:
                    (grad,) = torch.autograd.grad(distance, leaf)
                else:
                    distance.backward()
                    grad = leaf.grad
                counts[2] += grad.numel()
                if fused:
                    moved.append(linf_step(leaf.detach(), grad, x[own], -epsilon, epsilon, counts=counts[:2]))
                else:
                    counts[0] += (grad == 0).sum()
                    counts[1] += grad.isnan().sum()
                    moved.append(_step(leaf.detach(), grad, x[own], -epsilon, epsilon))
        return Moved(torch.cat(moved))

    return part


def _distance(features, target, fused):
    if fused and not target.requires_grad:
        return cosine_distance(features, target, reduction="sum")
    return (1 - F.cosine_similarity(features, target, eps=1e-6)).clamp(min=0).sum()


def _step(x, grad, origin, step_size, epsilon):
    moved = x + step_size * grad.sign()
    return torch.min(torch.max(moved, origin - epsilon), origin + epsilon).clamp(0, 1)


def eager_loss(logits, sample, settings):
    """The paper's labels written down and their cross-entropy, as eager torch has it."""
    one_hot = F.one_hot(sample.y, settings.num_classes).float()
    target = 0.5 * one_hot + 0.5 * (1 - one_hot.flip(0)) / (settings.num_classes - 1)
    return F.cross_entropy(logits, target)
