"""Ways to move a batch of labels, each a ``LabelPart``; ``fastait.methods.METHODS`` names them.

A label part is the loss against the moved labels rather than the labels themselves, so that an operator that needs
only their recipe never writes them down.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastait.methods import Settings
from fastait.methods.nuclear import nuclear_norm, penalty_now
from fastait.methods.sample import Sample
from fastait_kernels import interpolated_cross_entropy, soft_cross_entropy

LabelPart = Callable[[Tensor, Sample, Settings], Tensor]
"""(logits [B, K] of the moved images, sample, settings) -> the scalar training loss, a mean over the batch."""

GAMMA = 0.01
"""Of ``bilateral``: keeps the most confusing class's share above zero."""


def classes(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """y: the labels as they are, one-hot.

    With the share s of ``label_smoothing``, (1 - s) y + s / C. That is torch's (Szegedy et al., 2016): the true class
    gets its part of s too, unlike ``smooth``'s.
    """
    return F.cross_entropy(logits.float(), sample.y, label_smoothing=settings.label_smoothing)


def adversarial_interpolation(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """(1 - eps_y) y + eps_y (1 - y') / (C - 1): away from the partner's class (equation 7)."""
    moved = effective_epsilon_y(settings.epsilon_y, settings.steps)
    return interpolated_cross_entropy(logits, sample.y, sample.partner(sample.y), moved)


def smooth(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """(1 - eps_y) y + eps_y (1 - y) / (C - 1): label smoothing (equation 16; the release of Feature-Scatter, 0.5).

    It does not grow with the number of attack steps.
    """
    return interpolated_cross_entropy(logits, sample.y, sample.y, settings.epsilon_y)


def partner_mixed(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """(1 - eps_y) y + eps_y y': towards the partner's class (equation 20), however many attack steps there are."""
    return _between(logits, sample, 1 - settings.epsilon_y)


def mixed(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """lambda y + (1 - lambda) y': in the proportion in which the images are mixed (Zhang et al., 2018)."""
    assert sample.mixing is not None
    return _between(logits, sample, sample.mixing.own)


def bilateral(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """(1 - eps_y) y + eps_y over the other classes, in proportion to v_k - v_MC + gamma (Wang & Zhang, 2019).

    v_k = -log p_k of the image before it was moved, v_MC the least of them: the less a class is confused with the true
    one, the more of the label it gets.
    """
    assert sample.scores is not None
    own = F.one_hot(sample.y, settings.num_classes).bool()
    v = -_log_probabilities(sample.scores)
    above = v - v.masked_fill(own, float("inf")).amin(dim=1, keepdim=True) + GAMMA
    others = above.masked_fill(own, 0)
    target = settings.epsilon_y * others / others.sum(dim=1, keepdim=True)
    return soft_cross_entropy(logits, target.masked_fill(own, 1 - settings.epsilon_y))


def clean_predictions(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """p(x): KL divergence from the predictions on the clean images, through both (TRADES; Zhang et al., 2019)."""
    return _divergence(sample.earlier[0], logits)


def own_predictions(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """p(x): KL divergence from the frozen network's own predictions (UAT with online targets; Uesato et al., 2019)."""
    assert sample.scores is not None
    return _divergence(sample.scores, logits)


def unused(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """none: these images' predictions are for the term after them."""
    return torch.zeros((), dtype=torch.float32, device=logits.device)


def misclassified(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """y, with a margin, and p(x) the more the less x is right: MART's boosted cross-entropy and weighted divergence.

    -log p_y(x~) - log(1.0001 - p_k(x~)), k the likeliest other class, plus beta KL(p(x) || p(x~)) (1 - p_y(x)), means
    over the batch and differentiable in both batches' logits (Wang et al., 2020; 1.0001 is the release's).
    """
    log_clean, log_moved = _log_probabilities(sample.earlier[0]), _log_probabilities(logits)
    clean, y = log_clean.exp(), sample.y[:, None]
    other = log_moved.exp().scatter(1, y, 0).amax(dim=1)
    boosted = log_moved.gather(1, y)[:, 0] + (1.0001 - other).log()
    divergences = (clean * (log_clean - log_moved)).sum(dim=1)
    return (settings.penalty * divergences * (1 - clean.gather(1, y)[:, 0]) - boosted).mean()


def nuclear(logits: Tensor, sample: Sample, settings: Settings) -> Tensor:
    """f(x): lambda times the nuclear norm of the batch's difference in logits, over its size, through both.

    Lambda rises from 0 (Sriramanan et al., 2021). Of a batch that processes share each takes its own part's norm.
    """
    assert sample.number is not None
    weight = penalty_now(sample.number, settings)
    return weight * nuclear_norm(logits - sample.earlier[0]) / len(logits)


def _between(logits: Tensor, sample: Sample, own: Tensor | float) -> Tensor:
    """Cross-entropy against own y + (1 - own) y'."""
    y, partner = (F.one_hot(t, logits.shape[1]).float() for t in (sample.y, sample.partner(sample.y)))
    return soft_cross_entropy(logits, own * y + (1 - own) * partner)


def _divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """Mean over the batch of KL(p || q) of the predictions of two batches of logits [B, K], differentiable in both."""
    log_p = _log_probabilities(clean)
    p = log_p.exp()
    return soft_cross_entropy(moved, p) + (p * log_p).sum(dim=1).mean()


def _log_probabilities(logits: Tensor) -> Tensor:
    """In fp32 at least."""
    return F.log_softmax(logits, dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))


def effective_epsilon_y(epsilon_y: float, steps: int) -> float:
    """How far a label has moved towards its target after ``steps`` iterations: 1 - (1 - epsilon_y)^steps."""
    return 1 - (1 - epsilon_y) ** steps


def interpolate(y: Tensor, partner: Tensor, epsilon_y: float) -> Tensor:
    """Equation 7 written out: (1 - epsilon_y) y + epsilon_y (1 - partner) / (C - 1).

    Args:
        y, partner: float32 [B, C], rows sum to one.
        epsilon_y: in [0, 1].

    Returns:
        float32 [B, C], non-negative, rows sum to one.
    """
    away = (1 - partner) / (y.shape[1] - 1)
    return (1 - epsilon_y) * y + epsilon_y * away
