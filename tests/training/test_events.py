"""Events for TensorBoard: what metrics.jsonl has, each epoch once, and a run that does not change by them."""

import io
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import tiny

from fastait import resume_training, run_training
from fastait.data import ImageSet
from fastait.runtime.errors import InputError, Interrupted, RunError
from fastait.runtime.report import AUTOATTACK_CAVEAT
from fastait.training.events import FOLDER, Events
from fastait.training.step import Totals

loader = pytest.importorskip(
    "tensorboard.backend.event_processing.event_file_loader", reason="tensorboard is not installed"
)


def events(run):
    """[(tag, step, value)] of all that lies in the folder, as raw as it is."""
    return [
        (value.tag, event.step, value)
        for file in sorted((Path(run) / FOLDER).iterdir())
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def scalars(run):
    return {
        (tag.partition("/")[2], step): float(value.tensor.float_val[0])
        for tag, step, value in events(run)
        if value.metadata.plugin_data.plugin_name == "scalars"
    }


def metrics(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def assert_as_in_metrics(run, epochs):
    found, history = scalars(run), metrics(run)
    assert [record["epoch"] for record in history] == list(range(1, epochs + 1))
    left_out = {"epoch", "step", "images", "val_images", "train_images"}
    expected = {(key, r["epoch"]): value for r in history for key, value in r.items() if key not in left_out}
    assert found == {key: pytest.approx(value, rel=1e-6) for key, value in expected.items()}
    tags = [(tag, step) for tag, step, _ in events(run)]
    assert len(tags) == len(set(tags))


@pytest.mark.slow
def test_a_run_that_was_stopped_has_each_epoch_once(monkeypatch):
    """And the images, and the final table."""
    add = Totals.add

    def stop(self, loss, logits, y, step):
        add(self, loss, logits, y, step)
        if int(step) == 30:  # in the second of three epochs
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Totals, "add", stop)
        with pytest.raises(Interrupted):
            run_training(tiny(epochs=3, val_fraction=0.1, ema=0.9, tensorboard=True))
    assert_as_in_metrics("run", 1)
    result = resume_training("run").result
    assert_as_in_metrics("run", 3)
    kinds = {tag: value for tag, _, value in events("run")}
    images = [tag for tag in kinds if tag.startswith("pgd10")]
    assert images == ["pgd10: clean, moved, difference"]
    picture = kinds[images[0]].tensor.string_val
    pixels = np.asarray(Image.open(io.BytesIO(picture[2])))
    assert pixels.shape == (3 * 8, 8 * 8, 3)
    clean, moved, change = (pixels[8 * i : 8 * i + 8].astype(int) for i in range(3))
    assert 1 <= np.abs(moved - clean).max() <= 8
    assert np.abs(change - 127.5).max() > 60
    table = kinds["result/text_summary"].tensor.string_val[0].decode()
    assert f"| last epoch | {result['clean']:.1f} | {result['fgsm']:.1f} |" in table
    assert "| best epoch (" in table
    assert "| averaged weights |" in table
    assert AUTOATTACK_CAVEAT in table


def test_what_was_written_after_the_checkpoint_goes():
    """As after a kill: the history is what counts, and the time of each epoch is when it was."""
    config = tiny(tensorboard=True, out=Path("run"))
    images = ImageSet(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4))
    records = [{"epoch": i, "step": i, "loss": float(i), "seconds": 100.0} for i in (1, 2, 3)]
    first = Events(Path("run"), config, images, first=True)
    first.begin([])
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    for record in records:
        first.epoch(record, network)
    again = Events(Path("run"), config, images, first=True)
    again.begin(records[:2])
    again.epoch(records[2] | {"loss": 7.0}, network)
    again.close()
    first.close()
    assert {key: value for key, value in scalars("run").items() if key[0] == "loss"} == {
        ("loss", 1): 1.0,
        ("loss", 2): 2.0,
        ("loss", 3): 7.0,
    }
    (file,) = (Path("run") / FOLDER).iterdir()
    at = {
        event.step: event.wall_time
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == "training/loss"
    }
    assert at[2] - at[1] == pytest.approx(100, abs=1)


@pytest.mark.slow
def test_weights_do_not_change_by_it():
    with_events = run_training(tiny(out="with", tensorboard=True, epochs=1)).model.state_dict()
    without = run_training(tiny(out="without", epochs=1)).model.state_dict()
    assert all(torch.equal(value, without[name]) for name, value in with_events.items())
    assert not Path("without", FOLDER).exists()


def test_only_the_first_process_writes():
    images = ImageSet(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4))
    other = Events(Path("run"), tiny(tensorboard=True), images, first=False)
    other.begin([{"seconds": 1.0}])
    other.epoch({}, torch.nn.Flatten())
    other.result({})
    other.close()
    assert not Path("run").exists()


def test_without_the_package(monkeypatch):
    """Found before there is a run folder."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"--tensorboard needs the package.*pip install 'fastait\[tensorboard\]'"):
        run_training(tiny(tensorboard=True))
    assert not Path("run").exists()


def test_a_folder_that_cannot_be_written(monkeypatch):
    config = tiny(tensorboard=True, epochs=1)

    def full(self, *given, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(RunError, match="could not be written: No space left on device; go on by --resume"):
        run_training(config)
