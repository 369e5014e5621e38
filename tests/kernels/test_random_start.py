"""Random starts: the published Philox, one noise on every device, fresh at every call."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, DTYPES, LAYOUTS, SHAPES, UNIT, random, same
from tolerances import BALL_FP32

from fastait_kernels import random_start

op = importlib.import_module("fastait_kernels.random_start")


def counter(value):
    return torch.tensor([value], device=DEVICE)


def kernel(x, epsilon, seed, offset, place=0):
    out = torch.full_like(x, torch.nan)
    op.launch(out, x, epsilon, counter(seed), counter(offset), place)
    return out


@pytest.mark.parametrize(
    ("start", "offset", "seed", "expected"),
    [
        # The known answers that come with Random123 for philox4x32-10.
        (0, 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2**64 - 1, 2**64 - 1, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ],
)
def test_philox_known_answers(start, offset, seed, expected):
    assert [bits.item() for bits in op.philox(start, 1, seed, offset)] == expected


@settings(deadline=None, max_examples=40)
@given(
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    shape=st.tuples(*[st.integers(0, 9)] * 4),
    epsilon=UNIT,
    seed=st.integers(0, 2**63 - 1),
    offset=st.integers(0, 2**63 - 1),
    place=st.integers(0, 2**20).map(lambda quads: 4 * quads),
)
def test_kernel_is_torch_to_the_bit(dtype, layout, shape, epsilon, seed, offset, place):
    x = random(shape, dtype, layout)
    out = kernel(x, epsilon, seed, offset, place)
    assert same(out, op.reference(x, epsilon, counter(seed), counter(offset), place))
    if out.numel():
        assert out.stride() == x.stride()
        assert ((out.double() - x.double()).abs() <= epsilon + BALL_FP32).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_more_than_one_block(shape):
    x = random(shape, torch.float32)
    seed, offset = 2**50 + 3, 2**40 + 4
    assert same(kernel(x, 0.1, seed, offset), op.reference(x, 0.1, counter(seed), counter(offset)))


def test_chunks_do_not_show():
    """The CPU makes its numbers in chunks; the places where they meet are as any other."""
    n = 4 * op.CHUNK + 6
    whole = op.symmetric_uniform(n, 7, 8)
    alone = torch.cat(op.philox(op.CHUNK, 1, 7, 8))
    assert torch.equal(whole[4 * op.CHUNK :][:4], (alone >> 8) * 2.0**-23 - 1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("shape", "cut"), [((6, 3, 8, 8), 2), ((9, 3, 5, 5), 4), ((40, 3, 32, 32), 13)])
def test_the_parts_of_a_batch_get_the_noise_of_the_whole(layout, shape, cut):
    """What two workers draw for their shards is what one draws for the batch."""
    x = random(shape, torch.float32, layout)
    seed = counter(5)
    whole = random_start(x, 0.1, seed, counter(3))
    size = x[0].numel()
    assert torch.equal(random_start(x[:cut], 0.1, seed, counter(3)), whole[:cut])
    assert torch.equal(random_start(x[cut:], 0.1, seed, counter(3), place=cut * size), whole[cut:])


def test_unit_noise_is_a_start_from_zero():
    """How fp64 images on a GPU get their noise."""
    zero = torch.zeros(1000, device=DEVICE)
    assert torch.equal(kernel(zero, 1.0, 3, 4).cpu(), op.symmetric_uniform(1000, 3, 4))
    assert torch.equal(op.unit_noise(1000, counter(3), counter(4)).cpu(), op.symmetric_uniform(1000, 3, 4))


def test_uniform():
    noise = op.symmetric_uniform(400_000, 1, 2).double()
    assert noise.min() >= -1
    assert noise.max() < 1
    counts = torch.histc(noise, 20, -1, 1)
    assert (counts / 400_000 - 1 / 20).abs().max() < 0.002
    assert abs((noise[:-1] * noise[1:]).mean()) < 0.002


def test_every_call_draws_fresh_noise_and_an_offset_set_back_the_same():
    x = random((2, 3, 4, 4), torch.float32)
    seed, offset = counter(5), counter(0)
    first = random_start(x, 0.1, seed, offset)
    second = random_start(x, 0.1, seed, offset)
    assert offset.item() == 2
    assert not torch.equal(first, second)
    offset.fill_(0)
    assert torch.equal(random_start(x, 0.1, seed, offset), first)
    assert not torch.equal(random_start(x, 0.1, counter(6), counter(0)), first)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3, dtype=torch.uint8)}, TypeError, "x must be floating-point"),
        ({"x": torch.zeros(4)[::2]}, ValueError, "x must be dense"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be >= 0, got -1.0"),
        ({"seed": torch.zeros(1)}, ValueError, r"seed must be int64 \[1\]"),
        ({"offset": torch.zeros((), dtype=torch.int64)}, ValueError, r"offset must be int64 \[1\]"),
        ({"place": 6}, ValueError, "place must be a multiple of four, at least 0, got 6"),
        ({"place": -4}, ValueError, "place must be a multiple of four, at least 0, got -4"),
    ],
)
def test_bad_arguments(change, error, message):
    zero = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(error, match=message):
        random_start(**{"x": torch.zeros(3), "epsilon": 0.1, "seed": zero, "offset": zero.clone(), **change})
