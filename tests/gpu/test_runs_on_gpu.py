"""Whole runs with the captured step, beside the same runs without: loaders, held-out images, 16 bits, compilation."""

import dataclasses
import json
import math
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import write_folder
from rehearsal import DEVICE, REHEARSED, scaled
from tolerances import LOSS_OF_AN_EPOCH

from fastait import recipe, run_training
from fastait.runtime.errors import Interrupted
from fastait.training import loop
from fastait.training.step import TrainStep

SETTINGS = {"image_size": scaled(16, 8), "epochs": 2, "milestones": (2,), "eval_samples": 50, "crop_padding": 1}
PER_EPOCH = 23
"""Steps: digits have 1,437 images to train on, the last batch of 29."""


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    """The same kernels in both runs, so that an epoch's loss can be compared."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture
def graphs(monkeypatch):
    """What became of each step: "replayed" or "eager"."""
    done = []
    call = TrainStep.__call__

    def counted(self, images, y, *rest, **more):
        call(self, images, y, *rest, **more)
        captured = bool(self.graphs) and len(y) == self.batch_size
        done.append("replayed" if captured else "eager")

    monkeypatch.setattr(TrainStep, "__call__", counted)
    return done


def train(out, name="digits", **options):
    """(the run's result, its epochs)."""
    config = recipe(name, **{**SETTINGS, "device": str(DEVICE), "out": Path(out), **options})
    result = run_training(config).result
    return result, [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


def assert_same(epochs, others, names=("loss", "accuracy"), rel=LOSS_OF_AN_EPOCH["fp32"]):
    for ours, theirs in zip(epochs, others, strict=True):
        for name in names:
            assert ours[name] == pytest.approx(theirs[name], rel=rel), name


def replayed(graphs, epochs=2):
    """All whole batches were, the last one of an epoch was not."""
    assert graphs == (["replayed"] * (PER_EPOCH - 1) + ["eager"]) * epochs
    graphs.clear()


LOADERS = {"resident": {}, "workers 0": {"workers": 0}, "workers 2": {"workers": 2}, "dali": {"dali": True}}


def test_every_loader_under_a_graph(graphs):
    _, expected = train("eager", cuda_graph="off")
    assert set(graphs) == {"eager"}
    graphs.clear()
    for name, options in LOADERS.items():
        if options.get("dali") and not has_dali():
            continue
        result, epochs = train(name.replace(" ", "-"), cuda_graph="on", **options)
        assert_same(epochs, expected)
        replayed(graphs)
        assert result["clean"] > 20


def has_dali():
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def test_dali_decodes_files_under_a_graph(tmp_path, graphs):
    if not has_dali():
        pytest.skip("DALI is not installed")
    root = write_folder(tmp_path / "images", {"a": 20, "b": 21}, size=(SETTINGS["image_size"],) * 2)
    options = {"dataset": "folder", "data_dir": root, "batch_size": 8, "eval_samples": 4, "dali": True}
    _, eager = train("eager", **options, cuda_graph="off")
    graphs.clear()
    _, epochs = train("run", **options, cuda_graph="on")
    assert_same(epochs, eager)
    assert graphs.count("replayed") == 2 * 5


def test_images_are_held_out_while_a_graph_is_alive(graphs):
    """An evaluation between two replays: eval mode, other batches, memory beside the graph's."""
    options = {"val_fraction": 0.2, "epochs": 3}
    _, eager = train("eager", **options, cuda_graph="off")
    graphs.clear()
    result, epochs = train("run", **options, cuda_graph="on")
    assert_same(epochs, eager)
    assert_same(epochs, eager, ("val_clean", "val_pgd10"), rel=LOSS_OF_AN_EPOCH["outcomes"])
    assert "replayed" in graphs[-PER_EPOCH // 2 :]  # after two evaluations
    assert result["best"]["clean"] > 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_under_a_graph(dtype, graphs, monkeypatch):
    """Both types, whatever this GPU prefers, against fp32 and against the same without a graph."""
    if dtype == torch.bfloat16 and not REHEARSED and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    monkeypatch.setattr("fastait.training.prepare.native_half", lambda device: dtype)
    _, fp32 = train("fp32", cuda_graph="off", epochs=1, milestones=())
    _, eager = train("eager", cuda_graph="off", amp=True)
    graphs.clear()
    result, epochs = train("run", cuda_graph="on", amp=True)
    replayed(graphs)
    assert result["precision"] == str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")
    assert_same(epochs[:1], eager[:1], rel=LOSS_OF_AN_EPOCH["16 bits"])
    assert_same(epochs[:1], fp32, ("loss",), rel=LOSS_OF_AN_EPOCH["16 bits"])
    assert all(math.isfinite(epoch["loss"]) for epoch in epochs)


@pytest.mark.parametrize("method", ["adv-interp", "madry"])
def test_compiled_under_a_graph(method, graphs):
    _, expected = train("eager", cuda_graph="off", method=method, epochs=1, milestones=())
    graphs.clear()
    _, epochs = train("run", cuda_graph="on", compile=True, method=method, epochs=1, milestones=())
    replayed(graphs, epochs=1)
    assert_same(epochs, expected, ("loss",), rel=LOSS_OF_AN_EPOCH["compiled"])


def test_unlabeled_images_under_a_graph(tmp_path, graphs):
    more = write_folder(tmp_path / "images", {"a": 70, "b": 70}, size=(SETTINGS["image_size"],) * 2) / "train"
    options = {"method": "uat", "unlabeled": more, "epochs": 1, "milestones": ()}
    _, expected = train("eager", **options, cuda_graph="off")
    graphs.clear()
    _, epochs = train("run", **options, cuda_graph="on")
    replayed(graphs, epochs=1)
    assert_same(epochs, expected)


def test_two_runs_in_one_process(graphs):
    """The second is captured beside what the first left behind, and is the same."""
    _, first = train("first", cuda_graph="on")
    _, second = train("second", cuda_graph="on")
    assert_same(second, first)
    assert graphs.count("replayed") == 4 * (PER_EPOCH - 1)


def test_the_host_does_not_run_far_ahead(monkeypatch):
    """A signal is obeyed soon, also where nothing has been read from the GPU for a long time."""
    monkeypatch.setattr(loop, "READ_SECONDS", 1e9)
    steps = 85  # of an epoch of 90, at whose end the loss is read
    depth, width, size = scaled((28, 10, 32), (10, 1, 8))
    asked = []
    call = TrainStep.__call__

    def ask_for_an_end(self, *args, **more):
        call(self, *args, **more)
        asked.append(time.monotonic())
        if len(asked) == steps:
            signal.raise_signal(signal.SIGTERM)

    config = recipe("digits", image_size=size, epochs=100, model=f"wrn-{depth}-{width}", batch_size=16)
    config = dataclasses.replace(config, device=str(DEVICE), out=Path("run"), cuda_graph="on", checkpoint_seconds=1e9)
    ended = []
    save = loop.Loop.save

    def timed(self):
        torch.cuda.synchronize()
        ended.append(time.monotonic())
        save(self)

    monkeypatch.setattr(loop.Loop, "save", timed)
    monkeypatch.setattr(TrainStep, "__call__", ask_for_an_end)
    with pytest.raises(Interrupted):
        run_training(config)
    waited, a_step = ended[-1] - asked[-1], (ended[-1] - asked[2]) / (steps - 3)
    assert waited <= 16 * a_step + 0.2, f"{waited:.2f} s, that is {waited / a_step:.0f} steps"
