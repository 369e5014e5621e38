"""A network's passes through torch.compile."""

from typing import Any

import torch
from torch import Tensor, nn

from fastait.models import Mixing


class Compiled(nn.Module):
    """``model`` with ``forward`` and ``features`` compiled; parameters, buffers and modes are the model's own.

    Args:
        model: has ``forward(x, mixing)`` and ``features(x)``, as ``WideResNet``.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        # A shape is compiled for itself: a run has one, and whatever else it sees runs eagerly.
        self._forward: Any = torch.compile(model.forward, dynamic=False)
        self.features: Any = torch.compile(model.features, dynamic=False)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mixing: Mixing | None = None) -> Tensor:
        """The model's logits."""
        return self._forward(x) if mixing is None else self._forward(x, mixing)
