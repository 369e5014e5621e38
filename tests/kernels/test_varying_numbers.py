"""Numbers per channel and per image: against plain numbers, against fp64, and kernel against torch to the bit."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, DTYPES, LAYOUTS, SHAPES, random, same
from tolerances import BALL_FP32, ELEMENTWISE

from fastait_kernels import LinfStep, linf_step, linf_step_, random_start

step = importlib.import_module("fastait_kernels.linf_step")
start = importlib.import_module("fastait_kernels.random_start")

FORMS = {
    "0-dim": lambda b, c: (),
    "one": lambda b, c: (1,),
    "channels": lambda b, c: (c, 1, 1),
    "channels of a batch": lambda b, c: (1, c, 1, 1),
    "images": lambda b, c: (b, 1, 1, 1),
    "both": lambda b, c: (b, c, 1, 1),
}


def number(form, shape, low, high, seed=0, dtype=torch.float32):
    """Of a form above for images of a shape, or a plain one."""
    if form == "plain":
        return float(np.float32(low + (high - low) * 0.7))
    return random(FORMS[form](*shape[:2]), dtype, low=low, high=high, seed=seed)


def images(shape, dtype, layout="contiguous", seed=0):
    x, origin = (random(shape, dtype, layout, low=-1.5, high=1.5, seed=seed + i) for i in range(2))
    grad = random(shape, dtype, layout, -1, 1, seed=seed + 2)
    grad[grad.abs() < 0.2] = 0
    return x, grad, origin


def step_kernel(x, grad, origin, *numbers, counts=None):
    out = torch.full_like(x, torch.nan)
    step.launch(out, x, grad, origin, *numbers, counts)
    return out


def step_torch(x, grad, origin, *numbers, counts=None):
    return step.reference(x, grad, origin, *numbers, counts)


def counter(value):
    return torch.tensor([value], device=DEVICE)


def start_kernel(x, epsilon, place=0):
    out = torch.full_like(x, torch.nan)
    start.launch(out, x, epsilon, counter(7), counter(8), place)
    return out


def start_torch(x, epsilon, place=0):
    return start.reference(x, epsilon, counter(7), counter(8), place)


def numbers_of(forms, shape, seed=0):
    ranges = ((-0.5, 0.5), (0.01, 0.3), (-1.3, -0.9), (0.9, 1.3))
    return [number(form, shape, *r, seed=seed + i) for i, (form, r) in enumerate(zip(forms, ranges, strict=True))]


@settings(deadline=None, max_examples=50)
@given(
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    shape=st.tuples(*[st.integers(0, 9)] * 4),
    forms=st.tuples(*[st.sampled_from(["plain", *FORMS])] * 4),
    seed=st.integers(0, 99),
)
def test_step_is_torchs_to_the_bit_and_in_the_ball_as_stored(dtype, layout, shape, forms, seed):
    x, grad, origin = images(shape, dtype, layout, seed)
    origin.clamp_(-0.75, 0.75)
    numbers = numbers_of(forms, shape, seed)
    out = step_kernel(x, grad, origin, *numbers)
    assert same(out, step_torch(x, grad, origin, *numbers))
    if out.numel():
        _, epsilon, lower, upper = (v.double() if isinstance(v, torch.Tensor) else v for v in numbers)
        assert ((out.double() - origin.double()).abs() <= epsilon + 2 * BALL_FP32).all()
        assert ((out.double() >= lower) & (out.double() <= upper)).all()


@settings(deadline=None, max_examples=40)
@given(
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    shape=st.tuples(*[st.integers(0, 9)] * 4),
    form=st.sampled_from(sorted(FORMS)),
    place=st.integers(0, 2**20).map(lambda quads: 4 * quads),
)
def test_start_is_torchs_to_the_bit_and_in_the_ball_as_stored(dtype, layout, shape, form, place):
    x, epsilon = random(shape, dtype, layout, low=-1, high=1), number(form, shape, 0.0, 0.3)
    out = start_kernel(x, epsilon, place)
    assert same(out, start_torch(x, epsilon, place))
    if out.numel():
        assert out.stride() == x.stride()
        assert ((out.double() - x.double()).abs() <= epsilon.double() + 2 * BALL_FP32).all()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_fp64(dtype, layout, shape):
    """Shapes of which some have a channel, or an image, that whole blocks divide."""
    x, grad, origin = images(shape, dtype, layout)
    for forms in (["channels"] * 4, ["images"] * 4, ["both", "channels", "plain", "images"]):
        numbers = numbers_of(forms, shape)
        by_dtype = [v.to(dtype) if dtype == torch.float64 and isinstance(v, torch.Tensor) else v for v in numbers]
        size, epsilon, lower, upper = (torch.as_tensor(v, device=DEVICE, dtype=torch.float64) for v in numbers)
        moved = x.double() + size * grad.double().sign()
        expected = moved.clamp(origin.double() - epsilon, origin.double() + epsilon).clamp(lower, upper)
        runs = [step_torch] if dtype == torch.float64 else [step_torch, step_kernel]
        for run in [*runs, linf_step]:
            out = run(x, grad, origin, *by_dtype)
            torch.testing.assert_close(out.double(), expected, **ELEMENTWISE[dtype])
            assert not x.numel() or out.stride() == x.stride()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 3, 32, 32)])
def test_equal_values_are_a_plain_number(layout, shape, form):
    x, grad, origin = images(shape, torch.float32, layout)
    plain = (0.1, 0.05, -1.0, 1.0)
    tensors = [torch.full(FORMS[form](*shape[:2]), v, device=DEVICE) for v in plain]
    for run in (step_kernel, step_torch, linf_step):
        assert same(run(x, grad, origin, *tensors), step_kernel(x, grad, origin, *plain))
    for run in (start_kernel, start_torch):
        assert same(run(x, tensors[1]), start_kernel(x, 0.05))


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts(dtype):
    x, grad, origin = images((3, 3, 19, 18), dtype)
    grad.view(-1)[5:12] = torch.nan
    for run in (step_kernel, step_torch):
        counts = torch.tensor([100, 10], device=DEVICE)
        run(x, grad, origin, *numbers_of(["channels"] * 4, x.shape), counts=counts)
        assert counts.tolist() == [100 + int((grad == 0).sum()), 17]


@pytest.mark.parametrize("run", [step_kernel, step_torch])
@pytest.mark.parametrize("which", range(4))
def test_a_nan_makes_nan_of_its_channel(run, which):
    x, grad, origin = images((2, 3, 5, 7), torch.float32)
    numbers = numbers_of(["channels"] * 4, x.shape)
    numbers[which][1] = torch.nan
    assert run(x, grad, origin, *numbers).isnan().all(dim=3).all(dim=2).tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_forms(dtype):
    x, grad, origin = images((2, 3, 5, 7), dtype, "channels_last")
    numbers = numbers_of(["channels", "both", "plain", "0-dim"], x.shape)
    expected = linf_step(x, grad, origin, *numbers)
    out = torch.empty_like(x)
    assert linf_step(x, grad, origin, *numbers, out=out) is out
    assert same(out, expected)
    module = LinfStep(*numbers)
    assert same(module(x, grad, origin), expected)
    assert not module.state_dict()
    assert module.to("meta").epsilon.device.type == "meta"
    counts = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    assert linf_step_(x, grad, origin, *numbers, counts=counts) is x
    assert same(x, expected)
    assert counts[0] == (grad == 0).sum()
    with pytest.raises(ValueError, match="must not share memory with origin"):
        linf_step_(x, grad, x, *numbers)


def test_strided_expanded_and_wider_numbers():
    x, grad, origin = images((4, 3, 5, 6), torch.float32, "channels_last")
    table = random((3, 8), torch.float64, low=0.01, high=0.3)
    column = table[:, 5].view(3, 1, 1)
    whole = column.float().contiguous()
    for epsilon in (column, column.expand(4, 3, 1, 1), column.view(1, 3, 1, 1)):
        for run in (step_kernel, step_torch, linf_step):
            assert same(run(x, grad, origin, 0.1, epsilon, 0.0, 1.0), run(x, grad, origin, 0.1, whole, 0.0, 1.0))


@pytest.mark.parametrize("shape", [(3, 5, 7), (4, 6), (9,), ()])
def test_other_dimensions(shape):
    """Images without a batch, rows and single numbers: along the first two dimensions there are."""
    x, grad, origin = (random(shape, torch.float32, seed=i) for i in range(3))
    epsilons = [random(shape[:1] + (1,) * (len(shape) - 1), torch.float32, high=0.1)]
    if len(shape) > 1:
        epsilons.append(random(shape[1:2] + (1,) * (len(shape) - 2), torch.float32, high=0.1))
    for epsilon in epsilons:
        expected = torch.minimum(torch.maximum(x + 0.1 * grad.sign(), origin - epsilon), origin + epsilon).clamp(0, 1)
        for run in (step_kernel, step_torch, linf_step):
            assert torch.equal(run(x, grad, origin, 0.1, epsilon, 0.0, 1.0), expected)


def test_normalised_space_is_pixel_space():
    """fast_adversarial's way: the same steps as on images in [0, 1], to rounding."""
    mean, std = (torch.tensor(v, device=DEVICE).view(3, 1, 1) for v in ([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]))
    pixels = random((4, 3, 8, 8), torch.float32)
    grad = random((4, 3, 8, 8), torch.float32, low=-1)
    x = (pixels - mean) / std
    epsilon, lower, upper = 8 / 255 / std, (0 - mean) / std, (1 - mean) / std
    moved = linf_step(x, grad, x, 10 / 255 / std, epsilon, lower, upper)
    plain = linf_step(pixels, grad, pixels, 10 / 255, 8 / 255)
    torch.testing.assert_close(moved * std + mean, plain, **ELEMENTWISE[torch.float32])
    noise = random_start(x, epsilon, counter(1), counter(0)) - x
    assert (noise.abs().amax((0, 2, 3)) > 0.9 * epsilon.flatten()).all()


def test_a_shard_gets_the_noise_of_the_whole():
    x = random((6, 3, 8, 8), torch.float32, "channels_last")
    epsilon = number("images", x.shape, 0.01, 0.3)
    whole = random_start(x, epsilon, counter(5), counter(3))
    part = random_start(x[2:], epsilon[2:], counter(5), counter(3), place=2 * x[0].numel())
    assert torch.equal(part, whole[2:])


def test_numpys_numbers():
    x, grad, origin = images((2, 3, 4, 4), torch.float32)
    expected = linf_step(x, grad, origin, 0.5, 0.25, 0, 1)
    assert same(linf_step(x, grad, origin, np.float32(0.5), np.float64(0.25), np.int64(0), np.float16(1)), expected)
    assert same(LinfStep(np.float32(0.5), np.float16(0.25))(x, grad, origin), expected)
    started = [random_start(x, e, counter(1), counter(0), np.int64(4)) for e in (0.25, np.float32(0.25))]
    assert same(*started)


def test_numbers_are_constants():
    x, grad, origin = images((2, 3, 4, 4), torch.float32)
    epsilon = number("channels", x.shape, 0.1, 0.2).requires_grad_()
    assert not linf_step(x, grad, origin, 0.1, epsilon).requires_grad
    assert not random_start(x, epsilon, counter(1), counter(0)).requires_grad
    assert not linf_step_(x, grad, origin, 0.1, epsilon).requires_grad
    assert not LinfStep(0.1, epsilon)(x, grad, origin).requires_grad


@pytest.mark.parametrize("name", ["step_size", "epsilon", "lower", "upper"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            torch.ones(3, 1, 1, dtype=torch.int64),
            TypeError,
            r"a number or a floating-point tensor, got torch.int64 \[3, 1, 1\]",
        ),
        (torch.ones(3, 1, 1, dtype=torch.bool), TypeError, "a number or a floating-point tensor, got torch.bool"),
        (torch.ones(3, 1, 1, device="meta"), ValueError, "on x's device .*, got meta"),
        (torch.ones(3), ValueError, r".*per channel \[C, 1, 1\].*, got \[3\] for x of \[2, 3, 4, 3\]"),
        (torch.ones(2, 1, 1), ValueError, r"got \[2, 1, 1\] for x of"),
        (torch.ones(2, 3, 4, 3), ValueError, r"got \[2, 3, 4, 3\] for x of"),
        (torch.ones(1, 1, 1, 1, 1), ValueError, r"got \[1, 1, 1, 1, 1\] for x of"),
        (None, TypeError, "a number or a tensor of one value, .* got None"),
        (True, TypeError, "got True"),
        ("0.1", TypeError, r"got '0.1' \(str\)"),
        ([0.1, 0.2, 0.3], TypeError, r"got \[0.1, 0.2, 0.3\] \(list\)"),
        (np.ones((3, 1, 1)), TypeError, r"got numpy.ndarray \[3, 1, 1\]"),
        (1j, TypeError, r"got 1j \(complex\)"),
    ],
)
def test_bad_numbers(name, given, error, message):
    x, grad, origin = images((2, 3, 4, 3), torch.float32)
    given = given.to(DEVICE) if isinstance(given, torch.Tensor) and given.device.type == "cpu" else given
    arguments = {"step_size": 0.1, "epsilon": 0.1, name: given}
    with pytest.raises(error, match=f"^{name} must be .*{message}"):
        linf_step(x, grad, origin, **arguments)
    with pytest.raises(error, match=f"^{name} must be .*{message}"):
        linf_step_(x, grad, origin, **arguments)
    if name == "epsilon":
        with pytest.raises(error, match=f"^{name} must be .*{message}"):
            random_start(x, given, counter(1), counter(0))
    if error is TypeError:  # shapes and devices are known at the call
        with pytest.raises(error, match=f"^{name} must be .*{message}"):
            LinfStep(**arguments)


def test_negative_radii_raise_on_the_cpu():
    x = torch.zeros(2, 3, 4, 4)
    zero = torch.zeros(1, dtype=torch.int64)
    for bad in (-0.1, torch.nan):
        epsilon = torch.tensor([0.1, bad, 0.1]).view(3, 1, 1)
        for call in (
            lambda e=epsilon: linf_step(x, x, x, 0.1, e),
            lambda e=epsilon: linf_step(x, x, x, 0.1, e, out=torch.empty_like(x)),
            lambda e=epsilon: linf_step_(x.clone(), x, x, 0.1, e),
            lambda e=epsilon: LinfStep(0.1, e),
            lambda e=epsilon: random_start(x, e, zero, zero.clone()),
        ):
            with pytest.raises(ValueError, match=f"^epsilon must be >= 0, got {bad:.1}"):
                call()
