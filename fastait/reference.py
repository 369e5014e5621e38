"""The paper's algorithm as the paper writes it: Algorithm 1, with listing A.1 as its case L = 1.

Slow and plain on purpose: a deep copy of the network every step, a graph for both images, weight gradients that are
thrown away. It is the oracle of the tests and the opponent of the benchmarks; nothing else calls it. Images are in
[0, 1] where the paper has [0, 255].
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def one_hot(y: Tensor, num_classes: int) -> Tensor:
    """Classes int64 [B] as one-hot float32 [B, num_classes]."""
    return nn.functional.one_hot(y, num_classes).float()


def cos_dist(a: Tensor, b: Tensor) -> Tensor:
    """The paper's D on features [B, D]: mean over the batch of 1 - cos, clamped at 0 as released."""
    cosine = nn.CosineSimilarity(dim=1, eps=1e-6)(a, b)
    return torch.clamp(1 - cosine, min=0).mean()


def adv_interp(
    x: Tensor,
    y: Tensor,
    net: nn.Module,
    num_classes: int,
    *,
    epsilon: float = 8 / 255,
    epsilon_y: float = 0.5,
    steps: int = 1,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Adversarial images and labels of Algorithm 1.

    Args:
        x: float [B, C, H, W] in [0, 1].
        y: float [B, num_classes], one-hot or soft.
        net: has ``features``.
        steps: the paper's L.
        generator: source of the random start.
        start: the random start itself, like ``x``; drawn here if None.

    Returns:
        (x_tilde like ``x``, y_tilde like ``y``).
    """
    reverse = torch.arange(x.size(0) - 1, -1, -1, device=x.device)
    x_prime = x[reverse]
    y_bar_prime = (1 - y[reverse]) / (num_classes - 1)

    attacked: Any = copy.deepcopy(net)
    attacked.eval()

    x_tilde = x + torch.zeros_like(x).uniform_(-epsilon, epsilon, generator=generator) if start is None else start
    y_tilde = y
    for _ in range(steps):
        x_tilde = x_tilde.detach().requires_grad_()
        attacked.zero_grad()
        distance = cos_dist(attacked.features(x_tilde), attacked.features(x_prime))
        distance.backward()
        assert x_tilde.grad is not None
        x_tilde = x_tilde.detach() - epsilon * torch.sign(x_tilde.grad)
        x_tilde = torch.min(torch.max(x_tilde, x - epsilon), x + epsilon)
        x_tilde = torch.clamp(x_tilde, 0, 1)
        y_tilde = y_tilde - epsilon_y * (y_tilde - y_bar_prime)
    return x_tilde.detach(), y_tilde.detach()


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of -sum(target log softmax(logits)); both [B, K]."""
    return -(target * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    num_classes: int,
    *,
    epsilon: float = 8 / 255,
    epsilon_y: float = 0.5,
    steps: int = 1,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """One step of Algorithm 1 on images [B, C, H, W] and classes int64 [B]; returns the loss."""
    x_tilde, y_tilde = adv_interp(
        x,
        one_hot(y, num_classes).to(x.dtype),
        net,
        num_classes,
        epsilon=epsilon,
        epsilon_y=epsilon_y,
        steps=steps,
        generator=generator,
        start=start,
    )
    return update(net, optimizer, x_tilde, y_tilde)


def update(net: nn.Module, optimizer: torch.optim.Optimizer, x_tilde: Tensor, y_tilde: Tensor) -> Tensor:
    """One update of the weights on images [B, C, H, W] and labels [B, num_classes]; returns the loss."""
    loss = soft_cross_entropy(net(x_tilde), y_tilde)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
