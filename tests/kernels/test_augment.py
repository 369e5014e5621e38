"""The augmented batch against torchvision, image by image, and kernel against torch to the bit."""

import importlib

import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, DTYPES, same

from fastait_kernels import augment, random_start

op = importlib.import_module("fastait_kernels.augment")


def draw(batch, shape, padding, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    index = torch.randint(0, shape[0], (batch,), generator=generator)
    shift = torch.randint(0, 2 * padding + 1, (batch, 2), generator=generator)
    flip = torch.rand(batch, generator=generator) < 0.5
    return [t.to(DEVICE) for t in (images, index, shift, flip)]


def kernel(images, index, shift, flip, padding, dtype=torch.float32, epsilon=0.0, seed=None, offset=None):
    out = op._empty(images, index, dtype)
    op.launch(out, images, index, shift, flip, padding, epsilon, seed, offset)
    return out


@pytest.mark.parametrize("padding", [0, 3])
def test_is_torchvisions_crop_flip_and_to_tensor(padding):
    images, index, shift, flip = draw(12, (7, 9, 12, 3), padding)
    out = augment(images, index, shift, flip, padding)
    assert out.is_contiguous(memory_format=torch.channels_last)
    for i in range(12):
        image = TF.pad(images[index[i]].permute(2, 0, 1), [padding])
        image = TF.crop(image, *shift[i].tolist(), 9, 12)
        image = TF.hflip(image) if flip[i] else image
        assert torch.equal(out[i].cpu(), image.cpu() / 255)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(0, 5),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 19), st.integers(1, 19), st.sampled_from([1, 3, 4])),
    padding=st.integers(0, 4),
    dtype=st.sampled_from([*DTYPES, torch.uint8]),
    epsilon=st.sampled_from([0.0, 8 / 255]),
    seed=st.integers(0, 99),
)
def test_kernel_is_torch_to_the_bit(batch, shape, padding, dtype, epsilon, seed):
    arguments = draw(batch, shape, padding, seed)
    epsilon = 0.0 if dtype == torch.uint8 else epsilon
    noise = [torch.tensor([v], device=DEVICE) for v in (seed, 2**40)]
    got = kernel(*arguments, padding, dtype, epsilon, *noise)
    expected = op.reference(*arguments, padding, dtype, epsilon, *noise)
    assert same(got.float(), expected.float())
    assert got.dtype == expected.dtype == dtype
    assert got.shape == expected.shape


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8])
def test_images_of_whole_blocks(dtype):
    """32x32x3 takes the kernel's other branch."""
    arguments = draw(5, (6, 32, 32, 3), 4)
    assert torch.equal(kernel(*arguments, 4, dtype), op.reference(*arguments, 4, dtype, 0.0, None, None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 9, 7, 3), (4, 32, 32, 3)])
def test_start_is_random_starts(dtype, shape):
    arguments = draw(3, shape, 2)
    seed, offset = (torch.tensor([v], device=DEVICE) for v in (3, 5))
    fused = augment(*arguments, 2, dtype=dtype, epsilon=8 / 255, seed=seed, offset=offset)
    assert offset.item() == 6
    offset.fill_(5)
    assert torch.equal(fused, kernel(*arguments, 2, dtype, 8 / 255, seed, offset))
    assert torch.equal(fused, random_start(augment(*arguments, 2, dtype=dtype), 8 / 255, seed, offset))


def test_places_outside_are_black_in_the_kernel_and_an_error_on_the_cpu():
    images, index, shift, flip = draw(3, (4, 6, 6, 3), 1)
    images += 1
    index[1] = 4
    out = kernel(images, index, shift, flip, 1)
    assert (out[1] == 0).all()
    with pytest.raises(ValueError, match=r"index must be in \[0, 4\)"):
        augment(*(t.cpu() for t in (images, index, shift, flip)), 1)
    index[1], shift[2, 0] = 0, 3
    with pytest.raises(ValueError, match=r"shift must be in \[0, 3\)"):
        augment(*(t.cpu() for t in (images, index, shift, flip)), 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images_u8": torch.zeros(2, 4, 4, 3)}, TypeError, "images_u8 must be uint8"),
        ({"images_u8": torch.zeros(2, 4, 4, dtype=torch.uint8)}, ValueError, r"\[N, H, W, C\]"),
        ({"index": torch.zeros(1, dtype=torch.int32)}, TypeError, "index must be torch.int64"),
        ({"shift": torch.zeros(1, 3, dtype=torch.int64)}, ValueError, "shift must be contiguous, of shape"),
        ({"flip": torch.zeros(1)}, TypeError, "flip must be torch.bool"),
        ({"padding": -1}, ValueError, "padding must be >= 0"),
        ({"padding": 2**31}, ValueError, r"padding must be >= 0 and below 2\^31, got 2147483648"),
        ({"padding": 10**76}, ValueError, "got a whole number of 253 bits$"),
        ({"padding": 10**5000}, ValueError, "got a whole number of 16610 bits$"),
        ({"dtype": torch.int32}, TypeError, "dtype must be one of"),
        ({"epsilon": 0.1}, ValueError, rf"seed must be int64 \[1\] on {DEVICE}(:0)?, got nothing"),
        ({"epsilon": 0.1, "dtype": torch.uint8}, ValueError, "epsilon needs a floating-point dtype"),
    ],
)
def test_bad_arguments(change, error, message):
    names = ("images_u8", "index", "shift", "flip")
    arguments = dict(zip(names, draw(1, (2, 4, 4, 3), 0), strict=True), padding=0)
    with pytest.raises(error, match=message):
        augment(**{**arguments, **change})


@pytest.mark.parametrize("padding", [9, 2**31 - 1])
def test_padding_of_any_width_is_as_black(padding):
    """A crop is taken where it lies: of wider borders nothing is made in memory."""
    images, index, _, flip = draw(3, (2, 4, 5, 3), 0)
    for down, right in ((0, 0), (0, 2), (-3, 1), (-9, 0), (0, 9), (0, -9), (9, -9)):
        near = torch.tensor([[9 + down, 9 + right]] * len(index), device=images.device)
        far = near - 9 + padding
        found = augment(images, index, far, flip, padding)
        assert torch.equal(found, augment(images, index, near, flip, 9))
        assert bool(found.any()) == (abs(down) < 4 and abs(right) < 5)
