"""What evaluation is timed on: an undefended network, at a budget under which about half of its images stand."""

import copy
from functools import cache

import torch
import trained
from alternating import DEVICE

from fastait.evaluation import evaluate

SEARCHED = 50
"""Images that the budget is found on."""

DIFFERENT = 1
"""Images whose outcome may differ: one stands where rounding or a start decides."""


class Undefended:
    """WRN-16-2 on digits of 32x32 where benchmarks are timed, else the tests' WRN-10-1 of 16x16.

    Attributes:
        title: its name and its images'.
        network: as a user has it: contiguous, in eval mode, its weights not frozen.
        step_size: the paper's, 2/255.
        epsilon: PGD-20 leaves about half of the images under it; so AutoAttack leaves a few less.
    """

    def __init__(self, timed):
        self.step_size = 2 / 255  # all that ``ATTACKS["pgd20"]`` knows
        self.timed, self.size = timed, 32 if timed else trained.SIZE
        name = "wrn-16-2" if timed else "wrn-10-1"
        model = copy.deepcopy(trained.model("natural", size=self.size, network=name))
        self.network = model.to(DEVICE).to(memory_format=torch.contiguous_format)
        self.epsilon = self._half_robust() if timed else 0.15
        self.title = f"{name.upper()} trained naturally, digits of {self.size}x{self.size}, epsilon {self.epsilon:.3f}"

    def images(self, count):
        """(the set, float images [count, 3, H, W] and classes of it), contiguous."""
        images = trained.digits(count, self.size)
        return images, images.floats(torch.arange(count), DEVICE).contiguous(), images.labels.to(DEVICE)

    def _half_robust(self):
        images, low, high = self.images(SEARCHED)[0], 0.0, 0.25
        for _ in range(6):
            middle = (low + high) / 2
            found = evaluate(self.network, images, ["pgd20"], epsilon=middle, step_size=self.step_size)
            low, high = (middle, high) if found.accuracy()["pgd20"] > 50 else (low, middle)
        return high


@cache
def undefended(timed):
    """The session's."""
    return Undefended(timed)
