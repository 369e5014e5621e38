"""The files that reports are made of."""

import json
from pathlib import Path

import pytest
import torch
import trained
from safetensors import safe_open
from safetensors.torch import load_file

from fastait.eval import main
from fastait.evaluation import masking, session
from fastait.evaluation.details import titles
from fastait.evaluation.outcomes import Outcomes
from fastait.evaluation.results import Evaluation

ATTACKS = "pgd4,pgd2-worst,apgd-t-2,spsa-2x1"


def written(out, *more, attacks=ATTACKS, epsilon="8/255"):
    given = ["--device", "cpu", "--attacks", attacks, "--samples", "38", "--batch-size", "16", "--epsilon", epsilon]
    assert main([str(trained.run("natural").folder), *given, "--out", out, "--black-box-samples", "9", *more]) == 0


def about(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["about"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of one command, run twice."""
    root = tmp_path_factory.mktemp("details")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "BLACK_BOX", "spsa-2x1")
        patch.setattr(masking, "STRONG", "apgd-ce-2")
        patch.setattr(session, "MASKING_IMAGES", 8)
        for name in ("first", "second"):
            written(str(root / name), "--save-images", "--masking")
    return root / "first", root / "second"


def test_the_same_command_writes_the_same_bytes(folders):
    first, second = folders
    names = {path.name for path in first.iterdir()} - {"eval.json", "progress-0.jsonl", "adversarial"}
    assert len(names) == 4 + 2 + 2  # images, outcomes and examples, the table twice
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_outcomes(folders):
    tensors, said = load_file(folders[0] / "outcomes.safetensors"), about(folders[0] / "outcomes.safetensors")
    content = json.loads((folders[0] / "eval.json").read_text())
    test = trained.digits(355)
    assert said["classes"] == content["classes"]
    (title,) = said["evaluations"]
    assert title == "natural-8-255"
    few = {"clean": 38, "pgd4": 38, "pgd2-worst": 38, "apgd-t-2": 38, "spsa-2x1": 9}
    assert said["evaluations"][title]["images"] == few
    assert said["evaluations"][title]["stages"]["apgd-t-2"][2] == "apgd-t-2 target 3"
    for n in (38, 9):
        assert torch.equal(test.at(tensors[f"places of {n}"].long()).labels, tensors[f"labels of {n}"])
    correct = content["outcomes"][0]["correct"]
    for name, n in few.items():
        right = tensors[f"{title}/{name}/class"] == tensors[f"labels of {n}"]
        assert "".join("01"[int(value)] for value in right) == correct[name]
    with torch.no_grad():
        clean = trained.model("natural")(test.floats(tensors["places of 38"].long(), torch.device("cpu"))).argmax(1)
    assert torch.equal(tensors[f"{title}/clean/class"].long(), clean)
    stage = tensors[f"{title}/apgd-t-2/stage"]
    assert torch.equal(stage == -1, tensors[f"{title}/clean/class"] != tensors["labels of 38"])
    assert ((stage <= 0) | (tensors[f"{title}/apgd-t-2/class"] != tensors["labels of 38"])).all()


def test_losses_along_the_steps(folders):
    """PGD's are the means of what the steps ascend."""
    from fastait.attacks import Noise, cross_entropy
    from fastait.runtime.randomness import derive

    tensors = load_file(folders[0] / "outcomes.safetensors")
    losses = tensors["natural-8-255/pgd4/loss"]
    images, model = trained.digits(38), trained.model("natural")
    x = images.floats(torch.arange(38), torch.device("cpu"))
    start = Noise.seeded(derive(0, "evaluation"), x.device).start_at(x, 8 / 255, 0, torch.arange(38))
    with torch.no_grad():
        assert losses[0] == pytest.approx(cross_entropy(model(start), images.labels).mean().item(), rel=1e-4)
    assert len(losses) == 4
    assert losses[0] < losses[3]
    assert len(tensors["natural-8-255/apgd-t-2 target 9/loss"]) == 3


def test_examples(folders):
    path = folders[0] / "examples.safetensors"
    tensors, ((title, said),) = load_file(path), about(path)["evaluations"].items()
    assert said["attack"] == "pgd4"
    found = {key.removeprefix(f"{title}/"): tensor for key, tensor in tensors.items()}
    assert said["most easily fooled"] == 16
    assert len(found["places"]) == 32
    model = trained.model("natural")
    for kind in ("clean", "perturbed"):
        with torch.no_grad():
            assert torch.equal(model(found[kind]).argmax(1), found[f"class {kind}"].long())
    assert torch.equal(found["class clean"].long(), found["labels"])
    assert 0 < (found["perturbed"] - found["clean"]).abs().max() <= 8 / 255 + 1e-6
    with torch.no_grad():
        best = model(found["clean"]).topk(2).values
    margins = best[:, 0] - best[:, 1]
    assert margins[:16].max() <= margins[16:].min() + 1e-3


def test_images(folders):
    for name in ATTACKS.split(","):
        path = folders[0] / f"images-natural-8-255-{name}.safetensors"
        found = load_file(path)
        assert about(path) == {"model": "natural", "epsilon": 8 / 255, "attack": name}
        with torch.no_grad():
            predicted = trained.model("natural")(found["images"]).argmax(1)
        assert torch.equal(predicted, found["class"].long())


def test_numbers_of_the_masking_checks(folders):
    checks = json.loads((folders[0] / "eval.json").read_text())["masking"]["natural"]
    numbers = {check["name"]: check["numbers"] for check in checks}
    budgets = numbers["unbounded attack"]
    assert len(budgets["epsilon"]) == len(budgets["accuracy"]) == 6
    assert budgets["epsilon"][-1] == 1
    assert len(numbers["loss along the steps"]["loss"]) == 21
    for check in checks:
        assert all(f"{v:.1f} %" in check["figure"] for v in check["numbers"].values() if check["name"] == "restarts")
        assert check["numbers"]


def test_journals_without_classes(folders, capsys):
    """Those of older versions: what is known is not attacked again, the classes under attacks are not known."""
    written("out", attacks="pgd2", epsilon="0.02")
    whole = load_file("out/outcomes.safetensors")
    path = Path("out/progress-0.jsonl")
    old = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        entry["found"] = {name: v for name, v in entry["found"].items() if name in ("clean", "pgd2")}
        old.append(json.dumps({key: entry[key] for key in ("unit", "places", "found")}))
    path.write_text("\n".join(old) + "\n")
    written("out", attacks="pgd2", epsilon="0.02")
    more = [json.loads(line)["found"].keys() for line in path.read_text().splitlines()[len(old) :]]
    assert all("pgd2" not in found for found in more)
    again = load_file("out/outcomes.safetensors")
    title = "natural-0.02"
    assert torch.equal(again[f"{title}/clean/class"], whole[f"{title}/clean/class"])
    assert (again[f"{title}/pgd2/class"] == -1).all()
    assert f"{title}/pgd2/loss" not in again


def test_titles_differ():
    found = [Evaluation("a", epsilon, Outcomes()) for epsilon in (8 / 255, 0.1001, 0.1002)]
    assert titles(found) == ["a-8-255", "a-0.1001", "a-0.1002"]
