"""The sign step and its projection: one update of FGSM, PGD and adversarial interpolation."""

from torch import Tensor, add, maximum, minimum, sign


def linf_step(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """clip(clip(x + step_size sign(grad), origin - epsilon, origin + epsilon), lower, upper).

    Args:
        x: float, any shape: the current images.
        grad: like ``x``; only its sign counts, and a NaN counts as zero.
        origin: like ``x``: the centre of the ball, usually the clean images.
        step_size: positive ascends, negative descends; in the units of ``x``.
        epsilon: radius of the ball, >= 0, in the units of ``x``.
        lower, upper: range of valid pixels.

    Returns:
        A new tensor of ``x``'s shape, dtype and memory format. The arithmetic is in fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: shapes differ, or ``epsilon`` is negative or NaN.
    """
    if not (x.shape == grad.shape == origin.shape):
        raise ValueError(
            f"x, grad and origin must have one shape, got {tuple(x.shape)}, {tuple(grad.shape)}, {tuple(origin.shape)}"
        )
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be >= 0, got {epsilon}")
    wide_x, wide_origin = _wide(x), _wide(origin)
    moved = add(wide_x, sign(_wide(grad)), alpha=step_size)
    moved = minimum(maximum(moved, wide_origin - epsilon), wide_origin + epsilon)
    return moved.clamp_(lower, upper).to(x.dtype)


def _wide(t: Tensor) -> Tensor:
    return t if t.element_size() >= 4 else t.float()
