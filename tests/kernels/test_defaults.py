"""The caller's default dtype and device, and global generators, mean nothing to the operators."""

import contextlib
import importlib
import random as python_random

import numpy as np
import pytest
import torch
from kernel_inputs import DEVICE, random, same
from test_registration import LABELS, public_calls, scalar

MODULES = {
    name: importlib.import_module(f"fastait_kernels.{name}")
    for name in (
        "augment",
        "cosine_distance",
        "interpolated_cross_entropy",
        "linf_step",
        "margin_loss",
        "random_start",
        "soft_cross_entropy",
    )
}


def operators():
    """A call of every public operator in every dtype, with its gradients; the inputs exist before the call."""
    calls = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for function in public_calls(dtype).values():
            x, rows = random((2, 3, 4, 5), dtype, "channels_last"), random((3, 5), dtype, low=-2).requires_grad_()

            def call(function=function, x=x, rows=rows):
                out = function(x, rows)
                grads = torch.autograd.grad(out, rows, torch.ones_like(out)) if out.requires_grad else ()
                return out.detach(), *grads

            calls.append(call)
    return calls


def noise():
    start = MODULES["random_start"]
    return [
        lambda: [start.symmetric_uniform(9, 1, 2)],
        lambda: start.philox(3, 5, 1, 2),
        lambda: [start.unit_noise(9, scalar(3), scalar(4))],
    ]


def launchers():
    """A call of every launcher: in the interpreter where there is no GPU."""
    x, grad, origin = (random((2, 3, 4, 5), torch.float32, seed=i) for i in range(3))
    logits, target = (random((3, 5), torch.float32, seed=i) for i in range(2))
    channels, column = random((3, 1, 1), torch.float32, high=0.1), random((3,), torch.float32)
    images = torch.arange(4 * 6 * 5 * 3, device=DEVICE).to(torch.uint8).view(4, 6, 5, 3)
    shift = torch.ones(3, 2, dtype=torch.int64, device=DEVICE)
    flip, partner, seed, offset = LABELS > 1, LABELS.flip(0), scalar(1), scalar(2)
    batch = random((3, 3, 6, 5), torch.float32, "channels_last")

    def outputs(function, *like):
        def call():
            outs = [torch.zeros_like(t) for t in like]
            function(*outs)
            return outs

        return call

    m = MODULES
    return [
        outputs(lambda out: m["linf_step"].launch(out, x, grad, origin, 0.1, 0.05, 0.0, 1.0, None), x),
        outputs(lambda out, n: m["linf_step"].launch(out, x, grad, origin, 0.1, channels, 0.0, 1.0, n), x, LABELS[:2]),
        outputs(lambda out: m["random_start"].launch(out, x, 0.1, seed, offset), x),
        outputs(lambda out: m["random_start"].launch(out, x, channels, seed, offset), x),
        outputs(lambda *o: m["soft_cross_entropy"].launch_forward(*o, logits, target), column, column),
        outputs(lambda *o: m["soft_cross_entropy"].launch_backward(*o, column, logits, target, column), logits, target),
        outputs(
            lambda *o: m["interpolated_cross_entropy"].launch_forward(*o, logits, LABELS, partner, 0.5), column, column
        ),
        outputs(
            lambda out: m["interpolated_cross_entropy"].launch_backward(
                out, column, logits, LABELS, partner, column, 0.5
            ),
            logits,
        ),
        outputs(lambda *o: m["margin_loss"].launch_forward(*o, logits, LABELS, 50.0), column, LABELS),
        outputs(lambda out: m["margin_loss"].launch_backward(out, column, LABELS, partner), logits),
        outputs(lambda *o: m["cosine_distance"].launch(*o, logits, target), column, logits),
        outputs(lambda out: m["augment"].launch(out, images, LABELS, shift, flip, 1, 0.1, seed, offset), batch),
    ]


@contextlib.contextmanager
def defaults(dtype, device):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


@pytest.mark.parametrize("calls", [operators, noise, launchers])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_defaults_change_nothing(calls, device, dtype):
    made = calls()
    expected = [call() for call in made]
    with defaults(dtype, device):
        got = [call() for call in made]
        assert torch.get_default_dtype() == dtype
    for ours, theirs in zip(got, expected, strict=True):
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
        assert all(a.device.type == DEVICE.type or a.device.type == "cpu" for a in ours)


def test_global_generators_are_left_alone():
    calls = [*operators(), *noise(), *launchers()]
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), python_random.getstate()
    for call in calls:
        call()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert python_random.getstate() == before[2]
