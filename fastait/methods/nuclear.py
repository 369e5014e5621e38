"""NuAT's penalty: the nuclear norm of a matrix, without a singular value decomposition, which waits for the device."""

import math

import torch
from torch import Tensor

from fastait.methods import Settings
from fastait.methods.published import NU_AT_RAMP

SMALLEST = 1e-6
"""Singular values down to this share of the Frobenius norm count fully; smaller ones, and rounding, less."""


def _coefficients() -> list[tuple[float, float]]:
    """(a, b) of each iteration x -> a x + b x^3 that together bring singular values in [SMALLEST, 1] to 1 in fp64.

    Newton and Schulz's iteration, whose steps are scaled as fits the smallest value so far (Chen & Chow, 2014).
    """
    found, smallest = [], SMALLEST
    while smallest < 1 - 1e-15:
        scale = math.sqrt(3 / (1 + smallest + smallest**2))
        found.append((1.5 * scale, -0.5 * scale**3))
        smallest *= 0.5 * scale * (3 - (scale * smallest) ** 2)
    return found


COEFFICIENTS = _coefficients()


def polar(matrix: Tensor) -> Tensor:
    """U V^T of ``matrix`` = U S V^T, float [M, N]: the gradient of its nuclear norm; fp64, zero where S is.

    A fixed number of products, whatever the matrix: nothing is read from the device. Neither autocast nor TF32 is for
    fp64.
    """
    x = matrix.detach().double()
    wide = x.shape[0] < x.shape[1]
    x = x.T if wide else x
    x = x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)
    for a, b in COEFFICIENTS:
        x = torch.addmm(x, x, x.T @ x, beta=a, alpha=b)
    return x.T if wide else x


def nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values of ``matrix``, float [M, N]; differentiable once, in fp32 at least."""
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    return (polar(matrix).to(matrix.dtype) * matrix).sum()


def penalty_now(number: Tensor, settings: Settings) -> Tensor:
    """NuAT's lambda in step ``number``, int64 [1]: from 0 to ``settings.penalty`` in equal steps, then that; fp32.

    It rises for ``NU_AT_RAMP`` of the training; the release's, for as long, from epoch to epoch.
    """
    share = number[0].double() / (NU_AT_RAMP * settings.training_steps)
    return (settings.penalty * share.clamp(max=1)).to(torch.float32)
