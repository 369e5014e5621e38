"""Adversarial weight perturbation against its equations, and that nothing of it is left in the weights."""

import copy

import plain
import pytest
import torch
from fake_cuda import FakeCuda, recorded
from step_inputs import LR, batch, make_step
from test_step import fake_step, pointers

from fastait.data import to_float
from fastait.methods import METHODS
from fastait.training.awp import kept_buffers, perturbed
from fastait.training.optimizer import set_lr

GAMMA = 0.05
TAKERS = [name for name, method in METHODS.items() if method.awp]


@pytest.mark.parametrize("method", TAKERS)
def test_it_is_the_equations_written_plainly(network, method):
    """A copy in train mode says where to; the weights are trained there, and decay from where they were."""
    slow = network.double()
    fast = copy.deepcopy(slow).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(slow.parameters(), lr=LR, momentum=0.9, weight_decay=2e-4)
    step = make_step(fast, method, steps=plain.STEPS, knobs={"awp": GAMMA}, at_a_time=4)
    for number, size in enumerate((6, 7, 6)):
        pixels, y = batch(number, size=size, image=8)
        x = to_float(pixels, torch.float64)
        seen = step.totals.loss.item()
        step(pixels, y, number)
        slow.train()
        moved = plain.moved_images(method, slow, x, y, plain.Draws(number, step.settings.step_size))
        proxy = copy.deepcopy(slow)
        gradients = plain.weight_gradients(proxy, plain.PERTURBED[method](proxy, x, moved, y))
        optimizer.zero_grad()
        losses = []

        def backward(moved=moved, x=x, y=y, losses=losses):
            losses.append(plain.PERTURBED[method](slow, x, moved, y))
            losses[0].backward()

        plain.with_moved_weights(slow, gradients, GAMMA, backward)
        optimizer.step()
        assert losses[0] > plain.PERTURBED[method](copy.deepcopy(proxy), x, moved, y)
        assert (step.totals.loss.item() - seen) / size == pytest.approx(losses[0].item(), rel=1e-6)
    for name, value in fast.state_dict().items():
        torch.testing.assert_close(value, slow.state_dict()[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", TAKERS)
def test_weights_are_their_own_bits_before_the_optimiser_s_step(network, method):
    step = make_step(network, method, knobs={"awp": GAMMA})
    before = copy.deepcopy(dict(network.named_parameters()))
    seen = int(network.bn1.num_batches_tracked)
    set_lr(step.optimizer, 0.0)
    step(*batch(0), 0)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert network.bn1.num_batches_tracked == seen + len(METHODS[method].terms)


def test_none_is_none(network):
    models = [copy.deepcopy(network) for _ in range(2)]
    for model, knobs in zip(models, ({}, {"awp": 0.0}), strict=True):
        make_step(model, "madry", knobs=knobs)(*batch(0), 0)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


@pytest.mark.parametrize("gradient", [0.0, torch.inf, torch.nan, None])
def test_a_gradient_that_says_nothing_moves_nothing(gradient):
    weights = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.full((2, 2), 3.0))]
    gradients = [None if gradient is None else torch.full((2, 3), gradient), torch.ones(2, 2)]
    with perturbed(weights, gradients, 0.5):
        assert torch.equal(weights[0], torch.ones(2, 3))
        assert torch.equal(weights[1], torch.full((2, 2), 4.5))
    assert torch.equal(weights[1], torch.full((2, 2), 3.0))


def test_weights_and_statistics_come_back_after_an_error(network):
    before = copy.deepcopy(network.state_dict())
    weights = [network.fc.weight]
    replaced = network.bn1.running_mean

    def fail():
        with kept_buffers(network), perturbed(weights, [torch.ones_like(weights[0])], 0.5):
            network.train()(torch.rand(4, 3, 8, 8))
            network.bn1.running_mean = torch.ones(64)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert network.bn1.running_mean is replaced
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_can_hold_it(network, monkeypatch, precision):
    cuda = FakeCuda(monkeypatch)
    dtype = {"fp32": None, "fp16": torch.float16}[precision]
    models = [copy.deepcopy(network) for _ in range(2)]
    eager = make_step(models[0], "madry", dtype=dtype, knobs={"awp": GAMMA})
    graphed = recorded(make_step(models[1], "madry", dtype=dtype, knobs={"awp": GAMMA}, batch_size=8, graph=True))
    cuda.tensors = [*graphed.state(), *(p.grad for p in models[1].parameters())]
    before = pointers(graphed)
    for number in range(4):
        for step in (eager, graphed):
            step(*batch(number, size=5 if number == 2 else 8, image=8), number)
        assert all(torch.equal(a, b) for a, b in zip(eager.state(), graphed.state(), strict=True))
    assert cuda.captured == 1
    assert pointers(graphed) == before


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", TAKERS)
def test_nothing_waits_for_the_device(method, precision):
    fake_step(method, precision, knobs={"awp": GAMMA})
