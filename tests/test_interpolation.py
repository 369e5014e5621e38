"""The fast path against the reference path, and its manners towards the model it is given."""

import pytest
import torch
from tolerances import BALL_FP32, ELEMENTWISE, SIGN_FLIPS_FP32

from fastait import adversarial_interpolation, reference
from fastait.attacks import Noise
from fastait.models import WideResNet

EPSILON = 8 / 255
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def both(network, x, y, steps, epsilon_y=0.5):
    classes = network.num_classes
    soft = reference.one_hot(y, classes) if y.dim() == 1 else y
    start = Noise.drawn(torch.Generator().manual_seed(7), x.device).start(x, EPSILON)
    slow = reference.adv_interp(x, soft, network, classes, steps=steps, epsilon_y=epsilon_y, start=start)
    fast = adversarial_interpolation(
        network, x, y, steps=steps, epsilon_y=epsilon_y, generator=torch.Generator().manual_seed(7)
    )
    return slow, fast


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("size", [1, 2, 5, 16])
@pytest.mark.parametrize("image", [(8, 8), (17, 12), (32, 32)])
def test_equals_reference_fp32(network, memory_format, size, image):
    network = network.to(memory_format=memory_format)
    x = torch.rand(size, 3, *image).contiguous(memory_format=memory_format)
    y = torch.randint(0, 10, (size,))
    (x_slow, y_slow), (x_fast, y_fast) = both(network, x, y, steps=1)
    differs = (x_slow - x_fast).abs() > ELEMENTWISE[torch.float32]["atol"]
    assert differs.double().mean() <= SIGN_FLIPS_FP32
    assert (x_slow - x_fast).abs().max() <= 2 * EPSILON + BALL_FP32
    torch.testing.assert_close(y_fast, y_slow, **ELEMENTWISE[torch.float32])


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("soft", [False, True])
def test_equals_reference_fp64(network, steps, soft):
    network = network.double()
    x = torch.rand(7, 3, 16, 16, dtype=torch.float64)
    y = torch.rand(7, 10).softmax(1) if soft else torch.randint(0, 10, (7,))
    (x_slow, y_slow), (x_fast, y_fast) = both(network, x, y, steps=steps, epsilon_y=0.3)
    torch.testing.assert_close(x_fast, x_slow, **ELEMENTWISE[torch.float64])
    torch.testing.assert_close(y_fast.double(), y_slow.double(), **ELEMENTWISE[torch.float32])
    assert x_fast.dtype == torch.float64
    assert y_fast.dtype == torch.float32


def test_result_is_like_x(network):
    x = torch.rand(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    x_tilde, y_tilde = adversarial_interpolation(network, x, torch.arange(4))
    assert x_tilde.stride() == x.stride()
    assert not x_tilde.requires_grad
    assert y_tilde.shape == (4, 10)
    assert (x_tilde - x).abs().max() <= EPSILON + BALL_FP32
    assert x_tilde.min() >= 0
    assert x_tilde.max() <= 1


def state_of(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [b.clone() for b in model.buffers()],
    )


def mixed(model):
    """Train mode with one block in eval mode and some parameters frozen, as in fine-tuning."""
    model.train()
    model.block1.eval()
    model.conv1.weight.requires_grad_(False)
    return model


def assert_untouched(model, before):
    after = state_of(model)
    assert after[:3] == before[:3]
    assert all(torch.equal(a, b) for a, b in zip(after[3], before[3], strict=True))


def test_leaves_the_model_as_it_was(network):
    model = mixed(network)
    before = state_of(model)
    adversarial_interpolation(model, torch.rand(4, 3, 16, 16), torch.arange(4), steps=2)
    assert_untouched(model, before)


@pytest.mark.parametrize("at_call", [1, 2, 3])
def test_leaves_the_model_as_it_was_after_an_exception(network, monkeypatch, at_call):
    model = mixed(network)
    before = state_of(model)
    calls = []
    features = type(model).features

    def failing(self, x):
        calls.append(x)
        if len(calls) == at_call:
            raise RuntimeError("no more")
        return features(self, x)

    monkeypatch.setattr(WideResNet, "features", failing)
    with pytest.raises(RuntimeError, match="no more"):
        adversarial_interpolation(model, torch.rand(4, 3, 16, 16), torch.arange(4), steps=2)
    assert_untouched(model, before)


def test_costs_what_the_algorithm_needs(network):
    """One pass for the partners without a graph, one for the images, no copy, no gradient of a weight."""
    calls = []
    network.conv1.register_forward_hook(lambda module, inputs, output: calls.append(output.requires_grad))
    weight_gradients = []
    for parameter in network.parameters():
        parameter.register_hook(lambda grad: weight_gradients.append(grad))
    adversarial_interpolation(network, torch.rand(4, 3, 16, 16), torch.arange(4))
    assert calls == [False, True]
    assert weight_gradients == []


def test_works_under_no_grad(network):
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    free = adversarial_interpolation(network, x, y, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inside = adversarial_interpolation(network, x, y, generator=torch.Generator().manual_seed(0))
    assert torch.equal(free[0], inside[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, "divide uint8 images by 255"),
        ({"x": torch.zeros(3, 8, 8)}, ValueError, r"\[B, C, H, W\]"),
        ({"y": torch.zeros(2, dtype=torch.bool)}, TypeError, "whole numbers"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, ValueError, "one class per image"),
        ({"y": torch.zeros(3, 10)}, ValueError, r"soft labels must be \[2, K\]"),
        ({"y": torch.full((2,), 10)}, ValueError, r"y must be in \[0, 10\), got 10"),
        ({"x": 2 * torch.ones(2, 3, 8, 8)}, ValueError, r"x must be in \[0, 1\], got 2.0 to 2.0"),
        ({"epsilon": 8}, ValueError, "8/255"),
        ({"epsilon": float("nan")}, ValueError, "epsilon"),
        ({"epsilon_y": 1.0}, ValueError, "epsilon_y"),
        ({"epsilon_y": -0.1}, ValueError, "epsilon_y"),
        ({"steps": 0}, ValueError, "steps"),
    ],
)
def test_bad_arguments(network, change, error, message):
    arguments = {"x": torch.rand(2, 3, 8, 8), "y": torch.zeros(2, dtype=torch.int64), **change}
    with pytest.raises(error, match=message):
        adversarial_interpolation(network, **arguments)
