"""What a table costs, before it is begun: floating-point operations, counted, and how fast this machine does them.

Operations are those of convolutions and matrix products, a multiplication and an addition each, as
``torch.utils.flop_counter`` has them. They are counted on tensors that have shapes but no values, so that counting
takes seconds whatever the network.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fastait.attacks import frozen, input_gradient
from fastait.attacks.columns import Ascent, Column, groups, parse_all
from fastait.attacks.local_search import CANDIDATES
from fastait.config import TrainConfig
from fastait.methods import METHODS
from fastait.models import WideResNet
from fastait.runtime.errors import InputError
from fastait.runtime.precision import Precision, current, native_half
from fastait.training.optimizer import make_optimizer
from fastait.training.prepare import method_settings
from fastait.training.step import TrainStep

SECONDS = 1.5
"""``measured_rate`` goes on for so long."""

STEP_FLOP = 1e11
"""On a CPU its steps are at most so large: three images of WRN-28-10."""


def training_flops(config: TrainConfig, num_classes: int, images: int) -> float:
    """Floating-point operations of a whole training: those of one real step per image, times epochs times images.

    With F for a forward pass of an image, natural training is 3F, adversarial interpolation 6F (section 4 of the paper)
    and PGD training with T steps 2TF + 3F, less the first layer's input gradient, which an update does not need.
    The measurements of ``--val-fraction`` are not counted, nor is whatever is no convolution or matrix product.

    Args:
        config: network, method, its settings, batch size, image size and epochs.
        num_classes: of the data set, at least 2.
        images: of the training set; a method that needs unlabelled images takes as many of these.
    """
    return config.epochs * images * _step_flops(config, num_classes)


def evaluation_flops(config: TrainConfig, num_classes: int, attacks: Sequence[str], images: int) -> float:
    """Operations of the network's passes in ``fastait.evaluation.evaluate``, at most: as if no image left its batch.

    Columns that share a trajectory are counted once, to the longest. A fooled image that is not attacked any more makes
    worst cases, restarts, unions and black boxes cheaper than this. Trial passes of two images are not counted.

    Args:
        config: network and image size; a surrogate is taken for the same.
        num_classes: of the data set, at least 2.
        attacks: names, see ``fastait.attacks.columns``. The clean pass is always counted.
        images: that are attacked.

    Raises:
        InputError: an attack's name is wrong, or it is one of pyautoattack's, whose cost is not known beforehand.
    """
    passes = _Passes(config, num_classes)
    columns = parse_all(attacks)
    for column in columns:
        if column.needs_library:
            raise InputError(f"what {column.name} costs is not known beforehand: pyautoattack decides as it goes")
    return images * (passes.forward + sum(_group_flops(group, passes, config.image_size) for group in groups(columns)))


def measured_rate(config: TrainConfig, num_classes: int, device: torch.device) -> float:
    """Floating-point operations per second on ``device``, measured for some seconds, for an estimate of times.

    Natural training steps of the config's network in its precision on random images, the first one not counted: whole
    batches on a GPU, few images on a CPU. Neither compiled nor captured as a CUDA graph, with which small networks are
    faster than this. What else the machine is doing meanwhile makes it slower.

    Args:
        config: network, image size, batch size and ``amp``.
        num_classes: of the data set, at least 2.
        device: that is to train.
    """
    natural = replace(config, method="natural")
    flops = _step_flops(natural, num_classes)
    count = config.batch_size if device.type == "cuda" else max(2, min(config.batch_size, int(STEP_FLOP / flops)))
    generator = torch.Generator().manual_seed(config.seed)
    shape = (count, config.image_size, config.image_size, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
    labels = torch.randint(0, num_classes, (count,), generator=generator).to(device)
    with current(device):
        model = WideResNet.drawn(generator, config.depth, config.widen_factor, num_classes)
        model = model.to(device).to(memory_format=torch.channels_last)
        step = _make_step(natural, model, Precision(device, native_half(device) if config.amp else None))
        begun, steps = 0.0, -1
        while steps < 1 or time.perf_counter() - begun < SECONDS:
            step(images, labels, steps + 1)
            step.totals.bad_step()  # waits for the device
            steps += 1
            if steps == 0:
                begun = time.perf_counter()
        return steps * count * flops / (time.perf_counter() - begun)


class _Counter(TorchDispatchMode):
    """``FlopCounterMode`` without its record of modules, whose hooks refuse the gradient of a module's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def _counted(work: Callable[[], object]) -> int:
    with _Counter() as counter:
        work()
    return counter.flops


def _make_step(config: TrainConfig, model: WideResNet, precision: Precision) -> TrainStep:
    device = next(model.parameters()).device
    # Whole batches are attacked together: parts make as many operations and take longer to be counted.
    settings = replace(method_settings(config, model.num_classes, device), at_a_time=None)
    optimizer = make_optimizer("sgd", model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return TrainStep(model.train(), METHODS[config.method], settings, optimizer, precision, config.seed)


def _step_flops(config: TrainConfig, num_classes: int) -> float:
    """Operations per image of one training step on a whole batch."""
    with FakeTensorMode():
        model = WideResNet(config.depth, config.widen_factor, num_classes)
        step = _make_step(config, model, Precision(torch.device("cpu"), None))
        images = torch.zeros(config.batch_size, config.image_size, config.image_size, 3, dtype=torch.uint8)
        labels = torch.zeros(config.batch_size, dtype=torch.int64)
        unlabeled = images if METHODS[config.method].needs_unlabeled else None
        return _counted(lambda: step(images, labels, 0, unlabeled=unlabeled)) / config.batch_size


class _Passes:
    """What the passes of an evaluation cost per image.

    Attributes:
        forward: to the logits.
        gradient: to the logits and back to the image.
        features: to the features.
        features_gradient: to the features and back.
    """

    def __init__(self, config: TrainConfig, num_classes: int):
        with FakeTensorMode():
            model = WideResNet(config.depth, config.widen_factor, num_classes)
            x = torch.zeros(1, 3, config.image_size, config.image_size)
            with frozen(model), torch.no_grad():
                self.forward = _counted(lambda: model(x))
                self.gradient = _counted(lambda: input_gradient(lambda leaf: model(leaf).sum(), x))
                self.features = _counted(lambda: model.features(x))
                self.features_gradient = _counted(lambda: input_gradient(lambda leaf: model.features(leaf).sum(), x))


def _group_flops(group: Sequence[Column], passes: _Passes, image_size: int) -> int:
    """Of columns that are computed together, per image."""
    column = group[0]
    if column.kind == "union":
        return sum(_group_flops([part], passes, image_size) for part in column.parts)
    if column.kind == "ascent":
        assert column.ascent is not None
        return column.ascent.restarts * _ascent_flops(column.ascent, group, passes)
    if column.kind == "spsa":
        queries = 1 + column.steps * (2 * column.directions + 1)
    else:
        size = image_size**2
        first, later = max(1, min(size // 10, CANDIDATES)), min(size, CANDIDATES)
        queries = 1 + (first + 1) + (column.steps - 1) * (later + 1)
    return (queries + 1) * passes.forward  # the result is judged once more


def _ascent_flops(ascent: Ascent, group: Sequence[Column], passes: _Passes) -> int:
    """One trajectory of ``fastait.attacks.trajectory``, whose iterates are judged where their gradients do not tell."""
    last, worst, best = ({c.steps for c in group if c.count == count} for count in ("last", "worst", "best"))
    final = max(c.steps for c in group)
    judged = last | set(range(1, max(worst | best, default=0) + 1))
    feature = ascent.loss == "feature"
    told = not feature and ascent.eot == 1 and not ascent.transfer
    objective = ascent.eot * (passes.features if feature else passes.forward)
    return (
        (passes.features if feature else 0)  # of the targets
        + final * ascent.eot * (passes.features_gradient if feature else passes.gradient)
        + (objective if final in best else 0)  # the last iterate's loss
        + (passes.forward if worst else 0)  # of the images themselves
        + passes.forward * ((final not in best) if told else len(judged))
    )
