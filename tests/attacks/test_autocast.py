"""Attacks under autocast: the forward passes are the caller's, the gradient is each operation's own."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from step_inputs import EPSILON
from torch.utils._python_dispatch import TorchDispatchMode

from fastait.attacks import Noise, input_gradient
from fastait.methods import METHODS, Settings, images
from fastait.methods.sample import Sample, choose_partners

CPU = torch.device("cpu")
PRODUCTS = ("mm", "addmm", "bmm", "convolution", "convolution_backward")


class Products(TorchDispatchMode):
    """Notes the matrix products and convolutions: (name, shape of the first operand, dtypes)."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1]
        if name in PRODUCTS:
            tensors = [t for t in args if isinstance(t, torch.Tensor)]
            self.seen.append((name, tuple(tensors[0].shape), {t.dtype for t in tensors}))
        return function(*args, **(kwargs or {}))


def sample(size=6):
    x = torch.rand(size, 3, 16, 16)
    y = torch.arange(size)
    noise = Noise.seeded(1, CPU)
    return Sample(x, y, noise, choose_partners("reversed", y, noise))


@pytest.fixture
def backwards(monkeypatch):
    """The products of each backward pass, and whether it ran under autocast."""
    plain, found = torch.autograd.grad, []

    def recorded(*args, **options):
        with Products() as products:
            grads = plain(*args, **options)
        found.append((torch.is_autocast_enabled("cpu"), products.seen))
        return grads

    monkeypatch.setattr(torch.autograd, "grad", recorded)
    return found


def test_the_transport_distance_is_differentiated_in_fp32(network, backwards):
    with torch.autocast("cpu", torch.bfloat16):
        images.feature_scatter(network, sample(), Settings(EPSILON, 0.5, 2, EPSILON, 10))
        assert torch.is_autocast_enabled("cpu")
    for _, products in backwards:
        costs = [types for name, shape, types in products if name == "mm" and shape == (6, 6)]
        assert costs == [{torch.float32}]
        assert all(types == {torch.bfloat16} for name, shape, types in products if shape != (6, 6))
        assert len(products) > 10


@pytest.mark.parametrize("name", sorted({t.images for m in METHODS.values() for t in m.terms}))
def test_no_attack_differentiates_under_autocast(network, backwards, name):
    with torch.autocast("cpu", torch.bfloat16):
        own = replace(sample(), features=network.features, number=torch.tensor([1]))
        getattr(images, name)(network, own, Settings(EPSILON, 0.5, 1, EPSILON, 10))
    assert not any(autocast for autocast, _ in backwards)
    assert bool(backwards) == (name not in ("clean", "pixel_interpolation"))


def test_the_gradient_of_bf16_operations_is_what_it_was_under_autocast(network):
    x, y = torch.rand(6, 3, 16, 16), torch.arange(6)
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        got = input_gradient(lambda leaf: F.cross_entropy(network(leaf), y, reduction="sum"), x)
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(F.cross_entropy(network(leaf), y, reduction="sum"), leaf)
    assert torch.equal(got, expected)


def test_the_gradient_of_fp32_operations_is_that_without_autocast():
    x, weight = torch.rand(6, 3, 4, 4), torch.randn(48, 7)

    def loss(leaf):
        with torch.autocast("cpu", enabled=False):
            return (leaf.flatten(1) @ weight).square().sum()

    expected = input_gradient(loss, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(input_gradient(loss, x), expected)
