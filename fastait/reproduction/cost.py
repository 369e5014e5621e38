"""What a table costs, before it is begun: floating-point operations, counted, and how fast this machine does them.

Operations are those that ``fastait.runtime.flops`` counts, on tensors that have shapes but no values, so that counting
takes seconds whatever the network.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from fastait.attacks import frozen, input_gradient
from fastait.attacks.columns import Ascent, Column, groups, parse_all
from fastait.attacks.fab import FINAL_STEPS
from fastait.attacks.local_search import CANDIDATES
from fastait.attacks.stages import Attempt, Stage, stages
from fastait.config import TrainConfig
from fastait.methods import METHODS
from fastait.models import feature_function, make
from fastait.models.features import PROBED
from fastait.runtime.errors import InputError
from fastait.runtime.flops import counted
from fastait.runtime.precision import Precision, current, native_half
from fastait.training.cost import Cost, no_values, step_cost
from fastait.training.optimizer import make_optimizer
from fastait.training.prepare import method_settings
from fastait.training.step import TrainStep

SECONDS = 1.5
"""``measured_rate`` goes on for so long."""

STEP_FLOP = 1e11
"""On a CPU its steps are at most so large: three images of WRN-28-10."""


def run_cost(config: TrainConfig, num_classes: int) -> Cost:
    """What the config's network and a step of its training cost, see ``fastait.training.cost.step_cost``.

    Args:
        config: network, method, its settings, batch size and image size.
        num_classes: of the data set, at least 2.

    Raises:
        InputError: the network cannot be counted.
    """
    cost = step_cost(
        _model(config, num_classes),
        METHODS[config.method],
        method_settings(config, num_classes),
        image_size=config.image_size,
        batch_size=config.batch_size,
    )
    if not cost.passes:
        raise _not_counted(config)
    return cost


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
        InputError: an attack's name is wrong, or the network cannot be counted.
    """
    columns = parse_all(attacks)
    ascents = [part.ascent for column in columns for part in (column, *column.parts) if part.ascent is not None]
    passes = _Passes(config, num_classes, any(ascent.loss == "feature" for ascent in ascents))
    work = sum(_group_flops(group, passes, config.image_size, num_classes) for group in groups(columns))
    return images * (passes.forward + work)


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
    flops = run_cost(natural, num_classes).step
    count = config.batch_size if device.type == "cuda" else max(2, min(config.batch_size, int(STEP_FLOP / flops)))
    generator = torch.Generator().manual_seed(config.seed)
    shape = (count, config.image_size, config.image_size, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
    labels = torch.randint(0, num_classes, (count,), generator=generator).to(device)
    with current(device):
        model = _model(config, num_classes, config.seed).to(device).to(memory_format=torch.channels_last)
        optimizer = make_optimizer("sgd", model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        precision = Precision(device, native_half(device) if config.amp else None)
        settings = method_settings(natural, num_classes)
        step = TrainStep(model, METHODS["natural"], settings, optimizer, precision, config.seed)
        begun, steps = 0.0, -1
        while steps < 1 or time.perf_counter() - begun < SECONDS:
            step(images, labels, steps + 1)
            step.totals.bad_step()  # waits for the device
            steps += 1
            if steps == 0:
                begun = time.perf_counter()
        return steps * count * flops / (time.perf_counter() - begun)


def _model(config: TrainConfig, num_classes: int, seed: int | None = None) -> nn.Module:
    """The config's network; nothing of it is drawn if there is no seed."""
    # The config is of choices that are made now, so that a function of the user's own is named now too.
    return make(config.model, num_classes, image_size=config.image_size, generator_seed=seed, allow_own=True)


def _not_counted(config: TrainConfig) -> InputError:
    return InputError(
        f"what --model {config.model} costs cannot be counted beforehand: it needs the values of its images; leave "
        "--dry-run out"
    )


class _Passes:
    """What the passes of an evaluation cost per image.

    Attributes:
        forward: to the logits.
        gradient: to the logits and back to the image.
        features: to the features; 0 if no attack asks for them.
        features_gradient: to the features and back.
    """

    def __init__(self, config: TrainConfig, num_classes: int, with_features: bool):
        model, size = _model(config, num_classes), config.image_size
        self.features = self.features_gradient = 0
        try:
            with no_values(model) as twin:
                features = feature_function(twin, torch.zeros(PROBED, 3, size, size)) if with_features else None
                x = torch.zeros(1, 3, size, size)
                with frozen(twin), torch.no_grad():
                    self.forward = counted(lambda: twin(x))
                    self.gradient = counted(lambda: input_gradient(lambda leaf: twin(leaf).sum(), x))
                    if features is not None:
                        self.features = counted(lambda: features(x))
                        self.features_gradient = counted(lambda: input_gradient(lambda leaf: features(leaf).sum(), x))
        except InputError:  # it has no features
            raise
        except Exception:  # whatever somebody's network raises
            raise _not_counted(config) from None


def _group_flops(group: Sequence[Column], passes: _Passes, image_size: int, num_classes: int) -> int:
    """Of columns that are computed together, per image."""
    column = group[0]
    if column.in_stages:
        return sum(
            _group_flops([stage.column], passes, image_size, num_classes)
            if isinstance(stage, Attempt)
            else _stage_flops(stage, passes)
            for stage in stages(column, num_classes)
        )
    if column.ascent is not None:
        return _ascent_flops(column.ascent, group, passes)
    if column.kind == "spsa":
        queries = 1 + column.steps * (2 * column.directions + 1)
    else:
        size = image_size**2
        first, later = max(1, min(size // 10, CANDIDATES)), min(size, CANDIDATES)
        queries = 1 + (first + 1) + (column.steps - 1) * (later + 1)
    return (queries + 1) * passes.forward  # the result is judged once more


def _stage_flops(stage: Stage, passes: _Passes) -> int:
    """One stage of AutoAttack for an image that stands to its end; of Square's queries some cost none."""
    if stage.attack == "square":
        return (stage.steps + 1) * passes.forward
    ranked = passes.forward if stage.target else 0
    if stage.attack == "fab-t":
        # Every point is looked at before it is linearised, the ends of the final search, its points and the result too.
        return ranked + stage.steps * (passes.forward + passes.gradient) + (1 + 2 + FINAL_STEPS + 1) * passes.forward
    return ranked + stage.averaged * (stage.steps * passes.gradient + passes.forward)


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
