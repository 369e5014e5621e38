"""Both cross-entropies and their gradients against fp64."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, DTYPES, UNIT, random, same
from tolerances import MEAN_ERROR_BESIDE_TORCH, ROW, SIGNS_BEHIND_TORCH

from fastait_kernels import SoftCrossEntropy, interpolated_cross_entropy, soft_cross_entropy

soft = importlib.import_module("fastait_kernels.soft_cross_entropy")
interpolated = importlib.import_module("fastait_kernels.interpolated_cross_entropy")

SIZES = [(1, 1), (5, 2), (3, 10), (130, 10), (2, 100), (1, 1025)]


def oracle(logits, target, upstream):
    """Loss and gradients in fp64 by autograd."""
    z, t = (v.double().detach().requires_grad_() for v in (logits, target))
    loss = -(t * torch.log_softmax(z, 1)).sum(1)
    return loss.detach(), *torch.autograd.grad(loss, (z, t), upstream.double())


def soft_kernel(logits, target, upstream):
    rows = len(logits)
    loss, rest = (torch.full((rows,), torch.nan, device=DEVICE) for _ in range(2))
    soft.launch_forward(loss, rest, logits, target)
    for_logits = torch.full(logits.shape, torch.nan, dtype=logits.dtype, device=DEVICE)
    for_target = torch.full(target.shape, torch.nan, dtype=target.dtype, device=DEVICE)
    soft.launch_backward(for_logits, for_target, upstream, logits, target, rest)
    return loss, for_logits, for_target


def soft_torch(logits, target, upstream):
    loss, _ = soft.reference_forward(logits, target)
    return loss, *soft.reference_backward(upstream, logits, target, True)


@settings(deadline=None, max_examples=40)
@given(
    run=st.sampled_from([soft_kernel, soft_torch]),
    dtype=st.sampled_from(DTYPES),
    target_dtype=st.sampled_from(DTYPES),
    size=st.sampled_from(SIZES),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_soft_against_fp64(run, dtype, target_dtype, size, padded, seed):
    """Targets need not sum to one; rows may be a part of wider ones."""
    extra = 3 if padded else 0
    logits = random((size[0], size[1] + extra), dtype, low=-8, high=8, seed=seed)[:, : size[1]]
    target = random((size[0], size[1] + extra), target_dtype, low=-1, high=1, seed=seed + 1)[:, : size[1]]
    upstream = random((size[0],), torch.float32, low=-1, seed=seed + 2)
    got, expected = run(logits, target, upstream), oracle(logits, target, upstream)
    scale = 1 + size[1] ** 0.5
    torch.testing.assert_close(got[0].double() / scale, expected[0] / scale, **ROW[torch.float32])
    torch.testing.assert_close(got[1].double() / scale, expected[1] / scale, **ROW[dtype])
    torch.testing.assert_close(got[2].double(), expected[2], **ROW[target_dtype])


@pytest.mark.parametrize("run", [soft_kernel, soft_torch])
def test_special_values(run):
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[-inf, 0, 1], [-inf, 0, 1], [-inf, -inf, -inf], [inf, 0, 1], [nan, 0, 1]], device=DEVICE)
    target = torch.tensor([[0, 0.5, 0.5], [0.5, 0.5, 0], [0.2, 0.3, 0.5], [1, 0, 0.0], [0, 1, 0.0]], device=DEVICE)
    loss, for_logits, _ = run(logits, target, torch.ones(5, device=DEVICE))
    assert loss[0].isfinite()  # 0 x -inf is nothing
    assert for_logits[0].isfinite().all()
    assert loss[1] == inf
    assert loss[2:].isnan().all()
    assert for_logits[2:].isnan().any(dim=1).all()
    zero = run(logits[:1], torch.zeros(1, 3, device=DEVICE), torch.ones(1, device=DEVICE))
    assert zero[0] == 0
    assert (zero[1] == 0).all()


def interpolated_kernel(logits, y, partner, epsilon_y, upstream):
    loss, rest = (torch.full((len(logits),), torch.nan, device=DEVICE) for _ in range(2))
    interpolated.launch_forward(loss, rest, logits, y, partner, epsilon_y)
    grad = torch.full(logits.shape, torch.nan, dtype=logits.dtype, device=DEVICE)
    interpolated.launch_backward(grad, upstream, logits, y, partner, rest, epsilon_y)
    return loss, grad


def interpolated_torch(logits, y, partner, epsilon_y, upstream):
    z = logits.detach().requires_grad_()
    loss = interpolated_cross_entropy(z, y, partner, epsilon_y, "none")
    return loss.detach(), *torch.autograd.grad(loss, z, upstream.to(loss.dtype))


@settings(deadline=None, max_examples=40)
@given(
    run=st.sampled_from([interpolated_kernel, interpolated_torch]),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from(SIZES[1:]),
    epsilon_y=UNIT,
    seed=st.integers(0, 99),
)
def test_interpolated_against_the_papers_labels(run, dtype, size, epsilon_y, seed):
    generator = torch.Generator().manual_seed(seed)
    y, partner = (torch.randint(0, size[1], (size[0],), generator=generator).to(DEVICE) for _ in range(2))
    logits = random(size, dtype, low=-8, high=8, seed=seed)
    upstream = random((size[0],), torch.float32, low=-1, seed=seed + 1)
    one_hot, one_hot_partner = (F.one_hot(v, size[1]).double() for v in (y, partner))
    target = (1 - epsilon_y) * one_hot + epsilon_y * (1 - one_hot_partner) / (size[1] - 1)
    expected = oracle(logits, target, upstream)
    loss, grad = run(logits, y, partner, epsilon_y, upstream)
    torch.testing.assert_close(loss.double(), expected[0], **ROW[torch.float32])
    torch.testing.assert_close(grad.double(), expected[1], **ROW[dtype])


def exact(logits, target):
    """Loss and gradients in fp64, free of cancellation: fp64's own log_softmax of a sure row is 0 as well."""
    z, t = logits.double(), target.double()
    top, place = z.max(1, keepdim=True)
    largest = F.one_hot(place.squeeze(1), z.shape[1]).bool()
    rest = (z - top).exp().masked_fill(largest, 0).sum(1, keepdim=True)
    log_p, others = z - top - rest.log1p(), t.masked_fill(largest, 0).sum(1, keepdim=True)
    at_top = others - t.sum(1, keepdim=True) * rest / (1 + rest)
    for_logits = torch.where(largest, at_top, log_p.exp() * t.sum(1, keepdim=True) - t)
    return -(t * log_p).sum(1), for_logits, -log_p


def by_log_softmax(logits, target):
    z, t = logits.clone().requires_grad_(), target.clone().requires_grad_()
    loss = -(t * F.log_softmax(z, 1, dtype=torch.float32)).sum(1)
    return loss.detach(), *torch.autograd.grad(loss.sum(), (z, t))


def as_exact_as_torch(got, plain, expected, signs):
    """``signs``: the share of the gradient's signs by which chance may put us behind."""
    held = expected[1].abs() > (2.0**-24 if plain[1].dtype == torch.float16 else 2.0**-126)
    wrong = [(g[1].double().sign() != expected[1].sign())[held].double().mean() for g in (got, plain)]
    assert wrong[0] <= wrong[1] + signs
    for ours, theirs, exact in zip(got, plain, expected, strict=False):
        errors = [(g.double() - exact).abs().mean() for g in (ours, theirs)]
        assert errors[0] <= MEAN_ERROR_BESIDE_TORCH[DEVICE.type] * errors[1]


@pytest.mark.parametrize("run", [soft_kernel, soft_torch])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1, 10, 30, 100, 300])
def test_sure_networks(run, dtype, scale):
    """TRADES' attack on a network that knows no doubt: two softmaxes that are nearly one in one place."""
    noise = scale * random((3, 128, 10), torch.float32, low=-3, high=3, seed=1)
    logits = scale * random((128, 10), torch.float32, low=-1.5, high=1.5)
    for distance in (1e-3 * noise[0], 0.1 * noise[1], noise[2]):
        target = logits.to(dtype).float().softmax(1)
        moved = (logits + distance).to(dtype)
        ones, expected = torch.ones(128, device=DEVICE), exact(moved, target)
        got, plain = run(moved, target, ones), by_log_softmax(moved, target)
        # Logits that are equal once stored in 16 bits: the gradient is the last bit of the target's own rounding.
        as_exact_as_torch(got, plain, expected, 0.0 if dtype == torch.float32 else SIGNS_BEHIND_TORCH)


def test_signs_where_log_softmax_has_none():
    """A row whose softmax rounds to one: the sign is that of the other classes' shares."""
    logits = torch.tensor([[30.0, 0.0, 1.0], [0.0, 40.0, -1.0]], device=DEVICE)
    target = (0.9 * logits).double().softmax(1).float()
    for run in (soft_kernel, soft_torch):
        loss, grad, _ = run(logits, target, torch.ones(2, device=DEVICE))
        expected = exact(logits, target)
        torch.testing.assert_close(grad.double(), expected[1], rtol=1e-5, atol=0)
        torch.testing.assert_close(loss.double(), expected[0], rtol=1e-6, atol=0)
    assert (by_log_softmax(logits, target)[1][:, 0] == 0).any()


@pytest.mark.parametrize("run", [interpolated_kernel, interpolated_torch])
@pytest.mark.parametrize("epsilon_y", [0.0, 0.5])
@pytest.mark.parametrize("scale", [1, 30, 100])
def test_sure_networks_against_classes(run, epsilon_y, scale):
    logits = scale * random((128, 10), torch.float32, low=-1.5, high=1.5)
    y, partner = logits.argmax(1), logits.argmin(1)
    target = (1 - epsilon_y) * F.one_hot(y, 10) + epsilon_y * (1 - F.one_hot(partner, 10).double()) / 9
    ones = torch.ones(128, device=DEVICE)
    got, plain = run(logits, y, partner, epsilon_y, ones), by_log_softmax(logits, target.float())
    as_exact_as_torch(got, plain, exact(logits, target), 0.0)


@pytest.mark.parametrize("run", [soft_kernel, soft_torch])
def test_the_largest_and_smallest_logits(run):
    """Differences beyond fp32's exponents are zeros, not NaN; a constant added to a row changes nothing."""
    logits = torch.tensor([[3e38, -3e38, 0.0], [80.0, -90.0, -4.0], [-3e38, -3e38, -3e38]], device=DEVICE)
    target = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]], device=DEVICE)
    loss, grad, _ = run(logits, target, torch.ones(3, device=DEVICE))
    assert loss[0] == 0
    torch.testing.assert_close(loss[1:].double(), exact(logits[1:], target[1:])[0], rtol=1e-6, atol=0)
    assert grad.isfinite().all()


@pytest.mark.parametrize("bad", [-1, 10, 2**40])
@pytest.mark.parametrize("which", ["y", "y_partner"])
def test_label_out_of_range_is_nan_in_the_kernel_and_an_error_on_the_cpu(bad, which):
    logits, upstream = random((4, 10), torch.float32), torch.ones(4, device=DEVICE)
    labels = {"y": torch.arange(4, device=DEVICE), "y_partner": torch.arange(4, device=DEVICE)}
    labels[which][2] = bad
    loss, grad = interpolated_kernel(logits, labels["y"], labels["y_partner"], 0.5, upstream)
    assert loss.isnan().tolist() == [False, False, True, False]
    assert grad.isnan().all(dim=1).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match=rf"{which} must be in \[0, 10\), the number of classes, got {bad}"):
        interpolated_cross_entropy(logits.cpu(), labels["y"].cpu(), labels["y_partner"].cpu(), 0.5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(reduction):
    logits, target = random((6, 10), torch.float32, low=-3, high=3), random((6, 10), torch.float32).softmax(1)
    expected = F.cross_entropy(logits, target, reduction=reduction)
    torch.testing.assert_close(soft_cross_entropy(logits, target, reduction), expected, **ROW[torch.float32])
    torch.testing.assert_close(SoftCrossEntropy(reduction)(logits, target), expected, **ROW[torch.float32])
    y = torch.arange(6, device=DEVICE)
    torch.testing.assert_close(
        interpolated_cross_entropy(logits, y, y, 0.0, reduction),
        F.cross_entropy(logits, y, reduction=reduction),
        **ROW[torch.float32],
    )


def test_empty_batch():
    logits = torch.zeros(0, 10, device=DEVICE)
    labels = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert soft_cross_entropy(logits, logits, "sum") == 0
    assert interpolated_cross_entropy(logits, labels, labels, 0.5, "none").shape == (0,)
    assert same(soft_kernel(logits, logits, torch.zeros(0, device=DEVICE))[0], torch.zeros(0, device=DEVICE))


def test_wide_rows_are_computed_by_torch():
    assert not soft.kernel_takes(torch.zeros(1, soft.MAX_CLASSES + 1))
    logits = random((2, soft.MAX_CLASSES + 1), torch.float32)
    torch.testing.assert_close(
        soft_cross_entropy(logits, logits.softmax(1)), F.cross_entropy(logits, logits.softmax(1)), **ROW[torch.float32]
    )


ROWS = torch.zeros(2, 4)
LABELS = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: soft_cross_entropy(ROWS, ROWS[:, :3]), ValueError, r"target must have the logits' shape \(2, 4\)"),
        (lambda: soft_cross_entropy(ROWS, LABELS), TypeError, "target must be floating-point"),
        (lambda: soft_cross_entropy(ROWS.T.contiguous().T, ROWS), ValueError, "logits must have contiguous rows"),
        (lambda: soft_cross_entropy(ROWS, ROWS, "max"), ValueError, "reduction must be one of mean, sum, none"),
        (lambda: soft_cross_entropy(ROWS, ROWS.to("meta")), ValueError, "target must be on the logits' device cpu"),
        (lambda: interpolated_cross_entropy(ROWS, LABELS.int(), LABELS, 0.5), TypeError, "y must be int64"),
        (lambda: interpolated_cross_entropy(ROWS, LABELS, LABELS[:1], 0.5), ValueError, r"y_partner must have shape"),
        (lambda: interpolated_cross_entropy(ROWS, LABELS, LABELS, 1.1), ValueError, "epsilon_y must be in"),
        (lambda: interpolated_cross_entropy(ROWS[:, :1], LABELS, LABELS, 0.5), ValueError, "at least two classes"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
