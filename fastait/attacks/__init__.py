"""Attacks on image classifiers: one calling convention, ``attack(model, x, y, *, epsilon, generator)``."""

from fastait.attacks.frozen import frozen
from fastait.attacks.gradient import input_gradient, parts, sign_step
from fastait.attacks.noise import Noise
from fastait.attacks.pgd import Attack, ascend, cross_entropy, cw20, fgsm, margin, pgd, pgd20

ATTACKS: dict[str, Attack] = {"fgsm": fgsm, "pgd20": pgd20, "cw20": cw20}
"""The columns of the training command's final table."""

__all__ = [
    "ATTACKS",
    "Attack",
    "Noise",
    "ascend",
    "cross_entropy",
    "cw20",
    "fgsm",
    "frozen",
    "input_gradient",
    "margin",
    "parts",
    "pgd",
    "pgd20",
    "sign_step",
]
