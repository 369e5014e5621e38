"""The figures' numbers against the same computed plainly, and their files."""

import copy
import csv
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trained
from PIL import Image
from tolerances import BALL_FP32, ELEMENTWISE

from fastait import adversarial_interpolation, evaluate_robustness, reference
from fastait.attacks import Noise
from fastait.data import ImageSet, load_dataset
from fastait.reproduction import drawing, epsilons, figures
from fastait.reproduction.figures import FIGURES
from fastait.runtime.errors import InputError
from fastait.runtime.randomness import derive

evaluation = import_module("fastait.evaluation")

CPU = torch.device("cpu")
EPSILON = 8 / 255
SEED = 5

FILES = {
    "figure2": ["figure2.png", "figure2.csv"],
    "figure3": ["figure3.png", "figure3.csv"],
    "figure4": ["figure4.png", "figure4.npz"],
    "epsilons": ["epsilons-light.svg", "epsilons-dark.svg", "epsilons.csv"],
}


@pytest.fixture
def models():
    """In fp64, where two orders of summation agree on every sign."""
    return {system: copy.deepcopy(trained.model(system)).double() for system in ("natural", "adv-interp")}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(figures, "LOSS_STARTS", 3)
    monkeypatch.setattr(figures, "LOSS_STEPS", 6)
    monkeypatch.setattr(figures, "FEATURE_IMAGES", 24)
    monkeypatch.setattr(drawing, "DPI", 50)
    monkeypatch.setattr(epsilons, "IMAGES", 12)
    monkeypatch.setattr(epsilons, "SHARES", {"pgd20": (1,)})


def digits():
    return load_dataset("digits", image_size=trained.SIZE)


def draw(name, models, folder=".", dataset=None, seed=SEED, advance=lambda: None):
    Path(folder).mkdir(exist_ok=True)
    if name == "epsilons":
        models = {**models, "madry": models.get("natural")}  # a third training would tell no more
    models = {system: models[system] for system in FIGURES[name].systems if system in models}
    return FIGURES[name].draw(models, dataset or digits(), Path(folder), EPSILON, seed, advance)


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def plain_pgd(model, x, y, moved, steps):
    """The iterates after each step."""
    iterates = []
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(moved), y, reduction="sum"), moved)
        moved = moved.detach() + 2 / 255 * grad.sign()
        moved = torch.min(torch.max(moved, x - EPSILON), x + EPSILON).clamp(0, 1)
        iterates.append(moved)
    return iterates


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_the_same_each_time(models, name):
    """And hold a picture; the seed matters; models are left as they were."""
    models["natural"].train()
    state = copy.deepcopy(models["natural"].state_dict())
    calls = []
    first = draw(name, models, "a", advance=lambda: calls.append(1))
    assert calls
    assert [path.name for path in first] == FILES[name]
    assert sorted(path.name for path in Path("a").iterdir()) == sorted(path.name for path in first)
    assert models["natural"].training
    assert all(p.requires_grad for p in models["natural"].parameters())
    assert all(torch.equal(a, b) for a, b in zip(state.values(), models["natural"].state_dict().values(), strict=True))
    again = draw(name, models, "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    if name == "epsilons":
        return  # its numbers are counts, which another seed may leave as they are
    assert draw(name, models, "c", seed=6)[1].read_bytes() != first[1].read_bytes()
    pixels = np.asarray(Image.open(first[0]).convert("RGB"))
    assert pixels.shape[0] > 200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_loss_curves_are_those_of_plain_pgd(models):
    """Of a test set in which a class's images follow each other."""
    test = digits().test
    order = test.labels.argsort(stable=True)
    test = ImageSet(test.images[order], test.labels[order])
    rows = read(draw("figure2", models, dataset=replace(digits(), test=test))[1])
    assert len(rows) == 2 * 5 * 3 * 6
    x = test.floats(torch.arange(len(test)), CPU, torch.float64)
    right = models["natural"](x).argmax(dim=1) == test.labels
    expected, classes = [], set()
    for place, label in enumerate(test.labels.tolist()):
        if right[place] and label not in classes and len(expected) < 5:
            expected.append(place)
            classes.add(label)
    assert list(dict.fromkeys(int(row["image"]) for row in rows)) == expected
    for system, model in models.items():
        places = torch.tensor(expected).repeat_interleave(3)
        images, y = x[places], test.labels[places]
        assert [int(r["class"]) for r in rows if r["system"] == system and r["iteration"] == "1"] == y.tolist()
        start = Noise.seeded(derive(SEED, "figure2"), CPU).start(images, EPSILON)
        assert (start[0] != start[1]).any()
        losses = [F.cross_entropy(model(i), y, reduction="none") for i in plain_pgd(model, images, y, start, 6)]
        curves = torch.stack(losses, dim=1).detach()
        mine = torch.tensor([float(row["loss"]) for row in rows if row["system"] == system], dtype=torch.float64)
        torch.testing.assert_close(mine.view(15, 6), curves, rtol=1e-6, atol=1e-9)
        numbers = [(int(r["start"]), int(r["iteration"])) for r in rows if r["system"] == system]
        assert numbers == [(start, step) for _ in range(5) for start in range(3) for step in range(1, 7)]


def test_iterates_lie_in_the_ball(models):
    """All that the attacked model is shown but its start, which may leave the range of pixels as in the paper."""
    seen = []
    model = models["adv-interp"]
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    rows = read(draw("figure2", models)[1])
    places = torch.tensor(list(dict.fromkeys(int(row["image"]) for row in rows))).repeat_interleave(3)
    x = digits().test.floats(places, CPU, torch.float64)
    assert len(seen) == 7
    for number, images in enumerate(seen):
        assert (images - x).abs().max() <= EPSILON + BALL_FP32
        assert number == 0 or (images.min() >= 0 and images.max() <= 1)


def test_fewer_classes_have_fewer_columns(models):
    test = digits().test
    few = replace(digits(), test=ImageSet(test.images[test.labels < 2], test.labels[test.labels < 2]))
    rows = read(draw("figure2", models, dataset=few)[1])
    assert {row["class"] for row in rows} == {"0", "1"}


def test_no_image_to_attack(models):
    with torch.no_grad():
        models["natural"].fc.weight.zero_()
        models["natural"].fc.bias.copy_(torch.arange(10) == 9)
    test = digits().test
    others = replace(digits(), test=ImageSet(test.images[test.labels < 9], test.labels[test.labels < 9]))
    with pytest.raises(InputError, match="classifies none of the 319 test images correctly"):
        draw("figure2", models, dataset=others)


def test_features_are_of_the_three_kinds(models, monkeypatch):
    """And t-SNE is fitted to all of a model's at once."""
    fitted = []
    tsne = figures._tsne
    monkeypatch.setattr(
        figures, "_tsne", lambda features, *rest: fitted.append((features, tsne(features, *rest))) or fitted[-1][1]
    )
    monkeypatch.setattr("fastait.evaluation.batches.default_batch_size", lambda model, images: 16)
    rows = read(draw("figure3", models)[1])
    images = digits().test.stratified(24)
    x, y = images.floats(torch.arange(24), CPU, torch.float64), images.labels
    for (features, points), (system, model) in zip(fitted, models.items(), strict=True):
        noise = Noise.seeded(derive(SEED, "figure3"), CPU)
        pgd = plain_pgd(model, x, y, noise.start(x, EPSILON), 20)[-1]
        interpolated, _ = reference.adv_interp(x, reference.one_hot(y, 10), model, 10, start=noise.start(x, EPSILON))
        with torch.no_grad():
            expected = torch.stack([model.features(kind) for kind in (x, pgd, interpolated)])
            said = torch.stack([model(kind).argmax(dim=1) for kind in (x, pgd, interpolated)])
        assert features.shape == (3, 24, 64)
        torch.testing.assert_close(features, expected, rtol=1e-6, atol=1e-9)
        assert points.shape == (3, 24, 2)
        mine = [row for row in rows if row["system"] == system]
        kinds = ("clean", "PGD-20", "adversarial interpolation")
        assert [row["kind"] for row in mine] == [kind for kind in kinds for _ in range(24)]
        assert [int(row["class"]) for row in mine] == 3 * y.tolist()
        assert [int(row["predicted"]) for row in mine] == said.flatten().tolist()
        assert [int(row["image"]) for row in mine] == 3 * list(range(24))
        places = torch.tensor([[float(row["x"]), float(row["y"])] for row in mine]).view(3, 24, 2)
        torch.testing.assert_close(places, points, rtol=1e-5, atol=1e-5)
        # It is an embedding of these features: an image's nearest neighbours are itself and those of its class.
        flat, labels = points.flatten(0, 1), y.repeat(3)
        distances = torch.cdist(flat, flat).fill_diagonal_(torch.inf)
        assert (labels[distances.argmin(dim=1)] == labels).double().mean() > 0.7


def test_only_some_of_many_classes_are_shown(models, monkeypatch):
    monkeypatch.setattr(figures, "FEATURE_CLASSES", 3)
    named = replace(digits(), classes=(r"$\no$", "b$", "c\nd", *"3456789"))
    rows = read(draw("figure3", models, dataset=named)[1])
    assert len(rows) == 2 * 3 * 24
    assert {row["class"] for row in rows} == {r"$\no$", "b$", "c\nd"}


def test_too_few_images_for_an_embedding(models):
    test = digits().test
    few = replace(digits(), test=ImageSet(test.images[:3], test.labels[:3]))
    with pytest.raises(InputError, match="figure 3 needs at least 4 test images, there are 3"):
        draw("figure3", models, dataset=few)


def test_panels_are_what_the_public_function_returns(models):
    model = models["adv-interp"].float()
    data = np.load(draw("figure4", models)[1])
    images = digits().test.stratified(6)
    assert len(set(images.labels.tolist())) == 6
    x = images.floats(torch.arange(6), CPU)
    assert data["natural"].dtype == np.float32
    assert torch.equal(torch.from_numpy(data["natural"]), x.permute(0, 2, 3, 1))
    assert data["steps"].tolist() == [1, 3, 5, 10]
    for steps, panels in zip(data["steps"].tolist(), data["interpolated"], strict=True):
        generator = torch.Generator().manual_seed(derive(SEED, "figure4"))
        moved, _ = adversarial_interpolation(model, x, images.labels, epsilon=EPSILON, steps=steps, generator=generator)
        torch.testing.assert_close(torch.from_numpy(panels).permute(0, 3, 1, 2), moved, **ELEMENTWISE[torch.float32])
        assert np.abs(panels - data["natural"]).max() <= EPSILON + BALL_FP32
        assert panels.min() >= 0
        assert panels.max() <= 1


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_the_ends_of_epsilon(models, epsilon):
    model = {"adv-interp": models["adv-interp"]}
    FIGURES["figure4"].draw(model, digits(), Path(), epsilon, SEED, lambda: None)
    data = np.load("figure4.npz")
    assert (data["interpolated"] == data["natural"]).all() == (epsilon == 0)


def test_epsilons_show_what_an_evaluation_finds(models, monkeypatch):
    """At each attack's own budgets, steps a quarter of them; FGSM stands for AutoAttack, which takes minutes."""
    monkeypatch.setattr(epsilons, "SHARES", {"pgd20": (1 / 2, 3), "autoattack": (1,)})
    evaluate = evaluation.evaluate
    attacked = []

    def quick(model, images, attacks, **settings):
        attacked.append((attacks, settings["epsilon"], settings["step_size"]))
        found = evaluate(model, images, [{"autoattack": "fgsm"}.get(name, name) for name in attacks], **settings)
        return evaluation.Outcomes(
            {{"fgsm": "autoattack"}.get(name, name): right for name, right in found.correct.items()}
        )

    monkeypatch.setattr(evaluation, "evaluate", quick)
    light, dark, table = draw("epsilons", models)
    assert attacked == 3 * [
        (["pgd20"], EPSILON / 2, EPSILON / 8),
        (["pgd20"], EPSILON * 3, EPSILON * 3 / 4),
        (["autoattack"], EPSILON, EPSILON / 4),
    ]
    x, y = trained.tensors(12)
    for system in ("natural", "adv-interp"):
        for share, attack, shown in ((1 / 2, "pgd20", "pgd20"), (3, "pgd20", "pgd20"), (1, "fgsm", "autoattack")):
            step, epsilon = EPSILON * share / 4, EPSILON * share
            right = evaluate_robustness(models[system], x, y, attack, epsilon=epsilon, step_size=step, seed=SEED)
            row = (system, shown, f"{epsilon:.8g}", str(int(right.correct[attack].sum())), "12")
            assert row in [tuple(row.values()) for row in read(table)]
            clean = (system, shown, "0", str(int(right.correct["clean"].sum())), "12")
            assert clean in [tuple(row.values()) for row in read(table)]
    for picture in (light, dark):
        root = ElementTree.parse(picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not list(root.iter("{http://www.w3.org/2000/svg}text")), "text is outlines, the same on every machine"
        assert picture.stat().st_size < 60_000
    assert light.read_bytes() != dark.read_bytes()


@pytest.mark.parametrize("name", FIGURES)
def test_without_matplotlib(models, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"figures need matplotlib.*pip install 'fastait\[train\]'"):
        draw(name, {})
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_stopped(models, name):
    """And leaves nothing half done."""

    def stop():
        raise KeyboardInterrupt

    for model in models.values():
        model.train()
    with pytest.raises(KeyboardInterrupt):
        draw(name, models, advance=stop)
    assert not list(Path().iterdir())
    assert all(model.training for model in models.values())


def test_what_a_figure_is_can_be_known_quickly():
    """Names, titles and systems without torch, matplotlib and scikit-learn."""
    code = (
        "import sys; from fastait.reproduction.figures import FIGURES; "
        "assert FIGURES['figure4'].systems == ('adv-interp',); "
        "assert not {'torch', 'matplotlib', 'sklearn', 'numpy'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
