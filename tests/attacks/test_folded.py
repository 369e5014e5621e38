"""A network with its batch normalisation folded: what it computes, what is left alone, what is not folded."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tolerances import REDUCTION
from torch import nn

from fastait import evaluate_robustness
from fastait.attacks import Subject, frozen
from fastait.attacks import folded as module
from fastait.attacks.folded import folded
from fastait.models.by_name import make

NAMES = ("wrn-10-1", "wrn-10-1-silu", "resnet-18", "preact-resnet-18")


@pytest.fixture(autouse=True)
def _these_are_known(monkeypatch):
    monkeypatch.setattr(module, "KNOWN", (*module.KNOWN, f"{__name__}."))


def lively(model, dtype=torch.float64):
    """With statistics and weights of batch normalisation that do something."""
    torch.manual_seed(2)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
    return model.to(dtype).eval()


def images(layout=torch.channels_last, dtype=torch.float64):
    return torch.rand(3, 3, 16, 16, dtype=dtype).contiguous(memory_format=layout)


def fold(model, x):
    with frozen(Subject.of(model)):
        return folded(Subject.of(model), x)


def pass_of(subject, x):
    """(the features of the images, the logits, their gradient)."""
    leaf = x.clone().requires_grad_()
    with frozen(subject):
        logits = subject(leaf)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), leaf)[0]


def layers(subject, kind):
    return sum(type(layer).__name__ == kind for layer in subject.called.modules())


class Net(nn.Module):
    """One convolution, one norm, and in ``way`` whatever is done with them."""

    def __init__(self, way, **options):
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4, **options)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(F.relu(self.way(self, x)).mean((2, 3)))


def plain(net, x):
    return net.bn(net.conv(x))


def read_twice(net, x):
    made = net.conv(x)
    return net.bn(made) + made


def changed_before(net, x):
    return net.bn(net.conv(x).mul_(2))


def normed_twice(net, x):
    return net.bn(net.bn(net.conv(x)))


def convolved_twice(net, x):
    return net.bn(net.conv(x)) + net.conv(x.flip(1))


def by_its_weights(net, x):
    return F.batch_norm(net.conv(x), net.bn.running_mean, net.bn.running_var, net.bn.weight, net.bn.bias)


def asked_for_its_width(net, x):
    return net.bn(net.conv(x)) / net.bn.num_features


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", NAMES)
def test_networks(name, layout):
    model, x = lively(make(name, 10, image_size=16, generator_seed=1)), images(layout)
    before = copy.deepcopy(model.state_dict())
    made = fold(model, x)
    assert layers(made, "BatchNorm2d") == 0
    assert layers(made, "Identity") > layers(made, "_Affine") - 2
    for found, expected in zip(pass_of(made, x), pass_of(Subject.of(model), x), strict=True):
        torch.testing.assert_close(found, expected, **REDUCTION[torch.float64])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in made.called.parameters() if parameter.dim() == 4)
    assert not any("train" in vars(layer) for layer in made.called.modules())
    for layer in made.called.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.5}, {"momentum": None}])
@pytest.mark.parametrize("bias", [True, False])
def test_one_layer(options, bias):
    model = Net(plain, **options)
    if not bias:
        model.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    model, x = lively(model), images()
    made = fold(model, x)
    assert layers(made, "Identity") == 1
    for found, expected in zip(pass_of(made, x), pass_of(Subject.of(model), x), strict=True):
        torch.testing.assert_close(found, expected, **REDUCTION[torch.float64])


@pytest.mark.parametrize("way", [read_twice, changed_before, normed_twice, convolved_twice])
def test_what_is_not_a_part_of_the_convolution(way):
    model, x = lively(Net(way)), images()
    made = fold(model, x)
    assert layers(made, "Identity") == 0
    assert layers(made, "_Affine") == 1
    for found, expected in zip(pass_of(made, x), pass_of(Subject.of(model), x), strict=True):
        torch.testing.assert_close(found, expected, **REDUCTION[torch.float64])


def test_a_layer_s_output_is_not_taken_for_what_was_there_before():
    """Python gives the place of what is freed to what comes next: nothing is."""
    x = images()
    with module._Reads(len(x)):
        places = {id(x.mul(2)) for _ in range(20)}
    assert len(places) == 20


@pytest.mark.parametrize("way", [by_its_weights, asked_for_its_width])
def test_a_network_that_does_more_with_a_layer_than_call_it(way):
    assert fold(lively(Net(way)), images()) is None


def test_a_layer_that_is_called_behind_the_network_s_back():
    model = lively(Net(lambda net, x: net.others[1](net.others[0](x))))
    model.others = (model.conv, model.bn)  # where a copy keeps the written ones
    made, x = fold(model, images()), images()
    assert made is None or torch.equal(made(x), Subject.of(model)(x))
    model.others = (model.conv,)
    model.way = lambda net, x: net.bn(net.others[0](x))
    made = fold(model, images())
    assert made is None or layers(made, "Identity") == 0


KINDS = (
    "hook",
    "compiled",
    "in place",
    "parallel",
    "scripted",
    "draws",
    "draws in vain",
    "reseeded",
    "forward",
    "global",
)


@pytest.mark.parametrize("kind", [*KINDS, "batch", "half", "function"])
def test_what_runs_as_it_is(kind, request):
    model, x = lively(Net(plain, track_running_stats=kind != "batch")), images()
    if kind == "hook":
        model.bn.register_forward_hook(lambda *given: None)
    elif kind == "compiled":
        model = torch.compile(model, backend="eager")
    elif kind == "in place":
        model.compile(backend="eager")
    elif kind == "parallel":
        model = nn.DataParallel(model)
    elif kind == "scripted":
        model = torch.jit.trace(model, x)
    elif kind == "draws":
        model.way = lambda net, x: plain(net, x + torch.rand_like(x))
    elif kind == "draws in vain":
        model.way = lambda net, x: plain(net, x + 0 * torch.rand_like(x))
    elif kind == "reseeded":
        model.reseed = lambda seed: None
    elif kind == "forward":
        own = model.bn.forward
        model.bn.forward = lambda x: own(x).clamp(-100, 100)  # which these images do not show
    elif kind == "global":
        handle = nn.modules.module.register_module_forward_hook(lambda *given: None)
        request.addfinalizer(handle.remove)
    elif kind == "half":
        model, x = model.bfloat16(), x.bfloat16()
    elif kind == "function":
        network = model
        model = lambda x: network(x)  # noqa: E731
    before = torch.get_rng_state()
    assert fold(model, x) is None
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_of_one_s_own_run_as_they_are(monkeypatch):
    monkeypatch.undo()
    assert fold(lively(Net(plain)), images()) is None
    assert fold(lively(nn.Sequential(Net(plain))), images()) is None
    plainly = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(784, 5))
    assert layers(fold(lively(plainly), images()), "Identity") == 1


def test_a_watcher_that_ends_the_evaluation():
    def stop(x):
        raise RuntimeError("stopped")

    subject = Subject.of(lively(Net(plain))).watched(stop)
    with frozen(subject), pytest.raises(RuntimeError, match="stopped"):
        folded(subject, images())


def test_a_copy_that_computes_something_else_is_not_used(monkeypatch):
    factors = module._factors
    monkeypatch.setattr(module, "_factors", lambda norm: tuple(1.01 * t for t in factors(norm)))
    assert fold(lively(Net(plain)), images()) is None


def test_features_and_watchers_are_the_subject_s():
    model, x, seen = lively(Net(plain)), images(), []
    subject = Subject.of(model).watched(lambda x: seen.append(len(x)))
    with frozen(subject):
        made = folded(subject, x)
        seen.clear()
        made(x)
        assert torch.equal(made.features(x), Subject.of(model).features(x))
    assert made.title == "Net"
    assert seen == [3, 3]


def test_evaluations_search_by_it(monkeypatch):
    """Of its passes the network itself makes those that say who is fooled."""
    model, x = lively(Net(plain)), images(dtype=torch.float64)
    y = model(x).argmax(1)
    calls, norm = [], F.batch_norm
    monkeypatch.setattr(F, "batch_norm", lambda *given, **options: calls.append(1) or norm(*given, **options))
    found = evaluate_robustness(model, x, y, ["pgd50"], epsilon=0.1, step_size=0.02)
    assert len(calls) < 20
    monkeypatch.setattr(module, "NEAR", {})
    again = evaluate_robustness(model, x, y, ["pgd50"], epsilon=0.1, step_size=0.02)
    assert len(calls) > 50
    assert torch.equal(found.correct["pgd50"], again.correct["pgd50"])


def test_who_is_fooled_is_said_by_the_network_itself(monkeypatch):
    """Search by a copy that is wrong about everything: images may stand that fall, none falls that stands."""
    model, x = lively(Net(plain)), images()
    y = model(x).argmax(1)
    names = ["pgd5", "square-20", "apgd-ce-5", "fab-t-3"]
    monkeypatch.setattr(module.Folded, "forward", lambda self, x: -Subject.forward(self, x))
    found = evaluate_robustness(model, x, y, names, epsilon=1e-6)
    assert all(found.correct[name].all() for name in names)
