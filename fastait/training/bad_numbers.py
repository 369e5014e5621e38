"""Numbers that are NaN or infinite: which of a run's, and from which step on. Kept on the device."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastait.training.averaged import Averaged

NEVER = torch.iinfo(torch.int64).max

LEAST_SCALE = 2.0**-24
"""fp16's smallest number: gradients that are infinite although the loss was scaled by less are so without fp16 too."""


class Number(NamedTuple):
    """What can go wrong in a step.

    Attributes:
        kind: a key of ``KINDS``.
        name: of the parameter or buffer that it belongs to; empty for the loss.
    """

    kind: str
    name: str = ""


KINDS = {
    "loss": "the loss",
    "gradient": "the gradient of {name}",
    "parameter": "the parameter {name}",
    "moment": "the optimizer's moment of {name}",
    "buffer": "the buffer {name}",
    "average": "the average of {name}",
}
"""What each kind is called, in the order in which a step makes them."""


class BadNumbers:
    """Finds what becomes NaN or infinite of a step's gradients and of what a checkpoint holds, tensor by tensor.

    What is so from the start, a mask of attention that holds -inf for example, may be so. A tensor whose sum of
    absolute values is no fp32 number counts as infinite. Nothing is read from the device, and nothing of this moves.

    Args:
        model: on its device.
        optimizer: over the model's parameters.
        averaged: the model's averaged weights; None if there are none.
        scale: what the loss is scaled by, float32 []; None if it is not. Where it is, infinite gradients are usual: the
            step is left out, and the scale falls. They are bad once it has fallen below ``LEAST_SCALE``.

    Attributes:
        numbers: what is looked at, in the order of a step. The backward pass comes to the last layer first, and so do
            its gradients here.
        first: int64 [N], in which step each was bad first; ``NEVER`` if it was not.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        averaged: Averaged | None = None,
        scale: Tensor | None = None,
    ):
        names = {parameter: name for name, parameter in model.named_parameters()}
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._trained = [parameter for parameter in reversed(names) if id(parameter) in trained]
        self._parameters = {name: parameter.detach() for parameter, name in names.items() if _can_be_bad(parameter)}
        self._moments = [
            (name, value)
            for parameter, name in names.items()
            for value in optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        ]
        # Where they lie, since a pass may put new tensors in their places.
        self._buffers = [
            (f"{prefix}.{key}" if prefix else key, module, key)
            for prefix, module in model.named_modules()
            for key, buffer in module._buffers.items()
            if key not in module._non_persistent_buffers_set and buffer is not None and _can_be_bad(buffer)
        ]
        averages = {} if averaged is None else averaged.state_dict()
        self._averages = {name: average for name, average in averages.items() if _can_be_bad(average)}
        self.numbers = [
            *(Number("gradient", names[parameter]) for parameter in self._trained),
            *(Number("parameter", name) for name in self._parameters),
            *(Number("moment", name) for name, _ in self._moments),
            *(Number("buffer", name) for name, _, _ in self._buffers),
            *(Number("average", name) for name in self._averages),
        ]
        device = next(iter(names)).device
        self._scale = scale
        self._none = torch.zeros((), dtype=torch.float32, device=device)
        self.first = torch.full((len(self.numbers),), NEVER, dtype=torch.int64, device=device)
        self._watched = torch.cat([self._none.expand(len(self._trained)), self._sizes(self._kept())]).isfinite()

    def _kept(self) -> list[Tensor]:
        """What a step leaves behind."""
        buffers = [module._buffers[key] for _, module, key in self._buffers]
        return [
            *self._parameters.values(),
            *(moment for _, moment in self._moments),
            *(self._none if buffer is None else buffer for buffer in buffers),
            *self._averages.values(),
        ]

    def gradients(self) -> Tensor:
        """How large the gradients are, [G], as they are now; for ``add``."""
        sizes = self._sizes([self._none if p.grad is None else p.grad for p in self._trained])
        return sizes if self._scale is None else torch.where(self._scale < LEAST_SCALE, sizes, self._none)

    def add(self, gradients: Tensor, number: Tensor) -> None:
        """Look at what step ``number``, int64 [1], has made of everything; ``gradients`` were its own."""
        bad = ~torch.cat([gradients, self._sizes(self._kept())]).isfinite() & self._watched
        torch.minimum(self.first, torch.where(bad, number, NEVER), out=self.first)

    @torch.no_grad()
    def _sizes(self, tensors: list[Tensor]) -> Tensor:
        """The sum of absolute values of each, [N]: finite where it is."""
        # The sum of many small numbers can be more than fp16 holds.
        wide = [tensor.float() if tensor.dtype.itemsize < 4 else tensor for tensor in tensors]
        return torch.stack(torch._foreach_norm(wide, 1)) if wide else self._none.expand(0)


def _can_be_bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
