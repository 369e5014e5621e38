"""Addressed numbers against the host's and the operators' Philox."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastait.attacks.addressed import Addressed
from fastait.runtime.randomness import uniform
from fastait_kernels.random_start import symmetric_uniform


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
def test_the_hosts_numbers(seed):
    places = torch.tensor([0, 7, 2**32 + 3, 2**62])
    found = Addressed(seed, places).uniform(torch.arange(4), torch.zeros(4, dtype=torch.int64), 1, 10)
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == [uniform(seed, place, 10) for place in places.tolist()]


def test_the_operators_numbers_at_any_counter():
    places, first = torch.tensor([3, 9, 11]), torch.tensor([0, 4999, 2**31])
    found = Addressed(5, places).uniform(torch.arange(3), first, 3, 6)
    for row in range(3):
        for n in range(3):
            counter = int(first[row]) + n
            expected = (symmetric_uniform(6, 5, int(places[row]), 4 * (counter << 32)).double() + 1) / 2
            assert torch.equal(found[row, n].double(), expected)


def test_what_else_is_drawn_does_not_matter():
    draws = Addressed(1, torch.arange(100, 140))
    first = torch.arange(40) * 3
    whole = draws.uniform(torch.arange(40), first, 64, 5)
    rows = torch.tensor([39, 2, 17])
    assert torch.equal(draws.uniform(rows, first[rows], 64, 5), whole[rows])
    assert torch.equal(draws.uniform(rows, first[rows] + 10, 7, 3), whole[rows, 10:17, :3])
    assert torch.equal(Addressed(1, torch.tensor([102])).uniform(torch.tensor([0]), first[2:3], 64, 5), whole[2:3])
    assert len(whole.unique()) > 0.999 * whole.numel()
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(float(whole.mean()) - 0.5) < 0.01


def test_nothing_is_read_from_a_gpu():
    """Fake tensors hold no values, so that reading one fails."""
    with FakeTensorMode():
        rows = torch.arange(8, device="cuda")
        found = Addressed(2**63 - 1, rows + 9).uniform(rows, rows, 4, 5)
    assert found.shape == (8, 4, 5)
    assert found.device.type == "cuda"
