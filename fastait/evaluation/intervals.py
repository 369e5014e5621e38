"""Shares with their confidence intervals."""

import math

Z = 1.959964
"""97.5 % of the normal distribution."""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share, in percent."""
    share, square = correct / n, Z * Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def cell(correct: int, n: int) -> str:
    """Accuracy in percent with its interval."""
    low, high = wilson(correct, n)
    return f"{100 * correct / n:.1f} [{low:.1f}, {high:.1f}]"
