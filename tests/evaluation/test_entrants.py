"""Networks from files as networks of a data set: whose classes, and how normalised."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trained
from PIL import Image
from safetensors import safe_open
from torch import nn

from fastait.checkpoints.weights import About, packed
from fastait.data import ImageSet
from fastait.eval import EvalArguments, main
from fastait.evaluation import determinism, load_model
from fastait.evaluation.entrants import make_entrant
from fastait.evaluation.model_files import read_model
from fastait.evaluation.normalization import MINUS_ONE_ONE, ZERO_ONE, Normalization, Normalized
from fastait.evaluation.session import run_evaluation
from fastait.runtime.errors import InputError
from fastait.runtime.processes import Ranks

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CPU = torch.device("cpu")


def weights_file(path, classes, order=range(10)):
    """The natural network's weights, the names of its outputs, and both in another order."""
    state = dict(trained.run("natural").model.state_dict())
    order = list(order)
    state |= {name: state[name][order] for name in ("fc.weight", "fc.bias")}
    Path(path).write_bytes(
        packed(state, About("wrn-10-1", classes and tuple(classes[i] for i in order), ((0.5,) * 3, (0.5,) * 3)))
    )
    return path


def digits_folder(root, names, of=range(10)):
    """A few test images of some digits, in folders with names; the training set is one image of each."""
    images = trained.digits(60)
    for digit in of:
        chosen = images.images[images.labels == digit]
        for split, few in (("train", chosen[:1]), ("test", chosen)):
            folder = Path(root, split, names[digit])
            folder.mkdir(parents=True)
            for i, image in enumerate(few):
                Image.fromarray(image.numpy()).save(folder / f"{i}.png")
    return root


def argv(*models, **flags):
    given = [str(model) for model in models]
    for name, value in {"device": "cpu", "attacks": "pgd2", "dataset": "folder", "out": "out", **flags}.items():
        given += [f"--{name.replace('_', '-')}", str(value)]
    return [*given, "--image-size", "16"]


def evaluated():
    return json.loads(Path("out/eval.json").read_text())


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_knows_its_classes():
    folder = trained.run("natural").folder
    names = [str(digit) for digit in range(10)]
    assert json.loads((folder / "config.json").read_text())["classes"] == names
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == names
    assert metadata["network"] == "wrn-10-1"
    assert json.loads(metadata["normalization"])["mean"] == [0.5, 0.5, 0.5]
    assert load_model(folder)[1]["classes"] == names
    weights_file("lone.safetensors", NAMES)
    assert load_model("lone.safetensors")[1] == {"classes": list(NAMES)}


def test_a_checkpoint_knows_its_classes_in_its_run_and_elsewhere(capsys):
    folder = trained.run("natural").folder
    shutil.copy(folder / "checkpoint.pt", "lone.pt")
    digits_folder("others", [f"z{name}" for name in range(10)])
    for path in (folder / "checkpoint.pt", "lone.pt"):
        assert load_model(path)[1]["classes"] == [str(digit) for digit in range(10)]
        assert "knows no 'z0'" in refused(capsys, *argv(path, data_dir="others"))
    assert main(["lone.pt", "--attacks", "fgsm", "--samples", "8", "--device", "cpu", "--out", "out"]) == 0


def test_classes_are_matched_by_name(capsys):
    """Models and a surrogate whose outputs stand in three orders, on a folder that sorts its names: one outcome."""
    digits_folder("data", NAMES)
    a, b = weights_file("a.safetensors", NAMES), weights_file("b.safetensors", NAMES, reversed(range(10)))
    surrogate = weights_file("c.safetensors", NAMES, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    flags = {"data_dir": "data", "attacks": "pgd2,feature2,transfer-pgd2,spsa-2x1", "black_box_samples": 10}
    assert main(argv(a, b, **flags, surrogate=surrogate)) == 0
    err = capsys.readouterr().err
    assert err.count("its classes stand in another order, matched by name") == 3
    found = evaluated()
    assert found["classes"] == sorted(NAMES)
    assert found["inputs"]["a.safetensors"]["outputs"][0] == NAMES.index("eight")
    one, two = (outcome["correct"] for outcome in found["outcomes"])
    assert one == two
    assert one["clean"].count("1") > 54
    assert "0" in one["transfer-pgd2"]


def test_a_part_of_the_classes_and_other_spellings():
    names = ["d\u00e9ux" if name == "two" else name for name in NAMES]
    model = weights_file("a.safetensors", names)
    digits_folder("data", ["de\u0301ux" if name == "two" else name for name in NAMES], of=(9, 2, 4))
    assert main(argv(model, data_dir="data")) == 0
    found = evaluated()
    assert found["inputs"]["a.safetensors"]["outputs"] == [2, 4, 9]
    assert next(row for row in found["rows"] if row["attack"] == "clean")["accuracy"] > 90


def test_other_classes_are_refused(capsys):
    model = weights_file("a.safetensors", NAMES)
    digits_folder("data", ["[red]z\x1b[2J" if name == "two" else name for name in NAMES])
    line = refused(capsys, *argv(model, data_dir="data"))
    assert r"knows no '[red]z\x1b[2J' (but 'two', which the data set lacks)" in line
    assert not Path("out").exists()


def test_unknown_classes_are_matched_by_position(capsys):
    model = weights_file("a.safetensors", None)
    assert main(argv(model, dataset="digits", samples=8)) == 0
    assert capsys.readouterr().err.count("names of its classes are unknown, so they are matched by position") == 1


@pytest.mark.parametrize("right", [ZERO_ONE, MINUS_ONE_ONE])
def test_a_normalisation_is_measured(right):
    """The labels are what the network says under one of them."""
    torch.save(trained.run("natural").model.state_dict(), "file.pt")
    loaded = read_model("file.pt")
    images = trained.digits(300)
    with torch.no_grad():
        labels = loaded.normalized(right)(images.floats(torch.arange(300), CPU)).argmax(dim=1)
    options = {"classes": NAMES, "numbered": False, "device": CPU, "ranks": Ranks()}
    found = make_entrant(loaded, **options, asked=None, images=ImageSet(images.images, labels))
    assert found.normalization == right
    assert "the file does not say; clean accuracy on 200 test images: [-1, 1] " in found.why
    assert f"{right} 100.0 %" in found.why
    wrong = ZERO_ONE if right is MINUS_ONE_ONE else MINUS_ONE_ONE
    forced = make_entrant(loaded, **options, asked=wrong, images=ImageSet(images.images, labels.roll(1)))
    assert forced.normalization == wrong
    assert "near chance" in forced.notes[-1]
    assert f"{right} " in forced.notes[-1]


def test_the_command_says_what_it_assumes(capsys):
    torch.save(trained.run("natural").model.state_dict(), "file.pt")
    flags = {"dataset": "digits", "samples": 8}
    assert main(argv("file.pt", **flags)) == 0
    assert (
        "file.pt: wrn-10-1 (its weights show it); the normalisation [-1, 1] is assumed (the file does not say; clean"
        in capsys.readouterr().err
    )
    before = evaluated()["outcomes"]
    assert main(argv("file.pt", **flags, mean="0.1,0.2,0.3", std="25/255")) == 0
    assert "(x - [0.1, 0.2, 0.3]) / [0.09804, 0.09804, 0.09804] is assumed (as asked for)" in capsys.readouterr().err
    assert evaluated()["outcomes"] != before  # they are no journal's of the other normalisation
    assert main(argv("file.pt", **flags, mean="0.5", std="0.5")) == 0
    assert evaluated()["outcomes"] == before
    assert main(argv(trained.run("natural").folder, **flags, inputs="zero-one")) == 0
    assert "warning: it was trained with another one: [-1, 1] (its file says so)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mean": "0.5"}, "--mean and --std belong together"),
        ({"mean": "0.5", "std": "0.5", "inputs": "zero-one"}, "leave one out"),
        ({"mean": "125.3", "std": "63"}, "divide those of images in 0 to 255 by 255"),
        ({"mean": "0.5", "std": "0"}, "--std in (0, 1]"),
        ({"mean": "nan", "std": "0.5"}, "--mean must be in [0, 1]"),
        ({"mean": "0.5,0.5", "std": "0.5"}, "one or three are needed"),
        ({"mean": "a", "std": "0.5"}, "'a' is not a number"),
    ],
)
def test_normalisations_that_are_none(capsys, flags, message):
    assert message in refused(capsys, *argv("nowhere", dataset="digits", **flags))


def test_a_normalised_network():
    network = trained.model("natural")
    x = torch.rand(3, 3, 16, 16)
    normalization = Normalization.of([0.4, 0.5, 0.6], [0.2])
    wanted = (x - torch.tensor(normalization.mean)[:, None, None]) / 0.2
    seen = []
    handle = network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        Normalized(network, normalization)(x)
    handle.remove()
    torch.testing.assert_close(seen[0], wanted)
    assert Normalization.of([127.5], [127.5]).like(MINUS_ONE_ONE)


@pytest.mark.parametrize("said", [None, ":16:8"])
def test_determinism_is_for_the_evaluation_alone(monkeypatch, said):
    if said is None:
        monkeypatch.delenv(determinism.CUBLAS_WORKSPACE, raising=False)
    else:
        monkeypatch.setenv(determinism.CUBLAS_WORKSPACE, said)
    with determinism.deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ[determinism.CUBLAS_WORKSPACE] == (said or ":4096:8")
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get(determinism.CUBLAS_WORKSPACE) == said


def test_arguments_from_python():
    Path("models").mkdir()
    model = weights_file("models/a.safetensors", None)
    (found,) = run_evaluation(
        EvalArguments(
            str(model),  # type: ignore[arg-type]
            attacks=["pgd2"],  # type: ignore[arg-type]
            epsilon=np.float32(0.1),  # type: ignore[arg-type]
            samples=np.int64(4),  # type: ignore[arg-type]
            batch_size=np.int32(4),  # type: ignore[arg-type]
            dataset="digits",
            image_size=16,
            device=torch.device("cpu"),  # type: ignore[arg-type]
            deterministic=np.bool_(True),  # type: ignore[arg-type]
            out="out",  # type: ignore[arg-type]
        ),
        show=False,
    )
    assert found.images("pgd2") == 4
    assert not torch.are_deterministic_algorithms_enabled()
    for wrong, message in (
        ({"models": (nn.Linear(1, 1),)}, "paths of runs or files, got Linear; a network itself is evaluated by"),
        ({"models": "a", "samples": 2.5}, "--samples must be a whole number, got 2.5"),
        ({"models": "a", "epsilon": "much"}, "--epsilon must be numbers, got 'much'"),
        ({"models": "a", "mean": [[1]]}, "--mean must be numbers"),
        ({"models": "a", "epsilon": 2}, r"--epsilon must be in \(0, 1\]"),
    ):
        with pytest.raises(InputError, match=message):
            run_evaluation(EvalArguments(**wrong))
