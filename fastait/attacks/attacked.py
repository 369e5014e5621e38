"""What an attack on a batch came to."""

from typing import NamedTuple

from torch import Tensor


class Attacked(NamedTuple):
    """What an attack on B images came to, on their device.

    Attributes:
        images: like the images that were attacked, within the ball and in [0, 1]: those that fooled the model, and the
            best found of the others.
        verdicts: int8 [B], see ``verdict``: the judge's on the very images above.
        traces: float [B, T], the loss of each image at each step, NaN once it has left; None where an attack has none.
            ``traces.nanmean(0)`` is the mean over those that stood.
    """

    images: Tensor
    verdicts: Tensor
    traces: Tensor | None
