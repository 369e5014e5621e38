"""Attacks on image classifiers.

Those that return images have one calling convention, ``attack(model, x, y, *, epsilon, generator)``, and ``ATTACKS``
has them by the names of ``columns``.
"""

from fastait.attacks.by_name import ATTACKS
from fastait.attacks.frozen import frozen
from fastait.attacks.gradient import input_gradient, parts, sign_step
from fastait.attacks.local_search import local_search
from fastait.attacks.noise import Noise
from fastait.attacks.pgd import Attack, ascend, classification, cross_entropy, cw20, fgsm, margin, pgd, pgd20
from fastait.attacks.randomized import RandomSignNoise
from fastait.attacks.spsa import spsa
from fastait.attacks.subject import Subject
from fastait.attacks.trajectory import Point, trajectory
from fastait.attacks.verdict import NOT_FINITE, RIGHT, WRONG, verdict

__all__ = [
    "ATTACKS",
    "NOT_FINITE",
    "RIGHT",
    "WRONG",
    "Attack",
    "Noise",
    "Point",
    "RandomSignNoise",
    "Subject",
    "ascend",
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
    "verdict",
]
