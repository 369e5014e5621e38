"""AdamW, Nesterov's momentum, clipping and averaging: torch's own, in place, and without waiting for the device."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fake_cuda import FakeCuda, recorded
from step_inputs import LR, batch, make_step
from test_step import PRECISIONS, pointers
from tolerances import OPTIMISERS_FP64
from torch._subclasses.fake_tensor import FakeTensorMode

from fastait.data import to_float
from fastait.models import WideResNet
from fastait.training.averaged import Averaged
from fastait.training.optimizer import set_lr

DECAY = 0.1
WAYS = {"adamw": {"name": "adamw", "weight_decay": DECAY}, "nesterov": {"nesterov": True}, "sgd": {}}
CLIP = 0.5


def all_of_it(model, way, dtype=None, **options):
    """A step that clips and averages."""
    averaged = Averaged(model, 0.9)
    return make_step(model, "n-fgsm", by=WAYS[way], dtype=dtype, clip_norm=CLIP, averaged=averaged, **options)


def torchs(model, way):
    """The optimiser as torch has it, without what captured steps need."""
    if way != "adamw":
        return torch.optim.SGD(
            model.parameters(), lr=LR, momentum=0.9, weight_decay=2e-4, nesterov=way == "nesterov", foreach=False
        )
    decaying, others = ([p for p in model.parameters() if (p.dim() > 1) == large] for large in (True, False))
    groups = [{"params": decaying, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, foreach=False)


@pytest.mark.parametrize("clip", [None, CLIP])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_torchs_written_plainly(way, clip):
    slow = WideResNet(10, 1, 10).double().train()
    fast = copy.deepcopy(slow)
    before = copy.deepcopy(dict(slow.named_parameters()))
    optimizer = torchs(slow, way)
    step = make_step(fast, "natural", by=WAYS[way], clip_norm=clip)
    clipped = 0
    for number in range(6):
        images, y = batch(number, image=8)
        step(images, y, number)
        optimizer.zero_grad()
        F.cross_entropy(slow(to_float(images, torch.float64)), y).backward()
        if clip is not None:
            clipped += torch.nn.utils.clip_grad_norm_(slow.parameters(), clip).item() > clip
        optimizer.step()
    assert (clipped > 0) == (clip is not None)
    for name, mine in fast.named_parameters():
        mine = mine.detach()
        moved, apart = (mine - before[name]).norm(), (mine - slow.get_parameter(name)).norm()
        assert apart <= OPTIMISERS_FP64 * moved, name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_clipped_is_the_gradient_and_not_the_scaled_one(network, precision):
    step = make_step(network, "natural", by={"weight_decay": 0.0}, dtype=PRECISIONS[precision], clip_norm=0.01)
    before = [p.detach().clone() for p in network.parameters()]
    step(*batch(0), 0)
    ways = [(a.detach() - b).flatten() for a, b in zip(network.parameters(), before, strict=True)]
    assert torch.cat(ways).norm().item() == pytest.approx(LR * 0.01, rel=1e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_the_device(way, precision):
    with FakeTensorMode():
        step = all_of_it(WideResNet(10, 1, 10).train(), way, PRECISIONS[precision])
        step(torch.zeros(8, 16, 16, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("way", WAYS)
def test_a_graph_can_hold_it(network, monkeypatch, way, precision):
    cuda = FakeCuda(monkeypatch)
    models = [copy.deepcopy(network) for _ in range(2)]
    eager = all_of_it(models[0], way, PRECISIONS[precision])
    graphed = recorded(all_of_it(models[1], way, PRECISIONS[precision], batch_size=8, graph=True))
    cuda.tensors = [*graphed.state(), *(p.grad for p in models[1].parameters())]
    before = pointers(graphed)
    for number in range(4):
        for step in (eager, graphed):
            set_lr(step.optimizer, 0.01 * number)
            step(*batch(number, size=5 if number == 2 else 8, image=8), number)
        assert all(torch.equal(a, b) for a, b in zip(eager.state(), graphed.state(), strict=True))
    assert cuda.captured == 1
    assert pointers(graphed) == before
