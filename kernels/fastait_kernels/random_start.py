"""A uniform point of the Linf ball, from counters: the start of PGD and of adversarial interpolation.

One read and one write of the images, where eager torch takes four passes (the noise is written, then read to be
added); the second launch of both is here the counter's, one number. The noise is Philox 4x32-10 (Salmon et al., 2011)
keyed by ``seed``, its counter the element's place in memory order and ``offset``: the same numbers on every device and
in every dtype.
"""

import torch
from torch import Tensor

from fastait_kernels._support import (
    HAS_TRITON,
    cdiv,
    check_counter,
    check_dense,
    check_epsilon,
    check_float,
    jit,
    on_device_of,
    round_inside,
    round_inside_torch,
    tl,
    use_kernel,
    widen,
)

CHUNK = 1 << 16
"""Philox calls at a time on the CPU, so that its state stays in the cache."""


def random_start(x: Tensor, epsilon: float, seed: Tensor, offset: Tensor, place: int = 0) -> Tensor:
    """x + U(-epsilon, epsilon), not clipped to a range of pixels.

    The call advances ``offset`` by one, on the device and behind the draw, so the next call and the next replay of a
    captured CUDA graph draw fresh noise. To draw the same noise again, set ``offset`` back.

    Args:
        x: float, any shape, dense in memory.
        epsilon: radius of the ball, >= 0, in the units of ``x``.
        seed: int64 [1] on ``x``'s device.
        offset: int64 [1] on ``x``'s device; the number of draws so far.
        place: where in a draw ``x`` begins, in elements, a multiple of four: a worker that holds images 64 to 127 of a
            batch passes 64 times the size of an image and gets the noise that they have in the whole batch.

    Returns:
        Like ``x``; within ``epsilon`` of it as stored. Not differentiable.

    Raises:
        TypeError: ``x`` is not floating-point.
        ValueError: ``x`` is not dense, ``epsilon`` is negative or NaN, or another argument is not as above.
    """
    check_float("x", x)
    check_dense("x", x)
    check_epsilon(epsilon)
    check_counter("seed", seed, x.device)
    check_counter("offset", offset, x.device)
    if place < 0 or place % 4:
        raise ValueError(f"place must be a multiple of four, at least 0, got {place}")
    return _random_start(x, epsilon, seed, offset, place)


@jit
def uniform_quads(seed, offset, quads):
    """Four numbers in [-1, 1) for each counter, multiples of 2^-23: [Q] -> [Q, 2, 2] in memory order."""
    low = (quads & 0xFFFFFFFF).to(tl.uint32)
    high = ((quads >> 32) & 0xFFFFFFFF).to(tl.uint32)
    zero = quads * 0
    offset_low = (zero + (offset & 0xFFFFFFFF)).to(tl.uint32)
    offset_high = (zero + ((offset >> 32) & 0xFFFFFFFF)).to(tl.uint32)
    a, b, c, d = tl.philox(seed, low, high, offset_low, offset_high)
    return tl.join(tl.join(_symmetric(a), _symmetric(c)), tl.join(_symmetric(b), _symmetric(d)))


@jit
def _symmetric(bits):
    return (bits >> 8).to(tl.int32).to(tl.float32) * (2.0 / 16777216.0) - 1.0


@jit
def random_start_kernel(out_ptr, x_ptr, n, epsilon, seed_ptr, offset_ptr, quads_before, QUADS: tl.constexpr):
    """A block of 4 QUADS elements in memory order; only the last one is masked."""
    BLOCK: tl.constexpr = 4 * QUADS
    first_quad = tl.program_id(0).to(tl.int64) * QUADS
    quads = quads_before + first_quad + tl.arange(0, QUADS)
    noise = uniform_quads(tl.load(seed_ptr), tl.load(offset_ptr), quads)
    noise = tl.reshape(noise, (BLOCK,)) * epsilon
    start = first_quad * 4
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        x = tl.load(x_ptr + offsets).to(tl.float32)
        tl.store(out_ptr + offsets, round_inside(x + noise, x - epsilon, x + epsilon, out_ptr.dtype.element_ty))
    else:
        inside = offsets < n
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        started = round_inside(x + noise, x - epsilon, x + epsilon, out_ptr.dtype.element_ty)
        tl.store(out_ptr + offsets, started, mask=inside)


def quads(element_size: int) -> int:
    """Philox calls of a program, each for four elements: 16 bytes a thread and more, for warps of 32 and of 64."""
    return 1024 // max(element_size, 2)


def launch(out: Tensor, x: Tensor, epsilon: float, seed: Tensor, offset: Tensor, place: int = 0) -> None:
    """Run the kernel; it does not advance ``offset``."""
    n = x.numel()
    if n == 0:
        return
    size = quads(x.element_size())
    with on_device_of(x):
        # Without fused multiply-adds the sum is rounded as torch rounds it.
        random_start_kernel[(cdiv(n, 4 * size),)](
            out, x, n, epsilon, seed, offset, place // 4, QUADS=size, num_warps=4, enable_fp_fusion=False
        )


def symmetric_uniform(n: int, seed: int, offset: int, place: int = 0) -> Tensor:
    """Numbers ``place`` to ``place`` + n of the kernel's noise before it is scaled: fp32 [n] in [-1, 1), on the CPU."""
    quads = cdiv(n, 4)
    noise = torch.empty(quads, 4, dtype=torch.float32, device="cpu")
    for start in range(0, quads, CHUNK):
        part = noise[start : start + CHUNK]
        for column, bits in enumerate(philox(place // 4 + start, len(part), seed, offset)):
            part[:, column] = bits.bitwise_right_shift_(8)
    return noise.mul_(2.0 / 16777216.0).sub_(1).flatten()[:n]


def philox(start: int, count: int, seed: int, offset: int) -> list[Tensor]:
    """Philox 4x32-10 of the counters (start, offset), (start + 1, offset), ...: four int64 [count] below 2^32."""
    low = 0xFFFFFFFF
    counter = torch.arange(count, device="cpu").add_((start & ~(1 << 63)) - (start & (1 << 63)))  # modulo 2^64
    c0, c1 = counter & low, (counter >> 32).bitwise_and_(low)
    c2, c3 = torch.full_like(counter, offset & low), torch.full_like(counter, offset >> 32 & low)
    key_0, key_1 = seed & low, seed >> 32 & low
    for _ in range(10):
        # The products' 64 bits are right modulo 2^64, whatever sign int64 reads into them.
        product_0, product_2 = c0.mul_(0xD2511F53), c2.mul_(0xCD9E8D57)
        c0, c1 = (product_2 >> 32).bitwise_and_(low).bitwise_xor_(c1).bitwise_xor_(key_0), product_2 & low
        c2, c3 = (product_0 >> 32).bitwise_and_(low).bitwise_xor_(c3).bitwise_xor_(key_1), product_0 & low
        key_0, key_1 = (key_0 + 0x9E3779B9) & low, (key_1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def unit_noise(n: int, seed: Tensor, offset: Tensor, place: int = 0) -> Tensor:
    """The kernel's noise before it is scaled: fp32 [n] in [-1, 1), on the counters' device.

    On a GPU the kernel makes it, without a synchronisation; on the CPU, torch's integers.
    """
    if HAS_TRITON and seed.is_cuda:
        noise = torch.zeros(n, dtype=torch.float32, device=seed.device)
        launch(noise, noise, 1.0, seed, offset, place)
        return noise
    return symmetric_uniform(n, int(seed), int(offset), place).to(seed.device)


def reference(x: Tensor, epsilon: float, seed: Tensor, offset: Tensor, place: int = 0) -> Tensor:
    """The same in torch."""
    wide = widen(x)
    started = torch.empty_like(wide)
    in_memory_order(started).copy_(unit_noise(x.numel(), seed, offset, place) * epsilon)
    started += wide
    return round_inside_torch(started, wide - epsilon, wide + epsilon, x.dtype)


def in_memory_order(t: Tensor) -> Tensor:
    """A dense tensor's elements as one dimension, in the order they have in memory."""
    return t.as_strided((t.numel(),), (1,))


@torch.library.custom_op("fastait_kernels::random_start", mutates_args=("offset",))
def _random_start(x: Tensor, epsilon: float, seed: Tensor, offset: Tensor, place: int) -> Tensor:
    if use_kernel(x):
        out = torch.empty_like(x)
        launch(out, x, epsilon, seed, offset, place)
    else:
        out = reference(x, epsilon, seed, offset, place)
    offset.add_(1)
    return out


@_random_start.register_fake
def _(x, epsilon, seed, offset, place):
    return torch.empty_like(x)
