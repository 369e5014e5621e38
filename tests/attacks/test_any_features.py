"""Features of any network, where attacks and ``adversarial_interpolation`` ask for them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import small
import torch
from torch import nn

from fastait import adversarial_interpolation, evaluate_robustness
from fastait.attacks import RandomSignNoise, Subject, frozen
from fastait.attacks.feature import towards
from fastait.runtime.errors import InputError


class Plain(nn.Module):
    """No ``features``: what ``f`` is given. It normalises in place."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        self.drop, self.f = nn.Dropout(0.5), nn.Linear(512, 10)

    def forward(self, x):
        return self.f(self.drop(self.body(x.sub_(0.5))))


class Submodule(Plain):
    """As torchvision's MobileNet, VGG and DenseNet."""

    def __init__(self):
        super().__init__()
        self.features = self.body[:2]

    def forward(self, x):
        return self.f(self.drop(self.body[2:](self.features(x.sub_(0.5)))))


KINDS = {
    "plain": Plain,
    "submodule": Submodule,
    "compiled": lambda: torch.compile(Plain(), backend="eager"),
    "parallel": lambda: nn.DataParallel(Plain()),
    "frozen": lambda: Plain().requires_grad_(False),
}


def new(kind="plain"):
    """The model, and its features written by hand."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    plain = getattr(model, "_orig_mod", getattr(model, "module", model))
    return model.train(), lambda x: plain.body(x - 0.5)


def seeded():
    return torch.Generator().manual_seed(2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_interpolation(kind, autocast):
    (model, by_hand), (x, y) = new(kind), small.images(6)
    before, drawn = x.clone(), torch.random.get_rng_state()
    requires_grad, statistics = [p.requires_grad for p in model.parameters()], [b.clone() for b in model.buffers()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = adversarial_interpolation(model, x, y, steps=2, generator=seeded())
        expected = adversarial_interpolation(model, x, y, steps=2, generator=seeded(), feature_fn=by_hand)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert (found[0] - x).abs().max() > 0.02
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == requires_grad
    assert all(torch.equal(now, then) for now, then in zip(model.buffers(), statistics, strict=True))


def test_the_layer_is_looked_for_once():
    """Then there are the passes that the algorithm needs, the partners' without a graph."""
    (model, _), (x, y), calls = new(), small.images(4), []
    model.body[0].register_forward_hook(
        lambda module, inputs, output: calls.append((len(output), output.requires_grad))
    )
    for _ in range(2):
        adversarial_interpolation(model, x, y)
    width, probe, passes = [(2, False)], [(2, True)], [(4, False), (4, True)]
    assert calls == [*width, *probe, *passes, *passes]


def test_the_feature_attack():
    (model, by_hand), (x, y) = new(), small.images(12)

    class WithFeatures(Plain):
        def features(self, x):
            return self.body(x - 0.5)

    torch.manual_seed(0)
    names = ["feature3", "feature3-min2", "eot2-feature2", "transfer-feature3"]
    models = model, WithFeatures()
    found, expected = (evaluate_robustness(m, x, y, names, surrogate=m, epsilon=0.1).correct for m in models)
    assert all(torch.equal(found[name], expected[name]) for name in names)
    with frozen(model):
        losses, _ = towards(model, x.flip(0))(x, torch.arange(12))
        cosines = torch.nn.functional.cosine_similarity(by_hand(x), by_hand(x.flip(0)))
    torch.testing.assert_close(losses, cosines - 1, rtol=0, atol=1e-5)


def test_several_threads():
    (model, by_hand), (x, y) = new(), small.images(8)
    expected = adversarial_interpolation(model, x, y, steps=3, generator=seeded(), feature_fn=by_hand)[0]
    model.f = nn.Linear(512, 10)  # to be found again, by all of them at once
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(adversarial_interpolation, model, x, y, steps=3, generator=seeded()) for _ in range(12)]
        assert all(torch.equal(run.result()[0], expected) for run in runs)
    assert all(module.training for module in model.modules())


def test_a_random_defence_draws_as_if_its_models_features_were_known():
    (model, by_hand), (x, _) = new(), small.images(4)
    noisy = RandomSignNoise(model.eval(), 0.1)
    noisy.reseed(3)
    features = Subject(noisy).features(x)
    noisy.reseed(3)
    assert torch.equal(features, by_hand(noisy.noisy(x)))


def test_no_images():
    (model, _), (x, y) = new(), small.images(4)
    assert adversarial_interpolation(model, x[:0], y[:0])[0].shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (lambda x: x.flatten(1)[:, :10], TypeError, r"<lambda> has no features\(x\): define a method features\(x\)"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), InputError, "no linear layer that makes its logits"),
    ],
    ids=["function", "no layer"],
)
def test_where_there_are_none(model, error, said):
    x, y = small.images(4)
    with pytest.raises(error, match=said):
        adversarial_interpolation(model, x, y)
    with pytest.raises(InputError, match=said):
        evaluate_robustness(model, x, y, ["feature3"])
    x_tilde, _ = adversarial_interpolation(model, x, y, feature_fn=lambda x: x.mean(dim=1))
    assert x_tilde.shape == x.shape
