"""The reference path against what the paper says and proves of the algorithm."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import BALL_FP32, ELEMENTWISE, REDUCTION
from torch import nn

from fastait import reference

EPSILON = 8 / 255


def batch(size, classes=10, image=16):
    generator = torch.Generator().manual_seed(size)
    x = torch.rand(size, 3, image, image, generator=generator)
    return x, torch.randint(0, classes, (size,), generator=generator)


def test_label_update_is_equation_10(network):
    """A.2: one step of size epsilon_y on half the squared distance is the convex combination."""
    x, y = batch(6)
    y = reference.one_hot(y, 10)
    _, y_tilde = reference.adv_interp(x, y, network, 10, epsilon_y=0.3)
    moved = y.clone().requires_grad_()
    target = (1 - y.flip(0)) / 9
    (0.5 * (moved - target) ** 2).sum().backward()
    torch.testing.assert_close(y_tilde, y - 0.3 * moved.grad, **ELEMENTWISE[torch.float32])
    torch.testing.assert_close(y_tilde, 0.7 * y + 0.3 * target, **ELEMENTWISE[torch.float32])


@pytest.mark.parametrize(("classes", "epsilon_y"), [(10, 0.5), (100, 0.9), (2, 0.1)])
def test_same_class_is_label_smoothing(classes, epsilon_y):
    """A.3: with y = y', smoothing of strength epsilon_y C / (C - 1)."""
    x, _ = batch(4)
    y = torch.full((4,), classes - 1)
    net = Flat(classes)
    _, y_tilde = reference.adv_interp(x, reference.one_hot(y, classes), net, classes, epsilon_y=epsilon_y)
    strength = epsilon_y * classes / (classes - 1)
    logits = torch.randn(4, classes)
    torch.testing.assert_close(
        reference.soft_cross_entropy(logits, y_tilde),
        nn.functional.cross_entropy(logits, y, label_smoothing=strength),
        **REDUCTION[torch.float32],
    )


def test_equation_6_on_pixels_is_mixup():
    """A.4: with f the identity and D half the squared distance, a gradient step is mixup of the images."""
    x, _ = batch(4)
    x_prime = x.flip(0)
    moved = x.clone().requires_grad_()
    (0.5 * (moved - x_prime) ** 2).sum().backward()
    torch.testing.assert_close(x - 0.2 * moved.grad, 0.8 * x + 0.2 * x_prime, **ELEMENTWISE[torch.float32])


@settings(deadline=None, max_examples=15)
@given(
    size=st.integers(1, 7),
    epsilon=st.floats(0, 1),
    epsilon_y=st.floats(0, 1, exclude_max=True),
    steps=st.integers(1, 3),
)
def test_ball_range_and_labels(size, epsilon, epsilon_y, steps):
    """Whatever the budget and the batch, odd ones included: the ball, [0, 1], and labels that are distributions."""
    x, y = batch(size, image=8)
    x_tilde, y_tilde = reference.adv_interp(
        x, reference.one_hot(y, 10), Flat(10), 10, epsilon=epsilon, epsilon_y=epsilon_y, steps=steps
    )
    assert x_tilde.shape == x.shape
    assert (x_tilde - x).abs().max() <= epsilon + BALL_FP32
    assert x_tilde.min() >= 0
    assert x_tilde.max() <= 1
    assert y_tilde.min() >= 0
    torch.testing.assert_close(y_tilde.sum(1), torch.ones(size), **ELEMENTWISE[torch.float32])


def test_images_move_towards_their_partners(network):
    x, y = batch(8)
    x_tilde, _ = reference.adv_interp(x, reference.one_hot(y, 10), network, 10)
    network.eval()
    target = network.features(x.flip(0))
    before = reference.cos_dist(network.features(x), target)
    after = reference.cos_dist(network.features(x_tilde), target)
    assert after < before


def test_more_steps_move_labels_further(network):
    x, y = batch(4)
    y = reference.one_hot(y, 10)
    _, y_tilde = reference.adv_interp(x, y, network, 10, epsilon_y=0.5, steps=3)
    target = (1 - y.flip(0)) / 9
    torch.testing.assert_close(y_tilde, y + (1 - 0.5**3) * (target - y), **ELEMENTWISE[torch.float32])


def test_middle_of_an_odd_batch_is_its_own_partner(network):
    """Its label is smoothed and its noisy image is drawn back towards itself."""
    x, y = batch(5)
    _, y_tilde = reference.adv_interp(x, reference.one_hot(y, 10), network, 10, epsilon_y=0.5)
    expected = torch.full((10,), 0.5 / 9)
    expected[y[2]] = 0.5
    torch.testing.assert_close(y_tilde[2], expected, **ELEMENTWISE[torch.float32])


def test_train_step_learns(network):
    x, y = batch(16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = [float(reference.train_step(network, optimizer, x, y, 10, epsilon_y=0.1)) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.3


class Flat(nn.Module):
    """A linear network on the first pixels."""

    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(12, classes)

    def features(self, x):
        return x.flatten(1)[:, :12]

    def forward(self, x):
        return self.fc(self.features(x))
