"""The sign step: kernel and torch against fp64, against each other to the bit, and the ball as stored."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, DTYPES, LAYOUTS, SHAPES, STEP, UNIT, random, same
from tolerances import BALL_FP32, ELEMENTWISE

from fastait_kernels import LinfStep, linf_step, linf_step_

op = importlib.import_module("fastait_kernels.linf_step")


def inputs(shape, dtype, layout="contiguous", seed=0):
    x, origin = (random(shape, dtype, layout, seed=seed + i) for i in range(2))
    grad = random(shape, dtype, layout, -1, 1, seed=seed + 2)
    grad[grad.abs() < 0.2] = 0
    return x, grad, origin


def kernel(x, grad, origin, step_size, epsilon, lower=0.0, upper=1.0, counts=None):
    out = torch.full_like(x, torch.nan)
    op.launch(out, x, grad, origin, step_size, epsilon, lower, upper, counts)
    return out


def torch_reference(x, grad, origin, step_size, epsilon, lower=0.0, upper=1.0, counts=None):
    return op.reference(x, grad, origin, step_size, epsilon, lower, upper, counts)


@pytest.mark.parametrize("run", [kernel, torch_reference])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_fp64(run, dtype, layout, shape):
    if run is kernel and dtype == torch.float64:
        pytest.skip("fp64 is computed by torch")
    x, grad, origin = inputs(shape, dtype, layout)
    for step_size in (2 / 255, -8 / 255, 3.0):
        out = run(x, grad, origin, step_size, 0.1)
        wide = [t.double() for t in (x, grad, origin)]
        expected = (wide[0] + step_size * wide[1].sign()).clamp(wide[2] - 0.1, wide[2] + 0.1).clamp(0, 1)
        torch.testing.assert_close(out.double(), expected, **ELEMENTWISE[dtype])
        assert not x.numel() or out.stride() == x.stride()


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    shape=st.tuples(*[st.integers(0, 9)] * 4),
    step_size=STEP,
    epsilon=UNIT,
    lower=UNIT.map(lambda v: -v),
    seed=st.integers(0, 99),
)
def test_kernel_is_torch_and_stays_in_the_ball_as_stored(dtype, layout, shape, step_size, epsilon, lower, seed):
    x, grad, origin = inputs(shape, dtype, layout, seed)
    out = kernel(x, grad, origin, step_size, epsilon, lower, 1.0)
    assert same(out, torch_reference(x, grad, origin, step_size, epsilon, lower, 1.0))
    if out.numel():
        assert ((out.double() - origin.double()).abs() <= epsilon + BALL_FP32).all()
        assert ((out >= lower) & (out <= 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_16_bit_values_on_the_edge_of_the_ball(dtype):
    """Steps that end on every edge: rounding alone would leave the ball by up to half a unit in the last place."""
    origin = torch.linspace(-0.9, 0.9, 3001).to(dtype).to(DEVICE)
    grad = torch.where(torch.arange(3001) % 2 == 0, 1.0, -1.0).to(dtype).to(DEVICE)
    for run in (kernel, torch_reference):
        out = run(origin, grad, origin, 1.0, 8 / 255, -1.0, 1.0)
        assert (out.double() - origin.double()).abs().max() <= 8 / 255 + BALL_FP32
        naive = (origin.float() + grad.float() * (8 / 255)).to(dtype)
        assert (naive.double() - origin.double()).abs().max() > 8 / 255 + BALL_FP32 or dtype == torch.float32


@pytest.mark.parametrize("run", [kernel, torch_reference])
@pytest.mark.parametrize(("dtype", "ulp"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_ties_round_to_even(run, dtype, ulp):
    x = torch.full((4,), 0.5, dtype=dtype, device=DEVICE)
    for halves, expected in ((1, 0), (3, 2), (5, 2), (7, 4)):
        out = run(x, torch.ones_like(x), x, halves * ulp / 2, 1.0)
        assert (out.double() == 0.5 + expected * ulp).all()


SPECIAL = [0.0, -0.0, 0.5, 1.0, torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_as_in_torch(dtype):
    """Every combination, against the arithmetic written with torch's own functions."""
    x, grad, origin = (
        t.to(dtype).to(DEVICE) for t in torch.cartesian_prod(*[torch.tensor(SPECIAL)] * 3).T.contiguous()
    )
    plain = x.float() + 0.25 * torch.sign(grad.float())
    plain = torch.minimum(torch.maximum(plain, origin.float() - 0.125), origin.float() + 0.125).clamp(0, 1).to(dtype)
    for run in (kernel, torch_reference):
        assert same(run(x, grad, origin, 0.25, 0.125), plain)


@pytest.mark.parametrize("run", [kernel, torch_reference])
@pytest.mark.parametrize("dtype", DTYPES)
def test_counts(run, dtype):
    x, grad, origin = inputs((3, 3, 19, 18), dtype)
    grad.view(-1)[5:12] = torch.nan
    counts = torch.tensor([100, 10], device=DEVICE)
    run(x, grad, origin, 0.1, 0.1, 0.0, 1.0, counts)
    assert counts.tolist() == [100 + int((grad == 0).sum()), 17]


@pytest.mark.parametrize("dtype", DTYPES)
def test_forms(dtype):
    x, grad, origin = inputs((2, 3, 5, 7), dtype, "channels_last")
    expected = linf_step(x, grad, origin, 0.1, 0.05)
    out = torch.empty_like(x)
    assert linf_step(x, grad, origin, 0.1, 0.05, out=out) is out
    assert same(out, expected)
    assert same(LinfStep(0.1, 0.05)(x, grad, origin), expected)
    counts = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    assert linf_step_(x, grad, origin, 0.1, 0.05, counts=counts) is x
    assert same(x, expected)
    assert counts[0] == (grad == 0).sum()


def test_in_place_refuses_shared_memory():
    x, grad, _ = inputs((2, 3, 4, 4), torch.float32)
    with pytest.raises(ValueError, match="must not share memory with origin"):
        linf_step_(x, grad, x, 0.1, 0.1)
    with pytest.raises(ValueError, match="must not share memory with origin"):
        linf_step_(x.flatten()[:50], grad.flatten()[:50], x.flatten()[40:90], 0.1, 0.1)


def test_in_place_takes_two_halves_of_one_buffer():
    buffer, grad = random((2, 50), torch.float32), random((50,), torch.float32, low=-1)
    expected = linf_step(buffer[0], grad, buffer[1], 0.1, 0.1)
    assert same(linf_step_(buffer[0], grad, buffer[1], 0.1, 0.1), expected)


def test_in_place_refuses_what_requires_grad():
    x, grad, origin = inputs((2, 3, 4, 4), torch.float32)
    with pytest.raises(ValueError, match="must not require grad"):
        linf_step_(x.requires_grad_(), grad, origin, 0.1, 0.1)


def bad(name, change, error, message):
    return pytest.param(name, change, error, message, id=f"{name}: {message}")


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        bad("x", lambda t: (255 * t).to(torch.uint8), TypeError, "x must be floating-point"),
        bad("grad", lambda t: t[:1], ValueError, r"grad must have x's shape \(2, 3, 4, 5\), got \(1, 3, 4, 5\)"),
        bad("origin", lambda t: t.double(), TypeError, "origin must have x's dtype torch.float32, got torch.float64"),
        bad("grad", lambda t: t.to("meta"), ValueError, "grad must be on x's device"),
        bad("grad", LAYOUTS["channels_last"], ValueError, "grad must have x's memory layout"),
        bad("out", LAYOUTS["channels_last"], ValueError, "out must have x's memory layout"),
        bad("epsilon", lambda _: -0.1, ValueError, "epsilon must be >= 0, got -0.1"),
        bad("epsilon", lambda _: float("nan"), ValueError, "epsilon must be >= 0, got nan"),
        bad("counts", lambda _: torch.zeros(2), ValueError, r"counts must be contiguous int64 \[2\]"),
        bad("counts", lambda _: torch.zeros(2, 4).long()[:, 1], ValueError, r"counts must be contiguous int64 \[2\]"),
    ],
)
def test_bad_arguments(name, change, error, message):
    x = random((2, 3, 4, 5), torch.float32)
    arguments = {"x": x, "grad": x.clone(), "origin": x.clone(), "step_size": 0.1, "epsilon": 0.1}
    arguments[name] = change(arguments.get(name, x.clone()))
    with pytest.raises(error, match=message):
        linf_step(**arguments)


def test_gaps_are_refused_rather_than_copied():
    x = random((2, 3, 4, 10), torch.float32)[..., ::2]
    with pytest.raises(ValueError, match="x must be dense"):
        linf_step(x, x, x, 0.1, 0.1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_that_no_finite_value_comes_to_are_none(dtype):
    x, grad, origin = inputs((2, 3, 4, 4), dtype)
    unlimited = linf_step(x, grad, origin, 0.1, 0.1, -torch.inf, torch.inf)
    assert same(linf_step(x, grad, origin, 0.1, 0.1, -1e308, 1e308), unlimited)
