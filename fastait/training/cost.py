"""What training a network costs, found without doing it: operations of a step and of a forward pass, and parameters.

They are counted on tensors that have shapes but no values, so that counting takes a second or two whatever the network.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastait.methods import Method, Settings
from fastait.models import Features, feature_function
from fastait.models.features import PROBED
from fastait.runtime.flops import counted
from fastait.runtime.precision import Precision
from fastait.training.optimizer import make_optimizer
from fastait.training.step import TrainStep


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of an image, those that ``fastait.runtime.flops`` counts.

    Attributes:
        parameters: how many numbers the network's parameters are.
        forward: of a forward pass in eval mode; 0 if the network cannot be counted.
        step: of a training step, the attack's passes and the update; 0 with ``forward``.
    """

    parameters: int
    forward: float = 0.0
    step: float = 0.0

    @property
    def passes(self) -> float:
        """F, how many forward passes' worth a step is; 0 if that cannot be counted."""
        return self.step / self.forward if self.forward else 0.0


def said(cost: Cost) -> str:
    """The line of a report."""
    parameters = f"{cost.parameters:,} parameters"
    if not cost.passes:
        return f"cost: operations not counted; {parameters}"
    return (
        f"cost: a step is {cost.passes:.1f} forward passes' worth (F), {gflop(cost.step)} GFLOP an image; a pass "
        f"{gflop(cost.forward)}; {parameters}"
    )


def gflop(operations: float) -> str:
    """So many operations in GFLOP, to three digits."""
    return f"{float(f'{operations / 1e9:.3g}'):,g}"


def step_cost(
    model: nn.Module,
    method: Method,
    settings: Settings,
    features: Features | None = None,
    *,
    image_size: int,
    batch_size: int,
) -> Cost:
    """What a step of ``method`` on a whole batch costs, an image.

    With F for a forward pass of an image, natural training is 3F, adversarial interpolation 6F (section 4 of the paper)
    and PGD training with T steps 2TF + 3F, less the first layer's input gradient, which an update does not need.

    Args:
        model: on any device. Neither it nor any generator changes; a copy without values is made of it.
        method: as for ``TrainStep``; one that needs unlabelled images takes as many of these.
        settings: as for ``TrainStep``.
        features: of the model, if they are known; else they are found where the method interpolates.
        image_size: height and width.
        batch_size: of all processes together.

    Returns:
        The cost; without operations where the model looks at values, or where else it cannot be counted.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        with no_values(model) as twin:
            x = torch.zeros(PROBED, 3, image_size, image_size)
            images = torch.zeros(batch_size, image_size, image_size, 3, dtype=torch.uint8)
            labels = torch.zeros(batch_size, dtype=torch.int64)
            unlabeled = images if method.needs_unlabeled else None
            if method.interpolates:
                features = feature_function(twin, x) if features is None else Features(twin, features.head)
            optimizer = make_optimizer("sgd", twin.parameters(), lr=0.1, weight_decay=0.0)
            # Whole batches are attacked together: parts make as many operations and take longer to be counted.
            settings = replace(settings, at_a_time=None)
            precision = Precision(torch.device("cpu"), None)
            twin.train()
            step = TrainStep(twin, method, settings, optimizer, precision, seed=0, features=features)
            spent = counted(lambda: step(images, labels, 0, unlabeled=unlabeled))
            twin.eval()
            with torch.no_grad():
                forward = counted(lambda: twin(x)) / len(x)
    except Exception:  # whatever somebody's network raises
        return Cost(parameters)
    return Cost(parameters, forward, spent / batch_size)


@contextmanager
def no_values(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of ``model`` on the CPU, whose parameters and buffers have shapes but no values; made here is what is so.

    Raises:
        Exception: whatever a model that cannot be copied raises.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        values = FakeTensorMode(allow_non_fake_inputs=True)
        with values:
            empty = {id(t): torch.empty(t.shape, dtype=t.dtype) for t in (*model.parameters(), *model.buffers())}
        for parameter in model.parameters():
            empty[id(parameter)] = nn.Parameter(empty[id(parameter)], parameter.requires_grad)
        twin = copy.deepcopy(model, empty)  # takes those in the place of its own
        with values:
            yield twin
