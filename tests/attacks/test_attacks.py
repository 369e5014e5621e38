"""The attacks: what they compute, where they stay, and how they leave the model."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import BALL_FP32, ELEMENTWISE

from fastait.attacks import ATTACKS, Noise, frozen, margin, pgd
from fastait.models import WideResNet


def plain_pgd(model, x, y, epsilon, step_size, steps, loss, start):
    """PGD as the authors evaluate it, written out: the random start is not clipped, every iterate is."""
    model.eval()
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        loss(model(x_adv), y).backward()
        x_adv = x_adv.detach() + step_size * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - epsilon), x + epsilon).clamp(0, 1)
    return x_adv


def plain_margin(logits, y):
    true = F.one_hot(y, logits.shape[1]).to(logits.dtype)
    own = (true * logits).sum(1)
    other = ((1 - true) * logits - 1e4 * true).max(1).values
    return -torch.clamp(own - other + 50, min=0).mean()


@pytest.mark.parametrize(
    ("name", "steps", "step_size", "loss"),
    [
        ("fgsm", 1, 8 / 255, F.cross_entropy),
        ("pgd20", 20, 2 / 255, F.cross_entropy),
        ("cw20", 20, 2 / 255, plain_margin),
    ],
)
def test_equals_the_plain_loop(network, name, steps, step_size, loss):
    network = network.double().eval()
    x, y = torch.rand(5, 3, 9, 13, dtype=torch.float64), torch.arange(5)
    ours = ATTACKS[name](network, x, y, epsilon=8 / 255, generator=torch.Generator().manual_seed(3))
    start = Noise.drawn(torch.Generator().manual_seed(3), x.device).start(x, 8 / 255)
    assert start.min() < 0  # the start is not clipped
    plain = plain_pgd(network, x, y, 8 / 255, step_size, steps, loss, start)
    torch.testing.assert_close(ours, plain, **ELEMENTWISE[torch.float64])


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("places", [[0, 1, 2], [3, 4, 5, 8, 9, 15], [7], [18, 2, 3]])
def test_a_start_is_its_places(size, layout, places):
    """Whatever is drawn together, also where images have no multiple of four numbers."""
    x = torch.rand(20, 3, size, size).contiguous(memory_format=layout)
    noise = Noise.seeded(5, x.device)
    for restart in range(2):
        whole = noise.start(x, 0.1)
        some = x[places].contiguous(memory_format=layout)
        assert torch.equal(Noise.seeded(5, x.device).start_at(some, 0.1, restart, torch.tensor(places)), whole[places])


NETWORK = WideResNet(10, 1, 4)


@settings(deadline=None, max_examples=10)
@given(name=st.sampled_from(sorted(ATTACKS)), epsilon=st.floats(0, 1), size=st.integers(1, 5))
def test_stays_in_the_ball_and_in_range(name, epsilon, size):
    x, y = torch.rand(size, 3, 8, 8), torch.zeros(size, dtype=torch.int64)
    x_adv = ATTACKS[name](NETWORK, x, y, epsilon=epsilon)
    assert x_adv.shape == x.shape
    assert (x_adv - x).abs().max() <= epsilon + BALL_FP32
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_attacks_raise_their_loss(network):
    network.eval()
    x, y = torch.rand(8, 3, 16, 16), torch.arange(8)
    for loss in (lambda z, t: F.cross_entropy(z, t, reduction="sum"), margin):
        x_adv = pgd(network, x, y, steps=5, loss=loss)
        assert loss(network(x_adv), y).sum() > loss(network(x), y).sum()


def test_without_random_start_is_deterministic(network):
    x, y = torch.rand(2, 3, 8, 8), torch.arange(2)
    first, second = (pgd(network, x, y, steps=2, random_start=False) for _ in range(2))
    assert torch.equal(first, second)


def test_bad_steps(network):
    with pytest.raises(ValueError, match="steps"):
        pgd(network, torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), steps=0)


def test_frozen_restores_mixed_states_after_an_exception(network):
    network.train()
    network.block2.eval()
    network.fc.weight.requires_grad_(False)
    modes = [m.training for m in network.modules()]
    flags = [p.requires_grad for p in network.parameters()]
    inside = []

    def fail():
        with frozen(network):
            inside.extend(m.training for m in network.modules())
            inside.extend(p.requires_grad for p in network.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(inside)
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == flags
