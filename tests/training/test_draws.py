"""What a network draws in a step depends on (seed, step, rank) alone, and the process's generators never notice."""

import threading

import pytest
import torch
from fake_cuda import FakeCuda, recorded
from step_inputs import batch, make_step
from torch import nn

from fastait.models import make
from fastait.runtime.processes import Ranks
from fastait.training.draws import Draws, may_draw
from fastait.training.graph import Graph


class Dropping(nn.Module):
    """A small network with Dropout; ``num_classes`` is what the tests' steps ask for."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 10))

    def forward(self, x):
        return self.head(self.body(2 * x - 1))


def drop_path():
    """timm's stochastic depth, on images of 16 pixels."""
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=16, patch_size=8, depth=2, drop_path_rate=0.5
    )
    model.patch_embed.strict_img_size = False
    return model


NETWORKS = {"dropout": Dropping, "drop_path": drop_path}


def network(kind):
    torch.manual_seed(5)
    return NETWORKS[kind]().train()


def state(step):
    return [tensor.detach().clone() for tensor in step.state()]


def put_back(step, kept):
    with torch.no_grad():
        for tensor, value in zip(step.state(), kept, strict=True):
            tensor.copy_(value)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("method", ["madry", "trades"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_alone_is_the_step_after_another(kind, method):
    """As after a resume: whatever has been drawn before, by the network or by anybody else."""
    step = make_step(network(kind), method)
    step(*batch(0, image=16), 6)
    kept = state(step)
    step(*batch(1, image=16), 7)
    then = state(step)
    torch.rand(17)
    put_back(step, kept)
    step(*batch(1, image=16), 7)
    assert equal(then, state(step))
    put_back(step, kept)
    step(*batch(1, image=16), 8)
    assert not equal(then, state(step))


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_generators_are_as_they_were(kind):
    step = make_step(network(kind), "madry", batch_size=8)
    before = torch.get_rng_state()
    for number, size in enumerate((8, 5)):
        step(*batch(number, size, image=16), number)
        assert torch.equal(torch.get_rng_state(), before)
    step.losses = [lambda *args: 1 / 0]
    with pytest.raises(ZeroDivisionError):
        step(*batch(2, image=16), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_and_seeds_draw_their_own():
    def drawn(seed, rank, step=3):
        with Draws(Dropping(), seed, rank).of(step):
            return torch.rand(4).tolist()

    assert drawn(0, 0) == drawn(0, 0)
    assert len({tuple(drawn(*which)) for which in [(0, 0), (0, 1), (1, 0), (0, 0, 4)]}) == 4
    step = make_step(Dropping(), "natural", ranks=Ranks())
    assert (step.draws.seed, step.draws.rank) == (3, 0)


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-10-1-silu", "resnet-18", "preact-resnet-18-v2-bn"])
def test_networks_of_ours_draw_nothing(name, monkeypatch):
    model = make(name, 10, generator_seed=0)
    assert not may_draw(model)
    monkeypatch.setattr("fastait.training.draws.torch.default_generator", None)  # and nobody asks for the generators
    with Draws(model, 0, 0).of(1):
        pass


def test_others_may():
    assert may_draw(Dropping())
    assert may_draw(nn.Sequential(nn.Linear(1, 1), nn.RReLU()))
    assert not may_draw(nn.Sequential(nn.Linear(1, 1), nn.ReLU()))


def test_threads_take_turns():
    """Each is as it would be alone, and the generator as it was."""
    steps = [make_step(network("dropout"), "natural") for _ in range(3)]
    for number in range(8):
        steps[0](*batch(number, image=16), number)
    before = torch.get_rng_state()

    def train(step):
        for number in range(8):
            step(*batch(number, image=16), number)

    threads = [threading.Thread(target=train, args=[step]) for step in steps[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(steps[0].state(), steps[1].state())
    assert equal(steps[0].state(), steps[2].state())


@pytest.mark.parametrize("fails", [False, True], ids=["replayed", "eager after all"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_replays_draw_what_eager_steps_do(kind, fails, monkeypatch):
    """The first step too, whose warm-up has drawn before it, and whose capture may have failed."""
    cuda = FakeCuda(monkeypatch)
    models = [network(kind) for _ in range(2)]
    eager = make_step(models[0], "madry")
    graphed = recorded(make_step(models[1], "madry", batch_size=8, graph=True))
    cuda.tensors = [*graphed.state(), *(p.grad for p in models[1].parameters())]
    cuda.fails = fails
    before = torch.get_rng_state()
    for number in range(3):
        for step in (eager, graphed):
            step(*batch(number, image=16), number)
        assert equal(eager.state(), graphed.state())
        assert torch.equal(torch.get_rng_state(), before)
    assert bool(graphed.graphs) != fails


class Generator:
    """A GPU's generator: what is asked of it, in order."""

    def __init__(self, calls):
        self.calls = calls

    def get_state(self):
        self.calls.append("get_state")
        return "before"

    def set_state(self, state):
        self.calls.append(f"set_state {state}")

    def manual_seed(self, seed):
        self.calls.append(("manual_seed", seed))


def test_a_gpus_generator_is_seeded_before_each_replay(monkeypatch):
    """The default generator's state is what a replay reads its seed from; it is set outside of captures alone."""
    cuda, calls = FakeCuda(monkeypatch), []
    step = make_step(network("dropout"), "natural", batch_size=8, graph=True)
    cuda.tensors = step.state()
    monkeypatch.setattr(torch.cuda, "default_generators", [None, Generator(calls)])
    step.draws.device = torch.device("cuda", 1)
    monkeypatch.setattr(Graph, "replay", lambda graph, *inputs: calls.append("replay"))
    compute = step.compute
    monkeypatch.setattr(step, "compute", lambda *args: (calls.append("compute"), compute(*args)))
    step(*batch(0, image=16), 0)
    step(*batch(1, image=16), 1)
    seeds = [call[1] for call in calls if call[0] == "manual_seed"]
    named = [call if isinstance(call, str) else call[0] for call in calls]
    around = ["get_state", "manual_seed", "set_state before"]
    assert named == [
        *around[:2], *["compute"] * 4, around[2],  # warm-up and capture
        *around[:2], "replay", around[2],
        *around[:2], "replay", around[2],
    ]  # fmt: skip
    assert seeds[0] == seeds[1] != seeds[2]


def test_draws_of_the_host_cannot_be_captured(monkeypatch):
    """A layer that is left out by a number drawn on the CPU would be left out in every replay."""
    from fastait.training import graph

    guard = graph._no_draws_on_the_cpu
    FakeCuda(monkeypatch)
    monkeypatch.setattr(graph, "_no_draws_on_the_cpu", guard)
    Graph(lambda images, y: None, batch(0), [])
    with pytest.raises(graph.CaptureError, match="draws random numbers on the CPU, and every replay would repeat them"):
        Graph(lambda images, y: torch.rand(1), batch(0), [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_compiled_networks_draw_by_the_step_too(kind):
    steps = [make_step(network(kind), "natural", batch_size=8, compile=True) for _ in range(2)]
    before = torch.get_rng_state()
    for number in range(2):
        steps[0](*batch(number, image=16), number)
    assert torch.equal(torch.get_rng_state(), before)
    put_back(steps[1], [t.clone() for t in state(steps[0])])
    for number in (2, 3):
        steps[0](*batch(number, image=16), number)
    torch.rand(3)
    for number in (2, 3):
        steps[1](*batch(number, image=16), number)
    assert equal(steps[0].state(), steps[1].state())
