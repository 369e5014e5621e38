"""How unlike the gradients of neighbouring images are, differentiable in the network's parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastait.attacks.gradient import FP16_SCALE
from fastait.runtime.shared import by_all_threads


def misalignment(network: nn.Module, images: Tensor, y: Tensor, gradients: Tensor) -> Tensor:
    """The mean of 1 - cos of the classification loss's gradients at ``images`` and ``gradients``, a scalar in [0, 2].

    Images either of whose gradients is zero do not count; if all are such, it is zero. Attention runs as torch writes
    it out, since its fused operators have no second derivative. The network is in eval mode meanwhile: there an image's
    gradient does not depend on the others', and it is the function that is attacked.

    Args:
        network: not compiled: what torch.compile makes has no second derivative.
        images: float [B, C, H, W].
        y: int64 [B], the classes.
        gradients: like ``images``, constants, each up to a positive factor.

    Raises:
        RuntimeError: an operator of the network has no second derivative; some say so only in the backward pass.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        with _in_eval_mode(network), _written_out():
            # The update's pass changes BN's statistics before this one is differentiated.
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            logits = functional_call(network, buffers, (leaf,))
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y, reduction="sum")
        if logits.dtype == torch.float16:  # the cosine does not depend on it
            loss = loss * FP16_SCALE
        with torch.autocast(leaf.device.type, enabled=False):
            (around,) = torch.autograd.grad(loss, leaf, create_graph=True)
            return _mean_distance(around.flatten(1), gradients.detach().flatten(1))


def _mean_distance(a: Tensor, b: Tensor) -> Tensor:
    squares_a, squares_b = a.square().sum(dim=1), b.square().sum(dim=1)
    counts = (squares_a > 0) & (squares_b > 0)
    one = torch.ones_like(squares_a)
    inverse = torch.where(counts, squares_a, one).rsqrt() * torch.where(counts, squares_b, one).rsqrt()
    distances = torch.where(counts, 1 - (a * b).sum(dim=1) * inverse, torch.zeros_like(one))
    return distances.sum() / counts.sum().clamp(min=1)


_written_out = by_all_threads(lambda: sdpa_kernel(SDPBackend.MATH))
"""A context in which attention is as torch writes it out, in other threads too until the last one has left."""


@contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Unlike ``frozen``, parameters get gradients."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
