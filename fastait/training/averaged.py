"""The average of a network's weights over its steps (Polyak & Juditsky, 1992), made within the step."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fastait.training.buffers import is_statistic


class Averaged:
    """An exponential moving average of a network's parameters and statistics of batches, called ``running_...``.

    After step t, counted from 0, each number of the average goes the share 1 - min(decay, (1 + t) / (10 + t)) of its
    way to the network's own: so early weights are soon forgotten. Other buffers (BN's count, a mask, the vectors of a
    spectral norm) are the network's.

    The average begins as the network is. It is on the network's device, and nothing is read from it.

    Args:
        model: on its device.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        state = model.state_dict(keep_vars=True)
        self._averages = {name: value.detach().clone() for name, value in state.items()}
        # Where they lie, since a pass may put new tensors in their places.
        self._buffers = [
            (name, module, key)
            for prefix, module in model.named_modules(remove_duplicate=False)
            for key in module._buffers
            if (name := f"{prefix}.{key}" if prefix else key) in state
        ]
        others = state.keys() - {name for name, _, _ in self._buffers}
        self._parameters = [(name, value.detach()) for name, value in state.items() if name in others]

    @torch.no_grad()
    def add(self, number: Tensor) -> None:
        """Take up the network's weights after step ``number``, int64 [1]."""
        t = number[0].double()
        share = (1 - torch.clamp((1 + t) / (10 + t), max=self.decay)).to(torch.float32)
        moving = list(self._parameters)
        for name, module, key in self._buffers:
            own = cast(Tensor, module._buffers[key])
            if is_statistic(name) and own.is_floating_point():
                moving.append((name, own))
            else:
                self._averages[name].copy_(own)
        averages, owns = [self._averages[name] for name, _ in moving], [own for _, own in moving]
        if number.device.type == "cuda":  # a few launches for all of them
            ways = torch._foreach_sub(owns, averages)
            torch._foreach_mul_(ways, share)
            torch._foreach_add_(averages, ways)
        else:  # once through memory
            for average, own in zip(averages, owns, strict=True):
                average.lerp_(own, share.to(average.dtype))

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, by the names of the network's state dict; these very tensors."""
        return self._averages

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state``, in place."""
        for name, average in self._averages.items():
            average.copy_(state[name])

    def tensors(self) -> list[Tensor]:
        """What ``add`` changes."""
        return list(self._averages.values())
