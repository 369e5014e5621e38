"""The margin loss and its gradient against its definition written out."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, DTYPES, random
from tolerances import ROW

from fastait_kernels import margin_loss

op = importlib.import_module("fastait_kernels.margin_loss")


def oracle(logits, y, kappa, upstream):
    losses, grads = [], []
    for z, true, up in zip(logits.double(), y.tolist(), upstream.double(), strict=True):
        rival = max((j for j in range(len(z)) if j != true), key=lambda j: (float(z[j]), -j))
        margin = float(z[true] - z[rival]) + kappa
        losses.append(-max(margin, 0.0))
        grad = torch.zeros(len(z), dtype=torch.float64)
        if margin >= 0:
            grad[true], grad[rival] = -up, up
        grads.append(grad)
    return torch.tensor(losses, dtype=torch.float64), torch.stack(grads)


def kernel(logits, y, kappa, upstream):
    loss = torch.full((len(logits),), torch.nan, device=DEVICE)
    rival = torch.full((len(logits),), -7, device=DEVICE)
    op.launch_forward(loss, rival, logits, y, kappa)
    grad = torch.full(logits.shape, torch.nan, dtype=logits.dtype, device=DEVICE)
    op.launch_backward(grad, upstream, y, rival)
    return loss, grad


def torch_reference(logits, y, kappa, upstream):
    loss, rival = op.reference_forward(logits, y, kappa)
    return loss, op.reference_backward(upstream, y, rival, logits)


@settings(deadline=None, max_examples=60)
@given(
    run=st.sampled_from([kernel, torch_reference]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([(1, 2), (5, 3), (130, 10), (2, 101)]),
    kappa=st.sampled_from([0.0, 0.5, 50.0]),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
def test_against_the_definition(run, dtype, size, kappa, ties, seed):
    logits = random(size, dtype, low=-4, high=4, seed=seed)
    logits = logits.round() if ties else logits
    y = torch.randint(0, size[1], (size[0],), generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    upstream = random((size[0],), torch.float32, low=-1, seed=seed + 1)
    (loss, grad), (expected_loss, expected_grad) = run(logits, y, kappa, upstream), oracle(logits, y, kappa, upstream)
    torch.testing.assert_close(loss.double().cpu(), expected_loss, **ROW[torch.float32])
    torch.testing.assert_close(grad.double().cpu(), expected_grad, **ROW[dtype])


@pytest.mark.parametrize("run", [kernel, torch_reference])
def test_special_values(run):
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[0, -inf, -inf], [-inf, 0, 1], [nan, 0, 1], [0, nan, 1], [inf, 0, 1]], device=DEVICE)
    y = torch.zeros(5, dtype=torch.int64, device=DEVICE)
    loss, grad = run(logits, y, 2.0, torch.ones(5, device=DEVICE))
    assert loss.tolist()[:2] == [-inf, 0]
    assert loss[2:4].isnan().all()
    assert loss[4] == -inf
    assert grad.tolist() == [[-1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [-1, 0, 1]]


def test_label_out_of_range_is_nan_in_the_kernel_and_an_error_on_the_cpu():
    logits, y = random((3, 4), torch.float32), torch.tensor([0, 4, -1], device=DEVICE)
    loss, grad = kernel(logits, y, 50.0, torch.ones(3, device=DEVICE))
    assert loss.isnan().tolist() == [False, True, True]
    assert (grad[1:] == 0).all()
    loss, rival = op.reference_forward(logits, y, 50.0)
    assert loss.isnan().tolist() == [False, True, True]
    assert (op.reference_backward(torch.ones(3, device=DEVICE), y, rival, logits)[1:] == 0).all()
    with pytest.raises(ValueError, match=r"y must be in \[0, 4\), the number of classes, got -1"):
        margin_loss(logits.cpu(), y.cpu())


def test_reductions_and_empty():
    logits, y = random((6, 10), torch.float32), torch.arange(6, device=DEVICE)
    each = margin_loss(logits, y, reduction="none")
    torch.testing.assert_close(margin_loss(logits, y), each.mean())
    torch.testing.assert_close(margin_loss(logits, y, reduction="sum"), each.sum())
    assert margin_loss(logits[:0], y[:0], reduction="sum") == 0


def test_bad_arguments():
    logits, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    for arguments, error, message in (
        ((logits.long(), y), TypeError, "logits must be floating-point"),
        ((logits[0], y), ValueError, "logits must be two-dimensional"),
        ((logits, y.float()), TypeError, "y must be int64"),
        ((logits, y[:1]), ValueError, r"y must have shape \(2,\), got \(1,\)"),
        ((logits[:, :1], y), ValueError, "at least two classes"),
    ):
        with pytest.raises(error, match=message):
            margin_loss(*arguments)
