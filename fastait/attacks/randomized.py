"""A defence that adds random signs to its input, and the expectation over it that attacks it fairly."""

import torch
from torch import Tensor, nn

from fastait.attacks.checks import budget
from fastait.models import feature_function
from fastait_kernels._support import described


class RandomSignNoise(nn.Module):
    """``model`` on clip(x + epsilon s, 0, 1), s uniform on {-1, 1} per value: the paper's Adv-Interp*, section A.11.

    Its outputs are random; gradients pass through the sum and the clip. To attack it fairly, ascend the expectation of
    the loss, as the attacks named ``eotN-...`` do.

    Args:
        model: maps images in [0, 1] to logits.
        epsilon: size of the noise, in [0, 1].

    Raises:
        TypeError: ``model`` is no module, or ``epsilon`` no number.
        ValueError: ``epsilon`` is not in [0, 1].
    """

    def __init__(self, model: nn.Module, epsilon: float = 8 / 255):
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a module, got {described(model)}")
        self.epsilon = budget(epsilon)
        self.model = model
        self._generator: torch.Generator | None = None
        self._seed = 0

    def reseed(self, seed: int) -> None:
        """Draw the noise from here on as after any other call with the same ``seed``."""
        self._seed = seed
        self._generator = None

    def noisy(self, x: Tensor) -> Tensor:
        """clip(x + epsilon s, 0, 1), like ``x``."""
        if self._generator is None or self._generator.device != x.device:
            self._generator = torch.Generator(x.device)
            self._generator.manual_seed(self._seed)
        bits = torch.randint(0, 2, x.shape, generator=self._generator, device=x.device)
        return (x + self.epsilon * (2 * bits - 1).to(x.dtype)).clamp(0, 1)

    def features(self, x: Tensor) -> Tensor:
        """The model's features of the noisy images, see ``fastait.models.feature_function``."""
        return feature_function(self.model, x)(self.noisy(x))

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits of the noisy images."""
        return self.model(self.noisy(x))
