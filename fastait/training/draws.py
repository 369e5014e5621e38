"""What a network draws for itself while it is trained: Dropout, stochastic depth.

Such layers draw from torch's own generators. Within a step these are seeded by (seed, step, rank), so that a resumed
run draws what the other would have, and then put back. What a network draws with Python's ``random`` or with numpy is
out of reach.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fastait.runtime.randomness import derive

_DRAW_NOTHING = {
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.BatchNorm2d,
    nn.Conv2d,
    nn.Flatten,
    nn.GELU,
    nn.Identity,
    nn.LayerNorm,
    nn.Linear,
    nn.MaxPool2d,
    nn.ReLU,
    nn.Sequential,
    nn.SiLU,
}

_generators_lock = threading.RLock()
"""torch's generators are the process's: two threads whose networks draw take turns, a step each."""


def may_draw(model: nn.Module) -> bool:
    """Whether a network has modules that are not known to draw nothing."""
    return any(
        type(module) not in _DRAW_NOTHING and not type(module).__module__.startswith("fastait.models.")
        for module in model.modules()
    )


class Draws:
    """The generators that a network draws from in its steps.

    Args:
        model: on its device. If nothing in it may draw, the generators are left alone.
        seed: the run's.
        rank: of this process, whose images no other one has.
    """

    def __init__(self, model: nn.Module, seed: int, rank: int):
        self.needed = may_draw(model)
        self.seed = seed
        self.rank = rank
        self.device = next(model.parameters()).device

    @contextmanager
    def of(self, step: int) -> Iterator[None]:
        """What is drawn within is a function of (seed, step, rank); afterwards the generators are as they were.

        A replayed graph too takes the seed that its device's generator has then. Waits for no GPU.
        """
        if not self.needed:
            yield
            return
        with _generators_lock:
            generators = [torch.default_generator]
            if self.device.type == "cuda":
                generators.append(torch.cuda.default_generators[self.device.index])
            before = [generator.get_state() for generator in generators]
            seed = derive(self.seed, "network", step, self.rank)
            try:
                for generator in generators:
                    generator.manual_seed(seed)
                yield
            finally:
                for generator, state in zip(generators, before, strict=True):
                    generator.set_state(state)
