"""The plan and the loaders that follow it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import write_folder
from loaders import LOADERS, needs_dali
from PIL import Image, ImageOps
from torch._subclasses.fake_tensor import FakeTensorMode

from fastait.data import BatchPlan, ImageSet, load_dataset, make_loader
from fastait.data.loaders import resident
from fastait.data.loaders.dali import _check_cuda
from fastait.runtime.errors import InputError, RunError

CPU = torch.device("cpu")


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (23, 12, 9, 3), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(23))


def plan_of(images, **changes):
    return BatchPlan(**{"seed": 5, "size": len(images), "batch_size": 4, "padding": 3, "flip": True, **changes})


def by_hand(images, plan, step):
    """The batch of ``step``, an image at a time, with numpy."""
    batch = plan.batch(step)
    found = []
    for index, (down, right), flip in zip(batch.index, batch.shift, batch.flip, strict=True):
        pixels = images.images[index].numpy()
        height, width = pixels.shape[:2]
        border = (plan.padding, plan.padding)
        crop = np.pad(pixels, (border, border, (0, 0)))[down : down + height, right : right + width]
        found.append(crop[:, ::-1] if flip else crop)
    return torch.from_numpy(np.stack(found)), images.labels[batch.index]


def test_every_epoch_sees_every_image_once(images):
    plan = plan_of(images)
    assert plan.steps_per_epoch == 6
    orders = []
    for epoch in range(3):
        batches = [plan.batch(epoch * 6 + i) for i in range(6)]
        assert [len(b.index) for b in batches] == [4] * 5 + [3]
        orders.append(torch.cat([b.index for b in batches]).tolist())
        assert sorted(orders[-1]) == list(range(23))
    assert orders[0] != orders[1] != orders[2]


def test_plan_depends_on_seed_and_step_alone(images):
    again = plan_of(images).batch(100)
    once = plan_of(images).batch(100)
    other = plan_of(images, seed=6).batch(100)
    assert all(torch.equal(getattr(once, f), getattr(again, f)) for f in ("index", "shift", "flip"))
    assert not torch.equal(once.index, other.index)


@pytest.mark.parametrize("options", LOADERS)
def test_batches_are_those_of_the_plan(images, options):
    plan = plan_of(images)
    got = list(make_loader(images, plan, CPU, **options).batches(3, 20))  # kept: none may be overwritten by a later one
    assert len(got) == 17
    for step, (x, y) in enumerate(got, start=3):
        x_expected, y_expected = by_hand(images, plan, step)
        assert x.dtype == torch.uint8
        assert x.is_contiguous()
        assert torch.equal(x, x_expected)
        assert torch.equal(y, y_expected)


@pytest.mark.parametrize("options", LOADERS)
@pytest.mark.parametrize("first", [2, 8, 12])
def test_going_on_at_a_step_is_having_come_there(images, options, first):
    """In the middle of the first epoch, of the second, and at the beginning of the third."""
    loader = make_loader(images, plan_of(images), CPU, **options)
    whole = list(loader.batches(0, 14))
    rest = list(make_loader(images, plan_of(images), CPU, **options).batches(first, 14))
    assert len(rest) == 14 - first
    for (x, y), (x_again, y_again) in zip(whole[first:], rest, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)


@pytest.mark.parametrize("options", LOADERS)
def test_two_ranks_see_disjoint_shards_whose_union_is_the_set(options):
    pixels = torch.arange(41, dtype=torch.uint8)[:, None, None, None].expand(41, 8, 8, 3).contiguous()
    images = ImageSet(pixels, torch.arange(41))
    plans = [BatchPlan(1, 41, 10, 0, True, rank, 2) for rank in range(2)]
    steps = plans[0].steps_per_epoch
    loaders = [make_loader(images, plan, CPU, **options) for plan in plans]
    for epoch in range(3):
        seen = []
        for plan, loader in zip(plans, loaders, strict=True):
            for step, (x, y) in enumerate(loader.batches(epoch * steps, (epoch + 1) * steps), start=epoch * steps):
                assert torch.equal(x[:, 0, 0, 0].long(), y)
                seen += y[: plan.shard(step).size].tolist()  # a stand-in counts for nothing
        assert sorted(seen) == list(range(41))


@pytest.mark.parametrize("options", LOADERS)
def test_held_out_images_are_in_no_batch(images, options):
    plan = plan_of(images, size=17, held_out=6, padding=0, flip=False)
    kept, held_out = plan.split()
    assert len(held_out) == 6
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(23))
    assert not torch.equal(held_out, plan_of(images, size=17, held_out=6, seed=6).split()[1])
    for epoch in range(2):
        batches = list(make_loader(images, plan, CPU, **options).batches(5 * epoch, 5 * epoch + 5))
        assert sorted(torch.cat([y for _, y in batches]).tolist()) == kept.tolist()
        for x, y in batches:
            assert torch.equal(x, images.images[y])


def test_only_whole_batches_where_the_last_is_dropped(images):
    plan = plan_of(images, drop_last=True)
    assert plan.steps_per_epoch == 5
    seen = [plan.batch(step).index for step in range(12)]
    assert [len(index) for index in seen] == [4] * 12
    for epoch in (0, 5):
        assert len(torch.cat(seen[epoch : epoch + 5]).unique()) == 20
    assert [plan.shard(step).batch for step in range(12)] == [4] * 12


@pytest.mark.parametrize("options", LOADERS)
def test_10_000_draws_of_each_loader_are_uniform(options):
    """An image whose pixels say where they stand shows how it was moved; chi-square at one in a thousand."""
    size, padding, count = 9, 2, 10_000
    place = torch.arange(1, size * size + 1, dtype=torch.uint8).view(size, size)
    images = ImageSet(place[None, :, :, None].expand(count, size, size, 3).contiguous(), torch.zeros(count).long())
    plan = BatchPlan(0, count, 1000, padding, True)
    centres = torch.cat(
        [x[:, 4, 3:6, 0].long() - 1 for x, _ in make_loader(images, plan, CPU, **options).batches(0, 10)]
    )
    flipped = centres[:, 0] > centres[:, 2]
    down, right = centres[:, 1] // size - 4 + padding, centres[:, 1] % size - 4 + padding
    cells = torch.bincount((down * 5 + right) * 2 + flipped, minlength=50)
    assert cells.numel() == 50
    expected = count / 50
    assert ((cells - expected) ** 2 / expected).sum() < 85.4  # 49 degrees of freedom


@pytest.mark.parametrize("options", LOADERS)
def test_without_augmentation_images_are_as_they_are(images, options):
    plan = plan_of(images, padding=0, flip=False)
    for step, (x, _) in enumerate(make_loader(images, plan, CPU, **options).batches(0, 6)):
        assert torch.equal(x, images.images[plan.batch(step).index])


def test_resident_is_the_default_where_the_set_fits(images, monkeypatch):
    def default():
        return make_loader(images, plan_of(images), CPU, dali=False, workers=None).name

    assert default() == "resident"
    monkeypatch.setattr(resident, "_room", lambda device: 4 * images.images.nbytes)
    assert default() == "resident"
    monkeypatch.setattr(resident, "_room", lambda device: 4 * images.images.nbytes - 4)
    assert default() == "torch, 2 workers"


def test_a_batch_of_the_resident_loader_waits_for_nothing(images):
    """Fake tensors raise at whatever would have to look at the device: on a GPU that is a synchronisation."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = ImageSet(mode.from_tensor(images.images), mode.from_tensor(images.labels))
        loader = resident.ResidentLoader(fake, plan_of(images), CPU)
        shapes = [tuple(x.shape) for x, _ in loader.batches(0, 7)]
    assert shapes == [(4, 12, 9, 3)] * 5 + [(3, 12, 9, 3), (4, 12, 9, 3)]


def write_jpegs(root, count=9):
    """Two classes of smooth JPEGs and PNGs of several sizes; one JPEG lies on its side."""
    random = np.random.default_rng(3)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
                image = coarse.resize((40 + 7 * (i % 3), 32 + 5 * (i % 4)), Image.Resampling.BICUBIC)
                exif = Image.Exif()
                exif[0x0112] = 6 if i == 4 else 1
                if i % 3:
                    image.save(root / split / name / f"{i}.jpg", quality=90, exif=exif)
                else:
                    image.save(root / split / name / f"{i}.png")
    return root


@needs_dali
def test_dali_decodes_files_as_pillow_does(tmp_path):
    """To a few of 255, by the same crop."""
    root = write_jpegs(tmp_path / "images")
    in_memory = load_dataset("folder", root, image_size=24)
    in_files = load_dataset("folder", root, image_size=24, in_files=True)
    assert in_files.checksum == in_memory.checksum
    assert torch.equal(in_files.test.images, in_memory.test.images)
    plan = BatchPlan(0, 18, 5, 3, True)
    for (x, y), (x_memory, y_memory) in zip(
        make_loader(in_files.train, plan, CPU, dali=True, workers=None).batches(2, 11),
        make_loader(in_memory.train, plan, CPU, dali=True, workers=None).batches(2, 11),
        strict=True,
    ):
        assert torch.equal(y, y_memory)
        difference = (x.int() - x_memory.int()).abs()
        assert difference.max() <= 6
        assert difference.double().mean() < 0.4


@needs_dali
def test_dali_decodes_files_of_the_right_size_to_the_same_bits(tmp_path):
    root = write_folder(tmp_path / "images", {"a": 6, "b": 7}, size=(16, 16))
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(root / "train" / "a" / "grey.png")
    in_memory = load_dataset("folder", root, image_size=16)
    in_files = load_dataset("folder", root, image_size=16, in_files=True)
    plan = BatchPlan(0, 14, 4, 2, True)
    dali = make_loader(in_files.train, plan, CPU, dali=True, workers=None).batches(0, 8)
    for (x, y), step in zip(dali, range(8), strict=True):
        x_expected, y_expected = by_hand(in_memory.train, plan, step)
        assert torch.equal(x, x_expected)
        assert torch.equal(y, y_expected)


@needs_dali
@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (6, 6), (96, 16)])
def test_dali_decodes_on_this_processes_share_of_the_cores(tmp_path, images, monkeypatch, cores, threads):
    monkeypatch.setattr("fastait.data.loaders.dali.usable_cores", lambda: cores)
    root = write_folder(tmp_path / "images", {"a": 4, "b": 4}, size=(8, 8))
    files = load_dataset("folder", root, image_size=8, in_files=True).train
    for kind, expected in ((files, threads), (images, 2)):
        plan = BatchPlan(0, len(kind), 4, 0, False)
        loader = make_loader(kind, plan, CPU, dali=True, workers=None)
        assert loader._pipeline(kind, plan, 0, 2).num_threads == expected


@needs_dali
@pytest.mark.parametrize("then", [None, b"", b"no image"])
def test_a_file_that_goes_bad_while_dali_reads_is_named(tmp_path, then):
    root = write_folder(tmp_path / "images", {"a": 4, "b": 4}, size=(8, 8))
    files = load_dataset("folder", root, image_size=8, in_files=True).train
    path = root / "train" / "a" / "2.png"
    path.unlink()
    if then is not None:
        path.write_bytes(then)
    loader = make_loader(files, BatchPlan(0, 8, 4, 0, False), CPU, dali=True, workers=None)
    with pytest.raises(
        RunError, match=r"--dali: .*train/a/2\.png (is not a readable image|cannot be read): .* are kept"
    ):
        list(loader.batches(0, 2))


@needs_dali
def test_a_file_that_only_pillow_decodes_is_named(tmp_path):
    root = write_folder(tmp_path / "images", {"a": 4, "b": 4}, size=(8, 8))
    Image.new("1", (8, 8)).save(root / "train" / "a" / "9.tiff")
    files = load_dataset("folder", root, image_size=8, in_files=True).train
    loader = make_loader(files, BatchPlan(0, 9, 9, 0, False), CPU, dali=True, workers=None)
    with pytest.raises(RunError, match=r"train/a/9\.tiff is decoded by Pillow but not by DALI .*; leave --dali out"):
        list(loader.batches(0, 1))


@needs_dali
def test_a_loader_for_a_gpu_is_checked_for_its_cuda(images, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", "11.8")
    with pytest.raises(InputError, match=r"is for CUDA 1[23], torch is for CUDA 11; pip uninstall nvidia-dali-cuda"):
        make_loader(images, plan_of(images), torch.device("cuda", 0), dali=True, workers=None)
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(InputError, match="--dali works with NVIDIA GPUs"):
        make_loader(images, plan_of(images), torch.device("cuda", 0), dali=True, workers=None)


def test_workers_share_the_set(images):
    """Also where Python starts processes another way: what is sent to one is a copy of the set."""
    script = (
        "import multiprocessing, torch; from fastait.data import BatchPlan, ImageSet, make_loader\n"
        "multiprocessing.set_start_method('forkserver')\n"
        "images = ImageSet(torch.zeros(9, 8, 8, 3, dtype=torch.uint8), torch.arange(9))\n"
        "plan = BatchPlan(0, 9, 4, 0, False)\n"
        "loader = make_loader(images, plan, torch.device('cpu'), dali=False, workers=1)\n"
        "print(sum(len(x) for x, _ in loader.batches(0, 3)), images.images.is_shared())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "9 False\n", done.stderr


def test_workers_that_cannot_be_started(images, monkeypatch):
    loader = make_loader(images, plan_of(images), CPU, dali=False, workers=2)
    monkeypatch.setattr("os.fork", lambda: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")))
    with pytest.raises(RunError, match="--workers 2 cannot be started: Cannot allocate memory; try fewer, or 0"):
        next(loader.batches(0, 1))


def test_dali_for_another_cuda_says_what_to_install():
    _check_cuda(13, "13.0")
    with pytest.raises(InputError, match="pip uninstall nvidia-dali-cuda130, then pip install nvidia-dali-cuda120"):
        _check_cuda(13, "12.8")


def test_fit_is_pillows(tmp_path):
    """The centred square, resized: what DALI is asked for by a region of interest."""
    from fastait.data.decode import fit

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8))
    cropped = image.resize((8, 8), Image.Resampling.BILINEAR, box=(5.5, 0, 25.5, 20))
    assert np.array_equal(np.asarray(fit(image, 8)), np.asarray(cropped))
    assert np.array_equal(np.asarray(cropped), np.asarray(ImageOps.fit(image, (8, 8), Image.Resampling.BILINEAR)))
