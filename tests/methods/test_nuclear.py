"""The nuclear norm and its gradient against singular value decompositions, and its weight from step to step."""

import pytest
import torch
from tolerances import REDUCTION

from fastait.methods import Settings
from fastait.methods.nuclear import SMALLEST, nuclear_norm, penalty_now, polar


def matrix(rows, columns, smallest, seed=0):
    """A matrix [rows, columns] with singular values from 1 to ``smallest``, and its polar factor."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    u, v = (torch.linalg.qr(torch.randn(n, rank, dtype=torch.float64, generator=generator))[0] for n in (rows, columns))
    return u @ torch.diag(torch.logspace(0, torch.log10(torch.tensor(smallest)), rank).double()) @ v.T, u @ v.T


@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("shape", [(128, 10), (6, 10), (10, 10), (3, 1), (1, 10), (40, 100)], ids=str)
def test_polar_factor(shape, smallest):
    """Down to a hundred-thousandth of the largest singular value, where logits in fp32 are rounding."""
    a, expected = matrix(*shape, smallest)
    for scale in (1e-20, 1.0, 1e20):
        torch.testing.assert_close(polar(scale * a), expected, **REDUCTION[torch.float64])


@pytest.mark.parametrize("shape", [(64, 10), (5, 10)], ids=str)
def test_norm_and_gradient_are_those_of_the_singular_values(shape):
    a = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = torch.linalg.matrix_norm(a, "nuc")
    found = nuclear_norm(a)
    torch.testing.assert_close(found, expected, **REDUCTION[torch.float64])
    for mine, theirs in zip(*(torch.autograd.grad(value, a) for value in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, **REDUCTION[torch.float64])


def test_directions_without_a_singular_value_have_no_gradient():
    """One of the norm's subgradients, and the same on every machine; images that did not move for one."""
    assert torch.equal(polar(torch.zeros(4, 3)), torch.zeros(4, 3, dtype=torch.float64))
    a, _ = matrix(8, 5, 1.0)
    a[:, 4] = a[:, 3]
    found = polar(a)
    difference = torch.zeros(5, dtype=torch.float64)
    difference[3], difference[4] = 1, -1
    torch.testing.assert_close(found @ difference, torch.zeros(8).double(), **REDUCTION[torch.float64])
    assert torch.linalg.svdvals(polar(torch.diag(torch.tensor([1.0, SMALLEST / 1e6]))))[1] < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_autocast_do_not_reach_it(dtype):
    a = torch.randn(16, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = nuclear_norm(a)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.linalg.svdvals(a.float()).sum(), **REDUCTION[torch.float32])


def test_not_a_number_is_not_hidden():
    assert nuclear_norm(torch.tensor([[1.0, torch.nan], [0.0, 1.0]])).isnan()


def test_the_weight_rises_for_nine_tenths_of_the_training():
    settings = Settings(8 / 255, 0.5, 1, 8 / 255, 10, penalty=4.5, training_steps=100)
    weights = [penalty_now(torch.tensor([number]), settings).item() for number in range(100)]
    assert weights[0] == 0
    assert weights[1] == pytest.approx(4.5 / 90)
    assert weights[45] == pytest.approx(2.25)
    assert set(weights[90:]) == {4.5}
