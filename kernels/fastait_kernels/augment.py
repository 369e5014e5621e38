"""A training batch from a resident data set: gather, zero-padded crop, flip and scaling in one pass.

Reads a byte and writes a float per value, once, in one launch, where eager torch takes twelve launches to gather, pad,
crop, flip, convert and divide.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastait_kernels._support import (
    HAS_TRITON,
    KERNEL_DTYPES,
    cdiv,
    check_counter,
    check_epsilon,
    check_integer,
    check_tensor,
    described,
    jit,
    on_device_of,
    round_inside,
    round_to,
    tl,
    to_unit,
)
from fastait_kernels.random_start import reference as start
from fastait_kernels.random_start import uniform_quads

DTYPES = (*KERNEL_DTYPES, torch.uint8)

QUADS = 256
"""A program makes four values for each of these."""


def augment(
    images_u8: Tensor,
    index: Tensor,
    shift: Tensor,
    flip: Tensor,
    padding: int,
    *,
    dtype: torch.dtype = torch.float32,
    epsilon: float = 0.0,
    seed: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """Crop and flip the images that ``index`` names and bring them to [0, 1].

    Args:
        images_u8: uint8 [N, H, W, C], contiguous: the whole set.
        index: int64 [B], places in the set.
        shift: int64 [B, 2], vertical and horizontal offset of the crop in the padded image, 0 to 2 padding.
        flip: bool [B], whether the crop is mirrored.
        padding: black pixels around each image, from 0 to 2^31 - 1.
        dtype: of the result; for ``torch.uint8`` the values stay 0 to 255.
        epsilon: add U(-epsilon, epsilon) in the same pass, the noise of ``random_start`` on the result; needs ``seed``
            and ``offset``, as there, and a floating-point ``dtype``.

    Returns:
        [B, C, H, W], channels-last in memory. An index or shift out of range raises on the CPU; on a GPU a place out
        of the set or of the padded image is black, without a synchronisation.

    Raises:
        TypeError: a dtype is not as above.
        ValueError: a shape, device or number is not as above.
    """
    for name, t in (("images_u8", images_u8), ("index", index), ("shift", shift), ("flip", flip)):
        check_tensor(name, t)
    if images_u8.dtype != torch.uint8:
        raise TypeError(f"images_u8 must be uint8, got {images_u8.dtype}")
    if images_u8.dim() != 4 or not images_u8.is_contiguous():
        raise ValueError(
            f"images_u8 must be contiguous [N, H, W, C], got {tuple(images_u8.shape)}, {images_u8.stride()}"
        )
    batch = index.shape[0] if index.dim() == 1 else -1
    for name, t, kind, shape in (
        ("index", index, torch.int64, (batch,)),
        ("shift", shift, torch.int64, (batch, 2)),
        ("flip", flip, torch.bool, (batch,)),
    ):
        if t.dtype != kind:
            raise TypeError(f"{name} must be {kind}, got {t.dtype}; {name}.to({kind}) converts")
        if tuple(t.shape) != shape or t.device != images_u8.device or not t.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous, of shape {['B', *shape[1:]]} and on {images_u8.device}, "
                f"got {tuple(t.shape)} on {t.device}"
            )
    padding = check_integer("padding", padding)
    if not 0 <= padding < 2**31:
        raise ValueError(f"padding must be >= 0 and below 2^31, got {described(padding)}")
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise TypeError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {described(dtype)}")
    epsilon = check_epsilon(epsilon)
    if epsilon and dtype == torch.uint8:
        raise ValueError("epsilon needs a floating-point dtype, got torch.uint8")
    if epsilon:
        check_counter("seed", seed, images_u8.device)
        check_counter("offset", offset, images_u8.device)
    if not epsilon:
        return _augment(images_u8, index, shift, flip, padding, dtype)
    assert seed is not None and offset is not None
    return _augment_with_start(images_u8, index, shift, flip, padding, dtype, epsilon, seed, offset)


@jit
def augment_kernel(
    out_ptr,
    images_ptr,
    index_ptr,
    shift_ptr,
    flip_ptr,
    n,
    size,
    padding,
    epsilon,
    seed_ptr,
    offset_ptr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    SCALE: tl.constexpr,
    NOISE: tl.constexpr,
    ONE_IMAGE: tl.constexpr,
    QUADS: tl.constexpr,
):
    """A block of 4 QUADS values of the batch in memory order; ``n`` values in all, ``size`` images in the set.

    ONE_IMAGE says that blocks divide an image, as they do at 32x32: then a block has one index, one shift and one
    flip, and there is no last, smaller block.
    """
    BLOCK: tl.constexpr = 4 * QUADS
    first_quad = tl.program_id(0).to(tl.int64) * QUADS
    place = first_quad * 4 + tl.arange(0, BLOCK)
    inside = place < n
    channel = (place % CHANNELS).to(tl.int32)
    pixel = place // CHANNELS
    column = (pixel % WIDTH).to(tl.int32)
    line = pixel // WIDTH
    row = (line % HEIGHT).to(tl.int32)
    if ONE_IMAGE:
        image = first_quad * 4 // (HEIGHT * WIDTH * CHANNELS)
        # Triton 3.9's interpreter takes no mask that a scalar had a part in.
        index = tl.broadcast_to(tl.load(index_ptr + image), (BLOCK,))
        down = tl.load(shift_ptr + 2 * image)
        right = tl.load(shift_ptr + 2 * image + 1)
        flip = tl.load(flip_ptr + image) != 0
    else:
        image = line // HEIGHT
        index = tl.load(index_ptr + image, mask=inside, other=0)
        down = tl.load(shift_ptr + 2 * image, mask=inside, other=0)
        right = tl.load(shift_ptr + 2 * image + 1, mask=inside, other=0)
        flip = tl.load(flip_ptr + image, mask=inside, other=0) != 0
    row = row + down - padding
    column = tl.where(flip, WIDTH - 1 - column, column) + right - padding
    visible = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH) & (index >= 0) & (index < size)
    source = ((index * HEIGHT + row) * WIDTH + column) * CHANNELS + channel
    if not ONE_IMAGE:
        visible = visible & inside
    value = tl.load(images_ptr + source, mask=visible, other=0)
    if SCALE:
        value = tl.div_rn(value.to(tl.float32), 255.0)
        value = round_to(value, out_ptr.dtype.element_ty)
        if NOISE:
            clean = value.to(tl.float32)
            noise = uniform_quads(tl.load(seed_ptr), tl.load(offset_ptr), first_quad + tl.arange(0, QUADS))
            started = clean + tl.reshape(noise, (BLOCK,)) * epsilon
            value = round_inside(started, clean - epsilon, clean + epsilon, out_ptr.dtype.element_ty)
    if ONE_IMAGE:
        tl.store(out_ptr + place, value)
    else:
        if first_quad * 4 + BLOCK <= n:
            tl.store(out_ptr + place, value)
        else:
            tl.store(out_ptr + place, value, mask=inside)


def launch(
    out: Tensor,
    images_u8: Tensor,
    index: Tensor,
    shift: Tensor,
    flip: Tensor,
    padding: int,
    epsilon: float,
    seed: Tensor | None,
    offset: Tensor | None,
) -> None:
    """Run the kernel; it does not advance ``offset``."""
    n = out.numel()
    if n == 0:
        return
    size, height, width, channels = images_u8.shape
    with on_device_of(out):
        augment_kernel[(cdiv(n, 4 * QUADS),)](
            out,
            images_u8,
            index,
            shift,
            flip,
            n,
            size,
            padding,
            epsilon,
            seed,
            offset,
            HEIGHT=height,
            WIDTH=width,
            CHANNELS=channels,
            SCALE=out.dtype != torch.uint8,
            NOISE=epsilon != 0,
            ONE_IMAGE=height * width * channels % (4 * QUADS) == 0,
            QUADS=QUADS,
            num_warps=4 if out.element_size() == 4 else 2,
            enable_fp_fusion=False,
        )


def reference(
    images_u8: Tensor,
    index: Tensor,
    shift: Tensor,
    flip: Tensor,
    padding: int,
    dtype: torch.dtype,
    epsilon: float,
    seed: Tensor | None,
    offset: Tensor | None,
) -> Tensor:
    """The same in torch."""
    size, height, width, channels = images_u8.shape
    device = images_u8.device
    if len(index) and device.type == "cpu":
        for name, t, high in (("index", index, size), ("shift", shift, 2 * padding + 1)):
            if int(t.min()) < 0 or int(t.max()) >= high:
                raise ValueError(f"{name} must be in [0, {high}), got {int(t.min())} to {int(t.max())}")
    edge = min(padding, max(height, width))
    if edge < padding:  # a crop that lies further out is as black
        shift, padding = (shift - padding).clamp(-edge, edge) + edge, edge
    rows = torch.arange(height, device=device) + shift[:, :1]
    columns = torch.arange(width, device=device) + shift[:, 1:]
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    padded = F.pad(images_u8[index], (0, 0, padding, padding, padding, padding))
    images = torch.arange(len(index), device=device)[:, None, None]
    pixels = (images * padded.shape[1] + rows[:, :, None]) * padded.shape[2] + columns[:, None, :]
    # Whole pixels by one index: three times as fast on a CPU as an index per axis.
    batch = padded.reshape(-1, channels).index_select(0, pixels.flatten()).view(-1, height, width, channels)
    if dtype != torch.uint8:
        batch = to_unit(batch, dtype)
    batch = batch.permute(0, 3, 1, 2)
    if not epsilon:
        return batch
    assert seed is not None and offset is not None
    return start(batch, epsilon, seed, offset)


def _run(images_u8, index, shift, flip, padding, dtype, epsilon, seed, offset):
    if not (HAS_TRITON and images_u8.is_cuda):
        return reference(images_u8, index, shift, flip, padding, dtype, epsilon, seed, offset)
    out = _empty(images_u8, index, dtype)
    launch(out, images_u8, index, shift, flip, padding, epsilon, seed, offset)
    return out


def _empty(images_u8: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return images_u8.new_empty((index.shape[0], *images_u8.shape[1:]), dtype=dtype).permute(0, 3, 1, 2)


# Two operators, since inductor cannot take one whose only mutated argument is absent.
@torch.library.custom_op("fastait_kernels::augment", mutates_args=())
def _augment(images_u8: Tensor, index: Tensor, shift: Tensor, flip: Tensor, padding: int, dtype: torch.dtype) -> Tensor:
    return _run(images_u8, index, shift, flip, padding, dtype, 0.0, None, None)


@_augment.register_fake
def _(images_u8, index, shift, flip, padding, dtype):
    return _empty(images_u8, index, dtype)


@torch.library.custom_op("fastait_kernels::augment_with_start", mutates_args=("offset",))
def _augment_with_start(
    images_u8: Tensor,
    index: Tensor,
    shift: Tensor,
    flip: Tensor,
    padding: int,
    dtype: torch.dtype,
    epsilon: float,
    seed: Tensor,
    offset: Tensor,
) -> Tensor:
    out = _run(images_u8, index, shift, flip, padding, dtype, epsilon, seed, offset)
    offset.add_(1)
    return out


@_augment_with_start.register_fake
def _(images_u8, index, shift, flip, padding, dtype, epsilon, seed, offset):
    return _empty(images_u8, index, dtype)
