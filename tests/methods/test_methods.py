"""Each method against its equations written plainly, in fp64; what is drawn; how a method is added."""

import copy
import json
from collections import Counter

import plain
import pytest
import scipy.stats
import torch
from step_inputs import batch, make_step, unlabeled
from torch import Tensor

from fastait.attacks import Noise
from fastait.data import to_float
from fastait.methods import METHODS, Method, Mixup, Term, images, labels
from fastait.methods.mixing import draw_mixing
from fastait.methods.sample import choose_partners
from fastait.methods.transport import sinkhorn
from fastait.recipes import recipe
from fastait.runtime.randomness import derive, uniform
from fastait.train import main

CPU = torch.device("cpu")


def noise(seed=0, number=0, before=0):
    stream = Noise.seeded(seed, CPU)
    stream.seek(torch.tensor([number]), before)
    return stream


def run_both(network, method, knobs, sizes):
    """Three steps of the plain method and of ours, in fp64."""
    slow = network.double()
    fast = copy.deepcopy(slow).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.0625, momentum=0.9, weight_decay=2e-4)
    step = make_step(fast, method, steps=plain.STEPS, knobs=knobs, at_a_time=4)
    fast.train()
    losses = []
    for number, size in enumerate(sizes):
        pixels, y = batch(number, size=size, image=8)
        y = y % 4  # some partners are of one class
        extra = unlabeled(method, pixels)
        x = to_float(pixels, torch.float64)
        draws = plain.Draws(
            number, step.settings.step_size, knobs, None if extra is None else to_float(extra, torch.float64)
        )
        before = step.totals.loss.item()
        step(pixels, y, number, unlabeled=extra)
        slow.train()
        loss = getattr(plain, method.replace("-", "_"))(slow, x, y, draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(((step.totals.loss.item() - before) / len(y), loss.item()))
    return fast, slow, losses


def assert_equal(network, method, knobs, sizes=(6, 7, 6)):
    fast, slow, losses = run_both(network, method, knobs, sizes)
    for mine, theirs in losses:
        assert mine == pytest.approx(theirs, rel=1e-6)  # some losses are fp32
    for name, value in fast.state_dict().items():
        torch.testing.assert_close(value, slow.state_dict()[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_equations(network, method):
    assert_equal(network, method, {"partners": recipe(method=method).partners})


@pytest.mark.parametrize(
    "knobs",
    [
        {"distance": "euclidean"},
        {"partner_features": "noisy"},
        {"partner_features": "noisy", "distance": "euclidean", "partners": "other-class"},
        {"partners": "random"},
        {"partners": "other-class"},
    ],
    ids=lambda knobs: " ".join(knobs.values()),
)
def test_knobs(network, knobs):
    # An image that is its own partner in its own pass has a gradient of rounding alone: none is in these batches.
    assert_equal(network, "adv-interp", knobs, sizes=(6, 8, 6))


def test_noisy_partners_cost_a_pass_less(network):
    passes = {}
    for which in ("clean", "noisy"):
        step = make_step(copy.deepcopy(network), knobs={"partner_features": which})
        passes[which] = calls = []
        step.model.conv1.register_forward_hook(lambda *args, calls=calls: calls.append(args))
        step(*batch(0, image=8), 0)
    assert {name: len(calls) for name, calls in passes.items()} == {"clean": 3, "noisy": 2}


def test_pixel_interpolation_stays_in_the_ball(network):
    step = make_step(network, "image-mixup")
    seen = []
    network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pixels, y = batch(0)
    step(pixels, y, 0)
    assert (seen[-1] - to_float(pixels)).abs().max() <= plain.EPSILON * (1 + 1e-5)
    assert seen[-1].min() >= 0
    assert seen[-1].max() <= 1


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (1, 1)])
def test_sinkhorn_is_the_loop_that_stops(size):
    for scale in (0.01, 0.3, 2.0):
        cost = scale * torch.rand(*size, dtype=torch.float64)
        torch.testing.assert_close(sinkhorn(cost), plain.transport_plan(cost), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(sinkhorn(cost).sum(0), torch.full((size[1],), 1 / size[1]).double())


def test_sinkhorn_finds_the_matching():
    """Where each row has one near column, the plan is that permutation."""
    index = torch.tensor([2, 0, 3, 1])
    cost = torch.ones(4, 4)
    cost[torch.arange(4), index] = 0.0
    torch.testing.assert_close(sinkhorn(cost), torch.nn.functional.one_hot(index, 4) / 4.0)


@pytest.mark.parametrize("how", ["reversed", "random", "other-class"])
def test_partners(how):
    y = torch.randint(0, 3, (50,))
    found = [choose_partners(how, y, noise(number=n))(torch.arange(50)) for n in range(200)]
    if how == "reversed":
        assert all(torch.equal(f, torch.arange(49, -1, -1)) for f in found)
        return
    assert len({tuple(f.tolist()) for f in found}) == 200
    counts = torch.zeros(50, 50)
    for f in found:
        counts[torch.arange(50), f] += 1
    if how == "random":
        assert all(torch.equal(f.sort().values, torch.arange(50)) for f in found)
        allowed = torch.ones(50, 50, dtype=torch.bool)
    else:
        assert all(bool((y[f] != y).all()) for f in found)
        allowed = y[:, None] != y
    expected = (200 / allowed.sum(1, keepdim=True)).expand(50, 50)[allowed]
    assert scipy.stats.chisquare(counts[allowed].numpy(), expected.numpy()).pvalue > 1e-3


def test_an_image_without_another_class_is_its_own_partner():
    y = torch.tensor([4, 4, 4])
    assert choose_partners("other-class", y, noise())(torch.arange(3)).tolist() == [0, 1, 2]


def test_partners_keep_the_memory_format():
    x = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for how in ("reversed", "random"):
        assert choose_partners(how, torch.arange(4), noise())(x).stride() == x.stride()


@pytest.mark.parametrize(("layers", "alpha"), [(1, 1), (3, 2), (2, 5)])
def test_shares_are_beta_at_layers_alike(layers, alpha):
    drawn = [draw_mixing(Mixup(layers, alpha), 0, step) for step in range(2000)]
    assert scipy.stats.kstest([share for _, share in drawn], scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    counts = Counter(layer for layer, _ in drawn)
    assert set(counts) == set(range(layers))
    assert layers == 1 or scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("step", [0, 7, 2**33])
def test_the_host_draws_what_a_device_would(step):
    stream = noise(derive(3, "mixing"), step)
    assert uniform(derive(3, "mixing"), step, 11) == stream.uniform(11).tolist()


def test_normal_starts():
    x = torch.full((8, 3, 32, 32), 0.5)
    start = (noise().normal(x, 0.01) - x) / 0.01
    assert scipy.stats.kstest(start.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(noise(before=4).normal(x[4:], 0.01), noise().normal(x, 0.01)[4:])
    assert noise().normal(x.bfloat16(), 0.01).dtype == torch.bfloat16


def test_recipes_are_published_ones():
    assert recipe("cifar10", method="trades").attack_steps == 10
    assert recipe("cifar10", method="madry").epochs == 100
    assert recipe("cifar100", method="madry").epochs == 100
    assert recipe("cifar100", method="adv-interp").epsilon_y == 0.9
    assert recipe("cifar100", method="feature-scatter").epsilon_y == 0.5
    assert recipe("svhn", method="iat-mixup").partners == "random"
    assert recipe("svhn", method="bilateral").lr == 0.01
    assert recipe("svhn", method="uat").epochs == 200
    assert recipe("digits", method="uat").epochs == 8


def test_a_method_is_added_by_an_entry_and_a_function(monkeypatch, tmp_path):
    """Table 7's third row, which nobody would train for robustness: images moved towards y', and y' for a label."""

    def partner_classes(logits: Tensor, sample, settings) -> Tensor:
        """y': the partner's class."""
        return torch.nn.functional.cross_entropy(logits.float(), sample.partner(sample.y))

    monkeypatch.setattr(labels, "partner_classes", partner_classes, raising=False)
    monkeypatch.setitem(
        METHODS, "non-robust", Method((Term("adversarial_interpolation", "partner_classes"),), "Ilyas et al., 2019")
    )
    argv = ["--method", "non-robust", "--image-size", "8", "--epochs", "1", "--eval-samples", "10", "--device", "cpu"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["method"] == "non-robust"


def test_names_are_functions_of_one_line_each():
    for method in METHODS.values():
        for term in method.terms:
            assert getattr(images, term.images).__doc__.split("\n")[0].endswith((".", ")."))
            assert getattr(labels, term.labels).__doc__
