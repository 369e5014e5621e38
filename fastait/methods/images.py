"""Ways to move a batch of images. Each is an ``ImagePart``; ``fastait.methods.METHODS`` names them."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastait.attacks import Noise, ascend, cross_entropy, frozen, input_gradient, parts, sign_step
from fastait.methods import Settings
from fastait.methods.alignment import misalignment
from fastait.methods.nuclear import nuclear_norm, penalty_now
from fastait.methods.published import N_FGSM_NOISE
from fastait.methods.sample import FeatureFn, Partner, Sample, reversed_batch
from fastait.methods.transport import cosine_costs, sinkhorn
from fastait_kernels import cosine_distance, soft_cross_entropy


class Moved(NamedTuple):
    """What an image part makes of a sample.

    Attributes:
        images: like the sample's ``x``, detached.
        scores: float [B, K], the frozen model's logits of ``x``, where the part needed them; None else.
        penalty: a scalar that the loss has besides, differentiable in the network's parameters; None for none.
    """

    images: Tensor
    scores: Tensor | None = None
    penalty: Tensor | None = None


ImagePart = Callable[[nn.Module, Sample, Settings], Moved]

START_DEVIATION = 0.001
"""Of the normal starts of ``divergence``, whose gradient is zero at the image itself, and of ``pgd_near`` (the releases
of TRADES and MART)."""


def clean(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x: the images as they are."""
    return Moved(sample.x)


def pgd(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, up the classification loss from a random start (Madry et al., 2018)."""
    start = sample.noise.start(sample.x, settings.epsilon)
    return Moved(_ascend(model, sample, settings, sample.y, start))


def pgd_near(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, up the classification loss from a normal start near x (Wang et al., 2020)."""
    start = sample.noise.normal(sample.x, START_DEVIATION)
    return Moved(_ascend(model, sample, settings, sample.y, start))


def fgsm_rs(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, up the classification loss from a random start in [0, 1] (Wong et al., 2020).

    A step of 1.25 epsilon; from most starts it ends on the ball's surface, which it is clipped to. As in the release,
    the start is clipped to [0, 1] before its gradient is taken, unlike ``pgd``'s.
    """
    start = sample.noise.start(sample.x, settings.epsilon).clamp_(0, 1)
    return Moved(_ascend(model, sample, settings, sample.y, start))


def n_fgsm(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + noise + delta, up the classification loss from noise twice as large as the ball (de Jorge et al., 2022).

    The images are clipped to [0, 1] before and after the step, as in the release, and never to the ball: they are up to
    three epsilons from x.
    """
    start = sample.noise.start(sample.x, N_FGSM_NOISE * settings.epsilon).clamp_(0, 1)
    return Moved(_ascend(model, sample, replace(settings, epsilon=1.0), sample.y, start))


def fgsm_aligned(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, up the classification loss from x, to whose gradient those around x are aligned.

    The loss has lambda (1 - cos) of the gradients at x and at a random point of the ball besides, which is not clipped
    to [0, 1] (Andriushchenko & Flammarion, 2020). As in the release, the one at x, which the attack takes, is a
    constant, and images without a gradient do not count. Both are taken in eval mode here.
    """
    gradient = _gradient(model, sample, settings)
    moved = sign_step(sample.x, gradient, sample.x, settings.step_size, settings.epsilon, sample.counts)
    if settings.steps > 1:
        moved = _ascend(model, sample, replace(settings, steps=settings.steps - 1), sample.y, moved)
    around = sample.noise.start(sample.x, settings.epsilon)
    network = model if sample.network is None else sample.network
    return Moved(moved, penalty=settings.penalty * misalignment(network, around, sample.y, gradient))


def up_nuclear(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, up the classification loss and, in every other step, the nuclear norm of the batch's change in logits.

    From noise of epsilon / 2 in each pixel, up or down, clipped to [0, 1] (Sriramanan et al., 2021). Steps alternate by
    their number, odd ones have the norm, which the release counts anew in each epoch. The whole batch is attacked
    together, its difference from the logits of x, which count as constants, in eval mode both.
    """
    assert sample.number is not None
    x, y = sample.x, sample.y
    noise = torch.copysign(torch.full_like(x, settings.epsilon / 2), sample.noise.start(torch.zeros_like(x), 1.0))
    moved = (x + noise).clamp_(0, 1)
    weight = penalty_now(sample.number, settings) * (sample.number[0] % 2)
    with frozen(model):
        scores = _scores(model, sample, settings)

        def rise(leaf: Tensor) -> Tensor:
            logits = model(leaf)
            return cross_entropy(logits, y).sum() + weight * nuclear_norm(logits - scores)

        for _ in range(settings.steps):
            grad = input_gradient(rise, moved)
            moved = sign_step(moved, grad, x, settings.step_size, settings.epsilon, sample.counts)
    return Moved(moved)


def most_confusing(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, down the classification loss of the most confusing class, from a random start (Wang & Zhang, 2019).

    That class is the likeliest one of the clean image that is not its own.
    """
    scores = _scores(model, sample, settings)
    target = scores.masked_fill(F.one_hot(sample.y, settings.num_classes).bool(), -torch.inf).argmax(dim=1)
    start = sample.noise.start(sample.x, settings.epsilon)

    def descent(logits: Tensor, target: Tensor) -> Tensor:
        return -F.cross_entropy(logits, target, reduction="none")

    return Moved(_ascend(model, sample, settings, target, start, descent), scores)


def divergence(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, up the KL divergence from the predictions on x, from a normal start near x (Zhang et al., 2019).

    So near to x the divergence hardly differs from zero: in half precision the first step's signs are little better
    than chance. Measured on digits, WRN-10-1 in bf16: 58 % of them are fp32's, and after seven steps the divergences
    are equal. A single step should be taken in fp32.
    """
    scores = _scores(model, sample, settings)
    predictions = F.softmax(scores, dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))
    start = sample.noise.normal(sample.x, START_DEVIATION)

    def rise(logits: Tensor, predictions: Tensor) -> Tensor:
        # The predictions' entropy is a constant here.
        return soft_cross_entropy(logits.contiguous(), predictions, reduction="none")

    return Moved(_ascend(model, sample, settings, predictions, start, rise), scores)


def feature_scatter(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, up the optimal-transport distance from the batch's logits, from a random start (Zhang & Wang, 2019).

    The distance is between the whole batch as it is and as it is moved; the transport plan counts as a constant.
    """
    moved = sample.noise.start(sample.x, settings.epsilon)
    with frozen(model):
        scores = _scores(model, sample, settings)

        def distance(leaf: Tensor) -> Tensor:
            logits = model(leaf)
            with torch.autocast(leaf.device.type, enabled=False):
                costs = cosine_costs(scores, logits)
                return (sinkhorn(costs.detach()) * costs).sum() * len(leaf)

        for _ in range(settings.steps):
            grad = input_gradient(distance, moved)
            moved = sign_step(moved, grad, sample.x, settings.step_size, settings.epsilon, sample.counts)
    return Moved(moved)


def pixel_interpolation(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """(1 - eps) x + eps x': mixup in pixels (equation 19), with eps on images in [0, 1].

    The paper has eps = 8 on images in [0, 255], where the equation would leave the range of pixels; 8/255 on images in
    [0, 1] is the same ball, which the result is always in.
    """
    return Moved(torch.lerp(sample.x, sample.partner(sample.x), settings.epsilon))


def adversarial_interpolation(model: nn.Module, sample: Sample, settings: Settings) -> Moved:
    """x + delta, down the distance to the partner's features, from a random start (Algorithm 1)."""
    assert sample.features is not None
    images = interpolate(
        model,
        sample.features,
        sample.x,
        epsilon=settings.epsilon,
        step_size=settings.step_size,
        steps=settings.steps,
        noise=sample.noise,
        partner=sample.partner,
        distance=DISTANCES[settings.distance],
        noisy_partners=settings.partner_features == "noisy",
        at_a_time=settings.at_a_time,
        counts=sample.counts,
    )
    return Moved(images)


def cosine(features: Tensor, target: Tensor) -> Tensor:
    """The sum over the batch of 1 - cos, the paper's choice. Not its mean: only the gradient's sign counts."""
    return cosine_distance(features, target, reduction="sum")


def euclidean(features: Tensor, target: Tensor) -> Tensor:
    """The sum over the batch of squared distances (equation 8)."""
    wide = torch.promote_types(features.dtype, torch.float32)
    return (features.to(wide) - target.to(wide)).square().sum()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine, "euclidean": euclidean}
"""Of features [B, D] to their targets, by the names of ``Settings.distance``."""


def interpolate(
    model: nn.Module,
    feature_fn: FeatureFn,
    x: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    noise: Noise,
    partner: Partner = reversed_batch,
    distance: Callable[[Tensor, Tensor], Tensor] = cosine,
    noisy_partners: bool = False,
    at_a_time: int | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """The image half of Algorithm 1 in the arithmetic it needs: 1 + 2 steps passes forward or backward, no more.

    The partners' features are computed once and without a graph, the images' gradients with the model in eval mode
    and its parameters frozen. Arguments and result are those of ``fastait.adversarial_interpolation``.

    Args:
        noisy_partners: take the partners' features from the images' own pass instead, noise and all, anew in each step:
            one pass less, and not what the paper says. The whole batch is then attacked together. An image that is its
            own partner is at its target then, and its gradient's signs are those of rounding.
    """
    x = x.detach()
    start = noise.start(x, epsilon)
    with frozen(model):
        if noisy_partners:
            for _ in range(steps):
                grad = input_gradient(lambda leaf: _to_each_other(feature_fn(leaf), partner, distance), start)
                start = sign_step(start, grad, x, -step_size, epsilon, counts)
            return start
        partners = partner(x)
        for part in parts(len(x), at_a_time):
            moved, origin = start[part], x[part]
            with torch.no_grad():
                target = feature_fn(partners[part]).flatten(1)

            def to_target(leaf: Tensor, target: Tensor = target) -> Tensor:
                return distance(feature_fn(leaf).flatten(1), target)

            for _ in range(steps):
                grad = input_gradient(to_target, moved)
                moved = sign_step(moved, grad, origin, -step_size, epsilon, counts)
            if len(moved) == len(x):
                return moved
            start[part] = moved
    return start


def _to_each_other(features: Tensor, partner: Partner, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    features = features.flatten(1)
    return distance(features, partner(features.detach()))


def _scores(model: nn.Module, sample: Sample, settings: Settings) -> Tensor:
    with frozen(model), torch.no_grad():
        return torch.cat([model(sample.x[part]) for part in parts(len(sample.x), settings.at_a_time)])


def _gradient(model: nn.Module, sample: Sample, settings: Settings) -> Tensor:
    """Of the classification loss at x, each image's up to a positive factor."""
    found = []
    with frozen(model):
        for part in parts(len(sample.x), settings.at_a_time):
            y = sample.y[part]
            found.append(input_gradient(lambda leaf, y=y: cross_entropy(model(leaf), y).sum(), sample.x[part]))  # type: ignore
    return found[0] if len(found) == 1 else torch.cat(found)


def _ascend(
    model: nn.Module,
    sample: Sample,
    settings: Settings,
    target: Tensor,
    start: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    return ascend(
        model,
        sample.x,
        target,
        start,
        epsilon=settings.epsilon,
        step_size=settings.step_size,
        steps=settings.steps,
        loss=loss,
        at_a_time=settings.at_a_time,
        counts=sample.counts,
    )
