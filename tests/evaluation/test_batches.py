"""How many images are attacked together: what an image needs, what is free, and what happens where it is not enough."""

import gc
import weakref
from dataclasses import replace
from importlib import import_module

import pytest
import small
import torch
from tolerances import REDUCTION
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastait import evaluate_robustness
from fastait.attacks import Subject, folded
from fastait.data import FloatSet
from fastait.evaluation import batches, default_batch_size, evaluate, masking, masking_signs
from fastait.evaluation.batches import WORKING, Together, bytes_per_image, fitting, share
from fastait.models import WideResNet
from fastait.runtime import memory
from fastait.runtime.errors import InputError, OutOfMemory, RunError
from fastait.runtime.processes import Ranks

MB, GIB = 1e6, 2**30


def full(text="CUDA out of memory. Tried to allocate 20.00 MiB."):
    return torch.OutOfMemoryError(text)


@pytest.mark.parametrize(("size", "saved", "widest"), [(32, 18.5, 0.65536), (64, 74, 2.62144)])
def test_what_an_image_needs(size, saved, widest):
    """WRN-28-10, on no device at all. Its weights, 146 MB, are no image's."""
    with torch.device("meta"):
        model, x = Subject(WideResNet(28, 10, 10)), torch.empty(4, 3, size, size)
    assert bytes_per_image(model, x) / MB == pytest.approx(saved + WORKING * widest, rel=1e-3)
    assert bytes_per_image(model, x, passes=10) / MB == pytest.approx(10 * saved + WORKING * widest, rel=1e-3)


def test_weights_that_no_module_holds_are_no_images():
    weight = torch.rand(3 * 16 * 16, 1000)
    x = torch.rand(4, 3, 16, 16)
    assert bytes_per_image(Subject(lambda images: images.flatten(1) @ weight), x) < weight.nbytes / 100


def test_nothing_of_a_pass_is_left():
    model, x = Subject(WideResNet(10, 1, 10)), torch.rand(4, 3, 16, 16)

    def large():
        gc.collect()
        return sum(type(found) is torch.Tensor and found.numel() > 5000 for found in gc.get_objects())

    bytes_per_image(model, x)
    before = large()
    bytes_per_image(model, x)
    assert large() == before


def test_a_model_that_takes_gradients_of_its_own():
    """As what purifies its images does."""

    @torch.enable_grad()
    def purified(images):
        x = images if images.requires_grad else images.detach().requires_grad_()
        return torch.autograd.grad(x.exp().square().sum(), x, create_graph=True)[0].flatten(1)[:, :5]

    assert bytes_per_image(Subject(purified), torch.rand(4, 3, 8, 8)) > 0


def test_a_model_without_gradients():
    with torch.inference_mode():
        weight = torch.rand(3 * 16 * 16, 10)
    x = torch.rand(4, 3, 16, 16)
    assert bytes_per_image(Subject(lambda images: images.flatten(1) @ weight), x) == WORKING * x[0].nbytes


@pytest.mark.parametrize(
    ("free", "images"), [(80 * GIB, 500), (8 * GIB, 324), (GIB, 40), (0.1 * GIB, 4), (0.05 * GIB, 2), (0, 1)]
)
def test_what_fits(free, images):
    assert fitting(int(21.1 * MB), int(free)) == images


def test_a_gpus_batch(monkeypatch):
    """On a GPU that is not there: the images that have room in four fifths of what is free."""
    asked = []
    monkeypatch.setattr(batches, "free_bytes", lambda device: asked.append(device) or 8 * GIB)
    monkeypatch.setattr(batches, "bytes_per_image", lambda model, x, passes: asked.append(x.device) or 84 * MB * passes)
    with FakeTensorMode():
        images = FloatSet(torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64))
        model = nn.Module()
        model.weight = nn.Parameter(torch.empty(3, device="cuda"), requires_grad=False)
        assert default_batch_size(model, images) == 80
        assert default_batch_size(model, images, passes=10) == 8
    assert asked == 4 * [torch.device("cuda:0")]


def test_no_room_for_what_is_tried():
    def model(images):
        raise full()

    assert default_batch_size(model, FloatSet(torch.rand(3, 3, 8, 8), torch.zeros(3))) == 1


def test_free_memory(monkeypatch):
    """What the driver has, and what torch holds unused of this device, for whoever asks."""

    def segment(device, pool, total, active):
        return {"device": device, "segment_pool_id": pool, "total_size": total, "active_size": active}

    held = [segment(1, (0, 0), 100, 30), segment(1, (0, 0), 7, 7), segment(0, (0, 0), 1000, 0)]
    held += [segment(1, (0, 3), 5000, 10)]  # a captured graph's own
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (200, 400))
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: held)
    assert memory.free_bytes(torch.device("cuda", 1)) == 270
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert memory.free_bytes(torch.device("cuda")) == 1200

    def refuse():
        raise RuntimeError("another allocator")

    monkeypatch.setattr(torch.cuda, "memory_snapshot", refuse)
    assert memory.free_bytes(torch.device("cuda", 1)) == 200


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (full(), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), False),  # the GPU is too old
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (RunError("out of memory with a single image"), False),
    ],
)
def test_what_running_out_looks_like(error, out):
    assert memory.ran_out(error) == out


@pytest.mark.parametrize(
    ("begin", "sizes"),
    [(500, [500, 248, 124, 60, 28, 12, 4, 2, 1]), (32, [32, 16, 8, 4, 2, 1]), (7, [7, 3, 1]), (1, [1])],
)
def test_halves(begin, sizes):
    seen, notes = [], []

    def work(size):
        seen.append(size)
        raise full()

    with pytest.raises(OutOfMemory, match=r"out of memory with a single image at a time \(CUDA out of memory. Tried"):
        Together(begin, notes.append).attempt(work)
    assert seen == sizes
    assert not notes


@pytest.mark.parametrize(("at_most", "second"), [(None, 24), (16, 4)])
def test_no_image_is_lost_or_done_twice(at_most, second):
    """Where there is room for ever fewer; it is said once, and what there was no room for is gone by then."""
    notes, done, held = [], [], []

    def work(places):
        images = torch.zeros(len(places), 1000)
        held.append(weakref.ref(images))
        assert sum(tensor() is not None for tensor in held) == 1
        if len(places) > (100 if len(done) < 52 else 30 if len(done) < 100 else 5):
            raise full()
        return places.tolist()

    together = Together(52, notes.append)
    for part in together.over(torch.arange(3, 140), work, at_most):
        done += part
    assert done == list(range(3, 140))
    assert together.size == together.limit == 4
    assert notes == [f"out of memory with 52 images at a time; {second} are taken from here on"]


def test_other_errors_pass():
    def work(places):
        raise InputError("no logits")

    together = Together(8)
    with pytest.raises(InputError, match="no logits"):
        list(together.over(torch.arange(20), work))
    assert together.size == 8
    assert together.limit is None


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("images", [1, 2, 3, 5, 33, 40, 100, 1001])
def test_shares(processes, images):
    """Every image falls to one process, none to one alone in a batch, and the shares are as equal as can be."""
    shares = [share(images, Ranks(rank, processes)).tolist() for rank in range(processes)]
    assert sorted(place for own in shares for place in own) == list(range(images))
    assert all(own == sorted(own) and (len(own) != 1 or images == 1) for own in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= batches.SHARED + 1


@pytest.fixture
def _briskly(monkeypatch):
    """Without looking for garbage each time, which takes longer than these networks."""
    monkeypatch.setattr(batches, "release", lambda: None)


class Crowded(small.Classifier):
    """Has no room for more than ``room`` images at a time."""

    room = 6

    def features(self, x):
        if len(x) > self.room:
            raise full()
        return super().features(x)


NAMES = ["fgsm", "pgd3", "pgd3-min3", "cw2-worst", "feature2", "eot2-pgd2", "spsa-9x2", "local-search-2"]
NAMES += ["pgd2+spsa-8x1", "transfer-pgd2"]


def measured(model, room, **options):
    x, y = small.images(30)
    model.room = room
    return evaluate(model, FloatSet(x, y), NAMES, surrogate=model, **options)


@pytest.mark.usefixtures("_briskly")
@pytest.mark.parametrize("batch_size", [None, 4, 500])
def test_evaluation_goes_on_with_fewer_images(batch_size):
    """Also where the user has said how many, and with black boxes, which score more images than they attack."""
    model, notes = small.new(Crowded), []
    whole = measured(model, 10**6)
    found = measured(model, 6, batch_size=batch_size, note=notes.append)
    for name, outcome in whole.correct.items():
        assert torch.equal(found.correct[name], outcome), name
    for name, queries in whole.queries.items():
        assert torch.equal(found.queries[name], queries), name
    assert notes
    assert all("out of memory with " in note for note in notes)


def test_attacks_that_hold_several_passes_take_fewer_images(monkeypatch):
    sizes = []

    def model(images):
        sizes.append(len(images))
        return images.flatten(1)[:, :10]

    x, y = small.images(24)
    module = import_module("fastait.evaluation.evaluate")  # whose name the function has too
    monkeypatch.setattr(module, "default_batch_size", lambda model, images, passes=1: 12 // passes)
    for name, largest in (("pgd1", 12), ("eot3-pgd1", 4), ("eot6-cw1", 2)):
        sizes.clear()
        evaluate(model, FloatSet(x, y), [name])
        clean = sizes.index(12)  # after what the model is tried on
        assert max(sizes[clean + 2 :]) == largest, name


@pytest.mark.parametrize("size", [4, 7, 30])
def test_the_loss_along_the_steps_does_not_depend_on_batches(size):
    images, model = FloatSet(*small.images(30)), Subject(small.new())
    found, whole = (masking._losses(model, images, 8 / 255, 0, Together(at_once)) for at_once in (size, 30))
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, **REDUCTION[torch.float32], check_dtype=False)


@pytest.mark.parametrize(("batch_size", "largest"), [(None, 8), (5, 5)])
def test_stages_begin_with_more_than_suit_the_cache(batch_size, largest, monkeypatch):
    """Three times as many, since images leave them; not where the user has said how many."""
    module, seen = import_module("fastait.evaluation.evaluate"), []
    monkeypatch.setattr(module, "default_batch_size", lambda model, images, passes=1: 4)
    model, (x, _) = small.new(), small.images(24)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.register_forward_pre_hook(lambda model, given: seen.append(len(given[0])))
    evaluate_robustness(model, x, y, ["pgd2"], batch_size=batch_size)
    assert max(seen) == (batch_size or 4)
    evaluate_robustness(model, x, y, ["apgd-ce-2"], batch_size=batch_size, epsilon=1e-6)
    assert max(seen) == largest


@pytest.mark.usefixtures("_briskly")
def test_a_single_image_at_a_time(monkeypatch):
    """Also of what the model is tried on before it is folded."""
    monkeypatch.setattr(folded, "KNOWN", ("",))
    model, (x, y) = small.new(Crowded), small.images(3)
    model.room = 1
    with pytest.warns(RuntimeWarning, match="out of memory with 3 images at a time; 1 are taken from here on"):
        found = evaluate_robustness(model, x, y, ["pgd2"], batch_size=8)
    assert torch.equal(found.correct["pgd2"], evaluate_robustness(small.new(), x, y, ["pgd2"]).correct["pgd2"])
    with pytest.warns(RuntimeWarning, match="out of memory"):
        signs = masking_signs(model, x, y, batch_size=8)
    for one, other in zip(signs, masking_signs(small.new(), x, y), strict=True):
        assert replace(one, numbers={}) == replace(other, numbers={})
        for name, number in one.numbers.items():
            torch.testing.assert_close(
                torch.tensor(number), torch.tensor(other.numbers[name]), **REDUCTION[torch.float32]
            )
    model.room = 0
    for measure in (evaluate_robustness, masking_signs):
        with pytest.raises(OutOfMemory, match="out of memory with a single image at a time"):
            measure(model, x, y)
