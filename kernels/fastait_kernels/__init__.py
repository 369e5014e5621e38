"""Operators of adversarial training for any PyTorch code. Depends on torch and on nothing of ``fastait``."""

from fastait_kernels.cosine_distance import cosine_distance
from fastait_kernels.linf_step import linf_step
from fastait_kernels.margin_loss import margin_loss

__all__ = ["cosine_distance", "linf_step", "margin_loss"]
