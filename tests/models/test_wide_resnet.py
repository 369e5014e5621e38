"""The network: its size, its names and what it refuses."""

import pytest
import torch
from tolerances import REDUCTION

from fastait.models import WideResNet


def test_size_of_the_papers_network():
    """WRN-28-10 for ten classes has 36.5 million parameters (Zagoruyko & Komodakis, 2016, table 4)."""
    with torch.device("meta"):
        model = WideResNet(28, 10, 10)
    assert sum(p.numel() for p in model.parameters()) == 36_479_194


def test_names_are_those_of_robustbench():
    names = set(WideResNet(16, 2, 10).state_dict())
    assert {
        "conv1.weight",
        "block1.layer.0.bn1.running_mean",
        "block1.layer.0.conv1.weight",
        "block1.layer.0.bn2.weight",
        "block1.layer.0.conv2.weight",
        "block1.layer.0.convShortcut.weight",
        "block3.layer.1.conv2.weight",
        "bn1.bias",
        "fc.weight",
        "fc.bias",
    } <= names
    assert "block1.layer.1.convShortcut.weight" not in names


@pytest.mark.parametrize("image", [(8, 8), (9, 15), (32, 32), (40, 64)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_shapes(image, memory_format):
    model = WideResNet(10, 2, 7).to(memory_format=memory_format).eval()
    x = torch.rand(3, 3, *image).contiguous(memory_format=memory_format)
    assert model.features(x).shape == (3, 128)
    assert model.features(x).min() >= 0
    torch.testing.assert_close(model(x), model.fc(model.features(x)), **REDUCTION[torch.float32])


def test_normalisation_is_inside():
    """The first convolution sees [-1, 1]."""
    model = WideResNet(10, 1, 2).eval()
    seen = []
    model.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]))
    assert seen[0].unique().tolist() == [-1, 1]


def test_forward_leaves_its_input_alone():
    x = torch.rand(2, 3, 8, 8)
    before = x.clone()
    WideResNet(10, 1, 2)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("arguments", "message"), [((12, 1, 10), "6n"), ((4, 1, 10), "6n"), ((10, 0, 10), "widen"), ((10, 1, 1), "classes")]
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WideResNet(*arguments)


def test_a_first_convolution_of_stride_two():
    """A quarter of the pixels go into the blocks; the rest is the same network."""
    usual, strided = WideResNet(10, 2, 10), WideResNet(10, 2, 10, stride=2)
    seen = []
    strided.block1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert strided(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [(2, 16, 16, 16)]
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (usual, strided)]
    assert shapes[0].pop("conv1.weight")[2:] == (3, 3)
    assert shapes[1].pop("conv1.weight")[2:] == (4, 4)
    assert shapes[0] == shapes[1]
    for stride, error in ((3, ValueError), (0, ValueError), ("2", TypeError)):
        with pytest.raises(error, match="stride"):
            WideResNet(10, 1, 10, stride=stride)
