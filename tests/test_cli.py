"""The command line: flags, recipes, and one clear line for everything that is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_folder

import fastait
import fastait.data.__main__ as data
from fastait import eval as evaluation_command
from fastait import train
from fastait.__main__ import main as fastait_command
from fastait.checkpoints.folder import RunFolder
from fastait.recipes import RECIPES, recipe
from fastait.train import main, parsed
from fastait.training.schedule import learning_rate

TINY = ["--image-size", "8", "--epochs", "1", "--eval-samples", "10", "--device", "cpu"]


def refused(capsys, *argv, code=2):
    """Run the command, which must end with ``code`` and one line; returns the line."""
    assert main([str(a) for a in argv]) == code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    assert captured.err.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", 3], "--epoch. Did you mean --epochs?"),
        (
            ["--recipe", "cifar11"],
            "--recipe: 'cifar11' is not one of digits, cifar10, cifar100, svhn, svhn-unaugmented, cifar10-fastat, "
            "cifar10-speedrun. Did",
        ),
        (["--method", "adv-inter"], "Did you mean 'adv-interp'?"),
        (["--dataset", "digit"], "Did you mean 'digits'?"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs", 0], "--epochs must be at least 1, got 0"),
        (["--epsilon", "8/x"], "'8/x' is not a number such as 0.03 or 8/255"),
        (["--epsilon", "8/0"], "is not a number"),
        (["--epsilon", 8], "--epsilon must be in [0, 1]"),
        (["--epsilon=-0.1"], "--epsilon must be in [0, 1]"),
        (["--val-fraction", 1], "--val-fraction must be in [0, 1), got 1.0"),
        (["--val-fraction", "0.0001"], "--val-fraction 0.0001 of the 1442 training images is not one image"),
        (["--val-fraction", 0.99], "--batch-size 64 is larger than the 14 training images that --val-fraction 0.99"),
        (["--method", "uat"], "--method uat needs further images: --unlabeled DIR"),
        (["--unlabeled", "x"], "x: --method adv-interp does not use images without labels"),
        (["--method", "uat", "--unlabeled", "nowhere"], "nowhere: no such folder"),
        (["--distance", "cosin"], "Did you mean 'cosine'?"),
        (["--partners", "reverse"], "Did you mean 'reversed'?"),
        (["--method", "madry", "--partners", "random"], "--method madry does not pair images"),
        (["--method", "madry", "--distance", "euclidean"], "--method madry does not interpolate features"),
        (["--method", "mixup", "--partner-features", "noisy"], "--method mixup does not interpolate features"),
        (["--penalty", 2], "--penalty 2 is for mart, grad-align, nu-at; --method adv-interp has none"),
        (["--method", "mart", "--penalty=-1"], "--penalty must be a finite number >= 0, got -1"),
        (["--awp", 0.01], "--awp 0.01 is for madry, trades, mart, not for --method adv-interp"),
        (["--method", "n-fgsm", "--awp", 0.01], "not for --method n-fgsm"),
        (["--method", "madry", "--awp", "inf"], "--awp must be a finite number >= 0, got inf"),
        (["--method", "mart", "--label-smoothing", 0.1], "--label-smoothing 0.1 is for natural, madry"),
        (["--epsilon-y", 1], "--epsilon-y must be in [0, 1), got 1.0"),
        (["--epsilon-y=-1/2"], "--epsilon-y must be in [0, 1)"),
        (["--batch-size", 1], "--batch-size must be at least 2, got 1"),
        (["--batch-size", 1443], "--batch-size 1443 is larger than the 1442 training images"),
        (["--eval-samples", 356], "--eval-samples 356 is more than the 355 test images"),
        (["--image-size", 7], "--image-size must be at least 8"),
        (["--model", "wrn-12-1"], "a wide ResNet's depth must be 6n + 4"),
        (["--model", "resnet18"], "Did you mean 'resnet-18'?"),
        (["--model", "resnet-18", "--pretrained"], "--pretrained is for timm:NAME and torchvision:NAME"),
        (["--model", "timm:resnet10t", "--pretrained", "--init-from", "w"], "are two beginnings"),
        (["--epochs", 1.5], "Invalid value for --epochs: '1.5' is not a whole number"),
        (["--seed", "1e3"], "Invalid value for --seed: '1e3' is not a whole number"),
        (["--workers", 0.5], "--workers"),
        (["--milestones", 1.5], "--milestones"),
        (["--lr", "nan"], "--lr must be a finite number"),
        (["--lr", "1e39"], "--lr must be at most 3.403e+38, fp32's largest number, got 1e+39"),
        (["--weight-decay", "4e38"], "--weight-decay must be at most 3.403e+38"),
        (["--clip-grad-norm", "1e300"], "--clip-grad-norm must be at most 3.403e+38"),
        (["--method", "mart", "--penalty", "4e38"], "--penalty must be at most 3.403e+38"),
        (["--method", "madry", "--awp", "4e38"], "--awp must be at most 3.403e+38"),
        (["--replay-failure"], "--replay-failure needs the run whose step failed: --resume RUN"),
        (["--milestones", 9, "--milestones", 4], "--milestones must be increasing"),
        (["--device", "gpu"], "'gpu' is not auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["--dataset", "folder"], "--dataset folder needs --data-dir"),
        (["--dataset", "folder", "--data-dir", "nowhere"], "nowhere: no such folder"),
        (["--resume", "nowhere"], "--resume nowhere: no run there"),
        (["--init-from", "nowhere"], "nowhere: no such file of weights"),
        (["--init-from", "."], " is a folder, where a file is needed; a run's weights are its model.safetensors"),
        (["--epsilon", "1e400"], "--epsilon must be in [0, 1]"),
        (["--epsilon", "1e999999999"], "--epsilon must be in [0, 1]"),
        (["--epsilon", "8/"], "'8/' is not a number"),
        (["--epsilon", "nan"], "--epsilon must be in [0, 1]"),
        (["--seed", 2**63], "--seed must be at least 0 and at most 9223372036854775807"),
        (["--dali", "--workers", 2], "--workers 2 are the torch loader's"),
        (["--dali", "--workers", 0], "--workers 0 are the torch loader's"),
        (["--skip-bad-images"], "--skip-bad-images is for folder and parquet; --dataset digits has none"),
        (["--dataset", "parquet"], "--dataset parquet needs --data-dir"),
        (["--device", "cuda:²"], "is not auto, cpu, cuda or cuda:N"),
        (["--out", "x" * 300], "File name too long"),
        (["--resume", "x" * 300], "File name too long"),
        (["--init-from", "x" * 300], "no such file of weights"),
        (["--dataset", "folder", "--data-dir", "x" * 300], "File name too long"),
    ],
)
def test_refusals(capsys, tmp_path, argv, message):
    assert message in refused(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({}, {}, "no such folder"),
        ({"a": 2}, {"a": 2}, "one class only"),
        ({"a": 2, "b": 2}, {"a": 2, "c": 2}, "classes that train does not: c"),
    ],
)
def test_refused_folders(capsys, tmp_path, train, test, message):
    root = write_folder(tmp_path / "images", train, test)
    root.mkdir(exist_ok=True)
    assert message in refused(capsys, "--dataset", "folder", "--data-dir", root, "--batch-size", 2)


def test_unreadable_image(capsys, image_folder):
    (image_folder / "train" / "cat" / "5.png").write_bytes(b"no image")
    line = refused(capsys, "--dataset", "folder", "--data-dir", image_folder, "--batch-size", 2, "--image-size", 8)
    assert "train/cat/5.png is not a readable image" in line


def test_data_set_that_cannot_be_downloaded(capsys, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/archive")
    line = refused(capsys, "--recipe", "cifar10")
    assert "without internet, put cifar-10-python.tar.gz (md5 c58f30108f718f92721af3b95e74349a) into" in line


def test_dali_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert "pip install 'fastait[dali]'" in refused(capsys, "--dali")


def test_a_folder_is_trained_on(capsys, image_folder):
    argv = ["--dataset", "folder", "--data-dir", image_folder, "--image-size", 8, "--epochs", 1, "--batch-size", 3]
    assert main([str(a) for a in [*argv, "--out", "run", "--device", "cpu"]]) == 0
    out = capsys.readouterr().out
    assert "PGD-20" in out
    assert "AutoAttack" in out


@pytest.mark.parametrize("loader", [[], ["--workers", "1"], ["--dali"]])
def test_a_folder_with_bad_images_is_trained_on_without_them(capsys, image_folder, loader):
    if loader == ["--dali"]:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    (image_folder / "train" / "cat" / "5.png").write_bytes(b"no image")
    (image_folder / "test" / "dog" / "0.png").write_bytes(b"")
    argv = ["--dataset", "folder", "--data-dir", str(image_folder), "--image-size", "8", "--epochs", "1", *loader]
    argv += ["--batch-size", "3", "--device", "cpu", "--out", "run"]
    assert "train/cat/5.png is not a readable image" in refused(capsys, *argv)
    assert not Path("run").exists()
    assert main([*argv, "--skip-bad-images"]) == 0
    err = capsys.readouterr().err
    assert "--skip-bad-images left out 2 images:\n" in err
    assert "train/cat/5.png is not a readable image" in err
    assert "test/dog/0.png is not a readable image" in err
    assert "15 training and 15 test images" in err
    names = {(): "resident", ("--workers", "1"): "torch, 1 worker", ("--dali",): "DALI"}
    assert f"{names[tuple(loader)]} loader" in err
    kept = {path.name for path in (image_folder / ".fastait-cache" / "folder").glob("train*")}
    assert kept == ({"train-8px-checked.json"} if loader == ["--dali"] else {"train-8px.json", "train-8px.u8"})


@pytest.mark.parametrize("loader", [[], ["--dali"]])
def test_a_data_set_that_changed_under_a_run(capsys, image_folder, loader):
    """Training with other images than the run was begun with is refused, and the checkpoint is not touched."""
    if loader:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    argv = ["--dataset", "folder", "--data-dir", str(image_folder), "--image-size", "8", "--epochs", "2", *loader]
    assert main([*argv, "--batch-size", "3", "--device", "cpu", "--out", "run", "--checkpoint-seconds", "0"]) == 0
    Path("run/result.json").unlink()
    before = Path("run/checkpoint.pt").read_bytes()
    path = image_folder / "train" / "cat" / "5.png"
    whole = path.read_bytes()
    path.write_bytes((image_folder / "train" / "cat" / "4.png").read_bytes())
    line = refused(capsys, "--resume", "run")
    assert "the data set has changed since the run was begun: 32 images with checksum" in line
    path.unlink()
    assert "has changed since the run was begun: 31 images with checksum" in refused(capsys, "--resume", "run")
    assert Path("run/checkpoint.pt").read_bytes() == before
    path.write_bytes(whole)  # newer, but the same
    assert main(["--resume", "run"]) == 0


@pytest.fixture
def finished(tmp_path, capsys):
    """A finished run's folder."""
    assert main([*TINY, "--out", "run"]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_run_folder(finished):
    assert {p.name for p in finished.iterdir()} - {".lock"} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "model.safetensors",
        "result.json",
    }
    result = json.loads((finished / "result.json").read_text())
    for column in ("clean", "fgsm", "pgd20", "cw20"):
        assert 0 <= result[column] <= 100
    assert result["test_images"] == 10
    assert result["torch"] == torch.__version__
    (epoch,) = (json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines())
    assert epoch["epoch"] == 1
    assert epoch["step"] == 23
    config = RunFolder(finished).config()
    assert config.image_size == 8
    assert config.recipe == "digits"


def test_finished_run_is_shown_again(finished, capsys):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    assert main(["--resume", "run"]) == 0
    assert "PGD-20" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before


def test_run_folder_of_another_run(finished, capsys):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    assert "already holds another run" in refused(capsys, *TINY, "--out", "run")
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before


def test_out_that_is_no_run(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert "already holds other files" in refused(capsys, *TINY, "--out", "mine")
    assert "is a file" in refused(capsys, *TINY, "--out", "mine/thesis.tex")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_resume_with_another_config(finished, capsys):
    line = refused(capsys, "--resume", "run", "--epochs", 9, "--lr", "0.3")
    assert "epochs 9 (the run has 1)" in line
    assert "lr 0.3 (the run has 0.1)" in line


@pytest.mark.parametrize("damage", ["truncated", "foreign", "text", "empty"])
def test_damaged_checkpoint(finished, capsys, damage):
    (finished / "result.json").unlink()
    path = finished / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "foreign":
        torch.save({"net": {"conv1.weight": torch.zeros(1)}, "epoch": 3}, path)
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[damage])
    damaged = path.read_bytes()
    assert "checkpoint.pt" in refused(capsys, "--resume", "run")
    assert path.read_bytes() == damaged


def test_checkpoint_that_runs_code_is_refused(finished, capsys):
    class Evil:
        def __reduce__(self):
            return (open, ("gotcha", "w"))

    (finished / "result.json").unlink()
    torch.save(Evil(), finished / "checkpoint.pt")
    assert "checkpoint.pt" in refused(capsys, "--resume", "run")
    assert not Path("gotcha").exists()


def test_damaged_config(finished, capsys):
    (finished / "config.json").write_text('{"epochs": 1}')
    assert "config.json" in refused(capsys, "--resume", "run")
    (finished / "config.json").write_text("[")
    assert "config.json" in refused(capsys, "--resume", "run")
    whole = recipe("digits").to_json()
    for change in ({"method": "foo"}, {"epochs": "x"}):
        (finished / "config.json").write_text(json.dumps({**whole, **change}))
        assert "config.json" in refused(capsys, "--resume", "run")


def test_damaged_result(finished, capsys):
    (finished / "result.json").write_text("[")
    assert "result.json is damaged" in refused(capsys, "--resume", "run")


def test_two_processes_in_one_folder(finished, capsys):
    (finished / "result.json").unlink()
    hold = "import sys; from pathlib import Path; from fastait.checkpoints.folder import RunFolder\n"
    hold += "folder = RunFolder(Path('run')); folder.lock(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert "another process" in refused(capsys, "--resume", "run")
        other.stdin.close()
    assert main(["--resume", "run"]) == 0


def test_init_from(finished, capsys):
    argv = [*TINY, "--init-from", "run/model.safetensors", "--lr", "0"]
    assert main([*argv, "--out", "tuned"]) == 0
    from safetensors.torch import load_file

    old, new = load_file(finished / "model.safetensors"), load_file("tuned/model.safetensors")
    assert torch.equal(old["fc.weight"], new["fc.weight"])
    assert "does not fit wrn-10-2" in refused(capsys, *argv, "--model", "wrn-10-2")
    assert "no safetensors file" in refused(capsys, *TINY, "--init-from", "run/checkpoint.pt")


@pytest.mark.parametrize(("epsilon_y", "steps", "warns"), [(0.89, 1, False), (0.9, 1, True), (0.7, 2, True)])
def test_warning_where_labels_move_too_far(capsys, epsilon_y, steps, warns):
    argv = [*TINY, "--epsilon-y", str(epsilon_y), "--attack-steps", str(steps), "--crop-padding", "2"]
    assert main(argv) == 0
    assert ("the true class is no longer the largest" in capsys.readouterr().err) == warns


def test_loss_that_becomes_nan(capsys, tmp_path):
    line = refused(capsys, *TINY, "--out", "run", "--lr", "1e30", "--checkpoint-seconds", 0, code=1)
    assert "NaN or infinite at step" in line
    assert "the last good checkpoint is kept in run/checkpoint.pt" in line
    state = RunFolder(tmp_path / "run").load_checkpoint()
    assert all(value.isfinite().all() for value in state["model"].values())


def test_recipes_are_the_papers():
    cifar10 = recipe("cifar10")
    assert (cifar10.model, cifar10.batch_size) == ("wrn-28-10", 128)
    assert (cifar10.epsilon, cifar10.epsilon_y, cifar10.attack_steps) == (8 / 255, 0.5, 1)
    rates = [learning_rate(cifar10, epoch, 1) for epoch in range(cifar10.epochs)]
    assert [rates.count(rate) for rate in sorted(set(rates), reverse=True)] == [59, 30, 111]
    assert rates[0] == 0.1
    assert recipe("cifar100").epochs == 300
    assert recipe("cifar100").epsilon_y == 0.9
    assert recipe("svhn").lr == 0.01
    assert recipe("cifar10", method="natural").epochs == 100
    assert recipe("cifar10", method="natural", epochs=3).epochs == 3
    assert (recipe("svhn").crop_padding, recipe("svhn").flip) == (4, True)
    plain = recipe("svhn-unaugmented", method="madry")
    assert (plain.crop_padding, plain.flip, plain.lr, plain.epochs, plain.attack_steps) == (0, False, 0.01, 100, 7)
    assert recipe("cifar10-speedrun", method="natural").epochs == recipe("cifar10-speedrun", method="madry").epochs == 5
    for name in RECIPES:
        recipe(name).check()


def test_a_recipe_says_its_method():
    """Which a flag overrides, also by what another recipe has."""
    for flags, expected in (
        ([], ("n-fgsm", "one-cycle", 5)),
        (["--method", "adv-interp"], ("adv-interp", "one-cycle", 5)),
        (["--schedule", "step", "--milestones", "3"], ("n-fgsm", "step", 5)),
    ):
        config = parsed(["--recipe", "cifar10-speedrun", *flags])[0].config()
        assert (config.method, config.schedule, config.epochs) == expected
        config.check()


def test_help_shows_the_recipes_values(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--recipe", "cifar100", "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "[default: 300]" in shown
    assert "--epsilon-y" in shown


def test_what_is_light_stays_light():
    """Neither ``import fastait`` nor ``--help`` imports torch, numpy or anything else that takes a second."""
    script = (
        "import sys, fastait\n"
        "from fastait.train import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'sklearn', 'nvidia.dali', 'PIL'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names():
    for name in fastait.__all__:
        assert getattr(fastait, name) is not None
    assert set(fastait.__all__) <= set(dir(fastait))
    with pytest.raises(AttributeError, match="nothing"):
        _ = fastait.nothing


def test_without_the_trainers_packages():
    script = "import sys; sys.modules['cyclopts'] = None; import runpy; runpy.run_module('fastait.train')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "fastait: error: the commands need more packages; pip install 'fastait[train]'\n"


def test_used_run_folder_is_refused_before_data_is_loaded(finished, capsys):
    assert "already holds another run" in refused(capsys, "--recipe", "cifar10", "--out", "run")


def test_errors_are_one_line_whatever_paths_are_called(capsys):
    name = "n\nl\x1b[31m"
    Path(name).mkdir()
    Path(name, "file").touch()
    for module, argv in (
        (train, ["--epochs", "1", "--out", name]),
        (train, ["--resume", name]),
        (train, ["--init-from", name, "--epochs", "1"]),
        (evaluation_command, [name]),
        (evaluation_command, [f"{name}/file"]),
        (data, ["folder", "--data-dir", name]),
    ):
        assert module.main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert r"n\nl\x1b[31m" in line


def test_an_interrupt_while_a_command_is_imported(capsys, monkeypatch):
    """Which takes seconds, so people lose patience."""

    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert fastait_command(["train", "--epochs", "1"]) == 130
    assert capsys.readouterr().err == "fastait train: interrupted\n"
