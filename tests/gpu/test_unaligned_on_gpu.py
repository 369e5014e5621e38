"""Operators on tensors that do not begin at a multiple of 16 bytes, as slices and views do: other machine code."""

import pytest
import torch
from rehearsal import DEVICE, scaled
from tolerances import ROW

import fastait_kernels as ops

pytestmark = pytest.mark.usefixtures("_kernels")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(4, 3, 32, 32), (3, 3, 7, 5)]
"""Whole blocks of a kernel, and a count that no wide access divides."""

ROWS = scaled(128, 9)


def shifted(t):
    """``t``'s values in its layout, one element behind a multiple of 16 bytes."""
    room = torch.zeros(t.numel() + 16, dtype=t.dtype, device=t.device)
    assert room.data_ptr() % 16 == 0
    moved = room.as_strided(t.shape, t.stride(), 1)
    moved.copy_(t)
    assert moved.data_ptr() % 16 == t.element_size() % 16
    return moved.requires_grad_(t.requires_grad)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def counter(value):
    return torch.tensor([value], device=DEVICE)


def images(shape, dtype, **others):
    named = {name: random(*shape, dtype=dtype, seed=i) for i, name in enumerate(("x", "grad", "origin"))}
    named["grad"] -= 0.5
    return {name: t.contiguous(memory_format=torch.channels_last) for name, t in named.items()} | others


def _step(x, grad, origin, out, counts):
    return ops.linf_step(x, grad, origin, 2 / 255, 8 / 255, out=out, counts=counts), counts


def _step_in_place(x, grad, origin):
    return (ops.linf_step_(x, grad, origin, 2 / 255, 8 / 255),)


def _step_varying(x, grad, origin, numbers):
    return (ops.linf_step(x, grad, origin, numbers, numbers, 0.0, 1 - numbers),)


def _start(x, seed, offset):
    return ops.random_start(x, 8 / 255, seed, offset), offset


def _start_varying(x, numbers, seed, offset):
    return ops.random_start(x, numbers, seed, offset), offset


ELEMENTWISE = {
    "linf_step": (
        _step,
        lambda s, d: images(s, d, out=images(s, d)["x"], counts=torch.zeros(2, dtype=torch.int64, device=DEVICE)),
    ),
    "linf_step_": (_step_in_place, images),
    "linf_step, varying": (_step_varying, lambda s, d: images(s, d, numbers=random(3, 1, 1, seed=5))),
    "random_start": (_start, lambda s, d: {"x": images(s, d)["x"], "seed": counter(5), "offset": counter(7)}),
    "random_start, varying": (
        _start_varying,
        lambda s, d: {
            "x": images(s, d)["x"],
            "numbers": random(s[0], 1, 1, 1, seed=5),
            "seed": counter(5),
            "offset": counter(7),
        },
    ),
}


def apart(inputs):
    """Each input alone shifted, then all of them; always copies, since some calls write over theirs."""
    copies = {name: t.detach().clone().requires_grad_(t.requires_grad) for name, t in inputs.items()}
    for moved in (*([name] for name in inputs), list(inputs)):
        yield moved, {name: shifted(t) if name in moved else t.detach().clone() for name, t in copies.items()}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operators_give_the_same_bits(name, dtype, shape):
    call, inputs = ELEMENTWISE[name]
    expected = call(**{n: t.clone() for n, t in inputs(shape, dtype).items()})
    for moved, given in apart(inputs(shape, dtype)):
        for ours, theirs in zip(call(**given), expected, strict=True):
            assert torch.equal(ours, theirs), moved


@pytest.mark.parametrize("dtype", [torch.uint8, *DTYPES], ids=str)
@pytest.mark.parametrize("size", [32, 7])
def test_augment_gives_the_same_bits(size, dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "images_u8": torch.randint(0, 256, (20, size, size, 3), generator=generator, dtype=torch.uint8),
        "index": torch.randint(0, 20, (8,), generator=generator),
        "shift": torch.randint(0, 9, (8, 2), generator=generator),
        "flip": torch.rand(8, generator=generator) < 0.5,
    }
    inputs = {name: t.to(DEVICE) for name, t in inputs.items()}
    expected = ops.augment(**inputs, padding=4, dtype=dtype)
    for moved, given in apart(inputs):
        assert torch.equal(ops.augment(**given, padding=4, dtype=dtype), expected), moved


def _soft(logits, target):
    return ops.soft_cross_entropy(logits, target, "none")


def _interpolated(logits, y, partner):
    return ops.interpolated_cross_entropy(logits, y, partner, 0.5, "none")


def _margin(logits, y):
    return ops.margin_loss(logits, y, reduction="none")


def _cosine(features, target):
    return ops.cosine_distance(features, target, reduction="none")


def _classes(seed):
    return torch.randint(0, 10, (ROWS,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


LOSSES = {
    "soft_cross_entropy": (_soft, 10, lambda: {"target": random(ROWS, 10, seed=1).softmax(1)}),
    "interpolated_cross_entropy": (_interpolated, 10, lambda: {"y": _classes(1), "partner": _classes(2)}),
    "margin_loss": (_margin, 10, lambda: {"y": _classes(1)}),
    "cosine_distance": (_cosine, 640, lambda: {"target": random(ROWS, 640, seed=1)}),
    "cosine_distance, odd rows": (_cosine, 643, lambda: {"target": random(ROWS, 643, seed=1)}),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_the_same(name, dtype):
    """Up to the order in which a row is added up, which the compiler chooses. Incoming gradients are unaligned too."""
    call, width, others = LOSSES[name]
    rows = {"features" if width > 10 else "logits": random(ROWS, width, dtype=dtype)}
    inputs = rows | others()
    if "target" in inputs and width > 10:
        inputs["target"] = inputs["target"].to(dtype)

    def both(given, upstream):
        leaf = given[next(iter(rows))].requires_grad_()
        loss = call(**given)
        return loss.detach(), torch.autograd.grad(loss, leaf, upstream)[0]

    upstream = random(ROWS, seed=9)
    expected = both({n: t.clone() for n, t in inputs.items()}, upstream)
    for moved, given in apart(inputs):
        loss, grad = both(given, shifted(upstream))
        torch.testing.assert_close(loss, expected[0], **ROW[torch.float32], msg=lambda m, moved=moved: f"{moved}: {m}")
        torch.testing.assert_close(grad, expected[1], **ROW[dtype], msg=lambda m, moved=moved: f"{moved}: {m}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_a_wider_tensor(dtype):
    """Columns 1 to 10 of 11: every row begins at another offset."""
    wide = random(ROWS, 11, dtype=dtype)
    y = _classes(1)
    for loss in (_margin(wide[:, 1:], y) - _margin(wide[:, 1:].contiguous(), y), _cosine(wide[:, 1:], wide[:, 1:])):
        torch.testing.assert_close(loss, torch.zeros_like(loss), **ROW[torch.float32])
