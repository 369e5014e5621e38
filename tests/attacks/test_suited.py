"""Public attacks part their batches and lay out their images, and nobody can tell from what they return."""

import gc
import weakref
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastait.attacks import ATTACKS, Subject, by_name, pgd
from fastait.attacks import suited as module
from fastait.attacks.suited import Suited, suited

NAMES = (
    *("pgd3", "cw3-worst", "pgd2-best", "pgd2-min2", "eot2-pgd2", "transfer-pgd2", "feature2", "pgd2+cw2"),
    *("apgd-ce-3", "apgd-t-2", "fab-t-2", "square-10", "spsa-4x1", "local-search-linf-1"),
)


class Net(nn.Module):
    """Keeps what it sees."""

    def __init__(self, *more):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), *more)
        self.head = nn.Linear(128, 5)
        self.sizes, self.layouts = [], set()
        self.double()

    def forward(self, x):
        self.sizes.append(len(x))
        self.layouts.add("last" if x.is_contiguous(memory_format=torch.channels_last) else "first")
        return self.head(self.body(x).flatten(1))


class Viewing(Net):
    def forward(self, x):
        return super().forward(x.view(len(x), -1).view(x.shape))


class Noisy(Net):
    def forward(self, x):
        return super().forward(x + 0.01 * torch.rand_like(x))


@pytest.fixture
def batch(monkeypatch):
    """Images that do not stay together in a cache as small as this."""
    monkeypatch.setattr(module, "cached_bytes", lambda: 1 << 14)
    x = torch.rand(40, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, Net()(x).argmax(1)


def run(name, model, x, y):
    generator = torch.Generator().manual_seed(3)
    options = {"surrogate": Net()} if "transfer" in name else {}
    found = ATTACKS[name](model, x, y, epsilon=0.06, generator=generator, **options)
    return found, generator.get_state()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_equal_to_a_batch_as_it_is(batch, monkeypatch, name, layout):
    x, y = batch[0].contiguous(memory_format=layout), batch[1]
    before, model = torch.get_rng_state(), Net()
    found, drawn = run(name, model, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.stride() == x.stride()
    if not name.startswith(("spsa", "local")):
        assert max(model.sizes) == 8
    monkeypatch.setattr(by_name, "suited", lambda subject, x: Suited())
    expected, drawn_then = run(name, Net(), x, y)
    assert torch.equal(drawn, drawn_then)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [Net, Viewing, Noisy])
def test_what_a_model_sees(batch, kind):
    x, y = batch
    for call in (
        lambda m: pgd(m, x, y, steps=2),
        lambda m: ATTACKS["pgd2"](m, x, y),
        lambda m: ATTACKS["fgsm"](m, x, y),
    ):
        model = kind()
        call(model)  # which tries
        model.sizes.clear()
        model.layouts.clear()
        call(model)
        assert model.layouts == ({"last"} if kind is Net else {"first"})
        assert set(model.sizes) == ({40} if kind is Noisy else {8})
        assert sum(model.sizes) % 40 == 0  # nothing is tried again


def test_random_models_draw_as_ever(batch, monkeypatch):
    """A try of them takes no number of theirs."""
    x, y = batch
    torch.manual_seed(5)
    found = pgd(Noisy(), x, y, steps=2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(import_module("fastait.attacks.pgd"), "suited", lambda subject, x: Suited())
    torch.manual_seed(5)
    assert torch.equal(found, pgd(Noisy(), x, y, steps=2, generator=torch.Generator().manual_seed(0)))


def test_own_number_of_images(batch):
    model = Net()
    pgd(model, *batch, steps=1)
    model.sizes.clear()
    pgd(model, *batch, steps=1, at_a_time=20)
    assert model.sizes == [20, 20]


def test_few_images_are_not_tried(batch):
    model = Net()
    pgd(model, batch[0][:8], batch[1][:8], steps=1)
    assert model.sizes == [8]


def test_models_are_not_kept(batch):
    model = Net()
    pgd(model, *batch, steps=1)
    assert suited(Subject.of(model), batch[0]) == Suited(torch.channels_last, 8)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("dtype", "in_tf32", "tf32", "expected"),
    [
        (torch.float32, False, False, torch.contiguous_format),
        (torch.float32, True, False, torch.channels_last),
        (torch.float32, False, True, torch.channels_last),
        (torch.bfloat16, False, False, torch.channels_last),
    ],
)
def test_a_gpu_computes_fp32_proper_on_contiguous_images(dtype, in_tf32, tf32, expected, monkeypatch):
    monkeypatch.setattr(module, "in_tf32", lambda device: in_tf32)
    x = SimpleNamespace(device=torch.device("cuda"), dtype=dtype, contiguous=lambda memory_format: None)
    assert module.memory_format(lambda x: x, x, tf32) == expected


def test_as_many_images_as_the_caches_of_the_cores_hold(monkeypatch):
    """Those that work on them now, not when a model was first attacked."""
    monkeypatch.setattr(module, "core_cache", lambda: 1 << 16)
    x = torch.rand(9, 3, 8, 8)
    model, before = Net().float(), torch.get_num_threads()
    try:
        found = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[threads] = suited(Subject.of(model), x).together
    finally:
        torch.set_num_threads(before)
    assert found[1] == (1 << 16) // module.widest_activation(Subject.of(model), x[:2]) // 4 * 4
    assert found[2] in (2 * found[1], 2 * found[1] + 4)
