"""What a run needs before its first step, made and checked."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastait.attacks import frozen
from fastait.attacks.subject import Subject
from fastait.attacks.suited import widest_activation
from fastait.checkpoints.weights import About
from fastait.config import TrainConfig, parquet_settings
from fastait.data import BatchPlan, Dataset, ImageFiles, ImageSet, Loader, load_dataset, load_unlabeled, make_loader
from fastait.methods import METHODS, Settings
from fastait.methods.alignment import misalignment
from fastait.methods.labels import effective_epsilon_y
from fastait.methods.mixing import check_mixing
from fastait.models import Features, feature_function, normalization
from fastait.models.trial import said
from fastait.runtime.errors import InputError
from fastait.runtime.precision import Precision, native_half, resolve_device
from fastait.runtime.processes import Ranks
from fastait.runtime.randomness import derive
from fastait.runtime.report import Report
from fastait.training import events
from fastait.training.networks import black, first_network
from fastait.training.optimizer import make_optimizer

CACHED_BYTES = 1 << 23
"""On a CPU an attack takes so many images together that the widest activation is at most this large: what stays in the
cache between two operations is not fetched again. Measured on 2 cores with 32 MiB of L3: parts of 64 instead of 128
images make PGD-7 training of WRN-16-2 4 % faster (20 % where freed memory goes back to the system, see ``memory``);
parts smaller than this slow WRN-10-1 down by 7 %."""


class Prepared:
    """Everything that can be found wrong before a run folder is made.

    Args:
        config: of the run.
        report: is told what its user should know.
        ranks: the processes that share it.
        device: of this one.
        allow_own: whether a function that makes the network may be called; see ``models.make``.
        begun: whether the run goes on from a checkpoint, whose weights will replace those that it began with.
    """

    def __init__(
        self,
        config: TrainConfig,
        report: Report,
        ranks: Ranks,
        device: str,
        *,
        allow_own: bool = False,
        begun: bool = False,
    ):
        self.config = config
        self.ranks = ranks
        self.device = resolve_device(device)
        if config.tensorboard:
            events.available()
        self.precision = Precision(self.device, native_half(self.device) if config.amp else None)
        if config.amp and self.precision.dtype is None:
            report.note("--amp: this CPU has no native bf16, so the run is fp32 (emulation would be slower).")
        self.graph = _use_graph(config, self.device, ranks)
        with ranks.one_by_one():
            self.dataset = load_dataset(
                config.dataset,
                config.data_dir,
                config.image_size,
                skip_bad=config.skip_bad_images,
                in_files=config.dali,
                **parquet_settings(config),
                cache_dir=config.cache_dir,
                note=report.note,
            )
        ranks.refuse(
            self.dataset.checksum != ranks.from_first(lambda: self.dataset.checksum),
            f"--data-dir {config.data_dir} holds other images for some of the {ranks.size} processes than for others",
        )
        _report_skipped(self.dataset.skipped, report)
        held_out = round(config.val_fraction * len(self.dataset.train))
        _check_sizes(config, self.dataset, held_out, ranks)
        self.plan = self._plan(config.seed, len(self.dataset.train) - held_out, held_out=held_out)
        self.loader = self._loader(self.dataset.train, self.plan)
        self.validation = self.dataset.train.at(self.plan.split()[1]) if held_out else None
        self.unlabeled: tuple[Loader, BatchPlan] | None = None
        self.data_checksum = self.dataset.checksum
        if config.unlabeled is not None:
            self._load_unlabeled(config.unlabeled, report)
        classes = self.dataset.classes
        self.network = first_network(config, classes, report.note, allow_own=allow_own, begun=begun)
        self.about = About(config.model, classes, normalization(self.network), config.image_size)
        at_a_time = cached_images(self.network, config.image_size) if self.device.type == "cpu" else None
        self.settings = method_settings(config, len(classes), at_a_time, config.epochs * self.plan.steps_per_epoch)
        if any(term.labels == "adversarial_interpolation" for term in METHODS[config.method].terms):
            _warn_of_labels(self.settings, report)
        self.model = self.network.to(self.device).to(memory_format=torch.channels_last)
        self.features = check_method(self.model, config.model, config.method, black(config.image_size).to(self.device))
        if config.compile and METHODS[config.method].differentiates_twice:
            report.note(f"--compile: the second derivative that --method {config.method} needs is taken without it.")
        self.optimizer = make_optimizer(
            config.optimizer,
            self.model.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )

    def _plan(self, seed: int, size: int, **more: Any) -> BatchPlan:
        config, ranks = self.config, self.ranks
        return BatchPlan(
            seed, size, config.batch_size, config.crop_padding, config.flip, ranks.rank, ranks.size, **more
        )

    def _loader(self, images: ImageSet | ImageFiles, plan: BatchPlan) -> Loader:
        return make_loader(images, plan, self.device, dali=self.config.dali, workers=self.config.workers)

    def _load_unlabeled(self, root: Path, report: Report) -> None:
        config, ranks = self.config, self.ranks
        with ranks.one_by_one():
            images, checksum, skipped = load_unlabeled(
                root,
                config.image_size,
                skip_bad=config.skip_bad_images,
                cache_dir=config.cache_dir,
                note=report.note,
            )
        ranks.refuse(
            checksum != ranks.from_first(lambda: checksum),
            f"--unlabeled {root} holds other images for some of the {ranks.size} processes than for others",
        )
        _report_skipped(skipped, report)
        if len(images) < config.batch_size:
            raise InputError(
                f"--unlabeled {root} holds {len(images)} images, fewer than one --batch-size {config.batch_size}"
            )
        plan = self._plan(derive(config.seed, "unlabeled"), len(images), drop_last=True)
        self.unlabeled = self._loader(images, plan), plan
        self.data_checksum = checksum_of_all(self.data_checksum, checksum)


def checksum_of_all(dataset: str, unlabeled: str) -> str:
    """The checksum of a data set and of images without labels, from those of either."""
    return hashlib.sha256((dataset + unlabeled).encode()).hexdigest()


def method_settings(
    config: TrainConfig, num_classes: int, at_a_time: int | None = None, training_steps: int = 1
) -> Settings:
    """What the config's method needs to know beside the batch."""
    return Settings(
        config.epsilon,
        config.epsilon_y,
        config.attack_steps,
        config.epsilon * METHODS[config.method].step if config.step_size is None else config.step_size,
        num_classes,
        at_a_time,
        config.distance,
        config.partners,
        config.partner_features,
        config.label_smoothing,
        config.penalty_weight() or 0.0,
        training_steps,
        config.awp or 0.0,
    )


def cached_images(model: nn.Module, image_size: int) -> int:
    """How many images an attack on a CPU takes together; see ``CACHED_BYTES``. The model is left as it was."""
    return max(8, CACHED_BYTES // widest_activation(Subject.of(model), black(image_size)))


def check_method(model: nn.Module, name: str, method: str, sample: torch.Tensor) -> Features | None:
    """The features of ``model`` where ``method`` interpolates.

    Args:
        model: as it is to be trained; nothing of it is changed.
        name: what messages call it.
        method: of ``METHODS``.
        sample: float [B, C, H, W], images that it takes, on its device.

    Raises:
        InputError: it cannot be mixed where ``method`` does so, has no features, or no second derivative.
    """
    check_mixing(model, name, method, sample)
    if METHODS[method].differentiates_twice:
        _check_second_derivative(model, f"--method {method}: {name}", sample)
    if not METHODS[method].interpolates:
        return None
    features = feature_function(model, sample)
    try:
        with frozen(model), torch.no_grad():
            found = features(sample.clone())
    except Exception as error:  # whatever a network raises
        raise InputError(f"{name}: {features.source} fails: {said(error)}") from None
    if not isinstance(found, torch.Tensor) or found.dim() < 2 or len(found) != len(sample):
        kind = list(found.shape) if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise InputError(f"{name}: {features.source} returns {kind} where features [{len(sample)}, ...] are needed")
    return features


def _check_second_derivative(model: nn.Module, who: str, sample: torch.Tensor) -> None:
    y = torch.zeros(len(sample), dtype=torch.int64, device=sample.device)
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        # All of it: asked for some gradients alone, torch passes over what says that it has no second derivative.
        misalignment(model, sample, y, torch.ones_like(sample)).backward()
    except Exception as error:  # whatever a network raises
        raise InputError(f"{who} has no second derivative: {said(error)}") from None
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _report_skipped(skipped: tuple[str, ...], report: Report) -> None:
    if skipped:
        report.note(f"warning: --skip-bad-images left out {len(skipped)} images:")
        for line in skipped:
            report.note(f"  {line}")


def _use_graph(config: TrainConfig, device: torch.device, ranks: Ranks) -> bool:
    if config.cuda_graph == "on":
        if device.type != "cuda":
            raise InputError(f"--cuda-graph on needs a CUDA GPU, but the device is {device}; use auto or off")
        if config.optimizer == "apex":
            raise InputError(
                "--cuda-graph on does not go with --optimizer apex, which bakes the learning rate into the graph; "
                "use --optimizer sgd, or --cuda-graph off"
            )
    # With several GPUs a graph is for those who ask for it by name, until it has run on two.
    suits = device.type == "cuda" and config.optimizer != "apex" and ranks.size == 1
    return config.cuda_graph == "on" or (config.cuda_graph == "auto" and suits)


def _check_sizes(config: TrainConfig, dataset: Dataset, held_out: int, ranks: Ranks) -> None:
    if ranks.size > 1 and config.batch_size < 4 * ranks.size:
        raise InputError(
            f"--batch-size {config.batch_size} is too small for {ranks.size} processes, which share each batch; "
            f"it must be at least {4 * ranks.size}, four images each"
        )
    left = len(dataset.train) - held_out
    if config.val_fraction and not held_out:
        raise InputError(
            f"--val-fraction {config.val_fraction:g} of the {len(dataset.train)} training images is not one image"
        )
    if config.batch_size > left:
        raise InputError(
            f"--batch-size {config.batch_size} is larger than the {left} training images"
            + (f" that --val-fraction {config.val_fraction:g} leaves" if held_out else "")
        )
    if (config.eval_samples or 0) > len(dataset.test):
        raise InputError(f"--eval-samples {config.eval_samples} is more than the {len(dataset.test)} test images")


def _warn_of_labels(settings: Settings, report: Report) -> None:
    moved = effective_epsilon_y(settings.epsilon_y, settings.steps)
    classes = settings.num_classes
    if moved >= (classes - 1) / classes:
        report.note(
            f"warning: --epsilon-y {settings.epsilon_y:g} with --attack-steps {settings.steps} moves labels by "
            f"{moved:g}: where both images are of one class, the true class is no longer the largest "
            f"(below {(classes - 1) / classes:g} it is, with {classes} classes)."
        )
