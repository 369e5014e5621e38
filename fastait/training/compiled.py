"""A network's passes through torch.compile."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastait.models import Features
from fastait.models.mixing import Mixed, Mixing, mix


class Compiled(nn.Module):
    """``model`` with its passes compiled: to the logits, to the features and to the logits of what is mixed on the way.

    Parameters, buffers and modes are the model's own. Each pass is compiled when it is first made.

    Args:
        model: a network.
        features: of it; None if they are not asked for.
        places: where it is mixed inside, of its ``mixing_places``, from the first one on.
    """

    def __init__(self, model: nn.Module, features: Features | None = None, places: Sequence[str] = ()):
        super().__init__()
        self.model = model
        # A shape is compiled for itself: a run has one, and whatever else it sees runs eagerly.
        self._forward: Any = torch.compile(model.forward, dynamic=False)
        # What contains a place, or the layer whose input the features are, is here a copy, with a mode of its own.
        self.parts = nn.ModuleList(Mixed(model, place) for place in places)
        self._mixed: list[Any] = [torch.compile(part.forward, dynamic=False) for part in self.parts]
        self.features: Any = None
        if features is not None:
            part = features.part()
            self.parts.append(part)
            self.features = torch.compile(part.forward, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        return self._forward(x)

    def mixed(self, x: Tensor, mixing: Mixing) -> Tensor:
        """The model's logits of images that are mixed on the way."""
        if mixing.layer == 0:
            return self._forward(mix(x, *mixing.tensors))
        return self._mixed[mixing.layer - 1](x, *mixing.tensors)
