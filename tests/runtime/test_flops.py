"""What is counted, against the arithmetic and against the same thing done in plain operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastait.runtime.flops import counted


@pytest.fixture(params=["values", "no values"], autouse=True)
def _with_and_without_values(request):
    if request.param == "values":
        yield
    else:
        with FakeTensorMode():
            yield


@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (nn.Conv2d(8, 12, 3), 2 * 8 * 12 * 9 * 36),
        (nn.Conv2d(8, 12, 3, groups=4), 2 * 2 * 12 * 9 * 36),
        (nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1), 2 * 8 * 9 * 16),
        (nn.ConvTranspose2d(8, 12, 3, groups=4), 2 * 2 * 12 * 9 * 64),
    ],
    ids=["dense", "grouped", "depthwise", "transposed"],
)
def test_convolutions(layer, operations):
    """Of two images of 8x8; either gradient costs what the layer did."""
    with torch.device("cpu"):
        layer = type(layer)(**{name: getattr(layer, name) for name in ARGUMENTS})
    x = torch.zeros(2, 8, 8, 8)
    assert counted(lambda: layer(x)) == 2 * operations
    assert counted(lambda: layer(x).sum().backward()) == 4 * operations
    x.requires_grad_()
    assert counted(lambda: layer(x).sum().backward()) == 6 * operations
    layer.requires_grad_(False)
    assert counted(lambda: layer(x).sum().backward()) == 4 * operations


ARGUMENTS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")


def test_what_torch_counts_rightly_is_as_it_counts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(1), nn.Linear(144, 5))

    def work():
        model(torch.zeros(2, 3, 8, 8)).sum().backward()

    with FlopCounterMode(display=False) as torchs:
        work()
    assert counted(work) == torchs.get_total_flops() == 2 * (2 * 2 * 27 * 4 * 36) + 3 * (2 * 2 * 144 * 5)


def test_attention():
    """Fused: two products forward, and five back, since it makes the scores again. In plain operations: four back."""
    query, key, value = (torch.zeros(2, 3, tokens, 8, requires_grad=True) for tokens in (5, 7, 7))
    product = 2 * 2 * 3 * 5 * 7 * 8

    def forward():
        return F.scaled_dot_product_attention(query, key, value)

    assert counted(forward) == 2 * product
    assert counted(lambda: forward().sum().backward()) == 7 * product
    with sdpa_kernel(SDPBackend.MATH):
        assert counted(forward) == 2 * product
        assert counted(lambda: forward().sum().backward()) == 6 * product


@pytest.mark.parametrize("layer", ["attention", "encoder"])
def test_layers_of_attention(layer):
    """In eval mode and without gradients torch does them by one operator, which costs what the others do."""
    with torch.device("cpu"):
        if layer == "attention":
            model = nn.MultiheadAttention(8, 2, batch_first=True)
        else:
            model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    x = torch.zeros(2, 5, 8)
    inputs = (x, x, x) if layer == "attention" else (x,)
    options = {"need_weights": False} if layer == "attention" else {}
    projections, attention, linears = 4 * 2 * 8 * 8, 2 * 2 * 5 * 8, 2 * 2 * 8 * 12 * (layer == "encoder")
    by_hand = 2 * 5 * (projections + attention + linears)
    assert counted(lambda: model(*inputs, **options)) == by_hand
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as torchs:
        assert counted(lambda: model(*inputs, **options)) == by_hand
    assert torchs.get_total_flops() == 0  # or torch has come to know it
