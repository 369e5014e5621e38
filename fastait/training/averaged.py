"""The average of a network's weights over its steps (Polyak & Juditsky, 1992), made within the step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Averaged:
    """An exponential moving average of all that a network's outputs depend on: parameters, and BN's statistics.

    After step t, counted from 0, each number of the average goes the share 1 - min(decay, (1 + t) / (10 + t)) of its
    way to the network's own: so early weights are soon forgotten. Whole numbers, such as BN's count, are the network's.

    The average begins as the network is. It is on the network's device, and nothing is read from it.

    Args:
        model: on its device.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        state = model.state_dict(keep_vars=True)
        self._averages = {name: value.detach().clone() for name, value in state.items()}
        moving = [name for name, value in state.items() if value.is_floating_point()]
        self._own = [state[name].detach() for name in moving]
        self._moving = [self._averages[name] for name in moving]
        self._copied = [(self._averages[name], state[name]) for name in state if name not in moving]

    @torch.no_grad()
    def add(self, number: Tensor) -> None:
        """Take up the network's weights after step ``number``, int64 [1]."""
        t = number[0].double()
        share = (1 - torch.clamp((1 + t) / (10 + t), max=self.decay)).to(torch.float32)
        if number.device.type == "cuda":  # a few launches for all of them
            ways = torch._foreach_sub(self._own, self._moving)
            torch._foreach_mul_(ways, share)
            torch._foreach_add_(self._moving, ways)
        else:  # once through memory
            for average, own in zip(self._moving, self._own, strict=True):
                average.lerp_(own, share.to(average.dtype))
        for average, own in self._copied:
            average.copy_(own)

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
