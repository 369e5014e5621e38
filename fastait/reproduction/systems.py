"""The networks that the paper compares, by name, and how each is trained at which scale.

This module is data and imports nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastait.config import TrainConfig
from fastait.methods import METHODS
from fastait.recipes import recipe
from fastait.runtime.errors import InputError
from fastait.runtime.settings import normalise


@dataclass(frozen=True)
class Scale:
    """How much work a reproduction is.

    Attributes:
        name: what ``--scale`` calls it.
        images: test images that are attacked, classes in proportion; all if None.
        black_box_images: the same for black-box attacks.
        attacks: the columns that stand for attacks whose size the scale decides.
        budget: what budgets and step sizes are, in multiples of the paper's.
    """

    name: str
    images: int | None
    black_box_images: int
    attacks: Mapping[str, str]
    budget: float = 1.0

    @property
    def step_size(self) -> float:
        """Of the evaluation's attacks, on images in [0, 1]."""
        return self.budget * 2 / 255


SCALES = {
    scale.name: scale
    for scale in (
        # At 8/255 digits tell nothing: whatever moves images at all keeps more than 90 % under PGD20.
        Scale("small", 200, 40, {"spsa": "spsa-128x20", "local-search": "local-search-30"}, budget=3.0),
        Scale("paper", None, 1000, {"spsa": "spsa-2048x100", "local-search": "local-search"}),
    )
}

SMALL_RECIPE = "digits"
"""What every system is trained by at small scale."""

SMALL_IMAGES = 16
"""Height and width there: digits are 8x8 scans, and a quarter of the recipe's pixels is a quarter of the time."""

FASTAT = "cifar10-fastat"
"""The recipe of the FastAT benchmark."""

FASTAT_SMALL = {"ema": 0.99, "val_fraction": 0.1}
"""At small scale, where a run has some 250 steps and 1,442 images."""

FASTAT_KEPT = ("schedule", "weight_decay", "label_smoothing", "penalty", "attack_steps", "step_size")
"""What is the recipe's at small scale too."""

GLANCE = 100
"""Test images of a run's own evaluation; the tables' comes after it and is the one that counts."""


@dataclass(frozen=True)
class DataSize:
    """What a data set's cost depends on."""

    classes: int
    train: int
    test: int


DATA_SIZES = {
    "digits": DataSize(10, 1442, 355),
    "cifar10": DataSize(10, 50_000, 10_000),
    "cifar100": DataSize(100, 50_000, 10_000),
    "svhn": DataSize(10, 73_257, 26_032),
}
"""Known without loading them, for an estimate of costs."""


@dataclass(frozen=True)
class System:
    """One trained network of the paper.

    Attributes:
        recipe: whose settings it has at the paper's scale.
        method: of ``fastait.methods.METHODS``.
        changes: settings that differ from the recipe's, at either scale.
        session: 1 for "a different training session": another seed.
        weights: ``last`` or ``best``: which of the run's.
    """

    recipe: str
    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    session: int = 0
    weights: str = "last"

    def settings(self, scale: Scale) -> tuple[str, dict[str, Any]]:
        """The recipe's name and the settings that differ from it and its method's."""
        if scale.name != "small":
            return self.recipe, dict(self.changes)
        if self.recipe != FASTAT:
            return SMALL_RECIPE, dict(self.changes)
        published = recipe(FASTAT, method=self.method)
        kept = {name: getattr(published, name) for name in FASTAT_KEPT}
        return SMALL_RECIPE, {**kept, **FASTAT_SMALL, **self.changes}

    def run_name(self, scale: Scale) -> str:
        """What its run folder is called: systems of one name are one run."""
        name = self.recipe
        if scale.name == "small":
            name = SMALL_RECIPE + ("-fastat" if self.recipe == FASTAT else "")
        session = ["second"] if self.session else []
        return "-".join([name, self.method, *(f"{key}={value:g}" for key, value in self.changes.items()), *session])


FAST = ("fgsm-rs", "n-fgsm", "grad-align", "nu-at", "madry", "adv-interp")
"""The methods that are trained by the FastAT benchmark's recipe."""

COMPARED = ("natural", "madry", "bilateral", "feature-scatter", "adv-interp")
"""The methods of tables 1 and 4."""

SYSTEMS: dict[str, System] = {
    **{method: System("cifar10", method) for method in COMPARED},
    # Table 6: Adv-Interp', "trained in a different training session".
    "adv-interp-second": System("cifar10", "adv-interp", session=1),
    **{f"cifar100-{method}": System("cifar100", method) for method in COMPARED},
    **{f"svhn-{method}": System("svhn", method) for method in COMPARED},
    # Tables 5 and 8.
    **{
        method: System("cifar10", method)
        for method in (
            *("image-org", "image-mixup", "image-cls", "label-org", "label-mixup", "label-smooth"),
            *("mixup", "manifold-mixup", "iat-mixup", "iat-manifold-mixup", "uat"),
        )
    },
    # Section A.6; epsilon_y 0 is label-org and 0.5 is adv-interp.
    **{
        f"epsilon_y={value:g}": System("cifar10", "adv-interp", {"epsilon_y": value})
        for value in (0.1, 0.2, 0.3, 0.4, 0.6, 0.7)
    },
    # The FastAT benchmark, last and best weights of one run.
    **{
        f"fastat-{method}{end}": System(FASTAT, method, weights=weights)
        for method in FAST
        for end, weights in (("", "last"), ("-best", "best"))
    },
}


@dataclass(frozen=True)
class Choices:
    """What the user decides of a reproduction.

    Attributes:
        scale: how much work it is.
        out: where everything is written.
        data_dir: where the data sets of the paper's scale lie.
        unlabeled: a folder of images without labels, for UAT.
        device, amp, dali: as in ``TrainConfig``.
        seeds: of training and evaluation: every figure is made by each.
        model: another network than the scale's, as in ``TrainConfig``.

    Raises:
        InputError: one is not of its type, or there is no seed; paths may be strings, numbers numpy's.
    """

    scale: Scale
    out: Path
    data_dir: Path | None = None
    unlabeled: Path | None = None
    device: str = "auto"
    amp: bool = False
    dali: bool = False
    seeds: tuple[int, ...] = (0,)
    model: str | None = None

    def __post_init__(self) -> None:
        normalise(self)
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds must be different whole numbers >= 0, got {list(self.seeds)}")

    @property
    def seed(self) -> int:
        """The first one."""
        return self.seeds[0]

    def each_seed(self) -> list["Choices"]:
        """The same choices with each of the seeds alone."""
        return [replace(self, seeds=(seed,)) for seed in self.seeds]

    @property
    def folder(self) -> Path:
        """Of this scale's tables, figures, runs and outcomes."""
        return self.out / self.scale.name

    @property
    def step_size(self) -> float:
        """Of the evaluation's attacks, on images in [0, 1]."""
        return self.scale.step_size

    def run_name(self, system: str) -> str:
        """What the run of a system and the first seed is called: systems of one name are one run."""
        return SYSTEMS[system].run_name(self.scale) + (f"-seed={self.seed}" if self.seed else "")

    def run(self, system: str) -> Path:
        """The run folder of a system and the first seed."""
        return self.folder / "runs" / self.run_name(system)

    def weights(self, system: str) -> str:
        """Which of its run's weights a system has: a key of ``fastait.checkpoints.folder.WEIGHTS``."""
        return SYSTEMS[system].weights

    def needs_unlabeled(self, system: str) -> bool:
        """Whether a system trains on images without labels too."""
        return METHODS[SYSTEMS[system].method].needs_unlabeled

    def test_images(self, system: str, black_box: bool) -> int:
        """How many test images a system is measured on."""
        wanted = self.scale.black_box_images if black_box else self.scale.images
        test = DATA_SIZES[self.config(system).dataset].test
        return test if wanted is None else min(wanted, test)

    def images_wanted(self, system: str, black_box: bool) -> dict[str, Any]:
        """What identifies them in a journal, besides the data set's name: the paper's sets are what they are."""
        return {"n": self.test_images(system, black_box)}

    def classes(self, system: str) -> int:
        """How many classes a system tells apart."""
        return DATA_SIZES[self.config(system).dataset].classes

    def training_images(self, system: str) -> int:
        """How many images a system is trained on."""
        return DATA_SIZES[self.config(system).dataset].train

    def may_call(self, model: str) -> bool:
        """Whether the user names this network now, so that a function of their own may be called."""
        return self.model == model

    @property
    def again(self) -> str:
        """What goes on with the work."""
        return f"the same command and --out {self.out}"

    def decides(self) -> dict[str, Any]:
        """What must be the same for all that work in one folder, as plain values."""
        return {"scale": self.scale.name, "model": self.model, "amp": self.amp}

    @property
    def unlabeled_folder(self) -> Path | None:
        """What UAT is trained on besides; at small scale the training images, if the user names none."""
        return self.unlabeled or (self.folder / "unlabeled" if self.scale.name == "small" else None)

    def lacks_images(self, system: str) -> bool:
        """Whether the system cannot be trained for want of unlabelled images."""
        return self.needs_unlabeled(system) and self.unlabeled_folder is None

    def config(self, system: str) -> TrainConfig:
        """How a system is trained.

        Raises:
            InputError: the system lacks images.
        """
        chosen = SYSTEMS[system]
        name, changes = chosen.settings(self.scale)
        if self.lacks_images(system):
            raise InputError(f"{system} needs images without labels: --unlabeled DIR")
        if name != SMALL_RECIPE:
            changes["data_dir"] = self.data_dir
        if self.needs_unlabeled(system):
            changes["unlabeled"] = self.unlabeled_folder
        published, budget = recipe(name, method=chosen.method, **changes), self.scale.budget
        return replace(
            published,
            epsilon=budget * published.epsilon,
            step_size=published.step_size and budget * published.step_size,
            model=self.model or published.model,
            image_size=SMALL_IMAGES if self.scale.name == "small" else published.image_size,
            seed=self.seed + chosen.session,
            device=self.device,
            amp=self.amp,
            dali=self.dali,
            eval_samples=GLANCE,
            out=self.run(system),
        ).resolved()
