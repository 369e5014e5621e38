"""Runs from Python: what they return, how they end early and go on."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_run import tiny

from fastait import resume_training, run_training
from fastait.checkpoints.folder import RunFolder
from fastait.data import BatchPlan, load_dataset
from fastait.evaluation import Outcomes, evaluate, load_model
from fastait.runtime import precision
from fastait.runtime.errors import InputError, Interrupted, RunError
from fastait.runtime.precision import Precision, native_half, resolve_device
from fastait.runtime.signals import StopRequest
from fastait.training import watch
from fastait.training.loop import Loop
from fastait.training.step import Totals


def test_returns_what_it_wrote(capsys):
    run = run_training(tiny())
    assert run.result == json.loads(Path("run/result.json").read_text())
    assert not run.model.training
    assert capsys.readouterr() == ("", "")


def test_same_seed_same_weights_and_other_seed_other_weights():
    weights = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run_training(tiny(epochs=1, seed=seed, out=Path(name)))
        weights[name] = Path(name, "model.safetensors").read_bytes()
    assert weights["a"] == weights["b"] != weights["c"]


@pytest.mark.parametrize("method", ["adv-interp", "natural"])
def test_it_learns(method):
    """Two epochs at 16 pixels are enough to see it."""
    run = run_training(tiny(method=method, image_size=16, epochs=3, milestones=(), eval_samples=200, epsilon_y=0.3))
    assert run.result["clean"] > 60
    first, *_, last = (json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines())
    assert last["loss"] < first["loss"]


def test_the_best_weights_are_kept_beside_the_last(monkeypatch):
    """Of three epochs the middle one is made the best; its weights are those of a run that ends there."""
    measured = []
    measure = watch.evaluate

    def by_a_script(model, images, attacks, **options):
        measured.append(measure(model, images, attacks, **options))
        outcomes = {
            "clean": torch.ones(10, dtype=torch.bool),
            "fgsm": torch.ones(10, dtype=torch.bool),
            "pgd10": torch.arange(10) < [3, 7, 5][(len(measured) - 1) % 3],
        }
        return Outcomes(outcomes)

    add = Totals.add

    def interrupt(self, loss, logits, y, number):
        add(self, loss, logits, y, number)
        if number == 40:  # of 51, in the last epoch
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(watch, "evaluate", by_a_script)
        run = run_training(tiny(epochs=3, val_fraction=0.25))
        with monkeypatch.context() as inner:
            inner.setattr(Totals, "add", interrupt)
            with pytest.raises(Interrupted):
                run_training(tiny(epochs=3, val_fraction=0.25, out=Path("interrupted")))
        resumed = resume_training(Path("interrupted"))
    assert resumed.result["best"] == run.result["best"]
    assert Path("interrupted/best.safetensors").read_bytes() == Path("run/best.safetensors").read_bytes()
    assert run.result["weights"] == "last"
    assert run.result["best"].keys() == {*("epoch", "averaged", "pgd10", "clean", "fgsm", "pgd20", "cw20")}
    assert (run.result["best"]["epoch"], run.result["best"]["pgd10"]) == (2, 70.0)
    shorter = run_training(tiny(epochs=2, val_fraction=0.25, out=Path("shorter")))
    assert Path("run/best.safetensors").read_bytes() == Path("shorter/model.safetensors").read_bytes()
    for column in ("clean", "fgsm", "pgd20", "cw20"):
        assert run.result["best"][column] == shorter.result[column]
    history = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [epoch["val_pgd10"] for epoch in history] == [30.0, 70.0, 50.0]
    model, config = load_model(Path("run/best.safetensors"))
    assert config["val_fraction"] == 0.25
    assert torch.equal(model.fc.weight, shorter.model.fc.weight)


def test_what_is_held_out_is_measured():
    run = run_training(tiny(epochs=1, val_fraction=0.25))
    images = load_dataset("digits", image_size=8).train
    plan = BatchPlan(0, 1442 - 360, 64, 0, False, held_out=360)
    outcomes = evaluate(run.model, images.at(plan.split()[1]), ("pgd10",)).accuracy()
    record = json.loads(Path("run/metrics.jsonl").read_text())
    assert record["step"] == 17
    assert {name: record[f"val_{name}"] for name in outcomes} == {name: round(v, 2) for name, v in outcomes.items()}
    assert run.result["best"]["epoch"] == 1


@pytest.fixture
def more_images():
    """A folder of 80 digits without labels."""
    Path("more").mkdir()
    for i, image in enumerate(load_dataset("digits", image_size=8).train.images[:80]):
        Image.fromarray(image.numpy()).save(f"more/{i}.png")
    return Path("more")


def test_images_without_labels_go_on_where_they_were(more_images, monkeypatch):
    """Interrupted and resumed, UAT sees what it would have seen."""
    options = {"method": "uat", "unlabeled": more_images, "attack_steps": 1, "epochs": 1}
    whole = run_training(tiny(**options, out=Path("whole")))
    add = Totals.add

    def interrupt(self, loss, logits, y, number):
        add(self, loss, logits, y, number)
        if number == 9:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Totals, "add", interrupt)
        with pytest.raises(Interrupted):
            run_training(tiny(**options))
    resumed = resume_training(Path("run"))
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_other_images_without_labels_are_refused(more_images, monkeypatch):
    options = {"method": "uat", "unlabeled": more_images, "attack_steps": 1, "epochs": 1}
    monkeypatch.setattr(Loop, "evaluate", lambda self, stop: (_ for _ in ()).throw(Interrupted("stop", 2)))
    with pytest.raises(Interrupted):
        run_training(tiny(**options))
    (more_images / "0.png").unlink()
    with pytest.raises(InputError, match="the data set has changed since the run was begun"):
        resume_training(Path("run"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_resume_goes_on(monkeypatch, number):
    whole = run_training(tiny(out=Path("whole"), seed=1))
    steps = []
    add = Totals.add

    def raise_at_step_30(self, *args):
        add(self, *args)
        steps.append(1)
        if len(steps) == 30:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Totals, "add", raise_at_step_30)
        with pytest.raises(Interrupted, match=r"step 30 and saved; go on with: .* --resume run") as end:
            run_training(tiny(seed=1))
    assert end.value.exit_code == 128 + number
    resumed = resume_training(Path("run"))
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert [json.loads(line)["loss"] for line in Path("run/metrics.jsonl").read_text().splitlines()] == [
        json.loads(line)["loss"] for line in Path("whole/metrics.jsonl").read_text().splitlines()
    ]
    for column in ("clean", "fgsm", "pgd20", "cw20"):
        assert resumed.result[column] == whole.result[column]


def test_resume_restores_threads_and_names_what_differs(capsys):
    run_training(tiny(epochs=1))
    folder = RunFolder(Path("run"))
    state = folder.load_checkpoint()
    state.pop("format")
    threads = torch.get_num_threads()
    state["environment"] |= {"threads": 1, "torch": "1.0", "precision": "bf16"}
    folder.save_checkpoint(state)
    folder.result_file.unlink()
    resumed = resume_training(Path("run"), show=True)
    assert resumed.result["threads"] == 1
    assert torch.get_num_threads() == threads
    warning = capsys.readouterr().err
    assert f"torch {torch.__version__} (was 1.0)" in warning
    assert "precision fp32 (was bf16)" in warning
    assert "threads" not in warning


def test_resume_where_fewer_cores_are_left(capsys, monkeypatch):
    run_training(tiny(epochs=1))
    folder = RunFolder(Path("run"))
    state = folder.load_checkpoint()
    state.pop("format")
    state["environment"]["threads"] = 64
    folder.save_checkpoint(state)
    folder.result_file.unlink()
    monkeypatch.setattr("fastait.training.run.usable_cores", lambda: 1)
    threads = torch.get_num_threads()
    assert resume_training(Path("run"), show=True).result["threads"] == threads == 1
    assert "threads 1 (was 64)" in capsys.readouterr().err


def test_nan_in_the_last_step_before_a_checkpoint(monkeypatch):
    """The loss of that step is finite; the weights after it are not."""
    step = torch.optim.SGD.step

    def poison(self, *args, **kwargs):
        step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.nan)

    monkeypatch.setattr(torch.optim.SGD, "step", poison)
    with pytest.raises(RunError, match=r"the parameter conv1.weight became NaN or infinite at step 1 "):
        run_training(tiny(checkpoint_seconds=0))
    assert not Path("run/checkpoint.pt").exists()


def test_second_signal_acts_as_always():
    # A background shell starts its children with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_totals_find_the_first_bad_step():
    totals = Totals(torch.device("cpu"))
    logits, y = torch.eye(3), torch.tensor([0, 1, 0])
    for step, loss in enumerate([1.0, 2.0, float("inf"), 3.0, float("nan")]):
        totals.add(torch.tensor(loss), logits, y, torch.tensor([step]))
    assert totals.bad_step() == 2
    assert totals.state()["correct"] == 10


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": False}, None),
    ],
)
def test_amp_on_cpus(monkeypatch, capsys, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert native_half(torch.device("cpu")) == expected
    run = run_training(tiny(epochs=1, amp=True), show=True)
    assert run.result["precision"] == ("bf16" if expected else "fp32")
    said = capsys.readouterr().err
    assert ("so the run is fp32" in said) == (expected is None)
    assert "with --amp" not in said


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_amp_on_gpus(monkeypatch, native, expected):
    def is_bf16_supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.random.fork_rng(devices=[]))
    assert native_half(torch.device("cuda", 0)) == expected


@pytest.mark.slow
def test_fp16_scales_its_loss(monkeypatch):
    """On the CPU, since torch's scaler runs there too: the same update as without a scaler."""
    assert Precision(torch.device("cpu"), torch.float16).scaler.is_enabled()
    assert not Precision(torch.device("cpu"), torch.bfloat16).scaler.is_enabled()
    monkeypatch.setattr("fastait.training.prepare.native_half", lambda device: torch.float16)
    run = run_training(tiny(epochs=1, amp=True))
    assert run.result["precision"] == "fp16"
    assert RunFolder(Path("run")).load_checkpoint()["scaler"]["scale"] > 0


@pytest.mark.parametrize(
    ("gpus", "name", "expected"),
    [(2, "auto", "cuda:0"), (0, "auto", "cpu"), (2, "cuda", "cuda:0"), (2, "cuda:1", "cuda:1"), (2, "cpu", "cpu")],
)
def test_devices(monkeypatch, gpus, name, expected):
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(precision.torch.cuda, "device_count", lambda: gpus)
    assert str(resolve_device(name)) == expected
    for bad in ("cuda:2", "cuda:", "cuda:x", "tpu", ""):
        with pytest.raises(InputError, match="--device"):
            resolve_device(bad)


def test_two_runs_that_begin_in_one_folder(tmp_path):
    """Both saw it empty; the one that comes second finds out before it writes anything."""
    first, second = RunFolder.new(tmp_path / "run"), RunFolder.new(tmp_path / "run")
    with first:
        first.begin(tiny(seed=1))
        with pytest.raises(InputError, match=r"already holds another run|another process is training"):
            second.begin(tiny(seed=2))
        assert first.config().seed == 1
    with pytest.raises(InputError, match="already holds another run"):
        second.begin(tiny(seed=2))
    assert first.config().seed == 1


def test_config_that_the_checkpoint_was_not_made_with():
    run_training(tiny(epochs=1))
    folder = RunFolder(Path("run"))
    folder.result_file.unlink()
    config = json.loads(folder.config_file.read_text())
    folder.config_file.write_text(json.dumps({**config, "seed": 7, "model": "wrn-10-2"}))
    with pytest.raises(InputError, match=r"is not what .*checkpoint.pt was made with: model, seed"):
        resume_training(Path("run"))


def test_resume_needs_neither_the_initial_weights_nor_the_old_folder(monkeypatch, tmp_path):
    run_training(tiny(epochs=1, out=Path("first")))
    Path("start.safetensors").write_bytes(Path("first/model.safetensors").read_bytes())
    run = run_training(tiny(epochs=1, init_from=Path("start.safetensors")))
    assert RunFolder(Path("run")).config().init_from == tmp_path / "start.safetensors"
    Path("start.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shown = resume_training(tmp_path / "run")
    assert shown.result == run.result
    assert torch.equal(shown.model.fc.weight, run.model.fc.weight)
    (tmp_path / "run" / "result.json").unlink()
    assert resume_training(tmp_path / "run").result["clean"] == run.result["clean"]


def test_interrupted_evaluation_does_not_count_as_training(monkeypatch):
    def slow(*args, **kwargs):
        time.sleep(0.6)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fastait.training.loop.evaluate", slow)
        with pytest.raises(KeyboardInterrupt):
            run_training(tiny(epochs=1))
    state = RunFolder(Path("run")).load_checkpoint()
    resumed = resume_training(Path("run"))
    assert resumed.result["training_seconds"] == round(state["training_seconds"], 1)
