"""How strong publications make their methods, as data with its sources.

This module imports nothing heavy. Budgets are in units of 1/255, as publications have them.
"""

import math
from dataclasses import dataclass

FGSM_RS_STEP = 1.25
"""Of ``fgsm-rs``, in epsilons (Wong et al., 2020; their release: 10 for a budget of 8)."""

N_FGSM_NOISE = 2.0
"""Half the width of ``n-fgsm``'s noise, in epsilons (de Jorge et al., 2022), whose step is one epsilon.

Their release has other values where the budget is largest: noise of 3 on SVHN at 12 (PreActResNet-18), of 4 on CIFAR-10
at 16 (WRN-28-10), and steps of 8 on SVHN at 10 and 12 (WRN-28-10); these are for ``--step-size``."""

MART_BETA = {"wide": 6.0, "other": 5.0}
"""The release of MART (Wang et al., 2020): 6 for wide ResNets, 5 for a ResNet-18."""

NU_AT_LAMBDA = 4.5
"""The release of NuAT (Sriramanan et al., 2021): CIFAR-10, ResNet-18. Its two-step variant for WRN-34-10 has 4, as has
the FastAT benchmark (arXiv 2604.22853) for one step."""

NU_AT_RAMP = 0.9
"""The share of a training in which NuAT's lambda rises to its full size: 90 of the release's 100 epochs."""

GRAD_ALIGN_LAMBDA = {"svhn": (1.5625, 1.6), "other": (0.02, 10.0)}
"""The scripts of Andriushchenko & Flammarion (2020), for SVHN and CIFAR-10: (a, b) of a b^(budget / 8), which is 2.5
and 0.2 at a budget of 8."""


@dataclass(frozen=True)
class Awp:
    """How the release of AWP (Wu et al., 2020) perturbs weights.

    Attributes:
        gamma: the perturbation's length, relative to the weights'.
        warmup_epochs: epochs before the first that it perturbs, to save time; here every step is.
    """

    gamma: float
    warmup_epochs: int


AWP = {
    ("madry", "cifar10"): Awp(0.01, 0),
    ("madry", "cifar100"): Awp(0.01, 0),
    ("madry", "svhn"): Awp(0.01, 5),
    ("trades", "cifar10"): Awp(0.005, 9),
    ("trades", "cifar100"): Awp(0.005, 9),
}
"""By method and data set. The release counts TRADES' epochs from 1 and begins with the tenth. For MART it has none."""


def penalty(method: str, dataset: str, epsilon: float, model: str) -> float | None:
    """The published weight of what ``method`` adds to its loss; None where it adds nothing that has one.

    Args:
        method: of ``METHODS``.
        dataset, model: as ``--dataset`` and ``--model`` name them. Where a publication has no value for one of them,
            that of its other data sets and networks is taken.
        epsilon: the budget on images in [0, 1].
    """
    if method == "mart":
        return MART_BETA["wide" if model.startswith("wrn-") else "other"]
    if method == "nu-at":
        return NU_AT_LAMBDA
    if method == "grad-align":
        smallest, growth = GRAD_ALIGN_LAMBDA["svhn" if dataset == "svhn" else "other"]
        return smallest * math.pow(growth, epsilon * 255 / 8)
    return None
