"""What is counted against counts of real passes, and against what the paper's arithmetic says."""

import dataclasses
import importlib
import sys
from types import SimpleNamespace

import pytest
import small
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fastait import recipe
from fastait.data import FloatSet
from fastait.evaluation import evaluate
from fastait.methods import METHODS
from fastait.models import WideResNet
from fastait.reproduction import cost
from fastait.reproduction.cost import evaluation_flops, measured_rate, run_cost
from fastait.runtime.errors import InputError
from fastait.runtime.flops import counted

CPU = torch.device("cpu")
CIFAR_LAYER = 2 * 32 * 32 * 16 * 3 * 9
"""The first convolution of an image of 32x32 pixels."""

PASSES = {
    "natural": 3,
    "madry": 7 * 2 + 3,
    "bilateral": 1 + 2 + 3,  # the clean images' logits, the attack, the update
    "feature-scatter": 1 + 2 + 3,
    "adv-interp": 1 + 2 + 3,
    "image-org": 3,
    "image-mixup": 3,
    "image-cls": 2 + 3,
    "label-org": 1 + 2 + 3,
    "label-mixup": 1 + 2 + 3,
    "label-smooth": 1 + 2 + 3,
    "mixup": 3,
    "manifold-mixup": 3,
    "iat-mixup": 3 + (7 * 2 + 3),
    "iat-manifold-mixup": 3 + (7 * 2 + 3),
    "uat": (1 + 7 * 2 + 3) + (7 * 2 + 3),
    "trades": 1 + 10 * 2 + (3 + 3),
    "mart": 10 * 2 + (3 + 3),
    "fgsm-rs": 2 + 3,
    "n-fgsm": 2 + 3,
    "nu-at": 1 + 2 + (3 + 3),
    "grad-align": 2 + 3 + 6,  # the gradient around an image, two, and its own backward pass, twice that
}
"""Forward passes' worth of each method's published settings: an input gradient is two, an update three."""

SMALL = recipe("digits", image_size=8, batch_size=4, epochs=2)


def training_flops(config, num_classes, images):
    return config.epochs * images * run_cost(config, num_classes).step


def forward(depth=28, widen_factor=10, size=32):
    """Operations of a forward pass of one image, and of its last layer."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model = WideResNet(depth, widen_factor, 10)
        model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops(), 2 * model.fc.weight.numel()


def test_passes_of_the_papers_methods():
    """To the operation: an update has no gradient of the images, and features no last layer."""
    f, fc = forward()
    assert f == pytest.approx(10.5e9, rel=0.01)
    expected = {
        "natural": 3 * f - CIFAR_LAYER,
        "adv-interp": 6 * f - CIFAR_LAYER - 3 * fc,
        "madry": (7 * 2 + 3) * f - CIFAR_LAYER,
    }
    for method, flops in expected.items():
        config = recipe("cifar10", method=method)
        assert training_flops(config, 10, 50_000) == config.epochs * 50_000 * flops
    assert expected["adv-interp"] == pytest.approx(6 * f, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_passes_of_every_method(method):
    f, _ = forward(10)
    config = recipe("cifar10", method=method, model="wrn-10-10", epochs=1)
    # torch's second derivative of a convolution with a stride computes more than it keeps.
    most = 0.03 if METHODS[method].differentiates_twice else 1e-3
    assert training_flops(config, 10, 1) == pytest.approx(PASSES[method] * f, rel=most)


def test_settings_count():
    f, fc = forward(10, 1, 8)
    first = CIFAR_LAYER / 16
    config = dataclasses.replace(SMALL, method="adv-interp", attack_steps=3)
    assert training_flops(config, 10, 5) == 2 * 5 * (f + 3 * 2 * f + 3 * f - first - 7 * fc)
    more = training_flops(config, 100, 5) - training_flops(config, 10, 5)
    assert more == 2 * 5 * 3 * 9 * fc  # the last layer is in the update alone


class Constant(WideResNet):
    """Says class 0 whatever it sees, so that no image leaves its batch."""

    def __init__(self):
        super().__init__(10, 1, 10)
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.bias[0] = 2


@pytest.mark.parametrize(
    "attacks",
    [
        ["fgsm"],
        ["pgd3", "pgd5", "cw4"],
        ["pgd5-worst", "pgd3"],
        ["pgd3-best", "pgd5"],
        ["pgd5-best", "pgd6-worst", "pgd2"],
        ["pgd5-best", "pgd5"],
        ["feature3", "feature5"],
        ["feature3-best", "feature3-worst"],
        ["pgd3-min2", "feature3-min2"],
        ["pgd3-zero", "eot2-pgd3"],
        ["eot2-pgd3-best", "eot2-pgd5"],
        ["transfer-pgd3", "transfer-pgd5", "transfer-feature2-best"],
        ["spsa-3x2"],
        ["fgsm+pgd3+cw3"],
        ["apgd-ce"],
        ["apgd-t", "apgd-dlr-2"],
        ["fab-t"],
        ["quick"],
        ["autoattack-rand"],
    ],
    ids="-".join,
)
def test_an_evaluation_costs_what_is_counted(attacks, monkeypatch):
    small.short_autoattack(monkeypatch, queries=7, iterations=3)
    module = sys.modules["fastait.evaluation.evaluate"]  # not the function that is called so
    monkeypatch.setattr(module, "random_model", lambda *arguments: "")  # by a pass of its own
    images = FloatSet(torch.rand(6, 3, 8, 8), torch.zeros(6, dtype=torch.int64))
    model = Constant()

    def spent(attacks):
        def run():
            outcomes = evaluate(model, images, attacks, batch_size=4, surrogate=surrogate)
            assert all(bool(correct.all()) for correct in outcomes.correct.values())

        return counted(run)

    surrogate = model if any("transfer" in name for name in attacks) else None
    trial = spent([]) - 6 * forward(10, 1, 8)[0]
    estimates = 0
    if attacks == ["spsa-3x2"]:  # scores times directions are no passes; a trial says how many are scored together
        estimates = 6 * 2 * 2 * 3 * (3 * 8 * 8) + 2 * forward(10, 1, 8)[0]
    assert spent(attacks) - trial - estimates == evaluation_flops(SMALL, 10, attacks, 6)


@pytest.mark.parametrize(
    "attacks",
    [
        ["local-search-3", "local-search-linf-2"],
        ["pgd5-worst"],
        ["fgsm+pgd3", "pgd3-min2"],
        ["square-20"],
        ["autoattack"],
        ["fgsm+square-20"],
    ],
)
def test_images_that_leave_make_it_cheaper(network, attacks, monkeypatch):
    small.short_autoattack(monkeypatch)
    images = FloatSet(torch.rand(6, 3, 16, 16), torch.arange(6))
    spent = counted(lambda: evaluate(network, images, attacks, batch_size=4))
    trial = 2 * 2 * forward(10, 1, 16)[0]  # for its logits and its layout
    assert spent - trial <= evaluation_flops(dataclasses.replace(SMALL, image_size=16), 10, attacks, 6)


def test_a_local_search_that_finds_nothing(monkeypatch):
    """Every round but the first scores as many pixels as it may, where the squares around five are more than that."""
    monkeypatch.setattr(importlib.import_module("fastait.attacks.local_search"), "CANDIDATES", 20)
    monkeypatch.setattr(cost, "CANDIDATES", 20)
    images = FloatSet(torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))
    spent = counted(lambda: evaluate(Constant(), images, ["local-search-4"], batch_size=4))
    tried = 2 + 2  # what the model takes at all, and how many probes it is to score together
    assert spent - tried * forward(10, 1, 8)[0] == evaluation_flops(SMALL, 10, ["local-search-4"], 1)


class Own(nn.Module):
    """A user's, without ``features``."""

    def __init__(self, num_classes):
        super().__init__()
        self.first, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.first(x).relu().mean(dim=(2, 3)))


class Looking(Own):
    def forward(self, x):
        return super().forward(x / x.max().item())


class NoLayer(Own):
    def forward(self, x):
        return self.first(x).mean(dim=(2, 3)) @ self.fc.weight.t()


def test_a_network_of_the_users_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_nets", SimpleNamespace(Own=Own, Looking=Looking, NoLayer=NoLayer))
    own, looking, no_layer = (
        dataclasses.replace(SMALL, model=f"own_nets:{name}", method="madry") for name in ("Own", "Looking", "NoLayer")
    )
    first, last = 2 * 36 * 8 * 27, 2 * 8 * 10
    assert run_cost(own, 10).step == 5 * (first + last) - first
    # The targets' features, three gradients and the last image's logits; and the clean pass. The last layer is passed
    # too where it is found by what it is given.
    assert evaluation_flops(own, 10, ["feature3"], 1) == 3 * (first + last) + 3 * (2 * first + last)
    for refused in (lambda: run_cost(looking, 10), lambda: evaluation_flops(looking, 10, [], 1)):
        with pytest.raises(InputError, match="what --model own_nets:Looking costs cannot be counted beforehand"):
            refused()
    assert evaluation_flops(no_layer, 10, ["pgd3"], 1) == (2 + 3 * 2) * (first + last)
    with pytest.raises(InputError, match="so that it has no features"):
        evaluation_flops(no_layer, 10, ["feature3"], 1)


@pytest.mark.parametrize("amp", [False, True])
def test_the_rate_is_of_natural_steps_after_the_first(monkeypatch, amp):
    """By a clock that goes on a second with every step."""
    monkeypatch.setattr(cost, "STEP_FLOP", 1e8)
    seen = []
    call = cost.TrainStep.__call__

    def watched(step, images, y, number, **more):
        seen.append((step.precision.dtype, len(images)))
        call(step, images, y, number, **more)

    monkeypatch.setattr("time.perf_counter", lambda: float(len(seen)))
    monkeypatch.setattr(cost.TrainStep, "__call__", watched)
    config = dataclasses.replace(SMALL, image_size=16, batch_size=64, amp=amp, method="madry")
    per_image = 3 * forward(10, 1, 16)[0] - CIFAR_LAYER / 4
    before = torch.random.get_rng_state()
    rate = measured_rate(config, 10, CPU)
    assert torch.equal(before, torch.random.get_rng_state())
    images = int(1e8 / per_image)
    real = (cost.native_half(CPU) if amp else None, images)
    assert seen == [(None, 64), real, real, real]  # the first is fake, the second is not counted
    assert rate == pytest.approx(images * per_image)
