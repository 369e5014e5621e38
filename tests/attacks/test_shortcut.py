"""A faster form of a model: what is compiled, what is not, and what a caller sees of it."""

import gc
import threading
import weakref
from importlib import import_module

import pytest
import torch
from tolerances import REDUCTION
from torch import nn

from fastait import evaluate_robustness
from fastait.attacks import Subject, frozen
from fastait.attacks import shortcut as module
from fastait.attacks.folded import Folded
from fastait.attacks.shortcut import Shortcut, padded, shortcut
from fastait.runtime.precision import full_precision

CPU = torch.device("cpu")
OPTIONS = {"epsilon": 0.06, "step_size": 0.02, "batch_size": 7}


def small(*more):
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), *more, nn.Flatten(), nn.Linear(36, 5))
    return nn.Sequential(*layers).double()


def images(count=20):
    x = torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, small().eval()(x).argmax(1)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without a compiler: traced and run as traced; counts the graphs."""
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile_(function, backend=backend, fullgraph=True)
    )
    return graphs


def noted(model, x, **options):
    notes = []
    with frozen(Subject.of(model)):
        found = shortcut(Subject.of(model), x, torch.contiguous_format, note=notes.append, **options)
    return found, notes


def gradient(subject, x):
    leaf = x.clone().requires_grad_()
    with frozen(subject):
        return torch.autograd.grad(subject(leaf).square().sum(), leaf)[0]


@pytest.mark.slow
def test_compiled_outcomes_are_those_of_the_model():
    """By inductor, while images leave in the middle; the second time nothing is compiled."""
    model, (x, y) = small(), images(40)
    names = ["pgd3", "pgd4-worst", "feature2", "apgd-ce-5", "square-20"]
    torch._dynamo.utils.counters.clear()
    stats = torch._dynamo.utils.counters["stats"]
    expected = evaluate_robustness(model, x, y, names, **OPTIONS).correct
    assert not stats["unique_graphs"]
    found = evaluate_robustness(model, x, y, names, compile=True, **OPTIONS).correct
    made = stats["unique_graphs"]
    assert made <= 4  # logits and features, with gradients and without
    again = evaluate_robustness(model, x, y, names[:2], compile=True, **OPTIONS).correct
    assert stats["unique_graphs"] == made
    assert not torch._dynamo.utils.counters["graph_break"]
    for name in names:
        assert torch.equal(found[name], expected[name]), name
    assert torch.equal(again["pgd3"], expected["pgd3"])
    assert 0 < int(expected["pgd3"].sum()) < 40


def test_more_images_together(traced, monkeypatch):
    """Compiled passes take more of them; a number that is asked for is what it is."""
    evaluation = import_module("fastait.evaluation.evaluate")
    monkeypatch.setattr(evaluation, "default_batch_size", lambda model, images, passes: 4)
    sizes, together = [], evaluation.Together
    monkeypatch.setattr(evaluation, "Together", lambda size, note: sizes.append(size) or together(size, note))
    for options in ({}, {"compile": True}, {"compile": True, "batch_size": 5}):
        evaluate_robustness(small(), *images(), ["pgd1"], **options)
    assert sizes == [4, 4, 8, 8, 5, 5]


def test_few_sizes():
    assert [padded(n, 64) for n in range(1, 18)] == [2, 2, 3, 4, 6, 6, 8, 8, *[12] * 4, *[16] * 4, 24]
    assert padded(65, 65) == 65
    assert padded(60, 61) == 61
    assert {padded(n, 500) for n in range(1, 501)} == {
        2,
        3,
        4,
        6,
        8,
        12,
        16,
        24,
        32,
        48,
        64,
        96,
        128,
        192,
        256,
        384,
        500,
    }


def test_padding_is_not_seen(traced, monkeypatch):
    """With the sizes of a GPU: logits and gradients of each number of images, and few shapes that come to the pass."""
    seen = []
    monkeypatch.setattr(module, "_artefact", lambda f, d: lambda called, x: seen.append(len(x)) or f(called, x))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    subject, (x, _) = Subject.of(small().eval()), images(20)
    fast = Shortcut(subject, torch.channels_last, compile=True)
    for count in (20, 13, 7, 1, 0):
        torch.testing.assert_close(fast(x[:count]), subject(x[:count]))
        torch.testing.assert_close(gradient(fast, x[:count]), gradient(subject, x[:count]))
    assert set(seen) == {20, 16, 8, 2}


def test_graphs_are_a_gpu_s(monkeypatch):
    """What a replay returns is copied, since the next one writes over it."""
    asked, kept = [], torch.zeros(2)
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options) or (lambda: kept))
    assert module._artefact(module._passed, CPU)() is kept
    assert module._artefact(module._passed, torch.device("cuda"))() is not kept
    assert asked == [{"fullgraph": True}, {"fullgraph": True, "options": {"triton.cudagraphs": True}}]


@pytest.mark.parametrize("kind", ["drawing", "reseed", "hooks"])
def test_what_must_run_as_it_is(traced, kind):
    x, y = images()
    model = small(nn.Dropout()) if kind == "drawing" else small()
    if kind == "drawing":
        model[3].eval = model[3].train = lambda mode=True: model[3]  # it drops at random in eval mode too
    elif kind == "reseed":
        model.reseed = lambda seed: None
    else:
        model[0].register_forward_hook(lambda *args: None)
    state = torch.get_rng_state()
    found, notes = noted(model, x, compile=True)
    assert found is None
    assert torch.equal(torch.get_rng_state(), state)
    why = "its Conv2d has hooks" if kind == "hooks" else "it draws random numbers"
    assert notes == [f"Sequential is searched by as it is: {why}"]
    with pytest.warns(RuntimeWarning, match="Sequential is searched by as it is"):
        evaluate_robustness(model, x, y, ["pgd2"], compile=True, **OPTIONS)
    assert not traced


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = small()

    def forward(self, x):
        logits = self.model(x)
        return logits * 2 if float(logits.detach().sum()) > 0 else logits


def test_what_cannot_be_compiled_runs_as_it_is(traced):
    model, (x, y) = Branching(), images()
    expected = evaluate_robustness(model, x, y, ["pgd3"], **OPTIONS)
    with pytest.warns(RuntimeWarning, match="Branching cannot be compiled and runs as it is") as seen:
        found = evaluate_robustness(model, x, y, ["pgd3"], compile=True, **OPTIONS)
    assert len(seen) == 1
    assert torch.equal(found.correct["pgd3"], expected.correct["pgd3"])


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("this backend has no way back")


def test_a_way_back_that_cannot_be_compiled(monkeypatch):
    monkeypatch.setattr(module, "_artefact", lambda f, d: lambda called, x: f(called, NoWayBack.apply(x)))
    model, notes, (x, _) = small(), [], images()
    subject = Subject.of(model)
    fast = Shortcut(subject, torch.contiguous_format, compile=True, note=notes.append)
    for _ in range(2):
        assert torch.equal(gradient(fast, x), gradient(subject, x))
    assert notes == ["Sequential cannot be compiled and runs as it is (this backend has no way back)"]


def test_want_of_memory_is_no_reason_to_give_up(monkeypatch):
    room = [False]

    def artefact(function, device):
        def run(called, x):
            if not room[0]:
                raise torch.OutOfMemoryError("out of memory")
            return 2 * function(called, x)

        return run

    monkeypatch.setattr(module, "_artefact", artefact)
    model, (x, _) = small().eval(), images()
    fast = Shortcut(Subject.of(model), torch.contiguous_format, compile=True, note=pytest.fail)
    with pytest.raises(torch.OutOfMemoryError):
        fast(x)
    room[0] = True
    assert torch.equal(fast(x), 2 * model(x))


def test_functions_and_their_features(traced):
    """Of any callable, with one compiled pass for each way and number of classes."""
    model, (x, y) = small(), images()

    def classify(x):
        return {"logits": model(x)}

    expected = evaluate_robustness(model, x, y, ["pgd3"], **OPTIONS)
    found = evaluate_robustness(classify, x, y, ["pgd3"], compile=True, **OPTIONS)
    assert torch.equal(found.correct["pgd3"], expected.correct["pgd3"])
    assert traced


def test_nobody_notices(traced):
    """The caller's images, the model's modes and hooks, and nothing that keeps a model alive."""
    model, (x, y) = small(), images()
    evaluate_robustness(model, x, y, ["pgd2", "feature2"], compile=True, **OPTIONS)
    assert model.training
    Shortcut(Subject.of(model.eval()), torch.contiguous_format, compile=True)(x)
    assert not vars(x)  # where torch notes that a length is dynamic
    assert all(parameter.requires_grad for parameter in model.parameters())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def _tf32():
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32


class Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        seen.append(("forwards", _tf32()))
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.seen.append(("backwards", _tf32()))
        return grad, None


def test_only_the_search_is_in_tf32(monkeypatch):
    """The switches of a GPU, which can be set without one: both ways of the search, never in the judge's passes."""
    alone, before, seen = module.tf32_alone, _tf32(), []
    monkeypatch.setattr(module, "tf32_alone", lambda device: alone(torch.device("cuda")))
    model, (x, _) = small(), images()
    subject = Subject.of(lambda x: model(Watched.apply(x, seen)))
    fast = Shortcut(subject, torch.contiguous_format, tf32=True)
    with full_precision(CPU):
        gradient(fast, x)
        gradient(subject, x)
        assert seen == [(way, tf32) for tf32 in (True, False) for way in ("forwards", "backwards")]
        assert not _tf32()
        with pytest.raises(ValueError, match="stop"):
            Shortcut(Subject.of(_stops), torch.contiguous_format, tf32=True)(x)
        assert not _tf32()
    assert _tf32() == before


def _stops(x):
    raise ValueError("stop")


def test_tf32_is_not_for_other_threads(monkeypatch):
    """Where another thread evaluates too the search stays strict; one that comes meanwhile waits for its end."""
    alone = module.tf32_alone
    cuda = torch.device("cuda")
    inside, go, seen = threading.Event(), threading.Event(), []

    def other():
        with full_precision(CPU):
            seen.append(_tf32())
            inside.set()
            go.wait(20)

    thread = threading.Thread(target=other)
    with full_precision(CPU):
        with alone(cuda):
            assert _tf32()
            thread.start()
            assert not inside.wait(0.2)
        assert inside.wait(20)
        with alone(cuda):
            assert not _tf32()
        go.set()
        thread.join()
        with alone(cuda):
            assert _tf32()
    assert seen == [False]


def test_compiled_passes_are_folded(traced):
    model, (x, _) = small(), images()
    found, _ = noted(model, x, compile=True)
    with frozen(Subject.of(model)):
        torch.testing.assert_close(found(x), Subject.of(model)(x), **REDUCTION[torch.float64])
    targets = [str(node.target) for graph in traced for node in graph.graph.nodes]
    assert any("conv" in target for target in targets)
    assert not any("norm" in target for target in targets)


def test_tf32_is_for_gpus(monkeypatch):
    """And, as all that is not the judge's, not for what is random."""
    x, _ = images()
    found, notes = noted(small(), x, tf32=True)
    assert isinstance(found, Folded)
    assert not notes
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    model = small()
    assert noted(model, x, tf32=True)[0] is not None
    model.reseed = lambda seed: None
    assert noted(model, x, tf32=True) == (None, ["Sequential is searched by as it is: it draws random numbers"])
