"""The networks of this package: against plain ones in fp64, at several sizes, and as torch's tools see them."""

import plain_networks as plain
import pytest
import torch
import torch.nn.functional as F
from tolerances import REDUCTION
from torch import fx

from fastait.models import GowalWideResNet, PreActResNet18, ResNet18, WideResNet, make

NAMES = ("wrn-10-1", "wrn-10-1-silu", "wrn-10-1-relu", "resnet-18", "preact-resnet-18", "preact-resnet-18-v2-bn")
SINGLE = NAMES[1:]
"""Those that take images alone."""

PREACT = {
    "preact-resnet-18": (False, False),
    "preact-resnet-18-v2": (True, False),
    "preact-resnet-18-bn": (False, True),
    "preact-resnet-18-v2-bn": (True, True),
}


def loaded(name, state, classes):
    """The network of this name with ``state``, in fp64 and eval mode."""
    model = make(name, classes, generator_seed=None).double().eval()
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize(("depth", "widen_factor"), [(10, 1), (16, 2)])
def test_gowals_network_is_robustbenchs(depth, widen_factor, activation):
    state = plain.weights(plain.gowal_table(depth, widen_factor, 7))
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    model = loaded(f"wrn-{depth}-{widen_factor}-{activation}", state, 7)
    expected = plain.gowal(state, x, depth, getattr(F, activation))
    torch.testing.assert_close(model(x), expected, **REDUCTION[torch.float64])


def test_resnet_is_robustbenchs():
    state = plain.weights(plain.resnet_table(7))
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(loaded("resnet-18", state, 7)(x), plain.resnet(state, x), **REDUCTION[torch.float64])


@pytest.mark.parametrize("name", PREACT)
def test_pre_activation_resnets_are_robustbenchs(name):
    second, final = PREACT[name]
    state = plain.weights(plain.resnet_table(7, preact=True, final_bn=final))
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    logits = loaded(name, state, 7)(x)
    torch.testing.assert_close(logits, plain.preact_resnet(state, x, second), **REDUCTION[torch.float64])
    assert (logits - plain.preact_resnet(state, x, not second)).abs().max() > 1e-3, "the variants are told apart"


@pytest.mark.parametrize("name", NAMES)
def test_a_step(name):
    model = make(name, 5, generator_seed=0)
    x = torch.rand(4, 3, 16, 16)
    before = x.clone()
    loss = F.cross_entropy(model(x), torch.arange(4))
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(x, before)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(8, 8), (9, 15), (40, 64)])
def test_other_sizes(name, size):
    model = make(name, 5, generator_seed=0).eval()
    x = torch.rand(3, 3, *size)
    with torch.no_grad():
        features = model.features(x)
        assert features.dim() == 2
        assert len(features) == 3
        last = list(model.children())[-1]
        torch.testing.assert_close(model(x), last(features), **REDUCTION[torch.float32])
        one = model(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(model(x), one, **REDUCTION[torch.float32])


@pytest.mark.parametrize("name", SINGLE)
def test_torchs_tools(name):
    """Traced and scripted networks compute the same, at other sizes too."""
    model = make(name, 5, generator_seed=0).eval()
    for tool in (fx.symbolic_trace, torch.jit.script):
        other = tool(model)
        for size in (16, 18):
            x = torch.rand(2, 3, size, size)
            with torch.no_grad():
                torch.testing.assert_close(other(x), model(x), **REDUCTION[torch.float32])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: GowalWideResNet(12, 1), "6n"),
        (lambda: GowalWideResNet(10, 0), "widen"),
        (lambda: GowalWideResNet(10, 1, 1), "classes"),
        (lambda: ResNet18(1), "classes"),
        (lambda: PreActResNet18(1), "classes"),
    ],
)
def test_bad_arguments(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("wrong", [None, "2", 2.5, float("nan"), True, torch.zeros(2), 1, 2**63])
@pytest.mark.parametrize("kind", [WideResNet, GowalWideResNet, ResNet18, PreActResNet18])
def test_sizes_that_are_none(kind, wrong):
    """Refused by name, before anything is drawn."""
    state = torch.get_rng_state()
    sizes = {"depth": 10, "widen_factor": 1} if kind in (WideResNet, GowalWideResNet) else {}
    for name in (*sizes, "num_classes"):
        if isinstance(wrong, torch.Tensor) or (name, wrong) != ("widen_factor", 1):
            with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
                kind(**{**sizes, name: wrong})
    assert torch.equal(torch.get_rng_state(), state)


def test_arguments_of_make():
    for name, wrong in (("num_classes", 1.5), ("image_size", "8"), ("generator_seed", [1])):
        arguments = {"num_classes": 2, "image_size": 8, "generator_seed": 0, name: wrong}
        with pytest.raises(TypeError, match=f"^{name} must be a whole number"):
            make("wrn-10-1", **arguments)
    with pytest.raises(ValueError, match="activation must be one of silu, relu, got 'gelu'"):
        GowalWideResNet(10, 1, activation="gelu")
