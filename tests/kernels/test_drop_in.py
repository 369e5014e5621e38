"""The manual's before and after: both sides are run as they stand there and must agree."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from kernel_inputs import DEVICE

import fastait_kernels
from fastait.models import WideResNet

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


@pytest.fixture(scope="module")
def functions():
    namespace = {"torch": torch, "F": F, **{name: getattr(fastait_kernels, name) for name in fastait_kernels.__all__}}
    for block in re.findall(r"```python\n(def .*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), namespace)
    return namespace


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def setting(request):
    torch.manual_seed(0)
    model = WideResNet(10, 1, 10).to(DEVICE).to(memory_format=request.param).eval()
    x = torch.rand(6, 3, 16, 16, device=DEVICE).contiguous(memory_format=request.param)
    start = (x + 0.03 * torch.randn_like(x)).clamp(0, 1)
    return model, x, torch.arange(6, device=DEVICE), start


def test_pgd(functions, setting):
    model, x, y, start = setting
    plain, fused = (functions[name](model, x, y, start) for name in ("pgd_plain", "pgd_fused"))
    assert torch.equal(plain, fused)
    assert F.cross_entropy(model(plain), y) > F.cross_entropy(model(x), y)


def test_trades(functions, setting):
    """In fp64, where rounding does not decide a sign."""
    model, x, _, start = setting
    if x.is_cuda and not x.is_contiguous():
        pytest.skip("a GPU's fp64 convolutions make contiguous gradients of channels-last images, which are refused")
    model, x, start = model.double(), x.double(), start.double()
    plain, fused = (functions[name](model, x, start) for name in ("trades_plain", "trades_fused"))
    assert torch.equal(plain, fused)


def test_the_step_alone_is_exact_in_fp32(setting):
    _, x, _, start = setting
    grad = torch.randn_like(x)
    plain = start + 2 / 255 * torch.sign(grad)
    plain = torch.clamp(torch.min(torch.max(plain, x - 8 / 255), x + 8 / 255), 0.0, 1.0)
    assert torch.equal(fastait_kernels.linf_step(start, grad, x, 2 / 255, 8 / 255), plain)
