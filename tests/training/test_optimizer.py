"""The optimiser: fused SGD as SGD, tensors that stay, and the two packages that are called apex."""

import copy
import sys
import types

import pytest
import torch

from fastait.runtime.errors import InputError
from fastait.training.optimizer import make_optimizer, restore_optimizer, set_lr


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64)), torch.nn.Parameter(torch.randn(5).double())]


def test_is_sgd_from_its_first_step_on():
    mine, theirs = parameters(), parameters()
    ours = make_optimizer("sgd", mine, lr=0.5, weight_decay=0.01)
    plain = torch.optim.SGD(theirs, lr=0.5, momentum=0.9, weight_decay=0.01, foreach=False)
    for step in range(4):
        rate = 0.5 / 2**step
        set_lr(ours, rate)
        set_lr(plain, rate)
        for a, b in zip(mine, theirs, strict=True):
            a.grad.copy_(torch.full_like(a, step + 1.0))
            b.grad = torch.full_like(b, step + 1.0)
        ours.step()
        plain.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_restoring_keeps_the_tensors():
    first, second = (make_optimizer("sgd", parameters(), lr=lr, weight_decay=0.0) for lr in (0.25, 0.5))
    for parameter in first.param_groups[0]["params"]:
        parameter.grad.fill_(1)
    first.step()
    rate = second.param_groups[0]["lr"]
    momenta = [values["momentum_buffer"] for values in second.state.values()]
    restore_optimizer(second, copy.deepcopy(first.state_dict()))
    assert second.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25
    for a, b, kept in zip(first.state.values(), second.state.values(), momenta, strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])
        assert b["momentum_buffer"] is kept


def fake_module(monkeypatch, name, **content):
    module = types.ModuleType(name)
    module.__spec__ = types.SimpleNamespace(origin=f"/site-packages/{name}/__init__.py")
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_apex_that_is_not_there():
    with pytest.raises(InputError, match="apex is not installed; build NVIDIA's"):
        make_optimizer("apex", parameters(), lr=0.1, weight_decay=0.0)


def test_apex_that_is_another_package(monkeypatch):
    fake_module(monkeypatch, "apex")
    with pytest.raises(InputError, match=r"/site-packages/apex/__init__.py is not NVIDIA's.*unrelated"):
        make_optimizer("apex", parameters(), lr=0.1, weight_decay=0.0)


def test_apex(monkeypatch):
    fake_module(monkeypatch, "apex")
    fake_module(monkeypatch, "amp_C")
    with pytest.raises(InputError, match="needs a CUDA GPU"):
        make_optimizer("apex", parameters(), lr=0.1, weight_decay=0.0)

    made = {}

    class FusedSGD:
        def __init__(self, parameters, **options):
            made.update(options, parameters=parameters)

    fake_module(monkeypatch, "apex.optimizers", FusedSGD=FusedSGD)
    on_gpu = [types.SimpleNamespace(requires_grad=True, device=torch.device("cuda", 0))]
    assert isinstance(make_optimizer("apex", on_gpu, lr=0.1, weight_decay=0.2), FusedSGD)
    assert made == {"parameters": on_gpu, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}
