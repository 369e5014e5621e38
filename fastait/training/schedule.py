"""The learning rate of every step of a run."""

import math

from fastait.config import TrainConfig

RISE = 0.3
"""Share of ``one-cycle``'s steps that the rate rises in."""

START, END = 1 / 25, 1 / 25 / 1e4
"""Of the highest rate, ``one-cycle``'s first and last ones: torch's ``OneCycleLR``'s."""


def learning_rate(config: TrainConfig, step: int, per_epoch: int) -> float:
    """The rate of global ``step``, counted from 0, of a run whose epochs have ``per_epoch`` steps.

    - ``step``: ``lr`` divided by 10 at each milestone.
    - ``cosine``: from ``lr`` towards 0 along half a cosine (Loshchilov & Hutter, 2017, equation 5 without restarts).
    - ``linear``: from ``lr`` towards 0 in equal steps.
    - ``one-cycle``: up to ``lr`` within the first 30 % of the steps, then down, both along half a cosine (Smith &
      Topin, 2018). The rates are those of torch's ``OneCycleLR`` called after every step. Momentum stays what it is,
      where ``OneCycleLR`` lowers it while the rate rises unless told not to.

    ``warmup_epochs`` come first: so many epochs of equal steps from 0 up to the rate that the schedule begins with,
    after which ``cosine`` and ``linear`` have what is left of the run to go down in. Milestones stay where they are.
    """
    last = config.epochs * per_epoch
    warmup = min(round(config.warmup_epochs * per_epoch), last - 1)  # of a shorter warm-up one step is left, too
    if step < warmup:
        return learning_rate_after(config, 0, last - warmup, 0) * (step + 1) / warmup
    return learning_rate_after(config, step - warmup, last - warmup, step // per_epoch)


def learning_rate_after(config: TrainConfig, step: int, steps: int, epoch: int) -> float:
    """The rate of ``step`` of ``steps`` that follow the warm-up, in ``epoch``, counted from 0 with the warm-up."""
    if config.schedule == "step":
        return config.lr * 0.1 ** sum(epoch + 1 >= milestone for milestone in config.steps_down())
    if config.schedule == "cosine":
        return _between(config.lr, 0.0, step / steps)
    if config.schedule == "linear":
        return config.lr * (1 - step / steps)
    top = RISE * steps - 1
    if step <= top:
        return _between(START * config.lr, config.lr, step / top if top > 0 else 1.0)
    return _between(config.lr, END * config.lr, (step - top) / (steps - 1 - top))


def _between(first: float, last: float, way: float) -> float:
    """From ``first`` to ``last`` along half a cosine, of which ``way`` in [0, 1] is done."""
    return last + (first - last) * (1 + math.cos(math.pi * way)) / 2
