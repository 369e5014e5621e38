"""The distance that adversarial interpolation descends in feature space."""

import torch
from torch import Tensor

COSINE_EPSILON = 1e-6


def cosine_distance(features: Tensor, target_features: Tensor) -> Tensor:
    """clamp(1 - cos(features, target_features), min=0) of each sample.

    Args:
        features: float [B, D].
        target_features: float [B, D].

    Returns:
        fp32 [B] (fp64 for fp64 inputs), in [0, 2].

    Raises:
        ValueError: the shapes differ or are not two-dimensional.
    """
    if features.shape != target_features.shape or features.dim() != 2:
        raise ValueError(
            f"features and target_features must both be [B, D], "
            f"got {tuple(features.shape)} and {tuple(target_features.shape)}"
        )
    if features.element_size() < 4:
        features, target_features = features.float(), target_features.float()
    cosine = torch.cosine_similarity(features, target_features, dim=1, eps=COSINE_EPSILON)
    return (1 - cosine).clamp(min=0)
