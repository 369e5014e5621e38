"""One training step, the same for every method."""

import torch
from torch import Tensor, nn

from fastait.attacks import Noise
from fastait.data import to_float
from fastait.engine.precision import Precision
from fastait.engine.randomness import derive
from fastait.methods import Method, Settings

NEVER = torch.iinfo(torch.int64).max


class Totals:
    """Sums over an epoch that stay on the device: reading them is the only synchronisation.

    Attributes:
        loss: float64, the summed loss of the images seen.
        correct: int64, how many of the images that were trained on were classified as their label says.
        seen: images seen.
        first_bad_step: int64, the first step whose loss was NaN or infinite, ``NEVER`` if none was.
    """

    def __init__(self, device: torch.device):
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad_step = torch.full((), NEVER, dtype=torch.int64, device=device)
        self.seen = 0

    def add(self, loss: Tensor, logits: Tensor, y: Tensor, step: int) -> None:
        """Count one step's batch."""
        self.loss += loss.double() * len(y)
        self.correct += (logits.argmax(dim=1) == y).sum()
        bad = torch.where(loss.isfinite(), NEVER, step)
        torch.minimum(self.first_bad_step, bad, out=self.first_bad_step)
        self.seen += len(y)

    def bad_step(self) -> int | None:
        """The first step whose loss was not finite. Waits for the device."""
        step = int(self.first_bad_step)
        return None if step == NEVER else step

    def state(self) -> dict[str, float | int]:
        """The sums as numbers. Waits for the device."""
        return {"loss": float(self.loss), "correct": int(self.correct), "seen": self.seen}

    def load(self, state: dict[str, float | int]) -> None:
        """Start from the sums of ``state``."""
        self.loss.fill_(state["loss"])
        self.correct.fill_(state["correct"])
        self.seen = int(state["seen"])


class TrainStep:
    """Move the images, move the labels, update the weights.

    Args:
        model: in train mode, on its device.
        method: a way to move images and a way to move labels.
        settings: what the method needs to know.
        optimizer: over the model's parameters.
        precision: of the model's passes.
        seed: of the attack's noise; a step's noise depends on (seed, step) only.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        settings: Settings,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        seed: int,
    ):
        self.model = model
        self.move_images = method.image_part()
        self.loss = method.label_part()
        self.settings = settings
        self.optimizer = optimizer
        self.precision = precision
        self.noise = Noise.seeded(derive(seed, "noise"), next(model.parameters()).device)

    def __call__(self, images: Tensor, y: Tensor, step: int, totals: Totals) -> None:
        """Train on uint8 images [B, H, W, 3] and classes int64 [B] as global step ``step``."""
        self.noise.seek(step)
        x = to_float(images)
        with self.precision.autocast():
            x_tilde = self.move_images(self.model, x, y, self.settings, self.noise)
        # A context of its own: what autocast caches in one must not outlive the attack's frozen weights.
        with self.precision.autocast():
            logits = self.model(x_tilde)
        loss = self.loss(logits, y, self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        scaler = self.precision.scaler
        scaler.scale(loss).backward()
        scaler.step(self.optimizer)
        scaler.update()
        totals.add(loss.detach(), logits.detach(), y, step)
