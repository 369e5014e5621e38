"""The operators against the eager torch that they replace, forward and backward, on whatever device there is.

On a CPU the operators are torch too, so a ratio near one there says that the call costs nothing, no more.
"""

import pytest
import torch
import torch.nn.functional as F
from alternating import DEVICE, alternate
from results import record

import fastait_kernels as ops

BATCH, CLASSES, FEATURES, PADDING = 128, 10, 640, 4
ROUNDS = 200


def inputs():
    torch.manual_seed(0)
    x, grad, origin = (
        torch.rand(BATCH, 3, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last) for _ in range(3)
    )
    return {
        "x": x,
        "grad": grad - 0.5,
        "origin": origin,
        "logits": torch.randn(BATCH, CLASSES, device=DEVICE, requires_grad=True),
        "mean": torch.tensor([0.4914, 0.4822, 0.4465], device=DEVICE).view(3, 1, 1),
        "std": torch.tensor([0.2471, 0.2435, 0.2616], device=DEVICE).view(3, 1, 1),
        "target": torch.rand(BATCH, CLASSES, device=DEVICE).softmax(1),
        "y": torch.randint(0, CLASSES, (BATCH,), device=DEVICE),
        "features": torch.rand(BATCH, FEATURES, device=DEVICE, requires_grad=True),
        "target_features": torch.rand(BATCH, FEATURES, device=DEVICE),
        "images": torch.randint(0, 256, (10_000, 32, 32, 3), dtype=torch.uint8, device=DEVICE),
        "index": torch.randint(0, 10_000, (BATCH,), device=DEVICE),
        "shift": torch.randint(0, 2 * PADDING + 1, (BATCH, 2), device=DEVICE),
        "flip": torch.rand(BATCH, device=DEVICE) < 0.5,
        "seed": torch.tensor([1], device=DEVICE),
        "offset": torch.zeros(1, dtype=torch.int64, device=DEVICE),
    }


def both_ways(loss, leaf):
    return torch.autograd.grad(loss, leaf)


def normalised(v):
    """Step size, radius and limits of pixels as fast_adversarial has them: one of each for every channel."""
    return 2 / 255 / v["std"], 8 / 255 / v["std"], (0 - v["mean"]) / v["std"], (1 - v["mean"]) / v["std"]


def eager_per_channel(v):
    step_size, epsilon, lower, upper = v["numbers"]
    moved = v["x"] + step_size * v["grad"].sign()
    moved = torch.min(torch.max(moved, v["origin"] - epsilon), v["origin"] + epsilon)
    return torch.min(torch.max(moved, lower), upper)


def eager_labels(v):
    one_hot = F.one_hot(v["y"], CLASSES).float()
    return 0.5 * one_hot + 0.5 * (1 - one_hot.flip(0)) / (CLASSES - 1)


def eager_margin(v):
    one_hot = F.one_hot(v["y"], CLASSES).float()
    own = (one_hot * v["logits"]).sum(1)
    other = ((1 - one_hot) * v["logits"] - 1e4 * one_hot).max(1).values
    return -torch.clamp(own - other + 50, min=0).mean()


def eager_augment(v):
    padded = F.pad(v["images"][v["index"]].permute(0, 3, 1, 2), [PADDING] * 4)
    rows = torch.arange(32, device=DEVICE) + v["shift"][:, :1]
    columns = torch.arange(32, device=DEVICE) + v["shift"][:, 1:]
    columns = torch.where(v["flip"][:, None], columns.flip(1), columns)
    b = torch.arange(BATCH, device=DEVICE)[:, None, None]
    return padded[b, :, rows[:, :, None], columns[:, None, :]].float() / 255


PAIRS = {
    "linf_step": (
        lambda v: ops.linf_step(v["x"], v["grad"], v["origin"], 2 / 255, 8 / 255),
        lambda v: torch.min(
            torch.max(v["x"] + 2 / 255 * v["grad"].sign(), v["origin"] - 8 / 255), v["origin"] + 8 / 255
        ).clamp(0, 1),
    ),
    "linf_step, per channel": (
        lambda v: ops.linf_step(v["x"], v["grad"], v["origin"], *v["numbers"]),
        eager_per_channel,
    ),
    "random_start": (
        lambda v: ops.random_start(v["x"], 8 / 255, v["seed"], v["offset"]),
        lambda v: v["x"] + torch.empty_like(v["x"]).uniform_(-8 / 255, 8 / 255),
    ),
    "soft_cross_entropy": (
        lambda v: both_ways(ops.soft_cross_entropy(v["logits"], v["target"]), v["logits"]),
        lambda v: both_ways(-(v["target"] * torch.log_softmax(v["logits"], 1)).sum(1).mean(), v["logits"]),
    ),
    "interpolated_cross_entropy": (
        lambda v: both_ways(ops.interpolated_cross_entropy(v["logits"], v["y"], v["y"].flip(0), 0.5), v["logits"]),
        lambda v: both_ways(F.cross_entropy(v["logits"], eager_labels(v)), v["logits"]),
    ),
    "margin_loss": (
        lambda v: both_ways(ops.margin_loss(v["logits"], v["y"]), v["logits"]),
        lambda v: both_ways(eager_margin(v), v["logits"]),
    ),
    "cosine_distance": (
        lambda v: both_ways(ops.cosine_distance(v["features"], v["target_features"]), v["features"]),
        lambda v: both_ways(
            (1 - F.cosine_similarity(v["features"], v["target_features"], eps=1e-6)).clamp(min=0).mean(), v["features"]
        ),
    ),
    "augment": (
        lambda v: ops.augment(v["images"], v["index"], v["shift"], v["flip"], PADDING),
        eager_augment,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_operator_against_eager(benchmark, name):
    values = inputs()
    values["numbers"] = normalised(values)
    operator, eager = PAIRS[name]
    medians = alternate(
        benchmark, {"eager": lambda: eager(values), name: lambda: operator(values)}, rounds=ROUNDS, warmup=20
    )
    if medians is not None:
        record(
            f"operators, forward and backward, batch {BATCH}, fp32",
            medians,
            "eager",
            n=ROUNDS,
            images=BATCH,
            hide=["eager"],
            eager_ms={name: f"{1e3 * medians['eager']:#.3g}"},
        )
