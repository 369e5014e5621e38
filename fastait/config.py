"""What a training run is told, as one flat dataclass: the command line's flags and ``config.json``'s keys."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastait.methods import DISTANCES, METHODS, PARTNER_FEATURES, PARTNERS, published
from fastait.models.names import check_pretrained, parse
from fastait.runtime.errors import InputError, check_choice, quoted, words
from fastait.runtime.settings import Ratio, near_match, normalise

DATASETS = ("digits", "cifar10", "cifar100", "svhn", "folder", "parquet")
IN_PLACE = {
    "folder": "DIR/train/CLASS/* and DIR/test/CLASS/*",
    "parquet": "DIR/train*.parquet and DIR/test*.parquet",
}
"""Data sets that a user brings, and how they lie."""

PARQUET_SETTINGS = ("image_column", "label_column", "train_files", "test_files")
LEAST_IMAGE_SIZE = 8
PLACES = (
    *("data_dir", "unlabeled", "cache_dir", "init_from", "out", *PARQUET_SETTINGS),
    *("workers", "dali", "skip_bad_images", "device", "compile", "cuda_graph"),
    *("checkpoint_seconds", "keep_checkpoints", "tensorboard"),
)
"""Settings that say where things lie and how they are loaded and run: a resume may change them. The others decide the
weights, or what is measured. Images are known by their checksum."""

CLASSES, NORMALIZATION = "classes", "normalization"
BESIDE = (CLASSES, NORMALIZATION)
"""Keys of ``config.json`` that are no settings: the names of the classes that the run tells apart, in order, and what
its network does to images in [0, 1] first, mean and standard deviation per channel, null if that is not known."""

LARGEST = 3.4028234663852886e38
"""Of fp32, in which a step computes with what it is told."""

OPTIMIZERS = ("sgd", "adamw", "apex")
SCHEDULES = ("step", "cosine", "one-cycle", "linear")
CUDA_GRAPH = ("auto", "on", "off")

GROUPS = {
    "Data": (
        *("dataset", "data_dir", *PARQUET_SETTINGS, "cache_dir", "unlabeled", "val_fraction"),
        *("image_size", "skip_bad_images", "crop_padding", "flip"),
    ),
    "Network": ("model", "pretrained", "init_from"),
    "Method": (
        *("method", "epsilon", "epsilon_y", "attack_steps", "step_size"),
        *("distance", "partners", "partner_features", "penalty", "awp"),
    ),
    "Optimisation": (
        *("recipe", "epochs", "batch_size", "lr", "schedule", "milestones", "warmup_epochs"),
        *("optimizer", "nesterov", "weight_decay", "clip_grad_norm", "label_smoothing", "ema", "seed"),
    ),
    "Speed": ("device", "amp", "dali", "workers", "compile", "cuda_graph"),
    "Output": (
        *("out", "resume", "replay_failure", "eval_samples"),
        *("checkpoint_seconds", "keep_checkpoints", "tensorboard"),
    ),
}
"""Under which heading the help page of training has each setting."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; the defaults are the ``digits`` recipe's.

    ``fastait.recipe(name, **overrides)`` gives the published ones. ``check()`` raises InputError at the first setting
    that cannot be right. Paths may be given as strings, ~ for the home folder, numbers as numpy's or torch's.

    Raises:
        InputError: a setting is not of its type.
    """

    recipe: str = "digits"
    """Published settings to start from: digits, cifar10, cifar100, svhn, svhn-unaugmented, cifar10-fastat or
    cifar10-speedrun. Other flags override single settings."""

    method: str = "adv-interp"
    """How images and labels are moved: adv-interp, natural, madry, trades, mart, fgsm-rs, n-fgsm, grad-align, nu-at,
    bilateral, feature-scatter, mixup, manifold-mixup, iat-mixup, iat-manifold-mixup, uat, and the paper's ablations
    image-org, image-mixup, image-cls, label-org, label-mixup, label-smooth."""

    dataset: str = "digits"
    """digits (embedded), cifar10, cifar100, svhn (downloaded), folder ({train,test}/CLASS/IMAGE) or parquet
    ({train,test}*.parquet, as on the Hugging Face hub)."""

    data_dir: Path | None = None
    """Where the data set lies or is downloaded to. [default: ./data; required for folder and parquet]"""

    image_column: str | None = None
    """Column of parquet files that holds the images. [default: img or image]"""

    label_column: str | None = None
    """Column of parquet files that holds the labels. [default: label or fine_label]"""

    train_files: str | None = None
    """Pattern of the names, or of the ends of the paths, of the parquet files to train on. [default: train*.parquet]"""

    test_files: str | None = None
    """Pattern of the parquet files to test on. [default: test*.parquet; where there is none, validation*.parquet]"""

    cache_dir: Path | None = None
    """Folder that decoded images are kept in. [default: what FASTAIT_CACHE names, or one beside the images]"""

    unlabeled: Path | None = None
    """Folder of further images, without labels and in whatever folders; uat needs it."""

    val_fraction: Ratio = 0.0
    """Hold this share of the training images out, measure them after each epoch, and keep the best weights too."""

    image_size: int = 32
    """Images are resized (shorter side, bilinear) and centre-cropped to this height and width, at least 8."""

    skip_bad_images: bool = False
    """Leave images of a folder or parquet set that are unreadable, too small or of no class out, counted and listed,
    instead of refusing."""

    crop_padding: int = 0
    """Random crops from the image with this many black pixels around it; 0 for none."""

    flip: bool = False
    """Random horizontal flips."""

    epochs: int = 12
    """Passes over the training set."""

    batch_size: int = 64
    """Images per step; the last, smaller batch of an epoch is kept."""

    lr: float = 0.1
    """The schedule's highest learning rate; adamw wants a smaller one, such as 0.001."""

    schedule: str = "step"
    """How the learning rate changes, from step to step: step (divided by 10 at the milestones), cosine, linear (both
    down to 0) or one-cycle (up within 30 % of the run, then down)."""

    milestones: tuple[int, ...] | None = None
    """Epochs, counted from 1, at which --schedule step divides the learning rate by 10; repeat the flag for each.
    [default: the recipe's; 10 for digits]"""

    warmup_epochs: float = 0.0
    """Let the learning rate rise from 0 within so many epochs first."""

    nesterov: bool = False
    """Nesterov's momentum for sgd."""

    weight_decay: float = 2e-4
    """Weight decay: sgd's on all parameters; adamw's, decoupled, on all but biases and norms."""

    clip_grad_norm: float | None = None
    """Scale the gradient of a step down to this norm where it is longer. [default: not]"""

    label_smoothing: Ratio = 0.0
    """Spread this share of each label over all classes, in [0, 1), where a method trains on the classes themselves;
    attacks are not changed."""

    ema: float | None = None
    """Average the weights over the steps too, by this decay, in [0, 1), such as 0.9995: ema.safetensors beside the last
    ones. [default: not]"""

    epsilon: Ratio = 8 / 255
    """Radius of the Linf ball in training and evaluation, on images in [0, 1]; 0.03 or 8/255."""

    epsilon_y: Ratio = 0.5
    """How far labels move in one attack step, in [0, 1)."""

    attack_steps: int = 1
    """Attack iterations in training, the paper's L."""

    step_size: Ratio | None = None
    """Length of an attack step in training. [default: epsilon; 1.25 epsilon for fgsm-rs; 2/255 for madry, trades, mart,
    iat-* and uat]"""

    distance: str = "cosine"
    """What adversarial interpolation makes small between features: cosine (the paper's) or euclidean."""

    partners: str = "reversed"
    """Which image of the batch each one is paired with: reversed (the paper's: the one at the same place of the
    reversed batch), random (a permutation; mixup's) or other-class (a random one of another class)."""

    partner_features: str = "clean"
    """Where the partners' features come from: clean (the paper's: a pass of their own) or noisy (the images' own pass,
    noise and all: one pass in six is saved)."""

    penalty: float | None = None
    """Weight of what mart (its beta), grad-align and nu-at (their lambda) add to the loss. [default: the published one,
    for grad-align that of the budget]"""

    awp: float | None = None
    """Train madry, trades or mart at weights that are moved so far up the loss, relative to their length: adversarial
    weight perturbation; 0.005 and 0.01 are published. [default: not]"""

    model: str = "wrn-10-1"
    """The network: wrn-D-W, wrn-D-W-silu, wrn-D-W-s2, resnet-18, preact-resnet-18, timm:NAME, torchvision:NAME, or
    package.module:function, a function of your own that is called with the number of classes and returns a module on
    images in [0, 1]."""

    pretrained: bool = False
    """Start from the weights that timm or torchvision has of its network; a last layer for other classes is drawn
    anew."""

    seed: int = 0
    """Seed of weights, order, augmentation and noise."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""

    optimizer: str = "sgd"
    """sgd (torch's fused SGD with momentum 0.9), adamw (torch's fused AdamW) or apex (NVIDIA apex's FusedSGD, where it
    is installed)."""

    cuda_graph: str = "auto"
    """The whole step as one CUDA graph: auto (with one GPU), on or off."""

    compile: bool = False
    """Compile the network's passes with torch.compile: a minute or two before the first step."""

    amp: bool = False
    """Mixed precision where the hardware has it natively: bf16, or fp16 on older GPUs."""

    dali: bool = False
    """Load and augment with NVIDIA DALI, on the GPU if there is one; image files are decoded by it too."""

    workers: int | None = None
    """Load with torch's DataLoader in this many processes, 0 for none besides the run's. [default: the set is kept on
    the device and augmented there, if it fits]"""

    eval_samples: int | None = None
    """Evaluate on this many test images, the same share of each class. [default: all]"""

    checkpoint_seconds: float = 60.0
    """Save a checkpoint whenever this time has passed, or a hundred times what saving takes: what a crash can cost."""

    keep_checkpoints: int = 2
    """How many checkpoints are kept, at least 1: where the last one is damaged, the one before it is used."""

    tensorboard: bool = False
    """Write the curves, a few images under attack and the final table for TensorBoard too, into the run folder."""

    init_from: Path | None = None
    """Start from these weights: a model.safetensors of another run. A last layer for another number of classes is drawn
    anew."""

    out: Path | None = None
    """Run folder. [default: runs/DATE-TIME-DATASET-METHOD]"""

    def __post_init__(self) -> None:
        normalise(self)

    def check(self) -> None:
        """Raise InputError, naming the flag, unless every setting is in its range."""
        check_choice("--method", self.method, METHODS)
        check_choice("--dataset", self.dataset, DATASETS)
        check_choice("--optimizer", self.optimizer, OPTIMIZERS)
        check_choice("--cuda-graph", self.cuda_graph, CUDA_GRAPH)
        check_ranges(self, _RANGES)
        for name in ("lr", "weight_decay", "checkpoint_seconds"):
            if not math.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise InputError(f"{flag(name)} must be a finite number >= 0, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "clip_grad_norm", "penalty", "awp"):
            value = getattr(self, name)
            if value is not None and LARGEST < value < math.inf:
                raise InputError(f"{flag(name)} must be at most {LARGEST:.4g}, fp32's largest number, got {value:g}")
        if not 0 <= self.epsilon <= 1:
            raise InputError(f"--epsilon must be in [0, 1] for images in [0, 1] (8/255 is usual), got {self.epsilon}")
        if self.step_size is not None and not 0 < self.step_size <= 1:
            raise InputError(
                f"--step-size must be in (0, 1] for images in [0, 1] (2/255 is usual), got {self.step_size}"
            )
        for name in ("val_fraction", "epsilon_y", "label_smoothing", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{flag(name)} must be in [0, 1), got {value}")
        check_choice("--distance", self.distance, DISTANCES)
        check_choice("--partners", self.partners, PARTNERS)
        check_choice("--partner-features", self.partner_features, PARTNER_FEATURES)
        method = METHODS[self.method]
        for name, usual in (("distance", "cosine"), ("partner_features", "clean")):
            if getattr(self, name) != usual and not method.interpolates:
                raise InputError(
                    f"{flag(name)} {getattr(self, name)}: --method {self.method} does not interpolate features"
                )
        if self.partners != "reversed" and not method.pairs:
            raise InputError(f"--partners {self.partners}: --method {self.method} does not pair images")
        self._check_strengths()
        if method.needs_unlabeled and self.unlabeled is None:
            raise InputError(f"--method {self.method} needs further images: --unlabeled DIR")
        if self.unlabeled is not None and not method.needs_unlabeled:
            raise InputError(f"--unlabeled {self.unlabeled}: --method {self.method} does not use images without labels")
        network = parse(self.model)
        if self.pretrained:
            check_pretrained(network)
            if self.init_from is not None:
                raise InputError(f"--pretrained and --init-from {self.init_from} are two beginnings; leave one out")
        self._check_optimisation()
        if self.dali and self.workers is not None:
            raise InputError(f"--workers {self.workers} are the torch loader's; leave them or --dali out")
        if self.dataset in IN_PLACE and self.data_dir is None:
            raise InputError(f"--dataset {self.dataset} needs --data-dir DIR with {IN_PLACE[self.dataset]}")
        check_parquet_settings(self.dataset, **parquet_settings(self))
        if self.skip_bad_images and self.dataset not in IN_PLACE and self.unlabeled is None:
            raise InputError(f"--skip-bad-images is for {' and '.join(IN_PLACE)}; --dataset {self.dataset} has none")

    def _check_strengths(self) -> None:
        for name in ("penalty", "awp"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{flag(name)} must be a finite number >= 0, got {value:g}")
        if self.penalty is not None and not METHODS[self.method].penalises:
            takers = ", ".join(name for name, method in METHODS.items() if method.penalises)
            raise InputError(f"--penalty {self.penalty:g} is for {takers}; --method {self.method} has none")
        if self.awp is not None and not METHODS[self.method].awp:
            takers = ", ".join(name for name, method in METHODS.items() if method.awp)
            raise InputError(f"--awp {self.awp:g} is for {takers}, not for --method {self.method}")

    def _check_optimisation(self) -> None:
        check_choice("--schedule", self.schedule, SCHEDULES)
        milestones = self.milestones or ()
        if not all(a < b for a, b in zip((0, *milestones), milestones, strict=False)):
            raise InputError(f"--milestones must be increasing epochs from 1 on, got {list(milestones)}")
        if milestones and self.schedule != "step":
            raise InputError(
                f"--milestones {milestones[0]} are those of --schedule step; --schedule {self.schedule} has none"
            )
        if self.schedule == "step" and self.milestones is None and self.recipe != "digits":
            raise InputError(f"--schedule step needs --milestones EPOCH, since --recipe {self.recipe} has none")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"--warmup-epochs must be in [0, {self.epochs}), shorter than the training, got {self.warmup_epochs:g}"
            )
        if self.warmup_epochs and self.schedule == "one-cycle":
            raise InputError("--schedule one-cycle begins with a rise of its own; leave --warmup-epochs out")
        if self.nesterov and self.optimizer != "sgd":
            raise InputError(f"--nesterov is for --optimizer sgd, not for {self.optimizer}")
        if self.clip_grad_norm is not None and not 0 < self.clip_grad_norm < math.inf:
            raise InputError(f"--clip-grad-norm must be a finite number > 0, got {self.clip_grad_norm:g}")
        if self.clip_grad_norm is not None and self.optimizer == "apex":
            raise InputError("--clip-grad-norm does not go with --optimizer apex; use --optimizer sgd")
        if self.label_smoothing and not METHODS[self.method].smooths:
            takers = ", ".join(name for name, method in METHODS.items() if method.smooths)
            raise InputError(
                f"--label-smoothing {self.label_smoothing:g} is for {takers}, not for --method {self.method}"
            )

    def steps_down(self) -> tuple[int, ...]:
        """The milestones that there are."""
        return _USUAL_MILESTONES if self.milestones is None else self.milestones

    def penalty_weight(self) -> float | None:
        """``penalty``, or the published one; None for a method that has none."""
        if self.penalty is not None:
            return self.penalty
        return published.penalty(self.method, self.dataset, self.epsilon, self.model)

    def resolved(self) -> "TrainConfig":
        """With absolute paths, so that a resume from another folder finds the same files, milestones and penalty."""
        data_dir = self.data_dir or (None if self.dataset in ("digits", *IN_PLACE) else Path("data"))
        return dataclasses.replace(
            self,
            milestones=self.steps_down() if self.schedule == "step" else (),
            penalty=self.penalty_weight(),
            data_dir=data_dir and data_dir.absolute(),
            init_from=self.init_from and self.init_from.absolute(),
            unlabeled=self.unlabeled and self.unlabeled.absolute(),
            cache_dir=self.cache_dir and self.cache_dir.absolute(),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Any) -> "TrainConfig":
        """The inverse of ``to_json``. A setting that is missing, as those of newer versions are, has its default.

        Before there was ``model``, the network was a wide ResNet of ``depth`` and ``widen_factor``.

        Raises:
            InputError: these are no settings, or one is unknown or not of its type.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or not {"method", "dataset"} <= values.keys():
            raise InputError("these are no settings of a run")
        values = dict(values)
        depth, widen_factor = (values.pop(key, usual) for key, usual in _BEFORE_MODEL.items())
        if (depth, widen_factor) != tuple(_BEFORE_MODEL.values()):
            values.setdefault("model", f"wrn-{depth}-{widen_factor}")
        for key in values:
            if key not in names and key not in BESIDE:
                raise InputError(f"{key!r} is no setting of this version{near_match(key, names)}")
        return cls(**{key: value for key, value in values.items() if key in names})


SIZES = (LEAST_IMAGE_SIZE, 4096)
"""Heights and widths of images."""

SEEDS = (0, 2**63 - 1)

_RANGES: dict[str, tuple[int, float]] = {
    "image_size": SIZES,
    "crop_padding": (0, 4096),
    "epochs": (1, 1_000_000),
    "batch_size": (2, 1_000_000),
    "attack_steps": (1, 10_000),
    "seed": SEEDS,
    "workers": (0, 1024),
    "eval_samples": (1, math.inf),
    "keep_checkpoints": (1, 10_000),
}
"""Whole numbers, from the least to the largest."""

_USUAL_MILESTONES = (10,)

_BEFORE_MODEL = {"depth": 10, "widen_factor": 1}


def check_ranges(settings: Any, ranges: Mapping[str, tuple[int, float]]) -> None:
    """Raise InputError, naming the flag, if a whole number of ``settings`` is out of its range; None is no number."""
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:
            at_most = f" and at most {most}" * (value > most)
            raise InputError(f"{flag(name)} must be at least {least}{at_most}, got {quoted(value, 60)}")


def parquet_settings(settings: Any) -> dict[str, Any]:
    """Where the images of parquet files are, as ``settings`` have it: any object with such attributes."""
    return {name: getattr(settings, name) for name in PARQUET_SETTINGS}


def check_parquet_settings(dataset: str, **settings: str | None) -> None:
    """Raise InputError, naming the flag, if one of ``PARQUET_SETTINGS`` is no text or for another kind of data set."""
    for name, value in settings.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{flag(name)} must be a text, got {words(repr(value), 60)}")
        if value is not None and dataset != "parquet":
            raise InputError(f"{flag(name)} {value} is for --dataset parquet, not for {dataset}")


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")
