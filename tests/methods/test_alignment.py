"""GradAlign's penalty: which images count, what a network must be differentiable for, and torch.compile beside it."""

import copy
import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from step_inputs import batch, make_step
from tolerances import REDUCTION
from torch import nn
from torch.autograd.function import once_differentiable

from fastait.attacks import Noise
from fastait.methods import Settings, images
from fastait.methods.alignment import misalignment
from fastait.methods.sample import Sample, reversed_batch
from fastait.runtime.errors import InputError
from fastait.training.prepare import check_method

SETTINGS = Settings(8 / 255, 0.5, 1, 8 / 255, 10, penalty=0.2)


class Attending(nn.Module):
    """Patches that attend to each other, and Dropout."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        q, k, v = self.patches(x).flatten(2).mT.unflatten(2, (3, 1, 8)).permute(2, 0, 3, 1, 4)
        return self.fc(self.drop(F.scaled_dot_product_attention(q, k, v).flatten(1, 2)).mean(dim=1))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * grad


class Once(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 64, 10)

    def forward(self, x):
        return Twice.apply(self.fc(x.flatten(1)).tanh())


def test_images_without_a_gradient_do_not_count(network):
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5)
    network = network.double()
    reference = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reference[1] = 0
    some = misalignment(network, x.double(), y, reference)
    rest = [0, 2, 3, 4]
    torch.testing.assert_close(
        some, misalignment(network, x.double()[rest], y[rest], reference[rest]), **REDUCTION[torch.float64]
    )
    none = misalignment(network, x.double(), y, torch.zeros_like(reference))
    assert none == 0
    gradients = torch.autograd.grad(none, list(network.parameters()), allow_unused=True)
    assert all(g is None or bool((g == 0).all()) for g in gradients)


def test_it_is_differentiated_in_the_weights(network):
    """The derivative in a weight against differences of the penalty."""
    network = network.double()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=generator), torch.arange(4)
    reference = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator)
    weight = network.fc.weight
    (gradient,) = torch.autograd.grad(misalignment(network, x, y, reference), weight)
    way, values = torch.randn(weight.shape, dtype=torch.float64, generator=generator), []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-6 * way
        values.append(misalignment(network, x, y, reference).item())
        with torch.no_grad():
            weight -= sign * 1e-6 * way
    assert (values[0] - values[1]) / 2e-6 == pytest.approx((gradient * way).sum().item(), rel=1e-5)


def test_modes_and_statistics_stay(network):
    network.train().bn1.eval()
    before = copy.deepcopy(network.state_dict())
    misalignment(network, torch.rand(4, 3, 8, 8), torch.arange(4), torch.ones(4, 3, 8, 8)).backward()
    assert network.training
    assert not network.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_attention_is_differentiated_twice(dtype):
    model = Attending().train()
    step = make_step(model, "grad-align", dtype=dtype)
    before = copy.deepcopy(model.state_dict())
    step(*batch(0), 0)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert not torch.equal(model.patches.weight, before["patches.weight"])
    gradients = [p.grad for p in model.parameters()]
    values = [gradient.clone() for gradient in gradients]
    assert check_method(model, "mine:Attending", "grad-align", torch.zeros(2, 3, 16, 16)) is None
    for parameter, gradient, value in zip(model.parameters(), gradients, values, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, value)
    assert torch.backends.cuda.flash_sdp_enabled()  # as the caller had it


def test_threads_that_leave_in_the_order_in_which_they_came():
    """Attention is as the caller had it after both."""
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def differentiate(come, came, stay, gone):
        def meet(module, arguments):
            came.set()
            stay.wait(60)

        hooked = Attending()
        hooked.register_forward_pre_hook(meet)
        come.wait(60)
        misalignment(hooked, torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64), torch.ones(2, 3, 16, 16))
        gone.set()

    begun = threading.Event()
    begun.set()
    threads = [
        threading.Thread(target=differentiate, args=(begun, first_in, second_in, first_out)),
        threading.Thread(target=differentiate, args=(first_in, second_in, first_out, threading.Event())),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_a_network_without_a_second_derivative_is_refused():
    model = Once()
    with pytest.raises(InputError, match="--method grad-align: mine:Once has no second derivative: ") as caught:
        check_method(model, "mine:Once", "grad-align", torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(caught.value)
    assert check_method(model, "mine:Once", "n-fgsm", torch.zeros(2, 3, 8, 8)) is None
    assert model.fc.weight.grad is None


def test_beside_compiled_passes(network, monkeypatch):
    """The other passes are compiled; the weights are those of eager steps."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    models = [copy.deepcopy(network).double() for _ in range(2)]
    steps = [make_step(models[0], "grad-align"), make_step(models[1], "grad-align", batch_size=8, compile=True)]
    for number in range(3):
        for step in steps:
            step(*batch(number, image=8), number)
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_what_is_added_is_the_method_s_own(network):
    """Only where gradients differ: none on a network that is linear, but for its softmax."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).double()
    noise = Noise.seeded(0, torch.device("cpu"))
    sample = Sample(torch.rand(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 0, 1]), noise, reversed_batch)
    found = images.fgsm_aligned(linear, sample, SETTINGS)
    assert found.penalty.item() == pytest.approx(0, abs=1e-12)
    assert images.fgsm_aligned(network.double(), sample, SETTINGS).penalty > 1e-3
    assert (found.images - sample.x).abs().max() <= 8 / 255 + 1e-12
