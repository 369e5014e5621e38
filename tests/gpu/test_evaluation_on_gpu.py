"""An evaluation on the GPU against the same on the CPU: gradient attacks, restarts, black boxes, the command."""

import copy
import json
from pathlib import Path

import pytest
import torch
import trained
from rehearsal import CPU, DEVICE, scaled
from tolerances import LOGITS_FP32, OUTCOMES_ACROSS_DEVICES
from torch import nn
from torch.overrides import TorchFunctionMode

from fastait.eval_config import EvalArguments
from fastait.evaluation import evaluate, evaluate_robustness, masking_signs
from fastait.evaluation.session import run_evaluation

GRADIENT = ["fgsm", "pgd10", "cw10", "pgd5-zero", "pgd10-worst", "pgd5-best", "pgd3-min3", "cw3-min2", "feature3-min2"]
GRADIENT += ["transfer-pgd10", "eot2-cw3", "pgd3-worst+cw3-worst", "fgsm-min6"]
BLACK_BOXES = ["spsa-32x4", "local-search-8", "local-search-linf-8"]
OPTIONS = {"epsilon": 20 / 255, "step_size": 5 / 255, "seed": 4}
IMAGES = scaled(100, 24)


def networks(device, dtype):
    """A network to attack and a surrogate, on ``device``: copies, since others are given the same ones."""
    pair = (copy.deepcopy(trained.model(method)) for method in ("natural", "adv-interp"))
    return [model.to(device, dtype) for model in pair]


def outcomes(device, dtype, names, images=IMAGES, **options):
    model, surrogate = networks(device, dtype)
    return evaluate(model, trained.digits(images), names, surrogate=surrogate, **OPTIONS, **options)


def share_of_others(ours, theirs):
    """How many outcomes of all columns are not the same."""
    assert ours.keys() == theirs.keys()
    return torch.cat([ours[name] != theirs[name] for name in ours]).double().mean().item()


class DrawnOnTheCpu(TorchFunctionMode):
    """What a generator of the CPU draws, brought to the device where it is wanted."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is None:
            return func(*args, **kwargs)
        device = kwargs.pop("device", CPU)
        return func(*args, **kwargs, device=CPU).to(device)


@pytest.fixture
def _drawn_on_the_cpu(monkeypatch):
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=CPU: generator(CPU))
    with DrawnOnTheCpu():
        yield


@pytest.mark.parametrize("dtype", OUTCOMES_ACROSS_DEVICES, ids=str)
def test_gradient_attacks_come_to_what_they_come_to_on_the_cpu(dtype):
    ours, theirs = (outcomes(device, dtype, GRADIENT) for device in (DEVICE, CPU))
    assert share_of_others(ours.correct, theirs.correct) <= OUTCOMES_ACROSS_DEVICES[dtype]
    found = theirs.accuracy()
    assert found["pgd10-worst"] < found["clean"]
    assert all(t.device == CPU for t in ours.correct.values())


@pytest.mark.usefixtures("_drawn_on_the_cpu")
def test_black_boxes_with_the_draws_of_the_cpu():
    few = scaled(24, 6)
    ours, theirs = (outcomes(device, torch.float64, BLACK_BOXES, few) for device in (DEVICE, CPU))
    assert share_of_others(ours.correct, theirs.correct) <= OUTCOMES_ACROSS_DEVICES[torch.float64]
    assert share_of_others(ours.queries, theirs.queries) <= OUTCOMES_ACROSS_DEVICES[torch.float64]


def test_black_boxes_with_draws_of_their_own_repeat_themselves():
    """A generator of the GPU draws other numbers than one of the CPU: the attacks are as strong, not the same."""
    few = scaled(24, 6)
    first, again = (outcomes(DEVICE, torch.float32, BLACK_BOXES, few) for _ in range(2))
    for name in BLACK_BOXES:
        assert torch.equal(first.correct[name], again.correct[name]), name
        assert torch.equal(first.queries[name], again.queries[name]), name
    there = outcomes(CPU, torch.float32, BLACK_BOXES, few).accuracy()
    for name, accuracy in first.accuracy().items():
        assert abs(accuracy - there[name]) <= 30, name  # of 24 images, three deviations of two draws


def test_batches_do_not_matter():
    ours = outcomes(DEVICE, torch.float64, GRADIENT)
    for batch_size in (7, 32):
        others = outcomes(DEVICE, torch.float64, GRADIENT, batch_size=batch_size)
        assert share_of_others(others.correct, ours.correct) <= OUTCOMES_ACROSS_DEVICES[torch.float64]


class Watched(nn.Module):
    """Remembers what its network was asked and said."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        logits = self.model(x)
        self.seen.append((x.detach().clone(), logits.detach()))
        return logits


def test_an_evaluation_is_in_fp32_whatever_the_caller_allows(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model, _ = networks(DEVICE, torch.float32)
    watched = Watched(model)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        evaluate(watched, trained.digits(IMAGES), ["pgd3"], **OPTIONS)
    exact, _ = networks(DEVICE, torch.float64)
    for x, logits in watched.seen:
        with torch.no_grad():
            expected = exact(x.double())
        assert (logits - expected).abs().max() <= LOGITS_FP32 * expected.abs().max()
    assert torch.backends.cudnn.allow_tf32


def test_tensors_on_the_gpu_and_signs_of_masking():
    """What other people's code calls."""
    model, surrogate = networks(DEVICE, torch.float32)
    x, y = trained.tensors(scaled(50, 12))
    here = evaluate_robustness(model, x.to(DEVICE), y.to(DEVICE), ["pgd5", "cw5"], epsilon=OPTIONS["epsilon"])
    there = evaluate_robustness(model.cpu(), x, y, ["pgd5", "cw5"], epsilon=OPTIONS["epsilon"])
    assert share_of_others(here.correct, there.correct) <= OUTCOMES_ACROSS_DEVICES[torch.float32]
    few = scaled(16, 4)
    checks = masking_signs(model.to(DEVICE), x[:few].to(DEVICE), y[:few], epsilon=8 / 255, surrogate=surrogate)
    assert len(checks) >= 5


def command(out, **options):
    """What ``fastait eval`` finds: {attack: accuracy} as its file has it."""
    run = trained.run("natural").folder
    arguments = EvalArguments(
        (run,),
        attacks="pgd10,cw5-min2,spsa-16x2,feature3",
        samples=scaled(60, 8),
        device=str(DEVICE),
        out=out,
        **options,
    )
    (found,) = run_evaluation(arguments, show=False)
    assert json.loads((out / "eval.json").read_text())
    return found.outcomes.correct


def test_a_deterministic_evaluation_is_the_same_twice():
    """With no variable of cuBLAS's set, as a user calls it."""
    first, again = (command(Path(name), deterministic=True, input_noise=8 / 255) for name in ("first", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.are_deterministic_algorithms_enabled()
    assert share_of_others(command(Path("plain"), input_noise=8 / 255), first) <= OUTCOMES_ACROSS_DEVICES[torch.float32]


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_autoattack_on_the_gpu(name, monkeypatch):
    from small import short_autoattack

    short_autoattack(monkeypatch, queries=scaled(200, 10), iterations=scaled(20, 5))
    few = scaled(64, 8)
    here, there = (outcomes(device, torch.float32, [name], few).accuracy() for device in (DEVICE, CPU))
    assert abs(here[name] - there[name]) <= 15
