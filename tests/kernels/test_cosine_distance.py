"""The cosine distance and its gradient against fp64 autograd on its definition."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, DTYPES, needs_loops, random
from tolerances import FP16_ONCE, ROW

from fastait_kernels import cosine_distance

op = importlib.import_module("fastait_kernels.cosine_distance")


def oracle(features, target):
    a, b = features.double().requires_grad_(), target.double()
    distance = (1 - torch.cosine_similarity(a, b, dim=1, eps=1e-6)).clamp(min=0)
    return distance.detach(), *torch.autograd.grad(distance.sum(), a)


def kernel(features, target):
    distance = torch.full((len(features),), torch.nan, device=DEVICE)
    grad = torch.full(features.shape, torch.nan, device=DEVICE)
    op.launch(distance, grad, features, target)
    alone = torch.full_like(distance, torch.nan)
    op.launch(alone, None, features, target)
    torch.testing.assert_close(alone, distance, equal_nan=True, **ROW[torch.float32])
    return distance, grad


def torch_reference(features, target):
    return op.reference(features, target, True)


@settings(deadline=None, max_examples=30)
@given(
    run=st.sampled_from([kernel, torch_reference]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([(3, 7), (5, 64), (2, 641), (2, 4096), (0, 5)]),
    padded=st.booleans(),
    low=st.sampled_from([0.0, -1.0]),
    seed=st.integers(0, 99),
)
def test_against_fp64(run, dtype, size, padded, low, seed):
    compare(run, dtype, size, padded, low, seed)


@needs_loops
@settings(deadline=None, max_examples=10)
@given(
    run=st.sampled_from([kernel, torch_reference]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([(2, 4097), (1, 9000)]),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_long_rows_against_fp64(run, dtype, size, padded, seed):
    compare(run, dtype, size, padded, -1.0, seed)


def compare(run, dtype, size, padded, low, seed):
    extra = 5 if padded else 0
    features, target = (
        random((size[0], size[1] + extra), dtype, low=low, seed=seed + i)[:, : size[1]] for i in range(2)
    )
    (distance, grad), (expected, expected_grad) = run(features, target), oracle(features, target)
    torch.testing.assert_close(distance.double(), expected, **ROW[torch.float32])
    scale = features.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(grad.double() * scale, expected_grad * scale, **ROW[torch.float32])


@pytest.mark.parametrize("run", [kernel, torch_reference])
def test_equal_opposite_and_zero_features(run):
    a = random((200, 7), torch.float32, low=-1)
    assert run(a, a)[0].min() == 0  # rounding makes some of them negative before the clamp
    assert run(a, a)[0].max() < 1e-6
    torch.testing.assert_close(run(a, -a)[0], torch.full((200,), 2.0, device=DEVICE))
    zero = torch.zeros(1, 7, device=DEVICE)
    distance, grad = run(zero, a[:1])
    assert distance.item() == 1
    torch.testing.assert_close(grad.double(), oracle(zero, a[:1])[1])
    assert run(a[:1], zero)[0].item() == 1


@pytest.mark.parametrize("run", [kernel, torch_reference])
def test_features_shorter_than_the_least_norm(run):
    a, b = 1e-8 * random((4, 7), torch.float32, low=-1), random((4, 7), torch.float32, low=-1, seed=1)
    distance, grad = run(a, b)
    expected, expected_grad = oracle(a, b)
    torch.testing.assert_close(distance.double(), expected, **ROW[torch.float32])
    torch.testing.assert_close(1e-6 * grad.double(), 1e-6 * expected_grad, **ROW[torch.float32])


@pytest.mark.parametrize("run", [kernel, torch_reference])
def test_nan_stays_nan(run):
    a = random((2, 7), torch.float32)
    a[1, 3] = torch.nan
    distance, grad = run(a, a.nan_to_num())
    assert distance.isnan().tolist() == [False, True]
    assert grad[1].isnan().any()


def test_rows_of_different_strides():
    a, b = random((3, 12), torch.float32), random((3, 8), torch.float32, seed=1)
    torch.testing.assert_close(cosine_distance(a[:, :8], b), cosine_distance(a[:, :8].contiguous(), b))


def test_fp16_gradients_are_rounded_after_the_loss_scale():
    a, b = (random((2, 8192), torch.float16, high=100, seed=i) for i in range(2))
    a.requires_grad_()
    (grad,) = torch.autograd.grad(65536 * cosine_distance(a, b), a)
    expected = oracle(a.detach(), b)[1] * 65536 / 2
    torch.testing.assert_close(grad.double(), expected, **FP16_ONCE)


def test_second_derivative_is_refused():
    a, b = random((2, 5), torch.float32).requires_grad_(), random((2, 5), torch.float32, seed=1)
    (grad,) = torch.autograd.grad(cosine_distance(a, b), a, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(grad.pow(2).sum(), a)


def test_reductions():
    a, b = random((4, 9), torch.float32), random((4, 9), torch.float32, seed=1)
    each = cosine_distance(a, b, "none")
    torch.testing.assert_close(cosine_distance(a, b), each.mean())
    torch.testing.assert_close(cosine_distance(a, b, "sum"), each.sum())


def test_bad_arguments():
    a = torch.zeros(2, 3)
    for arguments, error, message in (
        ((a, a[:1]), ValueError, r"target_features must have features's shape \(2, 3\), got \(1, 3\)"),
        ((a, a.double()), TypeError, "target_features must have features's dtype"),
        ((a.long(), a), TypeError, "features must be floating-point"),
        ((a[0], a[0]), ValueError, "features must be two-dimensional"),
        ((a, a.clone().requires_grad_()), ValueError, "target_features must not require grad"),
    ):
        with pytest.raises(error, match=message):
            cosine_distance(*arguments)
