"""What a step is said to cost, against counts of real steps; and that counting leaves the network alone."""

import copy

import pytest
import torch
from torch import nn

from fastait import recipe
from fastait.methods import METHODS
from fastait.models import make
from fastait.runtime.flops import counted
from fastait.runtime.precision import Precision
from fastait.training.cost import Cost, said, step_cost
from fastait.training.optimizer import make_optimizer
from fastait.training.prepare import method_settings
from fastait.training.step import TrainStep

K = 4


def cost_of(model, method="natural", size=32, batch_size=4):
    settings = method_settings(recipe("digits", method=method), K)
    return step_cost(model, METHODS[method], settings, image_size=size, batch_size=batch_size)


class Own(nn.Module):
    """Dropout, a grouped convolution, no BN, and a tensor that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.Dropout(0.5))
        self.scale = torch.full((8,), 2.0)
        self.fc = nn.Linear(8, K)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return self.fc(self.body(x).mean(dim=(2, 3)) * self.scale)


class Looking(Own):
    """Looks at its images' values."""

    def forward(self, x):
        if x.max() > 1:
            raise ValueError("images must be in [0, 1]")
        return super().forward(x)


class Uncopied(Own):
    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


@pytest.mark.parametrize("method", METHODS)
def test_a_real_step_costs_what_one_without_values_does(method):
    settings = method_settings(recipe("digits", method=method), K)
    model = make("wrn-10-1", K, generator_seed=0)
    cost = step_cost(model, METHODS[method], settings, image_size=8, batch_size=4)
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.1, weight_decay=0)
    step = TrainStep(model, METHODS[method], settings, optimizer, Precision(torch.device("cpu"), None), 0)
    images, labels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8), torch.arange(4)
    unlabeled = images if METHODS[method].needs_unlabeled else None
    assert counted(lambda: step(images, labels, 0, unlabeled=unlabeled)) == 4 * cost.step
    with torch.no_grad():
        assert counted(lambda: model.eval()(torch.rand(1, 3, 8, 8))) == cost.forward
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "method", "passes"),
    [
        ("wrn-10-1-silu", "adv-interp", 6),
        ("resnet-18", "natural", 3),
        ("timm:vit_tiny_patch16_224", "adv-interp", 6),
        ("torchvision:mobilenet_v2", "natural", 3),
    ],
)
def test_passes_of_any_network(name, method, passes):
    """An update is three forward passes' worth, but for the images' gradient and for attention's scores, made again."""
    assert cost_of(make(name, K, generator_seed=None), method).passes == pytest.approx(passes, rel=0.05)


@pytest.mark.parametrize("trained", [True, False])
def test_counting_leaves_the_network_alone(trained):
    model = Own().train(trained)
    model.fc.weight.requires_grad_(False)
    before, drawn = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    cost = cost_of(model, "madry")
    first, second = 2 * 3 * 8 * 9 * 30**2, 2 * 2 * 8 * 9 * 28**2
    last = 2 * 8 * K
    assert cost == Cost(412, first + second + last, 17 * cost.forward - first - last)  # it is frozen
    assert model.training == model.body[3].training == trained
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.grad for p in model.parameters()] == [None] * 6
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False, True]
    assert model.seen == []


def test_whatever_the_caller_has_set():
    model, expected = Own(), cost_of(Own())
    with torch.device("cuda"), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert cost_of(model) == expected
    assert cost_of(model.to("meta")) == expected  # as of a GPU
    assert cost_of(torch.compile(Own())) == expected


@pytest.mark.parametrize("kind", [Looking, Uncopied])
def test_what_cannot_be_counted(kind):
    model = kind()
    assert cost_of(model) == Cost(sum(parameter.numel() for parameter in model.parameters()))
    assert said(cost_of(model)) == "cost: operations not counted; 412 parameters"


def test_what_is_said():
    assert said(Cost(77850, 2.5e7, 1.5e8)) == (
        "cost: a step is 6.0 forward passes' worth (F), 0.15 GFLOP an image; a pass 0.025; 77,850 parameters"
    )
