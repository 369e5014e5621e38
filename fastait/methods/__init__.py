"""The paper's table 7 as code: a method is a sum of terms, each a way to move images times a way to move labels.

This module is data and imports nothing heavy. A term's ``images`` and ``labels`` name functions of
``fastait.methods.images`` and ``fastait.methods.labels``.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastait.methods.published import FGSM_RS_STEP

if TYPE_CHECKING:
    from fastait.methods.images import ImagePart
    from fastait.methods.labels import LabelPart

DISTANCES = ("cosine", "euclidean")
PARTNERS = ("reversed", "random", "other-class")
PARTNER_FEATURES = ("clean", "noisy")
PAIRING = ("adversarial_interpolation", "pixel_interpolation", "partner_mixed")
"""The image and label parts that ask who an image's partner is."""

SMOOTHED = ("classes",)
"""The label parts that ``Settings.label_smoothing`` is for."""

PENALISED = ("fgsm_aligned", "misclassified", "nuclear")
"""The image and label parts that ``Settings.penalty`` is for."""


@dataclass(frozen=True)
class Settings:
    """What methods need to know beside the batch.

    Attributes:
        epsilon: radius of the Linf ball on images in [0, 1].
        epsilon_y: the paper's label budget, in [0, 1).
        steps: attack iterations, the paper's L.
        step_size: length of an attack's step, in the units of ``epsilon``.
        num_classes: the paper's C.
        at_a_time: attack no more images than this together; None for the whole batch.
        distance: of ``DISTANCES``, what adversarial interpolation makes small.
        partners: of ``PARTNERS``, which image of the batch each one is paired with.
        partner_features: of ``PARTNER_FEATURES``: from a pass of the clean partners, or from the images' own noisy one.
        label_smoothing: the share of a label that is spread over all classes, where a network is trained on classes.
        penalty: weight of what ``grad-align``, ``mart`` and ``nu-at`` add to their losses.
        training_steps: how many steps the training has, over which ``nu-at``'s weight rises.
        awp: length of the perturbation that the weights are trained under, relative to theirs; 0 for none.
    """

    epsilon: float
    epsilon_y: float
    steps: int
    step_size: float
    num_classes: int
    at_a_time: int | None = None
    distance: str = "cosine"
    partners: str = "reversed"
    partner_features: str = "clean"
    label_smoothing: float = 0.0
    penalty: float = 0.0
    training_steps: int = 1
    awp: float = 0.0


@dataclass(frozen=True)
class Term:
    """A batch that the network is trained on and the loss it is measured by.

    Attributes:
        images: name of the image part.
        labels: name of the label part.
        weight: of the loss in the method's sum.
        unlabeled: whether the images are those of ``--unlabeled``, which have no labels.
        mixing: how each image is mixed with its partner inside the network; not at all if None.
    """

    images: str
    labels: str
    weight: float = 1.0
    unlabeled: bool = False
    mixing: "Mixup | None" = None

    def image_part(self) -> "ImagePart":
        """The function that moves a batch of images."""
        return getattr(importlib.import_module("fastait.methods.images"), self.images)

    def label_part(self) -> "LabelPart":
        """The function that measures the loss against a batch's moved labels."""
        return getattr(importlib.import_module("fastait.methods.labels"), self.labels)

    @property
    def interpolates(self) -> bool:
        """Whether images move towards their partners' features."""
        return self.images == "adversarial_interpolation"

    @property
    def pairs(self) -> bool:
        """Whether it matters who an image's partner is."""
        return self.mixing is not None or self.images in PAIRING or self.labels in PAIRING


@dataclass(frozen=True)
class Mixup:
    """One share for the whole batch, from Beta(alpha, alpha), at one layer, drawn anew in each step.

    Attributes:
        layers: how many places there are to mix at: the input, and the outputs of the first blocks.
        alpha: a whole number.
    """

    layers: int
    alpha: int


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        terms: what it sums.
        source: where it is published.
        step: length of an attack's step where none is given, in epsilons.
        awp: whether it is published with adversarial weight perturbation.
    """

    terms: tuple[Term, ...]
    source: str
    step: float = 1.0
    awp: bool = False

    @property
    def needs_unlabeled(self) -> bool:
        """Whether it trains on images without labels too."""
        return any(term.unlabeled for term in self.terms)

    @property
    def interpolates(self) -> bool:
        """Whether a term moves images towards their partners' features."""
        return any(term.interpolates for term in self.terms)

    @property
    def attacks(self) -> bool:
        """Whether a term moves images by the network's gradients."""
        return any(term.images not in ("clean", "pixel_interpolation") for term in self.terms)

    @property
    def smooths(self) -> bool:
        """Whether a term trains on the classes as they are, whose labels can be smoothed."""
        return any(term.labels in SMOOTHED for term in self.terms)

    @property
    def penalises(self) -> bool:
        """Whether it adds something to its loss that ``Settings.penalty`` is the weight of."""
        return any({term.images, term.labels} & set(PENALISED) for term in self.terms)

    @property
    def differentiates_twice(self) -> bool:
        """Whether it needs second derivatives of the network."""
        return any(term.images == "fgsm_aligned" for term in self.terms)

    @property
    def pairs(self) -> bool:
        """Whether it matters to a term who an image's partner is."""
        return any(term.pairs for term in self.terms)


_INPUT, _MANIFOLD = Mixup(layers=1, alpha=1), Mixup(layers=3, alpha=2)

METHODS: dict[str, Method] = {
    "adv-interp": Method((Term("adversarial_interpolation", "adversarial_interpolation"),), "the paper, Algorithm 1"),
    "natural": Method((Term("clean", "classes"),), "standard training (Krizhevsky et al., 2012)"),
    "madry": Method((Term("pgd", "classes"),), "Madry et al., 2018", awp=True),
    "bilateral": Method((Term("most_confusing", "bilateral"),), "Wang & Zhang, 2019"),
    "feature-scatter": Method((Term("feature_scatter", "smooth"),), "Zhang & Wang, 2019"),
    "image-org": Method((Term("clean", "adversarial_interpolation"),), "the paper, table 5a"),
    "image-mixup": Method((Term("pixel_interpolation", "adversarial_interpolation"),), "the paper, table 5a"),
    "image-cls": Method((Term("pgd", "adversarial_interpolation"),), "the paper, table 5a"),
    "label-org": Method((Term("adversarial_interpolation", "classes"),), "the paper, table 5b"),
    "label-mixup": Method((Term("adversarial_interpolation", "partner_mixed"),), "the paper, table 5b"),
    "label-smooth": Method((Term("adversarial_interpolation", "smooth"),), "the paper, table 5b"),
    "mixup": Method((Term("clean", "mixed", mixing=_INPUT),), "Zhang et al., 2018"),
    "manifold-mixup": Method((Term("clean", "mixed", mixing=_MANIFOLD),), "Verma et al., 2019"),
    "iat-mixup": Method(
        (Term("clean", "mixed", 0.5, mixing=_INPUT), Term("pgd", "mixed", 0.5, mixing=_INPUT)), "Lamb et al., 2019"
    ),
    "iat-manifold-mixup": Method(
        (Term("clean", "mixed", 0.5, mixing=_MANIFOLD), Term("pgd", "mixed", 0.5, mixing=_MANIFOLD)),
        "Lamb et al., 2019",
    ),
    "trades": Method(
        (Term("clean", "classes"), Term("divergence", "clean_predictions", 6.0)), "Zhang et al., 2019", awp=True
    ),
    "mart": Method((Term("clean", "unused"), Term("pgd_near", "misclassified")), "Wang et al., 2020", awp=True),
    "fgsm-rs": Method((Term("fgsm_rs", "classes"),), "Wong et al., 2020", step=FGSM_RS_STEP),
    "n-fgsm": Method((Term("n_fgsm", "classes"),), "de Jorge et al., 2022"),
    "grad-align": Method((Term("fgsm_aligned", "classes"),), "Andriushchenko & Flammarion, 2020"),
    "nu-at": Method((Term("clean", "classes"), Term("up_nuclear", "nuclear")), "Sriramanan et al., 2021"),
    "uat": Method(
        (Term("divergence", "own_predictions", unlabeled=True), Term("pgd", "classes")), "Uesato et al., 2019, UAT-OT"
    ),
}
