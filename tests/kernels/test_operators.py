"""The operators against fp64 arithmetic written out, in every dtype and both memory formats."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import BALL_FP32, ELEMENTWISE, REDUCTION

from fastait_kernels import cosine_distance, linf_step, margin_loss

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 3, 17, 5), (4, 3, 32, 32)])
@pytest.mark.parametrize("step_size", [2 / 255, -8 / 255])
def test_linf_step(dtype, memory_format, shape, step_size):
    x, origin = (torch.rand(shape).to(dtype).contiguous(memory_format=memory_format) for _ in range(2))
    grad = torch.randn(shape).to(dtype)
    grad.flatten()[::3] = 0
    out = linf_step(x, grad, origin, step_size, 0.1)
    wide = [t.double() for t in (x, grad, origin)]
    expected = (wide[0] + step_size * wide[1].sign()).clamp(wide[2] - 0.1, wide[2] + 0.1).clamp(0, 1)
    torch.testing.assert_close(out, expected.to(dtype), **ELEMENTWISE[dtype])
    assert out.dtype == dtype
    assert out.stride() == x.stride()


@settings(deadline=None, max_examples=50)
@given(epsilon=st.floats(0, 1), step=st.floats(-2, 2), seed=st.integers(0, 1000))
def test_linf_step_stays_in_the_ball_and_in_range(epsilon, step, seed):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.rand(50, generator=generator) - 1
    origin = torch.rand(50, generator=generator)
    out = linf_step(x, torch.randn(50, generator=generator), origin, step, epsilon)
    assert (out - origin).abs().max() <= epsilon + BALL_FP32
    assert out.min() >= 0
    assert out.max() <= 1


def test_linf_step_takes_a_nan_gradient_for_none():
    x = torch.tensor([0.5])
    assert linf_step(x, torch.tensor([torch.nan]), x, 0.1, 0.2) == 0.5


def test_linf_step_bad_arguments():
    x = torch.rand(4)
    with pytest.raises(ValueError, match="one shape"):
        linf_step(x, torch.rand(3), x, 0.1, 0.1)
    for epsilon in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="epsilon"):
            linf_step(x, x, x, 0.1, epsilon)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 64), (3, 641)])
def test_cosine_distance(dtype, shape):
    a, b = (torch.rand(shape).to(dtype) for _ in range(2))
    wide_a, wide_b = a.double(), b.double()
    cosine = (wide_a * wide_b).sum(1) / (wide_a.norm(dim=1) * wide_b.norm(dim=1))
    out = cosine_distance(a, b)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.double(), (1 - cosine).clamp(min=0), **REDUCTION[torch.float32])


def test_cosine_distance_of_equal_zero_and_bad_features():
    a = torch.rand(1000, 7)
    assert (1 - torch.cosine_similarity(a, a, eps=1e-6)).min() < 0  # by rounding
    assert cosine_distance(a, a).min() == 0
    assert cosine_distance(torch.zeros(1, 3), a[:1, :3]).item() == 1
    with pytest.raises(ValueError, match=r"\[B, D\]"):
        cosine_distance(a, a[:, :3])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 101])
@pytest.mark.parametrize("kappa", [0.0, 50.0])
def test_margin_loss(dtype, classes, kappa):
    logits = (10 * torch.randn(6, classes)).to(dtype)
    y = torch.randint(0, classes, (6,))
    expected = []
    for row, true in zip(logits.double(), y, strict=True):
        other = torch.cat([row[:true], row[true + 1 :]]).max()
        expected.append(-max(float(row[true] - other) + kappa, 0.0))
    expected = torch.tensor(expected, dtype=torch.float64)
    out = margin_loss(logits, y, kappa)
    scale = {"rtol": ELEMENTWISE[dtype]["rtol"], "atol": 60 * ELEMENTWISE[dtype]["atol"]}
    torch.testing.assert_close(out.double(), expected, **scale)


def test_margin_loss_gradient():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: margin_loss(z, torch.tensor([0, 1, 2, 3, 0]), 50.0), logits)
