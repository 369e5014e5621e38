"""Fused operators for adversarial training in any PyTorch code. Depends on torch, and on triton where it is.

On a GPU they are Triton kernels, elsewhere torch; the call is the same. They are ``torch.library`` operators, so they
work under ``torch.compile(fullgraph=True)``, autocast, DistributedDataParallel and CUDA graph capture, and their
kernels never synchronise with a GPU.
"""

from fastait_kernels.augment import augment
from fastait_kernels.cosine_distance import cosine_distance
from fastait_kernels.interpolated_cross_entropy import interpolated_cross_entropy
from fastait_kernels.linf_step import LinfStep, linf_step, linf_step_
from fastait_kernels.margin_loss import margin_loss
from fastait_kernels.random_start import random_start
from fastait_kernels.soft_cross_entropy import SoftCrossEntropy, soft_cross_entropy

__all__ = [
    "LinfStep",
    "SoftCrossEntropy",
    "augment",
    "cosine_distance",
    "interpolated_cross_entropy",
    "linf_step",
    "linf_step_",
    "margin_loss",
    "random_start",
    "soft_cross_entropy",
]
