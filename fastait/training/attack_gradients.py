"""What an epoch's attack had to go by: its input gradients, counted."""


def gradient_shares(totals: dict[str, float | int]) -> dict[str, float]:
    """Zero and NaN input gradients of the attack in percent; nothing for a method that computes none."""
    if not totals["gradients"]:
        return {}
    return {name: round(100 * totals[name] / totals["gradients"], 4) for name in ("zero_gradients", "nan_gradients")}


def without_gradients(totals: dict[str, float | int], epoch: int) -> str | None:
    """A warning, if every input gradient of ``epoch``, counted from 1, was zero or NaN: no attack follows those."""
    zero, nan, computed = (int(totals[name]) for name in ("zero_gradients", "nan_gradients", "gradients"))
    if not computed or zero + nan < computed:
        return None
    what = "zero" if not nan else "NaN" if not zero else "zero or NaN"
    return (
        f"warning: the attack had nothing to go by in epoch {epoch}: all {computed} input gradients were {what}, so "
        "the network was trained without adversarial examples; does its output depend on its input, and in fp32?"
    )
