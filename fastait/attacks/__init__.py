"""Attacks on image classifiers.

Those that return images have one calling convention, ``attack(model, x, y, *, epsilon, generator)``; the evaluation's
columns, by name, are in ``fastait.evaluation``.
"""

from fastait.attacks.autoattack import autoattack
from fastait.attacks.frozen import frozen
from fastait.attacks.gradient import input_gradient, parts, sign_step
from fastait.attacks.local_search import local_search
from fastait.attacks.noise import Noise
from fastait.attacks.pgd import Attack, ascend, classification, cross_entropy, cw20, fgsm, margin, pgd, pgd20
from fastait.attacks.randomized import RandomSignNoise
from fastait.attacks.spsa import spsa
from fastait.attacks.trajectory import Point, trajectory

ATTACKS: dict[str, Attack] = {"fgsm": fgsm, "pgd20": pgd20, "cw20": cw20}
"""The paper's attacks as functions of a batch, by the names of their columns."""

__all__ = [
    "ATTACKS",
    "Attack",
    "Noise",
    "Point",
    "RandomSignNoise",
    "ascend",
    "autoattack",
    "classification",
    "cross_entropy",
    "cw20",
    "fgsm",
    "frozen",
    "input_gradient",
    "local_search",
    "margin",
    "parts",
    "pgd",
    "pgd20",
    "sign_step",
    "spsa",
    "trajectory",
]
