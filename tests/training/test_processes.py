"""Several processes: one model, the arithmetic of one process, every image once, and restarts that lose nothing."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import plain
import pytest
import torch
from shard_worker import EMA, METHODS, OPTIMISED, SIZES, network, shards
from step_inputs import batch, make_step, unlabeled
from tolerances import OPTIMISERS_FP64

from fastait import recipe
from fastait.attacks import ATTACKS
from fastait.data import BatchPlan, load_dataset, to_float
from fastait.evaluation import evaluate
from fastait.runtime.errors import InputError, SaidElsewhere
from fastait.runtime.processes import Ranks, join
from fastait.runtime.report import Report
from fastait.train import main
from fastait.training.averaged import Averaged
from fastait.training.graph import DISTRIBUTED_WARMUP
from fastait.training.pace import MOST_STEPS
from fastait.training.prepare import Prepared

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
MODULES = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
TINY = ["--image-size", "16", "--eval-samples", "20", "--device", "cpu", "--crop-padding", "1", "--flip"]


def torchrun(*argv, **options):
    environment = {**os.environ, "PYTHONPATH": MODULES, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, *argv], capture_output=True, text=True, check=False, env=environment, timeout=300, **options
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes saved."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(str(HERE / "shard_worker.py"), str(folder))
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_weights_and_statistics_are_equal_on_both(two, method):
    for what in ("model", "averaged"):
        for name, value in two[0]["trained"][method][what].items():
            assert torch.equal(value, two[1]["trained"][method][what][name]), name


def assert_close(found, expected, begun, method):
    """State dicts; AdamW divides a gradient by its size, so that the smallest are uncertain."""
    for name, value in expected.items():
        if OPTIMISED.get(method, {}).get("by", {}).get("name") == "adamw":
            assert (found[name] - value).double().norm() <= OPTIMISERS_FP64 * (value - begun[name]).double().norm(), (
                name
            )
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_are_one_that_is_given_their_shards(two, method):
    """The same shards, noise and BN statistics per shard, by the plain method in fp64."""
    model = network()
    options = OPTIMISED.get(method, {})
    step = make_step(model, method, knobs=METHODS[method], **options)
    optimizer, averaged, clipped = step.optimizer, Averaged(model, EMA), 0
    loss_sum = 0.0
    for number, size in enumerate(SIZES):
        images, y = batch(number, size, image=9)
        x = to_float(images, torch.float64)
        extra = unlabeled(method, images)
        optimizer.zero_grad(set_to_none=False)
        statistics = {name: torch.zeros_like(b) for name, b in model.named_buffers()}
        every = [shard for shard in shards(size, 2) if shard.size]
        moved = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.dim() > 1}

        def parts(number, shard, x=x, y=y, extra=extra):
            """A copy of the model, a shard of the batch and what is drawn for it."""
            own = slice(shard.start, shard.start + shard.size)
            more = None if extra is None else to_float(extra, torch.float64)[own]
            draws = plain.Draws(number, step.settings.step_size, METHODS[method], more, before=shard.start)
            return copy.deepcopy(model).train(), x[own], y[own], draws

        for shard in every if step.settings.awp else ():  # the way the weights are moved is that of the whole batch
            part, x_own, y_own, draws = parts(number, shard)
            attacked = plain.moved_images(method, part, x_own, y_own, draws)
            gradients = plain.weight_gradients(part, plain.PERTURBED[method](part, x_own, attacked, y_own))
            for name, gradient in gradients.items():
                moved[name] += gradient * shard.size / size
        for shard in every:
            part, x_own, y_own, draws = parts(number, shard)
            part.zero_grad()
            if step.settings.awp:
                attacked = plain.moved_images(method, part, x_own, y_own, draws)
                found = []

                def backward(part=part, x_own=x_own, attacked=attacked, y_own=y_own, found=found):
                    found.append(plain.PERTURBED[method](part, x_own, attacked, y_own))
                    found[0].backward()

                plain.with_moved_weights(part, moved, step.settings.awp, backward)
                loss = found[0]
            else:
                loss = getattr(plain, method.replace("-", "_"))(part, x_own, y_own, draws)
                loss.backward()
            loss_sum += loss.item() * shard.size
            for mine, its in zip(model.parameters(), part.parameters(), strict=True):
                mine.grad += its.grad * shard.size / size
            for name, buffer in part.named_buffers():
                weight = shard.size / size if buffer.is_floating_point() else 1
                statistics[name] += (buffer * weight).to(buffer.dtype) if weight != 1 or shard.start == 0 else 0
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
        if "clip_norm" in options:  # of the whole batch's gradient
            clipped += torch.nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"]).item() > 0.5
        optimizer.step()
        averaged.add(torch.tensor([number]))
    assert (clipped > 0) == ("clip_norm" in options)
    for what, expected in (("model", model.state_dict()), ("averaged", averaged.state_dict())):
        assert_close(two[0]["trained"][method][what], expected, network().state_dict(), method)
    for state in two:
        assert state["trained"][method]["totals"]["seen"] == sum(SIZES)
        assert state["trained"][method]["totals"]["loss"] == pytest.approx(loss_sum, rel=1e-6)


def test_evaluation_is_that_of_one_process(two):
    images = load_dataset("digits", image_size=8).test.stratified(23)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = evaluate(network().float(), images, tuple(ATTACKS), epsilon=0.1, seed=5, batch_size=5).correct
    torch.set_num_threads(threads)
    assert [state["attacked_images"] for state in two] == [12 * len(alone), 11 * len(alone)]  # none twice
    for state in two:
        assert state["outcomes"].keys() == alone.keys()
        for name, outcome in alone.items():
            assert torch.equal(state["outcomes"][name], outcome), name


def test_they_agree(two):
    for state in two:
        assert state["largest"] == [1, 0]
        assert state["from_first"] == "said by 0"


def test_they_learn_what_is_wrong_in_any(two):
    assert [state["first_to_say"] for state in two] == [[None, "1", "0"]] * 2


def test_compiled_steps_are_the_eager_ones(two):
    """The pass is compiled within DistributedDataParallel's forward, where torch cuts it between two buckets."""
    for state in two:
        eager, compiled = state["compiled"]["weights"]
        for name, value in eager.items():
            torch.testing.assert_close(compiled[name], value, rtol=1e-6, atol=1e-8)
        assert state["compiled"]["cuts"] == [2]


def test_what_a_network_keeps_of_its_images_is_equal_on_both(two):
    """Averages and vectors of its own are the first process's; what does not change is left alone."""
    first, second = (state["kept"] for state in two)
    assert first["found"] == second["found"] == ["mean", *(n for n in first["found"] if "parametrizations" in n)]
    assert len(first["found"]) == 3
    assert first["scale"] == torch.tensor(1 / 3).double()
    for name, value in first.items():
        assert name == "found" or torch.equal(value, second[name]), name


def test_gradients_move_into_their_buckets_and_stay(two):
    for state in two:
        assert state["compiled"]["pieces"] == [2, 2]
        for of_one in (state["compiled"]["gradients"][:4], state["compiled"]["gradients"][4:]):
            assert of_one[1] == of_one[2] == of_one[3]


def test_two_that_capture_replay_the_eager_steps(two):
    for state in two:
        assert state["captured"]["said"] == "captured"
        assert state["captured"]["runs"] == DISTRIBUTED_WARMUP + 1 + 3
        for name, value in state["eager"].items():
            assert torch.equal(state["captured"]["weights"][name], value), name


def test_a_capture_that_fails_in_one_fails_in_both(two):
    """Both have run the step as often, so neither waits for the other's gradients."""
    reasons = ("CUDA error: operation not permitted when stream is capturing and more",) * 2 + ("full",)
    for case, reason in enumerate(reasons):
        first, second = (state["not_captured"][case] for state in two)
        assert first["said"].startswith("RunError --cuda-graph on: the step cannot be captured as a CUDA graph")
        assert f"({reason})" in first["said"]
        assert second["said"] == "SaidElsewhere 1"
        assert first["runs"] == second["runs"] == DISTRIBUTED_WARMUP + (reason != "full")
        assert first["unchanged"]
        assert second["unchanged"]


def test_they_stop_at_one_step_and_speak_seldom(two):
    step, number, spoken = two[0]["decided"]
    assert two[1]["decided"] == [step, number, spoken]
    assert number == 15
    assert 50 <= step < 50 + MOST_STEPS
    assert spoken == 6  # after 1, 3, 7, 15, 31 and 51 steps


def test_what_is_wrong_in_one_is_said_once(two):
    wrong, elsewhere = "InputError wrong", "SaidElsewhere 2"
    assert [state["refused"] for state in two] == [[wrong, wrong, None], [elsewhere, elsewhere, None]]
    assert [state["one_by_one"] for state in two] == [
        ["InputError said by 0", elsewhere, None],
        [elsewhere, "InputError said by 1", None],
    ]


def test_processes_that_find_different_images_do_not_train_together():
    class Second(Ranks):
        def from_first(self, call):
            return "another checksum"

    with pytest.raises(InputError, match="holds other images for some of the 1 processes than for others"):
        Prepared(recipe("digits", image_size=8), Report(False), Second(), "cpu")


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize(("size", "batch_size"), [(103, 20), (40, 40), (41, 40), (7, 20)])
def test_shards_are_disjoint_and_their_union_is_the_epoch(ranks, size, batch_size):
    plans = [BatchPlan(1, size, batch_size, 2, True, rank, ranks) for rank in range(ranks)]
    whole = BatchPlan(1, size, batch_size, 2, True)
    for epoch in range(2):
        seen = []
        for place in range(whole.steps_per_epoch):
            step = epoch * whole.steps_per_epoch + place
            own = [plan.shard(step) for plan in plans]
            batches = [plan.batch(step) for plan in plans]
            assert sum(shard.size for shard in own) == own[0].batch == len(whole.batch(step).index)
            assert own[0].size == max(shard.size for shard in own)
            assert all(shard.start % 4 == 0 for shard in own)
            index = torch.cat([b.index[: s.size] for b, s in zip(batches, own, strict=True)])
            flip = torch.cat([b.flip[: s.size] for b, s in zip(batches, own, strict=True)])
            assert torch.equal(index, whole.batch(step).index)
            assert torch.equal(flip, whole.batch(step).flip)
            assert all(len(b.index) == max(s.size, 1) for b, s in zip(batches, own, strict=True))
            seen.append(index)
        assert sorted(torch.cat(seen).tolist()) == list(range(size))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(pid):
    """The training processes that a torchrun process has now."""
    found = []
    for child in children(pid):
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if b"fastait.train" in command:
            found.append(child)
    return found


def epochs(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_worker_is_replaced_and_the_run_completed(victim):
    """torchrun starts the processes anew, which go on from the checkpoint to the weights of an undisturbed run."""
    argv = ["-m", "fastait.train", *TINY, "--epochs", "5", "--checkpoint-seconds", "0.05"]
    if victim == 0:
        whole = torchrun(*argv, "--out", "whole")
        assert whole.returncode == 0, whole.stderr
        assert len(re.findall("epoch 5/5", whole.stderr)) == 1  # one process speaks
    else:
        argv += ["--dali"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open("log", "w") as log:
        process = subprocess.Popen(
            [*TORCHRUN, "--max-restarts", "2", *argv, "--out", "run"], stdout=log, stderr=log, env=environment
        )
        deadline = time.monotonic() + 120
        while not Path("run/checkpoint.pt").exists():
            assert process.poll() is None, Path("log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        assert not Path("run/result.json").exists(), "the run ended before it was killed"
        os.kill(workers(process.pid)[victim], signal.SIGKILL)
        assert process.wait(timeout=300) == 0, Path("log").read_text()
    result = json.loads(Path("run/result.json").read_text())
    assert result["processes"] == 2
    assert len(epochs("run")) == 5
    if victim == 0:
        for ours, theirs in zip(epochs("run"), epochs("whole"), strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
            assert ours["accuracy"] == theirs["accuracy"]
        assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
        assert result["pgd20"] == json.loads(Path("whole/result.json").read_text())["pgd20"]


@pytest.mark.parametrize("to", [pytest.param("one process", marks=pytest.mark.slow), "torchrun"])
def test_one_interrupt_stops_all_and_saves(to):
    """SIGTERM to one of two, or to torchrun, which passes it on to every process and their loaders' workers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    argv = [*TORCHRUN, "-m", "fastait.train", *TINY, "--epochs", "50", "--checkpoint-seconds", "0.1", "--out", "run"]
    process = subprocess.Popen(
        [*argv, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    while not Path("run/checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(workers(process.pid)[1] if to == "one process" else process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert len(re.findall(r"stopped at step \d+ and saved; go on with: .* --resume run", err)) == 1


@pytest.mark.slow
def test_bad_input_is_said_without_traceback():
    done = torchrun("-m", "fastait.train", *TINY, "--batch-size", "7", "--out", "run")
    assert done.returncode != 0
    assert "--batch-size 7 is too small for 2 processes" in done.stderr
    assert not Path("run").exists()
    Path("run").mkdir()
    Path("run/something").touch()
    done = torchrun("-m", "fastait.train", *TINY, "--out", "run")
    assert len(re.findall("error: --out run already holds other files", done.stderr)) == 1
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]


def launched(monkeypatch, **variables):
    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)


def test_a_run_that_torchrun_may_start_anew_needs_a_folder(monkeypatch, capsys):
    launched(monkeypatch)
    assert main(TINY) == 2
    assert "it must be told its folder: --out RUN" in capsys.readouterr().err


def test_the_same_command_again_goes_on(monkeypatch, capsys):
    """As when a machine joins or leaves, which torchrun does not count as a restart, and when a job is queued again."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    argv = [*TINY, "--epochs", "1", "--out", "run"]
    assert main(argv) == 0
    before = Path("run/model.safetensors").read_bytes()
    Path("run/result.json").unlink()
    assert main(argv) == 0
    assert Path("run/model.safetensors").read_bytes() == before
    capsys.readouterr()
    assert main([*argv, "--seed", "1"]) == 2
    assert "run/config.json is not what the command was made with: seed" in capsys.readouterr().err


def test_one_gpu_for_several_processes(monkeypatch):
    launched(monkeypatch, RANK="0", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="1")
    with pytest.raises(InputError, match="each of several processes takes its own GPU"), join("cuda:1"):
        pass


def test_incomplete_variables(monkeypatch):
    launched(monkeypatch)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not; start"), join("cpu"):
        pass


def test_what_is_said_elsewhere_is_not_repeated(monkeypatch, capsys):
    def elsewhere(argv):
        raise SaidElsewhere(2)

    monkeypatch.setattr("fastait.train._main", elsewhere)
    assert main([]) == 2
    assert capsys.readouterr() == ("", "")
