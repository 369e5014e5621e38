"""``fastait eval``: what it writes, what it goes on with, and one line for everything that is wrong."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import trained
from PIL import Image

from fastait.eval import main
from fastait.evaluation import evaluate
from fastait.models import WideResNet
from fastait.runtime.places import places_of


def argv(*models, **flags):
    given = [str(model) for model in models]
    for name, value in {"device": "cpu", "samples": 20, "out": "out", **flags}.items():
        given += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return given


@pytest.fixture
def natural():
    return trained.run("natural").folder


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert len(lines) == 1, err
    return lines[0]


def test_models_side_by_side(capsys, natural):
    robust = trained.run("adv-interp").folder
    flags = {"attacks": "fgsm,pgd5,pgd5-min2,spsa-2x2", "surrogate": robust, "black_box_samples": 10, "seed": 3}
    assert main(argv(natural, robust, **flags, export="robustbench")) == 0
    shown = capsys.readouterr().out
    assert "none of them is AutoAttack" in shown
    assert "steps of 2/255" in shown
    assert "spsa-2x2 (n = 10)" in shown
    content = json.loads(Path("out/eval.json").read_text())
    assert content["images"] == 20
    assert content["torch"] == torch.__version__
    assert content["models"] == {"natural": str(natural), "adv-interp": str(robust)}
    lines = list(csv.DictReader(Path("out/eval.csv").read_text().splitlines()))
    assert [line["attack"] for line in lines] == 2 * ["clean", "fgsm", "pgd5", "pgd5-min2", "spsa-2x2", "all of these"]
    same = evaluate(trained.model("natural"), trained.digits(20), ["pgd5"], seed=3)
    expected = "".join("01"[int(value)] for value in same.correct["pgd5"])
    assert content["outcomes"][0]["correct"]["pgd5"] == expected
    assert Path("out/eval.md").read_text().count("| pgd5 |") == 1
    assert main(argv("out/natural-robustbench.pt", dataset="digits", image_size=16, attacks="fgsm", out="again")) == 0


def test_sweeps_noise_and_masking(capsys, natural):
    given = argv(natural, attacks="pgd2,pgd4-worst", samples=8, input_noise="4/255", step_size="4/255")
    assert main([*given, "--epsilon", "8/255", "--epsilon", "0.1", "--masking"]) == 0
    shown = capsys.readouterr().out
    assert "pgd4-worst, eps 0.1" in shown
    assert "checks point to masked gradients" in shown
    content = json.loads(Path("out/eval.json").read_text())
    assert content["input_noise"] == 4 / 255
    assert len(content["masking"]["natural"]) == 7
    assert [row["epsilon"] for row in content["rows"] if row["attack"] == "pgd2"] == [8 / 255, 0.1]


def lines():
    """The finished batches, and how often each was finished."""
    found = {}
    for line in Path("out/progress-0.jsonl").read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        key = entry["unit"], str(entry["places"]), tuple(entry["found"])
        found[key] = found.get(key, 0) + 1
    return found


def test_killed_and_started_again(natural):
    """At most the batch that was being worked on is lost, and outcomes are those of an undisturbed evaluation."""
    flags = {"attacks": "pgd20,cw20,fgsm", "batch_size": 4, "samples": 80}
    command = [sys.executable, "-m", "fastait.eval"]
    process = subprocess.Popen(
        [*command, *argv(natural, **flags)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not Path("out/progress-0.jsonl").exists() or Path("out/progress-0.jsonl").read_bytes().count(b"\n") < 25:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = lines()
    assert 25 <= len(before) < 80
    with open("out/progress-0.jsonl", "ab") as file:
        file.write(b'{"unit": "cut sh')
    done = subprocess.run([*command, *argv(natural, **flags)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = lines()
    assert len(after) == 80
    assert set(after.values()) == {1}
    assert before.items() <= after.items()
    assert main(argv(natural, **{**flags, "out": "whole"})) == 0
    for name in ("eval.csv",):
        assert Path("out", name).read_text() == Path("whole", name).read_text()
    outcomes = [json.loads(Path(folder, "eval.json").read_text())["outcomes"] for folder in ("out", "whole")]
    assert outcomes[0] == outcomes[1]


def test_more_attacks_into_the_same_folder(natural):
    assert main(argv(natural, attacks="pgd3", samples=12)) == 0
    before = lines()
    assert main(argv(natural, attacks="pgd3,cw3", samples=12)) == 0
    after = lines()
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert main(argv(natural, attacks="pgd3", samples=12, seed=1)) == 0
    assert len(lines()) == len(after) + 2


def test_journals_of_other_images_are_not_taken(natural):
    """Few of 30 images are not the same as few of 15: only what was measured on the very images is taken."""
    flags = {"attacks": "spsa-2x1", "black_box_samples": 8}
    assert main(argv(natural, **flags, samples=30)) == 0
    assert main(argv(natural, **flags, samples=15)) == 0
    assert main(argv(natural, **flags, samples=15, out="fresh")) == 0
    found = [json.loads(Path(folder, "eval.json").read_text())["outcomes"] for folder in ("out", "fresh")]
    assert found[0] == found[1]


def test_two_processes(natural):
    """Also where one process began, with other batches: what it had done is not done again."""
    flags = {"attacks": "pgd3,spsa-2x1,pgd2-min2,pgd2-worst+cw2-worst", "samples": 22}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def two(*arguments):
        command = [*launch, "-m", "fastait.eval", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=200)

    assert main(argv(natural, **flags, out="alone")) == 0
    assert main(argv(natural, **flags, batch_size=4)) == 0
    begun = Path("out/progress-0.jsonl").read_bytes().splitlines(keepends=True)
    Path("out/progress-0.jsonl").write_bytes(b"".join(begun[:9]))
    done = two(*argv(natural, **flags, batch_size=6))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to") == 1
    assert len(list(Path("out").glob("progress-*.jsonl"))) == 2
    found = [json.loads(Path(folder, "eval.json").read_text())["outcomes"] for folder in ("out", "alone")]
    assert found[0] == found[1]
    written = [json.loads(line) for path in Path("out").glob("*.jsonl") for line in path.read_bytes().splitlines()]
    known = Counter((name, i) for line in written for name in line["found"] for i in places_of(line["places"]))
    assert set(known.values()) == {1}
    bad = two(*argv("nowhere"))
    assert bad.stderr.count("nowhere: no such run folder") == 1


def test_out_of_memory(capsys, natural, monkeypatch):
    """It goes on with fewer images, says so once, and where there is no room for one says what to do."""
    room, forward = 9, WideResNet.forward

    def crowded(self, x):
        if len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, x)

    flags = {"attacks": "pgd3,cw3", "batch_size": 16}
    assert main(argv(natural, **flags, out="whole")) == 0
    monkeypatch.setattr(WideResNet, "forward", crowded)
    capsys.readouterr()
    assert main([*argv(natural, **flags), "--epsilon", "8/255", "--epsilon", "0.1"]) == 0
    said = capsys.readouterr().err
    assert said.count("out of memory") == 1
    assert "warning: out of memory with 16 images at a time; 8 are taken from here on" in said
    found = [json.loads(Path(folder, "eval.json").read_text())["outcomes"] for folder in ("out", "whole")]
    assert found[0][0] == found[1][0]
    room = 0
    assert main(argv(natural, **flags, out="other")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: out of memory with a single image at a time (CUDA out of memory. Tried" in line
    assert line.endswith("go on with the same command and --out other, or take another --device")


def test_interrupted(natural):
    process = subprocess.Popen(
        [sys.executable, "-m", "fastait.eval", *argv(natural, attacks="pgd500", batch_size=4, samples=200)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not Path("out/progress-0.jsonl").exists() or not Path("out/progress-0.jsonl").read_bytes():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; finished batches are kept, go on with the same command and --out out" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model is given"),
        (["nowhere"], "nowhere: no such run folder or file of weights"),
        (["RUN", "--attacks", "pdg20"], "--attacks: no attack is called 'pdg20'. Did you mean 'pgd20'?"),
        (["RUN", "--attacks", "pgd20,pgd20"], "pgd20 stands twice"),
        (["RUN", "--attacks", "transfer-pgd20"], "--surrogate RUN"),
        (["RUN", "--epsilon", "8"], "--epsilon must be in (0, 1]"),
        (["RUN", "--epsilon", "0"], "--epsilon must be in (0, 1]"),
        (["RUN", "--step-size", "2"], "--step-size must be in (0, 1]"),
        (["RUN", "--input-noise", "2"], "--input-noise must be in [0, 1]"),
        (["RUN", "--samples", "0"], "--samples must be at least 1"),
        (["RUN", "--samples", "356"], "--samples 356 is more than the 355 test images"),
        (["RUN", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["RUN", "--dataset", "digit"], "Did you mean 'digits'"),
        (["RUN", "--dataset", "folder"], "--dataset folder needs --data-dir"),
        (["RUN", "--inputs", "both"], "--inputs: 'both' is not one of"),
        (["RUN", "--export", "torchhub"], "--export: 'torchhub' is not one of robustbench"),
        (["RUN", "--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["RUN", "RUN"], "a model is given twice"),
        (["RUN", "--attacks", ","], "--attacks names none"),
        (["RUN", "--epsilon", "8/255", "--epsilon", "8/255"], "--epsilon is given twice"),
        (["RUN", "--inputs", "zero-one", "--export", "robustbench"], "is for networks that normalise by themselves"),
        (["RUN", "--atacks", "fgsm"], "--atacks"),
    ],
)
def test_refusals(capsys, natural, arguments, message):
    given = [argument.replace("RUN", str(natural)) for argument in arguments]
    assert message in refused(capsys, *given, *([] if "--device" in given else ["--device", "cpu"]), "--out", "out")
    assert not Path("out").exists()


def test_weights_that_lie_in_no_run_folder(capsys, natural):
    shutil.copy(natural / "model.safetensors", "weights.safetensors")
    line = refused(capsys, "weights.safetensors", "--device", "cpu", "--out", "out")
    assert "weights.safetensors does not say what it was trained on: --dataset NAME" in line


def test_a_model_of_other_classes(capsys, natural, image_folder):
    flags = {"dataset": "folder", "data_dir": image_folder, "image_size": 8, "samples": 4}
    assert "tells 10 classes apart, the data set has 2" in refused(capsys, *argv(natural, **flags))


def test_a_folder_that_cannot_be_used(capsys, natural):
    Path("out").write_text("a file")
    assert "--out out cannot be used: File exists" in refused(capsys, *argv(natural, attacks="fgsm"))


def test_a_damaged_run(capsys, natural):
    shutil.copytree(natural, "run")
    Path("run/config.json").write_text("[")
    assert "config.json is damaged" in refused(capsys, *argv("run"))
    Path("run/model.safetensors").write_bytes(b"12345678")
    shutil.copy(natural / "config.json", "run/config.json")
    assert "is no safetensors file" in refused(capsys, *argv("run"))


def test_help_is_light():
    script = (
        "import sys\nfrom fastait.eval import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'PIL'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_test_images_alone(capsys, natural, kind):
    """Without a training set beside them, and with columns and files called otherwise; bad ones are left out."""
    images = trained.digits(20)
    encoded = []
    for i, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = Path("set", "val", str(int(label)), f"{i:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
        encoded.append(path.read_bytes())
    flags = {"dataset": kind, "data_dir": "set", "image_size": 16, "attacks": "fgsm", "cache_dir": "cache"}
    if kind == "folder":
        Path("set", "val", "0", "text").write_text("no image")
    else:
        labels = [*images.labels.tolist(), -1]
        pq.write_table(pa.table({"pixels": [*encoded, b""], "digit": labels}), "set/held-out.parquet")
        flags |= {"image_column": "pixels", "label_column": "digit", "test_files": "held*"}
    assert "--skip-bad-images leaves such images out" in refused(capsys, *argv(natural, **flags))
    assert main(argv(natural, **flags, skip_bad_images=True)) == 0
    err = capsys.readouterr().err
    assert "warning: 1 images are bad and left out" in err
    assert ("so the test images are those of val" in err) == (kind == "folder")
    order = torch.sort(images.labels, stable=True).indices if kind == "folder" else torch.arange(20)
    same = evaluate(trained.model("natural"), images.at(order), ["fgsm"])
    content = json.loads(Path("out/eval.json").read_text())
    expected = "".join("01"[int(value)] for value in same.correct["fgsm"])
    assert content["outcomes"][0]["correct"]["fgsm"] == expected
    assert len(list(Path("cache").iterdir())) == 1
