"""A step whose numbers went wrong is written down, taken once more, and kept with what it began with."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_folder
from safetensors.torch import load_file
from tiny_run import OF_A_FOLDER

from fastait import recipe, resume_training, run_training
from fastait.checkpoints.folder import RunFolder
from fastait.data import BatchPlan, load_dataset
from fastait.runtime.errors import InputError, Interrupted, NotWritten, RunError, SaidElsewhere
from fastait.runtime.processes import Ranks
from fastait.train import main
from fastait.training import replay
from fastait.training.averaged import Averaged
from fastait.training.failure import Failure
from fastait.training.replay import replay_failure
from fastait.training.step import TrainStep

RUN = {**OF_A_FOLDER, "attack_steps": 1, "checkpoint_seconds": 0, "out": Path("run")}
DIVERGES = {**RUN, "lr": 1e12}

WAYS = {
    "adv-interp": {},
    "mart": {"method": "mart", "awp": 0.01, "ema": 0.9, "crop_padding": 2, "flip": True},
    "madry": {"method": "madry", "clip_grad_norm": 1.0, "workers": 0},
    "uat": {"method": "uat", "optimizer": "adamw", "lr": 1e30, "unlabeled": "more"},
    "manifold": {"method": "iat-manifold-mixup", "partners": "random", "val_fraction": 0.25, "batch_size": 5},
}


@pytest.fixture(autouse=True)
def folders(monkeypatch):
    write_folder(Path("images"), {"cat": 8, "dog": 8})
    write_folder(Path("more"), {"any": 8})
    monkeypatch.setattr("fastait.training.loop.SAVING", 1e9)  # a checkpoint after each step


def files(folder=Path("run")):
    """What the run has written, save what a replay does."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != ".lock"}


def bad_after(patch, step, poison):
    """Let ``poison(train_step)`` happen after global step ``step``, counted from 0."""
    add = Averaged.add

    def and_poison(self, number):
        add(self, number)
        if int(number) == step:
            poison(self)

    patch.setattr(Averaged, "add", and_poison)


LONGER = ("madry", "manifold")


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow) if way in LONGER else way for way in WAYS])
def test_the_step_is_taken_again(monkeypatch, way):
    seen = []
    call = TrainStep.__call__

    def watched(self, images, y, step, shard=None, unlabeled=None, *rest):
        moments = [value for one in self.optimizer.state.values() for value in one.values()]
        averages = [] if self.averaged is None else self.averaged.tensors()
        state = [t.detach().clone() for t in (*self.network.state_dict().values(), *moments, *averages)]
        seen.append((images.clone(), y.clone(), state, unlabeled))
        call(self, images, y, step, shard, unlabeled, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", watched)
        with pytest.raises(RunError, match=r"became NaN or infinite at step .*--replay-failure shows that step"):
            run_training(recipe("digits", **{**DIVERGES, **WAYS[way]}))
        failure = json.loads(Path("run/failure.json").read_text())
        before = files()
        images, y, state, unlabeled = seen[failure["step"] - 1]
        first = RunFolder(Path("run")).load_checkpoint()["step"]
        assert first < failure["step"]
        seen.clear()
        assert replay_failure("run") == Path("run/failure")
    assert len(seen) == failure["step"] - first
    assert all(torch.equal(a, b) for a, b in zip(seen[-1][2], state, strict=True))
    assert files() == before
    batch = load_file("run/failure/batch.safetensors")
    assert torch.equal(batch["images"], images)
    assert torch.equal(batch["labels"], y)
    assert ("unlabeled" in batch) == (unlabeled is not None)
    assert unlabeled is None or torch.equal(batch["unlabeled"], unlabeled)
    assert batch["places"].shape == y.shape
    kept = torch.load("run/failure/checkpoint.pt", weights_only=True)
    assert kept["step"] == failure["step"] - 1
    told = json.loads(Path("run/failure/failure.json").read_text())
    assert told["bad"][0] == {"kind": failure["kind"], "name": failure["name"]}
    assert told == {**failure, "bad": told["bad"]}


def test_what_is_kept_is_enough_to_fail_again():
    with pytest.raises(RunError):
        run_training(recipe("digits", **DIVERGES))
    replay_failure("run")
    Path("study").mkdir()
    for name in ("config.json", "failure.json"):
        (Path("study") / name).write_bytes((Path("run") / name).read_bytes())
    (Path("study/checkpoint.pt")).write_bytes(Path("run/failure/checkpoint.pt").read_bytes())
    with pytest.raises(RunError) as error:
        resume_training("study")
    failure = Failure(**json.loads(Path("run/failure.json").read_text()))
    assert str(failure) in str(error.value)
    plain = torch.load(io.BytesIO(Path("run/failure/checkpoint.pt").read_bytes()), weights_only=True)
    assert all(value.isfinite().all() for value in plain["model"].values())


def test_before_the_first_checkpoint(monkeypatch, capsys):
    """From the run's beginning."""
    settings = {**DIVERGES, "checkpoint_seconds": 1000}
    with pytest.raises(RunError, match="there is no checkpoint before it") as error:
        run_training(recipe("digits", **settings))
    capsys.readouterr()
    assert main(["--resume", "run", "--replay-failure"]) == 0
    said = capsys.readouterr().err
    assert "replaying steps 1 to " in said
    assert f"{str(error.value).partition(';')[0]}, as before; run/failure has its batch" in said
    assert not Path("run/checkpoint.pt").exists()


@pytest.mark.parametrize("place", ["b.running_var", pytest.param("b.running_mean", marks=pytest.mark.slow), "ema"])
def test_no_checkpoint_holds_what_the_loss_says_nothing_of(monkeypatch, place):
    def poison(averaged):
        value = averaged.state_dict()["bn1.running_var"]
        if place != "ema":
            _, module, key = next(b for b in averaged._buffers if b[0].endswith(place.removeprefix("b.")))
            value = module._buffers[key]
        value[0] = torch.inf

    bad_after(monkeypatch, 4, poison)
    with pytest.raises(RunError, match=r"the (buffer|average of) .*running_\w+ became NaN or infinite at step 5 \(ep"):
        run_training(recipe("digits", **RUN, ema=0.9))
    state = RunFolder(Path("run")).load_checkpoint()
    assert state["step"] == 4
    for value in (*state["model"].values(), *state["averaged"].values()):
        assert value.isfinite().all()


def test_a_fault_that_has_passed(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        bad_after(patch, 4, lambda averaged: averaged.state_dict()["fc.bias"].fill_(torch.nan))
        with pytest.raises(RunError, match=r"the average of fc.bias became NaN or infinite at step 5 \(epoch 2\)"):
            run_training(recipe("digits", **RUN, ema=0.9))
    before = files()
    assert main(["--resume", "run", "--replay-failure"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "does not fail as the run did: the average of fc.bias became NaN or infinite at step 5" in line
    assert "but now nothing does" in line
    assert files() == before
    assert not Path("run/failure").exists()
    resume_training("run")
    assert main(["--resume", "run", "--replay-failure"]) == 2
    assert "the run in run has gone past step 5, at which it failed" in capsys.readouterr().err


def test_another_failure_is_not_taken_for_it(monkeypatch):
    with pytest.raises(RunError):
        run_training(recipe("digits", **DIVERGES))
    failure = json.loads(Path("run/failure.json").read_text())
    Path("run/failure.json").write_text(json.dumps({**failure, "kind": "average", "name": "fc.bias"}))
    with pytest.raises(RunError, match=r"the average of fc.bias became .*, but now the .* became NaN"):
        replay_failure("run")
    assert not Path("run/failure").exists()


@pytest.fixture
def begun(monkeypatch):
    """A run that was stopped after its first step."""
    call = TrainStep.__call__

    def stopped(self, *args):
        call(self, *args)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", stopped)
        with pytest.raises(Interrupted):
            run_training(recipe("digits", **RUN))
    return {"step": 4, "epoch": 1, "kind": "loss", "name": ""}


def test_nothing_to_replay(begun, capsys):
    before = files()
    assert main(["--resume", "run", "--replay-failure"]) == 2
    assert "no step of the run in run has failed (no failure.json)" in capsys.readouterr().err
    assert main(["--resume", "run", "--replay-failure", "--out", "new"]) == 2
    assert "--replay-failure leaves the run where it is" in capsys.readouterr().err
    assert files() == before
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        {"step": "4"},
        {"step": 0},
        {"step": True},
        {"step": 10**30},
        {"kind": "\x1b[31m"},
        {"name": None},
        {"more": 1},
    ],
    ids=lambda damage: repr(damage)[:20],
)
def test_a_damaged_note(begun, damage, capsys):
    text = damage if isinstance(damage, bytes) else json.dumps({**begun, **damage}).encode()
    Path("run/failure.json").write_bytes(text)
    assert main(["--resume", "run", "--replay-failure"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "run/failure.json is damaged: " in line
    assert not Path("run/failure").exists()


def test_a_signal_ends_a_replay(begun, monkeypatch):
    Path("run/failure.json").write_text(json.dumps(begun))
    take = replay.Loop.take

    def and_signal(self, *batch):
        take(self, *batch)
        signal.raise_signal(signal.SIGTERM)

    before = files()
    with monkeypatch.context() as patch:
        patch.setattr(replay.Loop, "take", and_signal)
        with pytest.raises(Interrupted, match="the replay has written nothing") as error:
            replay_failure("run")
    assert error.value.exit_code == 128 + signal.SIGTERM
    assert files() == before
    assert not Path("run/failure").exists()


def test_a_note_that_cannot_be_written_hides_nothing(monkeypatch):
    def full(self, failure):
        raise NotWritten("failure.json could not be written: no space left")

    monkeypatch.setattr(RunFolder, "save_failure", full)
    with pytest.raises(RunError, match=r"became NaN or infinite at step \d+ .*--clip-grad-norm, may help$"):
        run_training(recipe("digits", **DIVERGES))


def test_a_folder_that_cannot_be_made():
    with pytest.raises(RunError):
        run_training(recipe("digits", **DIVERGES))
    Path("run/failure").write_text("a file")
    with pytest.raises(NotWritten, match="run/failure cannot be made: File exists"):
        replay_failure("run")


@pytest.mark.parametrize(("size", "ranks"), [(12, 2), (6, 2), (3, 2), (17, 3)])
def test_the_batch_of_all_processes(monkeypatch, size, ranks):
    """Put together of their shards, a stand-in for none left out."""
    images = torch.arange(size * 2, dtype=torch.uint8).view(size, 2) + 1
    parts = []
    monkeypatch.setattr(Ranks, "merge", lambda self, part: parts.append(part) or part)
    for rank in range(ranks):
        shard = BatchPlan(0, size, size, 0, False, rank, ranks).shard(0)
        own = images[shard.start : shard.start + shard.size] if shard.size else images[:1]
        replay._of_all(Ranks(rank, ranks), own, shard)
    assert torch.equal(torch.stack(parts).sum(0, dtype=torch.uint8), images)


def test_the_others_of_several_processes_end_in_silence(monkeypatch):
    with monkeypatch.context() as patch:
        bad_after(patch, 4, lambda averaged: averaged.state_dict()["fc.bias"].fill_(torch.nan))
        with pytest.raises(RunError):
            run_training(recipe("digits", **RUN, ema=0.9))
    monkeypatch.setattr(Ranks, "first", property(lambda ranks: False))
    with pytest.raises(SaidElsewhere) as error:
        replay_failure("run")
    assert error.value.exit_code == RunError.exit_code


def test_unknown_settings_are_refused(begun):
    Path("run/failure.json").write_text(json.dumps(begun))
    with pytest.raises(InputError, match="a run goes on with its own settings, but the command changes lr"):
        replay_failure("run", lr=0.5)


@pytest.mark.slow
def test_two_processes():
    """One speaks and writes; what it keeps is the batch of both."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = ["--dataset", "folder", "--data-dir", "images", "--image-size", "8", "--batch-size", "8", "--lr", "1e12"]
    command = [*torchrun, "-m", "fastait.train"]
    argv = [*argv, "--device", "cpu", "--epochs", "9", "--eval-samples", "4", "--checkpoint-seconds", "0"]
    first = subprocess.run([*command, *argv, "--out", "run"], capture_output=True, text=True)
    assert first.returncode != 0
    assert first.stderr.count("fastait train --resume run --replay-failure shows that step") == 1
    again = subprocess.run([*command, "--resume", "run", "--replay-failure"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("as before; run/failure has its batch") == 1
    batch = load_file("run/failure/batch.safetensors")
    step = json.loads(Path("run/failure.json").read_text())["step"] - 1
    data = load_dataset("folder", Path("images"), 8)
    places = BatchPlan(0, 16, 8, 0, False).batch(step).index
    assert torch.equal(batch["places"], places)
    assert torch.equal(batch["images"], data.train.at(places).images)
    assert torch.equal(batch["labels"], data.train.at(places).labels)
