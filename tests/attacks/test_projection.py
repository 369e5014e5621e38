"""The move to a plane within the box, against exact arithmetic and linear programming."""

import plain_fab
import pytest
import tolerances
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastait.attacks.projection import move_to_plane

pixel = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, allow_subnormal=False))
slope = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0]), st.floats(-8, 8, allow_subnormal=False).filter(lambda w: abs(w) > 1e-9)
)
problem = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(pixel, min_size=n, max_size=n),
        st.lists(slope, min_size=n, max_size=n),
        st.one_of(st.just(0.0), st.floats(-12, 12, allow_subnormal=False)),
    )
)


def moved(image, gradient, value):
    return move_to_plane(*(torch.tensor([v], dtype=torch.float64) for v in (image, gradient, value)))[0]


@settings(deadline=None, max_examples=200)
@given(problem)
def test_it_is_the_exact_projection(case):
    image, gradient, value = case
    move, reached = plain_fab.nearest_move(
        plain_fab.exact(image), plain_fab.exact(gradient), plain_fab.exact([value])[0]
    )
    found = moved(image, gradient, value)
    expected = torch.tensor([float(m) for m in move], dtype=torch.float64)
    torch.testing.assert_close(found, expected, **tolerances.ELEMENTWISE[torch.float64])
    if reached:  # and the oracle meets the plane itself, within the box, exactly
        assert sum(w * m for w, m in zip(plain_fab.exact(gradient), move, strict=True)) == -plain_fab.exact([value])[0]
        assert all(0 <= p + m <= 1 for p, m in zip(plain_fab.exact(image), move, strict=True))


@settings(deadline=None, max_examples=25)
@given(problem)
def test_no_smaller_move_reaches_the_plane(case):
    """As a linear programme: the least t with |d_i| <= t, the plane and the box; where none is feasible, its corner."""
    optimize = pytest.importorskip("scipy.optimize")
    image, gradient, value = case
    n = len(image)
    bounds = [(-p, 1 - p) for p in image] + [(0, None)]
    limits = [[float(j == i) * s for j in range(n)] + [-1.0] for i in range(n) for s in (1, -1)]
    found = optimize.linprog(
        [0.0] * n + [1.0], A_ub=limits, b_ub=[0.0] * 2 * n, A_eq=[[*gradient, 0.0]], b_eq=[-value], bounds=bounds
    )
    move = moved(image, gradient, value)
    if found.status == 0:
        assert float(move.abs().max()) == pytest.approx(found.fun, rel=1e-6, abs=1e-6)
    else:
        nearest = optimize.linprog([w if value > 0 else -w for w in gradient], bounds=bounds[:n]).fun
        assert abs(float(move @ torch.tensor(gradient, dtype=torch.float64))) == pytest.approx(abs(nearest), abs=1e-6)


@pytest.mark.parametrize("decades", [1, 12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_images_of_many_pixels_on_or_near_the_border(decades, dtype):
    """Weights and rooms over many orders of magnitude need the most rounds; each image is its own."""
    generator = torch.Generator().manual_seed(0)

    def wild(*shape):
        return 10 ** (-decades * torch.rand(*shape, generator=generator, dtype=torch.float64))

    images, gradient = (
        wild(40, 3, 16, 16).to(dtype),
        (wild(40, 3, 16, 16) * torch.randn(40, 3, 16, 16, generator=generator)).to(dtype),
    )
    images[::2] = 1 - images[::2]
    reach = torch.where(gradient > 0, images, 1 - images).mul(gradient.abs()).sum((1, 2, 3))
    value = reach * torch.linspace(-1.1, 1.1, 40, dtype=dtype)
    found = move_to_plane(images, gradient, value)
    for row in range(0, 40, 3):
        expected = plain_fab.project(images[row].double(), gradient[row].double(), value[row].double())
        torch.testing.assert_close(found[row].double(), expected, **tolerances.REDUCTION[dtype])
        alone = move_to_plane(images[row : row + 1], gradient[row : row + 1], value[row : row + 1])
        torch.testing.assert_close(alone[0], found[row], **tolerances.ELEMENTWISE[dtype])


def test_nothing_to_go_by_moves_nothing():
    images = torch.rand(2, 3, 2, 2)
    assert not move_to_plane(images, torch.zeros_like(images), torch.tensor([1.0, -1.0])).any()
    assert not move_to_plane(images, torch.ones_like(images), torch.zeros(2)).any()


def test_a_device_is_not_waited_for():
    """Where a question would wait for the device it is not asked: no number leaves it."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        images = torch.rand(4, 3, 8, 8, device="cuda")
        assert move_to_plane(images, torch.rand_like(images), torch.rand(4, device="cuda")).device.type == "cuda"
