"""Every argument of every operator, given something else: one line that names the argument, or a result."""

import numpy as np
import pytest
import torch
from kernel_inputs import DEVICE

import fastait_kernels as ops

X = torch.zeros(2, 3, 4, 4, device=DEVICE)
LOGITS = torch.zeros(4, 10, device=DEVICE)
CLASSES = torch.arange(4, device=DEVICE)
PIXELS = torch.zeros(5, 4, 4, 3, dtype=torch.uint8, device=DEVICE)
COUNTER = torch.tensor([1], device=DEVICE)
NUMBERS = {"step_size": 0.1, "epsilon": 0.1, "lower": 0.0, "upper": 1.0}

CALLS = {
    "linf_step": {"x": X, "grad": X, "origin": X, **NUMBERS, "out": X, "counts": COUNTER.repeat(2)},
    "linf_step_": {"x": X, "grad": X, "origin": X + 1, **NUMBERS, "counts": COUNTER.repeat(2)},
    "random_start": {"x": X, "epsilon": 0.1, "seed": COUNTER, "offset": COUNTER, "place": 0},
    "soft_cross_entropy": {"logits": LOGITS, "target": LOGITS, "reduction": "mean"},
    "interpolated_cross_entropy": {
        "logits": LOGITS,
        "y": CLASSES,
        "y_partner": CLASSES,
        "epsilon_y": 0.5,
        "reduction": "mean",
    },
    "margin_loss": {"logits": LOGITS, "y": CLASSES, "kappa": 50.0, "reduction": "mean"},
    "cosine_distance": {"features": LOGITS, "target_features": LOGITS, "reduction": "mean"},
    "augment": {
        "images_u8": PIXELS,
        "index": CLASSES[:2],
        "shift": torch.zeros(2, 2, dtype=torch.int64, device=DEVICE),
        "flip": torch.zeros(2, dtype=torch.bool, device=DEVICE),
        "padding": 0,
        "dtype": torch.float32,
        "epsilon": 0.1,
        "seed": COUNTER,
        "offset": COUNTER,
    },
    "SoftCrossEntropy": {"reduction": "mean"},
    "LinfStep": NUMBERS,
}

WRONG = [
    None,
    [1.0],
    np.ones((2, 3, 4, 4)),
    3,
    0.5,
    "x",
    True,
    1j,
    COUNTER[0],
    CLASSES,
    CLASSES.int(),
    LOGITS,
    LOGITS[0],
    LOGITS[:0],
    LOGITS[:, :0],
    LOGITS[:, :1],
    LOGITS.bool(),
    LOGITS.to(torch.float8_e4m3fn),
    LOGITS.to(torch.complex64),
    X.bool(),
    X.double(),
    X.to_sparse(),
    X[..., ::2],
    X.to("meta"),
    LOGITS.to("meta"),
    CLASSES.to("meta"),
]


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in CALLS for argument in CALLS[name]])
def test_one_line_that_names_the_argument(name, argument):
    for wrong in WRONG:
        arguments = {key: v.clone() if isinstance(v, torch.Tensor) else v for key, v in CALLS[name].items()}
        try:
            getattr(ops, name)(**{**arguments, argument: wrong})
        except (TypeError, ValueError) as error:
            message = str(error)
            assert message.startswith(tuple(CALLS[name])), message
            assert "\n" not in message
            assert len(message) < 300


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.soft_cross_entropy(LOGITS, CLASSES),
            TypeError,
            r"target must be floating-point \(soft labels \[B, K\]\), got torch.int64 \[4\]: classes are for "
            r"F.cross_entropy or interpolated_cross_entropy, or F.one_hot\(target, 10\).float\(\)",
        ),
        (lambda: ops.margin_loss(LOGITS, LOGITS), TypeError, "soft or one-hot labels are for soft_cross_entropy"),
        (lambda: ops.margin_loss(LOGITS, CLASSES.int()), TypeError, r"got torch.int32 \(4,\); y.long\(\) converts"),
        (
            lambda: ops.margin_loss(LOGITS.long(), CLASSES),
            TypeError,
            r"floating-point \(logits \[B, K\]\)",
        ),
        (lambda: ops.cosine_distance(LOGITS.long(), LOGITS), TypeError, r"floating-point \(features \[B, D\]\)"),
        (lambda: ops.linf_step(X.byte(), X, X, 0.1, 0.1), TypeError, r"x must be floating-point \(images, "),
        (
            lambda: ops.linf_step(X.cpu().numpy(), X, X, 0.1, 0.1),
            TypeError,
            r"numpy.ndarray .*; torch.as_tensor\(x",
        ),
        (
            lambda: ops.random_start(X, 0.1, 1, COUNTER),
            TypeError,
            r"seed must be int64 \[1\].*got 1 \(int\); torch",
        ),
        (lambda: ops.soft_cross_entropy(LOGITS[:, :0], LOGITS[:, :0]), ValueError, "at least one column"),
        (lambda: ops.SoftCrossEntropy("max"), ValueError, "reduction must be one of mean, sum, none, got 'max'"),
        (lambda: ops.margin_loss(LOGITS, CLASSES, None), TypeError, "kappa must be a number, got None"),
        (lambda: ops.linf_step(X, X, X, float("nan"), 0.1), ValueError, "step_size must be a number, got nan"),
        (lambda: ops.linf_step(X, X, X, 0.1, 10**400), ValueError, "epsilon must be a number that a float can be"),
        (lambda: ops.margin_loss(LOGITS, CLASSES, [CLASSES[:, None]]), TypeError, r"got \[tensor\(.* \(list\)$"),
        (lambda: ops.margin_loss(LOGITS, CLASSES, -(10**400)), ValueError, "kappa must be a number that a float can"),
    ],
)
def test_what_would_be_right(call, error, message):
    with pytest.raises(error, match=message):
        call()
