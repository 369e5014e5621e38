"""Runs that go on elsewhere or by other means: what may change at a resume, what may not, and what is said of it."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_folder
from tiny_run import OF_A_FOLDER, tiny

from fastait import recipe, resume_training, run_training
from fastait.checkpoints.folder import RunFolder
from fastait.runtime.errors import InputError, Interrupted, RunError
from fastait.runtime.files import write_whole
from fastait.train import main
from fastait.training.step import Totals

STOPPED = 3
"""Steps of a run of eight that is stopped."""


@pytest.fixture(scope="module")
def weights_at_the_end(tmp_path_factory):
    """Of a run that nobody stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_folder(folder / "images", {"cat": 8, "dog": 8})
    paths = {"data_dir": folder / "images", "out": folder / "run"}
    return run_training(recipe("digits", **{**OF_A_FOLDER, **paths})).model.state_dict()


@pytest.fixture
def begun(monkeypatch, weights_at_the_end):
    """Begins a run on a folder of images and stops it; returns its folder and the weights it would have come to."""

    def make(out="run", number=signal.SIGTERM, **settings):
        write_folder(Path("images"), {"cat": 8, "dog": 8})
        add = Totals.add

        def stop(self, loss, logits, y, step):
            add(self, loss, logits, y, step)
            if int(step) == STOPPED - 1:
                signal.raise_signal(number)

        with monkeypatch.context() as patch:
            patch.setattr(Totals, "add", stop)
            with pytest.raises(Interrupted):
                run_training(recipe("digits", **{**OF_A_FOLDER, "out": out, **settings}))
        return Path(out), weights_at_the_end

    return make


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def saved(folder):
    return json.loads((folder / "config.json").read_text())


def equal(run, weights):
    return all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_data_that_have_moved(begun, capsys):
    run, weights = begun(number=signal.SIGUSR1)
    shutil.move("images", "moved")
    before = contents(run)
    with pytest.raises(InputError, match=r"--data-dir .*/images: no such folder"):
        resume_training("run")
    assert contents(run) == before
    resumed = resume_training("run", data_dir="moved", workers=np.int64(0), checkpoint_seconds=5, show=True)
    assert equal(resumed, weights)
    said = capsys.readouterr().err
    assert f"the run goes on with data_dir {Path('moved').absolute()} (was {Path('images').absolute()}), " in said
    assert "workers 0 (was None)" in said
    assert "to the bit" not in said
    assert saved(run)["data_dir"] == str(Path("moved").absolute())
    assert saved(run)["workers"] == 0
    (run / "result.json").unlink()
    assert equal(resume_training(run), weights)


def test_other_data_are_refused_and_nothing_is_written(begun):
    run, _ = begun()
    shutil.copytree("images", "other")
    shutil.copy("other/train/cat/0.png", "other/train/dog/0.png")
    before = contents(run)
    for change in ({}, {"out": "new"}):
        with pytest.raises(InputError, match="the data set has changed since the run was begun"):
            resume_training(run, data_dir="other", **change)
    assert contents(run) == before
    assert not Path("new").exists()


def test_other_classes_before_the_first_checkpoint(begun, capsys):
    run, weights = begun()
    (run / "checkpoint.pt").unlink()
    shutil.copytree("images", "other")
    for part in ("train", "test"):
        Path("other", part, "cat").rename(Path("other", part, "zcat"))
    before = contents(run)
    for more in ([], ["--out", "new"]):
        assert main(["--resume", "run", "--data-dir", "other", *more]) == 2
        *warnings, line = capsys.readouterr().err.splitlines()
        assert not any("goes on" in warning for warning in warnings)
        assert "its classes are 'dog', 'zcat', then 'cat', 'dog'; bring back" in line
    assert contents(run) == before
    assert not Path("new").exists()
    shutil.move("images", "moved")
    assert equal(resume_training("run", data_dir="moved"), weights)


def test_the_command_and_an_edited_config(begun, capsys):
    run, weights = begun()
    shutil.move("images", "moved")
    edit(run, data_dir=str(Path("moved").absolute()), workers=2, classes=["cat", "dog"])
    assert main(["--resume", "run", "--workers", "1", "--device", "auto"]) == 0
    assert saved(run)["workers"] == 1
    assert saved(run)["classes"] == ["cat", "dog"]
    model = RunFolder(run).weights()
    assert all(torch.equal(value, weights[name]) for name, value in model.items())
    capsys.readouterr()
    assert main(["--resume", "run", "--workers", "0"]) == 0
    assert "the run is finished, so these have no effect: workers 0 (was 1)" in capsys.readouterr().err
    assert saved(run)["workers"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.3, "seed": 1}, r"lr 0.3 \(the run has 0.1\), seed 1 \(the run has 0\)"),
        ({"method": "madry"}, r"method madry \(the run has adv-interp\)"),
        ({"epochs": 0}, r"epochs 0 \(the run has 12\)"),
        ({"init_from": "weights"}, r"init_from .*weights \(the run has None\)"),
        ({"workers": 2.5}, "workers must be a whole number or None, got 2.5"),
        ({"workers": 2, "dali": True}, "--workers 2 are the torch loader's"),
        ({"device": "gpu"}, "'gpu' is not auto, cpu"),
        ({"out": "used"}, "--out used already holds other files"),
    ],
)
def test_what_may_not_change(changes, message):
    with RunFolder(Path("run")) as folder:
        folder.begin(recipe("digits", device="cpu"))
    Path("used").mkdir()
    Path("used/file").touch()
    before = contents(Path("run"))
    with pytest.raises(InputError, match=message) as error:
        resume_training("run", **changes)
    assert "\n" not in str(error.value)
    assert contents(Path("run")) == before


def test_settings_that_are_missing_or_unknown(begun, capsys):
    run, weights = begun()
    settings = saved(run)
    for name in ("partner_features", "val_fraction"):
        del settings[name]
    (run / "config.json").write_text(json.dumps({**settings, "epoch": 3}))
    with pytest.raises(InputError, match=r"run/config.json is no .*'epoch' is no setting .* Did you mean 'epochs'"):
        resume_training(run)
    (run / "config.json").write_text(json.dumps(settings))
    assert equal(resume_training(run, show=True), weights)
    said = capsys.readouterr().err
    assert "config.json lacks settings, which have their defaults: val_fraction 0.0, partner_features clean" in said
    assert saved(run)["partner_features"] == "clean"


def test_going_on_in_a_new_folder(begun, capsys):
    run, weights = begun(out="dé")
    before = contents(run)
    assert main(["--resume", "dé", "--out", "new"]) == 0
    assert contents(run) == before
    assert saved(Path("new"))["out"] == "new"
    assert json.loads(Path("new/metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1
    model = RunFolder(Path("new")).weights()
    assert all(torch.equal(value, weights[name]) for name, value in model.items())
    assert equal(resume_training("new", out="copied"), weights)
    assert contents(Path("copied")) | {"config.json": b""} == contents(Path("new")) | {"config.json": b""}
    shutil.move("new", "moved")
    (Path("moved") / "result.json").unlink()
    assert equal(resume_training("moved", out="moved"), weights)
    with pytest.raises(InputError, match="--out moved already holds another run"):
        resume_training("copied", out="moved")


def test_the_same_command_under_torchrun_with_other_data(begun, monkeypatch):
    run, weights = begun()
    shutil.move("images", "moved")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    config = RunFolder(run).config()
    again = recipe("digits", **{**vars(config), "data_dir": "moved"})
    assert equal(run_training(again), weights)
    assert saved(run)["data_dir"] == str(Path("moved").absolute())
    (run / "result.json").unlink()
    for _ in range(2):  # the second start goes on in the folder that the first has made
        assert equal(resume_training(run, out="new"), weights)
    with pytest.raises(InputError, match=r"is not what the command was made with: seed"):
        run_training(recipe("digits", **{**vars(again), "seed": 1}))


def test_what_costs_the_equality_of_bits_is_said(begun, capsys, monkeypatch):
    run, _ = begun()
    monkeypatch.setattr("torch.compile", lambda function, **options: function)
    resume_training(run, compile=True, show=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "to the bit" in line]
    assert len(said) == 1
    assert said[0].endswith("compile True (was False)")


def test_the_advice_after_a_dead_worker_can_be_followed(begun, monkeypatch):
    run, weights = begun(workers=2)

    def dead(*arguments, **options):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    with monkeypatch.context() as patch:
        patch.setattr("fastait.data.loaders.torch.DataLoader", dead)
        with pytest.raises(RunError, match="so try fewer, or 0, which a --resume takes too"):
            resume_training(run)
    assert equal(resume_training(run, workers=0), weights)


def test_a_folder_whose_settings_cannot_be_written_is_left_as_it_was(monkeypatch):
    def full(path, data):
        if path.name == "config.json":
            raise RunError("No space left on device")
        write_whole(path, data)

    monkeypatch.setattr("fastait.checkpoints.folder.write_whole", full)
    with pytest.raises(RunError, match="No space"):
        run_training(recipe("digits", image_size=8, device="cpu", out="run"))
    assert not Path("run").exists()


@pytest.mark.parametrize(("share", "least", "most"), [(1e-9, 2, 2), (1e9, 3, 1000)])
def test_the_more_saving_takes_the_rarer_it_is(monkeypatch, share, least, most):
    """Where it may take next to no time: once, which shows how long it takes, and at the end."""
    monkeypatch.setattr("fastait.training.loop.SAVING", share)
    saved = []
    save = RunFolder.save_checkpoint
    monkeypatch.setattr(RunFolder, "save_checkpoint", lambda *args: (saved.append(1), save(*args)))
    monkeypatch.setattr("fastait.training.loop.ATTACKS", ("fgsm",))
    run_training(tiny(method="natural", epochs=1, checkpoint_seconds=0.0))
    assert least <= len(saved) <= most
