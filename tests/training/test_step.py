"""The step against the reference path, and what CUDA graph capture asks of it, shown without a GPU."""

import copy

import pytest
import torch
import torch.nn.functional as F
from step_inputs import CPU, EPSILON, LR, batch, make_step, unlabeled
from tolerances import ELEMENTWISE, LOSS_FP32, SIGN_FLIPS_FP32, UPDATE_FP32
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from fastait import reference
from fastait.attacks import Noise
from fastait.data import Shard, to_float
from fastait.methods import METHODS
from fastait.models import WideResNet
from fastait.runtime.processes import Ranks
from fastait.runtime.randomness import derive
from fastait.training.optimizer import set_lr
from fastait.training.step import NEVER, TrainStep

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def start_of(x, step, before=0):
    """The random start of ``step``, for the reference path."""
    noise = Noise.seeded(derive(3, "noise"), CPU)
    noise.seek(torch.tensor([step]), before)
    return noise.start(x, EPSILON)


def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=2e-4, foreach=False)


def images_trained_on(model):
    """A list that receives what the update's forward pass is given."""
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()) if module.training else None)
    return seen


def state_of(model, optimizer):
    """Weights, momentum and BN statistics, in the model's order; zero for a momentum that has not begun."""
    momentum = [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]
    momentum = [torch.zeros_like(p) if m is None else m for m, p in zip(momentum, model.parameters(), strict=True)]
    return [t.detach().double() for t in (*model.parameters(), *momentum, *model.buffers())]


@pytest.mark.parametrize(
    ("depth", "widen_factor", "memory_format"),
    [
        (10, 1, torch.contiguous_format),
        (10, 1, torch.channels_last),
        pytest.param(16, 2, torch.contiguous_format, marks=pytest.mark.slow),
        (16, 2, torch.channels_last),
    ],
)
def test_equals_the_reference_in_lockstep(depth, widen_factor, memory_format):
    """50 steps, each from the reference's state: images, loss, weights, momentum and BN statistics."""
    slow = WideResNet(depth, widen_factor, 10)
    fast = copy.deepcopy(slow).to(memory_format=memory_format)
    optimizer = plain_sgd(slow)
    step = make_step(fast, at_a_time=3)
    seen = images_trained_on(fast)
    fast.train()
    flips = pixels = 0
    differences = []
    for number in range(50):
        with torch.no_grad():
            for mine, theirs in zip(fast.state_dict().values(), slow.state_dict().values(), strict=True):
                mine.copy_(theirs)
            for mine, theirs in zip(fast.parameters(), slow.parameters(), strict=True):
                momentum = optimizer.state[theirs].get("momentum_buffer")
                step.optimizer.state[mine]["momentum_buffer"].copy_(0 * theirs if momentum is None else momentum)
        images, y = batch(number)
        x = to_float(images)
        before = step.totals.loss.item()
        old = state_of(slow, optimizer)
        step(images, y, number)
        x_tilde, y_tilde = reference.adv_interp(x, reference.one_hot(y, 10), slow, 10, start=start_of(x, number))
        flips += ((x_tilde - seen[-1]).abs() > ELEMENTWISE[torch.float32]["atol"]).sum().item()
        pixels += x.numel()
        # Signs that differ are counted; the rest of the step must agree on the images that it was given.
        loss = reference.update(slow, optimizer, seen[-1].contiguous(), y_tilde)
        mine = (step.totals.loss.item() - before) / 8
        assert mine == pytest.approx(loss.item(), rel=LOSS_FP32)
        new = zip(state_of(fast, step.optimizer), state_of(slow, optimizer), old, strict=True)
        differences.append(max(((a - b).norm() / (b - c).norm()).item() for a, b, c in new))
    assert sorted(differences)[len(differences) * 8 // 10 - 1] <= UPDATE_FP32["eight of ten"]
    assert max(differences) <= UPDATE_FP32["each"]
    assert flips <= SIGN_FLIPS_FP32 * pixels


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(("depth", "widen_factor"), [(10, 1), (16, 2)], ids=["WRN-10-1", "WRN-16-2"])
def test_equals_the_reference_free_running_in_fp64(depth, widen_factor, memory_format, steps):
    slow = WideResNet(depth, widen_factor, 10).double()
    fast = copy.deepcopy(slow).to(memory_format=memory_format)
    optimizer = plain_sgd(slow)
    step = make_step(fast, steps=steps)
    for number in range(12):
        images, y = batch(number, size=4 + number % 2, image=8)  # odd batches too
        x = to_float(images, torch.float64)
        step(images, y, number)
        reference.train_step(slow, optimizer, x, y, 10, steps=steps, start=start_of(x, number))
    for name, mine in fast.state_dict().items():
        torch.testing.assert_close(mine, slow.state_dict()[name], rtol=1e-9, atol=1e-9)


def test_madry_is_pgd_training_written_plainly():
    slow = WideResNet(10, 1, 10).double()
    fast = copy.deepcopy(slow)
    optimizer = plain_sgd(slow)
    step = make_step(fast, "madry", steps=7, at_a_time=2)
    for number in range(4):
        images, y = batch(number, size=5, image=8)
        x = to_float(images, torch.float64)
        step(images, y, number)
        x_adv = start_of(x, number)
        slow.eval()
        for _ in range(7):
            x_adv = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(slow(x_adv), y), x_adv)
            x_adv = x_adv.detach() + 2 / 255 * grad.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)
        slow.train()
        optimizer.zero_grad()
        F.cross_entropy(slow(x_adv.detach()), y).backward()
        optimizer.step()
    for name, mine in fast.state_dict().items():
        torch.testing.assert_close(mine, slow.state_dict()[name], rtol=1e-6, atol=1e-8)  # the mean is taken in fp32


@pytest.mark.parametrize("method", METHODS)
def test_parts_of_a_batch_are_attacked_as_the_whole_is(network, method):
    models = [copy.deepcopy(network) for _ in range(2)]
    attacks = sum(term.images not in ("clean", "pixel_interpolation") for term in METHODS[method].terms)
    for model, at_a_time in zip(models, (None, 3), strict=True):
        step = make_step(model.double(), method, steps=2, at_a_time=at_a_time)
        images, y = batch(0, size=7, image=9)
        step(images, y, 0, unlabeled=unlabeled(method, images))
        assert step.totals.gradients.tolist() == [0, 0, attacks * 2 * 7 * 3 * 81]
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_noise_depends_on_the_step_and_the_place_alone(network):
    seen = images_trained_on(network)
    step = make_step(network)
    images, y = batch(0)
    network.train()
    state = copy.deepcopy(network.state_dict())
    for number in (5, 6, 5):
        network.load_state_dict(state)
        step(images, y, number)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def fake_step(method, precision, compute=None, knobs=None):
    """One whole step of fake tensors on the CPU, which have shapes but no values."""
    with FakeTensorMode():
        model = WideResNet(10, 1, 10).train()
        step = make_step(model, method, dtype=PRECISIONS[precision], steps=2, at_a_time=3, knobs=knobs)
        images, y = torch.zeros(8, 16, 16, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
        (compute or TrainStep.__call__)(step, images, y, 0, unlabeled=unlabeled(method, images))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_waits_for_the_device(method, precision):
    fake_step(method, precision)


@pytest.mark.parametrize("read", [torch.Tensor.item, torch.Tensor.nonzero, bool], ids=["item", "nonzero", "bool"])
def test_the_fake_step_notices_what_waits(read):
    def reading(step, images, y, number, unlabeled):
        step(images, y, number)
        read(step.totals.loss)

    with pytest.raises((DataDependentOutputException, RuntimeError)):
        fake_step("adv-interp", "fp32", reading)


def pointers(step):
    gradients = [p.grad for p in step.model.parameters()]
    rates = [group["lr"] for group in step.optimizer.param_groups]
    return [t.data_ptr() for t in (*step.state(), *gradients, *rates, step.number, step.starts[0].seed)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_tensors_stay_where_they_are(network, method, precision):
    step = make_step(network, method, dtype=PRECISIONS[precision], steps=2)
    before = pointers(step)
    for number in range(6):
        set_lr(step.optimizer, 0.01 * number)
        images, y = batch(number, image=8)
        step(images, y, number, unlabeled=unlabeled(method, images))
        if number == 3:
            step.totals.reset()
    assert pointers(step) == before


def test_moved_gradients_would_be_noticed(network, monkeypatch):
    step = make_step(network)
    before = pointers(step)
    monkeypatch.setattr("fastait.training.step.zero_gradients", lambda optimizer: optimizer.zero_grad(set_to_none=True))
    step(*batch(0, image=8), 0)
    assert pointers(step) != before


def test_state_is_everything_that_a_step_changes(network):
    """What a graph's warm-up must put back: the same step again from the restored state ends the same."""
    step = make_step(network, dtype=torch.float16)
    kept = [t.detach().clone() for t in step.state()]
    images, y = batch(0, image=8)
    step(images, y, 4)
    first = [t.detach().clone() for t in step.state()]
    with torch.no_grad():
        for tensor, value in zip(step.state(), kept, strict=True):
            tensor.copy_(value)
    step.totals.seen = 0
    assert not any(step.totals.state().values())
    step(images, y, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, step.state(), strict=True))


def test_fp16_survives_an_overflow_in_its_first_step(network):
    step = make_step(network, dtype=torch.float16)
    step.precision.scaler._scale.fill_(torch.finfo(torch.float32).max)
    before = [p.detach().clone() for p in network.parameters()]
    step(*batch(0), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(bool((state["momentum_buffer"] == 0).all()) for state in step.optimizer.state.values())
    assert step.precision.scaler.get_scale() < torch.finfo(torch.float32).max
    step.precision.scaler._scale.fill_(64.0)
    step(*batch(1), 1)
    assert all(bool(p.isfinite().all()) and p.abs().max() < 10 for p in network.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_totals_count_gradients_and_find_the_first_bad_step(network):
    step = make_step(network)
    step(*batch(0), 7)
    state = step.totals.state()
    assert state["seen"] == 8
    assert state["gradients"] == 8 * 3 * 16 * 16
    assert step.totals.bad_step() == NEVER
    with torch.no_grad():
        network.fc.bias.fill_(torch.nan)
        network.bn1.weight.fill_(torch.nan)
    for number in (8, 9):
        step(*batch(number), number)
    assert step.totals.bad_step() == 8
    assert step.totals.state()["nan_gradients"] == 2 * 8 * 3 * 16 * 16
    step.totals.reset()
    assert step.totals.bad_step() == 8
    assert step.totals.state()["gradients"] == 0


@pytest.mark.parametrize("method", ["mart", "nu-at", "trades"])
def test_training_accuracy_is_that_of_the_moved_images(network, method):
    """Whatever else a method trains on before them."""
    step = make_step(network, method)
    seen = []
    network.register_forward_hook(lambda module, args, out: seen.append((args[0], out)) if module.training else None)
    pixels, y = batch(0, size=50)
    step(pixels, y, 0)
    (clean, _), (moved, logits) = seen
    assert torch.equal(clean, to_float(pixels))
    assert not torch.equal(moved, clean)
    assert step.totals.correct == (logits.argmax(dim=1) == y).sum()


def test_a_stand_in_for_an_empty_shard_counts_for_nothing(network, monkeypatch):
    weights = []
    monkeypatch.setattr(Ranks, "average", lambda self, tensors, weight: weights.append(weight))
    step = make_step(network)
    step.ranks = Ranks(rank=1, size=2)
    step.compute(batch(0, size=1), [Shard(0, 0, 3)])
    assert weights == [0]
    assert not any(step.totals.state().values())
    assert all(bool((p.grad == 0).all()) for p in network.parameters())
