"""What an evaluation is told, as one flat dataclass: the flags of the command."""

import math
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastait.config import (
    DATASETS,
    IN_PLACE,
    PARQUET_SETTINGS,
    SEEDS,
    SIZES,
    check_parquet_settings,
    check_ranges,
    flag,
    parquet_settings,
)
from fastait.models.names import parse
from fastait.runtime.errors import InputError, check_choice
from fastait.runtime.settings import Numbers, Ratio, fraction

GROUPS = {
    "Models": ("models", "model", "inputs", "mean", "std", "surrogate", "input_noise"),
    "Attacks": ("attacks", "epsilon", "step_size", "masking", "seed"),
    "Data": (
        "dataset",
        "data_dir",
        *PARQUET_SETTINGS,
        "cache_dir",
        "image_size",
        "samples",
        "black_box_samples",
        "skip_bad_images",
    ),
    "Speed": ("device", "batch_size", "compile", "tf32", "deterministic"),
    "Output": ("out", "save_images", "export"),
}
"""Under which heading the help page has each setting."""


def _numbers(value: Any) -> tuple[float, ...]:
    """Numbers of a text such as 0.49,125/255, of a number, or of several."""
    if isinstance(value, str):
        return tuple(map(fraction, value.split(",")))
    return tuple(map(_number, value)) if isinstance(value, Iterable) else (_number(value),)


def _number(value: Any) -> float:
    return fraction(value) if isinstance(value, str) else float(value)


@dataclass(frozen=True)
class EvalArguments:
    """What to measure.

    From Python, paths may be texts, numbers numpy's, ``attacks`` a list, and one model or epsilon stand by itself.
    """

    models: tuple[Path, ...] = ()
    """Run folders or files of weights; RUN is the weights of the last epoch, RUN/best.safetensors those of the best,
    RUN/ema.safetensors averaged ones."""

    attacks: str = field(default="fgsm,pgd20,pgd100,cw20,cw100", kw_only=True)
    """Names with commas between: fgsm, pgdT, cwT, featureT (T steps), each also as transfer-..., eotN-..., ...-zero
    (no random start), ...-worst, ...-best, ...-minN (N restarts); pgd-min, cw-min, feature-min; spsa-DxT, local-search,
    local-search-linf; autoattack, autoattack-rand, quick (the first two parts of autoattack); their parts apgd-ce,
    apgd-dlr, apgd-t, fab-t, square, each also as ...-T (T iterations or queries); a+b for the worst of both."""

    epsilon: tuple[Ratio, ...] = field(default=(8 / 255,), kw_only=True)
    """Radius of the Linf ball, on images in [0, 1]; repeat the flag for a sweep."""

    step_size: Ratio = field(default=2 / 255, kw_only=True)
    """Length of a step of gradient attacks; FGSM's is epsilon."""

    samples: int | None = field(default=None, kw_only=True)
    """Evaluate on this many test images, the same share of each class. [default: all]"""

    black_box_samples: int | None = field(default=None, kw_only=True)
    """Attack only this many of the images by SPSA and local search. [default: all]"""

    surrogate: Path | None = field(default=None, kw_only=True)
    """The model that transfer attacks are made on."""

    input_noise: Ratio | None = field(default=None, kw_only=True)
    """Evaluate each model with random signs of this size added to its input (the paper's Adv-Interp*)."""

    masking: bool = field(default=False, kw_only=True)
    """Check for signs of masked gradients too, on at most 100 of the images."""

    dataset: str | None = field(default=None, kw_only=True)
    """Of the test images. [default: the first run's]"""

    data_dir: Path | None = field(default=None, kw_only=True)
    """Where it lies. [default: the first run's, or ./data]"""

    image_column: str | None = field(default=None, kw_only=True)
    """Column of parquet files that holds the images. [default: the first run's, or img or image]"""

    label_column: str | None = field(default=None, kw_only=True)
    """Column of parquet files that holds the labels. [default: the first run's, or label or fine_label]"""

    train_files: str | None = field(default=None, kw_only=True)
    """Pattern of the training files, whose labels are the classes. [default: the first run's, or train*.parquet]"""

    test_files: str | None = field(default=None, kw_only=True)
    """Pattern of the names, or of the ends of the paths, of the test files. [default: the first run's, or test*.parquet
    or, where there is none, validation*.parquet]"""

    cache_dir: Path | None = field(default=None, kw_only=True)
    """Folder that decoded images are kept in. [default: the first run's, what FASTAIT_CACHE names, or one beside the
    images]"""

    image_size: int | None = field(default=None, kw_only=True)
    """Height and width that images are brought to. [default: the first model's, or 32]"""

    model: str | None = field(default=None, kw_only=True)
    """What network the files are of that neither say nor show it: wrn-D-W, wrn-D-W-silu, wrn-D-W-s2, resnet-18,
    preact-resnet-18, preact-resnet-18-v2, timm:NAME, torchvision:NAME, or package.module:function, a function of your
    own, which is called only if you name it here. [default: what the file says, or its weights show]"""

    inputs: str = field(default="auto", kw_only=True)
    """What networks take after normalisation: minus-one-one (our wide ResNets, the authors'), zero-one (RobustBench's
    plain networks), or auto: what the file says, or else what classifies more of 200 test images correctly."""

    mean: Numbers | None = field(default=None, kw_only=True)
    """Of another normalisation, (x - mean) / std of images in [0, 1]: one number or three with commas between, such as
    0.4914,0.4822,0.4465 or 125.3/255,123/255,113.9/255."""

    std: Numbers | None = field(default=None, kw_only=True)
    """The standard deviation that goes with --mean."""

    skip_bad_images: bool | None = field(default=None, kw_only=True)
    """Leave images that are unreadable, too small or of no class out, counted, instead of refusing. [default: as the
    first run does]"""

    seed: int = field(default=0, kw_only=True)
    """Of random starts, targets and black-box attacks."""

    batch_size: int | None = field(default=None, kw_only=True)
    """Images at a time: what a kill can cost; fewer where memory does not suffice. [default: what fits a GPU's memory,
    at most 500, or a CPU's cache]"""

    device: str = field(default="auto", kw_only=True)
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""

    compile: bool = field(default=False, kw_only=True)
    """Attacks search by passes through torch.compile, which costs 10 seconds to some minutes first. The network as it
    is judges what they find."""

    tf32: bool = field(default=False, kw_only=True)
    """Attacks may search in TF32 on a GPU that has it. The network in fp32 judges what they find."""

    deterministic: bool = field(default=False, kw_only=True)
    """Deterministic algorithms on a GPU: slower, and equal from run to run."""

    export: str | None = field(default=None, kw_only=True)
    """robustbench: write each model's weights into --out as RobustBench's class of its network loads them."""

    save_images: bool = field(default=False, kw_only=True)
    """Write the adversarial images of each attack into --out too."""

    out: Path | None = field(default=None, kw_only=True)
    """Folder of eval.json, eval.csv, eval.md and what is needed to go on. [default: evals/DATE-TIME]"""

    def __post_init__(self) -> None:
        """Plain types of what they may be given as; ``check`` says what is none of them."""
        models = (self.models,) if isinstance(self.models, str | os.PathLike) else self.models
        plain: dict[str, Any] = {"models": tuple(map(_path, models)) if isinstance(models, Iterable) else models}
        if isinstance(self.attacks, Iterable) and not isinstance(self.attacks, str):
            plain["attacks"] = ",".join(map(str, self.attacks))
        for names, convert in (
            (_PATHS, _path),
            (_INTEGERS, operator.index),
            (_RATIOS, _number),
            (_LISTS, _numbers),
            (_SWITCHES, bool),
            (("device",), str),
        ):
            for name in names:
                try:
                    if (value := getattr(self, name)) is not None:
                        plain[name] = convert(value)
                except (TypeError, ValueError):
                    pass
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def names(self) -> list[str]:
        """The attacks' names."""
        return [name.strip() for name in self.attacks.split(",") if name.strip()]

    def check(self) -> None:
        """Raise InputError, naming the flag, unless every setting is in its range."""
        from fastait.attacks.columns import parse_all

        if not self.models:
            raise InputError("no model is given; fastait eval RUN... [--attacks pgd20,cw20]")
        self._check_types()
        if not self.names():
            raise InputError("--attacks names none; pgd20,cw20 for example")
        parse_all(self.names())
        if len(set(self.epsilon)) < len(self.epsilon):
            raise InputError(f"--epsilon is given twice: {', '.join(f'{e:.4g}' for e in self.epsilon)}")
        for epsilon in self.epsilon:
            if not 0 < epsilon <= 1:
                raise InputError(f"--epsilon must be in (0, 1] for images in [0, 1] (8/255 is usual), got {epsilon}")
        if not 0 < self.step_size <= 1:
            raise InputError(
                f"--step-size must be in (0, 1] for images in [0, 1] (2/255 is usual), got {self.step_size}"
            )
        if self.input_noise is not None and not 0 <= self.input_noise <= 1:
            raise InputError(f"--input-noise must be in [0, 1] (8/255 is usual), got {self.input_noise}")
        check_ranges(self, _RANGES)
        if self.dataset is not None:
            check_choice("--dataset", self.dataset, DATASETS)
            if self.dataset in IN_PLACE and self.data_dir is None:
                raise InputError(f"--dataset {self.dataset} needs --data-dir DIR with {IN_PLACE[self.dataset]}")
            check_parquet_settings(self.dataset, **parquet_settings(self))
        if self.model is not None:
            parse(self.model)
        if self.export is not None:
            check_choice("--export", self.export, ("robustbench",))

    def _check_types(self) -> None:
        models = self.models if isinstance(self.models, tuple) else (self.models,)
        for model in models:
            if not isinstance(model, Path):
                raise InputError(
                    f"models must be paths of runs or files, got {type(model).__name__}; a network itself is evaluated "
                    "by fastait.evaluate_robustness(model, x, y)"
                )
        kinds: tuple[tuple[tuple[str, ...], type, str], ...] = (
            (_PATHS, Path, "a path"),
            (_INTEGERS, int, "a whole number"),
            (_RATIOS, float, "a number"),
            (_LISTS, tuple, "numbers"),
            (("attacks", "model", "inputs", "dataset", "export", "device"), str, "a text"),
        )
        for names, kind, what in kinds:
            for name in names:
                value = getattr(self, name)
                if value is None and type(self).__dataclass_fields__[name].default is None:
                    continue
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise InputError(f"{flag(name)} must be {what}, got {value!r}")


_RANGES: dict[str, tuple[int, float]] = {
    **dict.fromkeys(("samples", "black_box_samples", "batch_size"), (1, math.inf)),
    "image_size": SIZES,
    "seed": SEEDS,
}

_PATHS = ("surrogate", "data_dir", "cache_dir", "out")
_INTEGERS = ("samples", "black_box_samples", "image_size", "seed", "batch_size")
_RATIOS = ("step_size", "input_noise")
_LISTS = ("epsilon", "mean", "std")
_SWITCHES = ("masking", "compile", "tf32", "deterministic", "save_images")


def _path(value: Any) -> Any:
    """A path with the home folder in the place of ~; what cannot be one as it is."""
    try:
        return Path(os.fsdecode(value)).expanduser()
    except (TypeError, RuntimeError):
        return value
