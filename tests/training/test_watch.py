"""Collapse: seen where it is, not where it is not, and what is kept then."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_run import tiny
from torch import nn

from fastait import load_model, run_training
from fastait.evaluation.evaluate import Outcomes
from fastait.methods import images
from fastait.training import watch
from fastait.training.averaged import Averaged
from fastait.training.watch import Watch


def script(figures):
    """An ``evaluate`` that finds (FGSM, PGD-10) in percent, one pair per call."""
    left = iter(figures)

    def evaluate(model, images, attacks, **options):
        fgsm, pgd = next(left)
        found = {"clean": 90, "fgsm": fgsm, "pgd10": pgd}
        return Outcomes({name: torch.arange(100) < found[name] for name in ("clean", *attacks)})

    return evaluate


@pytest.mark.parametrize(
    ("figures", "epoch"),
    [
        ([(40, 30), (45, 35), (90, 10), (95, 0)], 3),
        ([(40, 30), (45, 35), (50, 26), (60, 40)], None),  # below half of neither
        ([(40, 30), (80, 16), (80, 30)], None),  # below half of FGSM, not of its best
        ([(40, 35), (30, 17), (40, 30)], None),  # below half of its best, not of FGSM
        ([(12, 11), (9, 4)], 2),
        ([(60, 50), (60, 30), (60, 20)], 3),  # of its best, which was not the last
        ([(40, 30), (45, 35), (90, 10), (50, 40), (90, 10)], 3),  # what was before the first is kept
        ([(0, 0), (0, 0), (5, 0)], None),  # nothing was there to be lost
    ],
)
def test_what_is_a_collapse(network, monkeypatch, figures, epoch):
    notes = []
    monkeypatch.setattr(watch, "evaluate", script(figures))
    seen = Watch(tiny(method="madry"), network, None, None, range(256), notes.append, None)
    weights = []
    records = []
    for number in range(len(figures)):
        with torch.no_grad():
            network.fc.bias.fill_(number)
        weights.append(network.fc.bias.clone())
        records.append(seen.measure(number + 1))
    assert [record["train_pgd10"] for record in records] == [pgd for _, pgd in figures]
    assert {record["train_images"] for record in records} == {256}
    assert seen.collapsed == epoch
    assert len(notes) == (epoch is not None)
    if epoch is not None:
        assert f"collapsed in epoch {epoch}" in notes[0]
        assert torch.equal(seen.before["fc.bias"], weights[epoch - 2])
        assert records[epoch - 1]["collapsed"] is True
        again = Watch(tiny(method="madry"), network, None, None, None, notes.append, None)
        again.load(seen.state())
        assert again.state() == seen.state()


def test_the_best_may_be_averages(network, monkeypatch):
    """Only where they are better; of equal ones the network's, and those of the earlier epoch."""
    found, measured = iter([30, 30, 30, 40, 40, 40]), []

    def evaluate(model, images, attacks, **options):
        assert attacks == ("pgd10",)
        measured.append(model.fc.bias[0].item())
        pgd = next(found)
        return Outcomes({"clean": torch.arange(100) < 90, "pgd10": torch.arange(100) < pgd})

    monkeypatch.setattr(watch, "evaluate", evaluate)
    averaged = Averaged(network, 0.5)
    seen = Watch(tiny(method="natural"), network, averaged, range(256), None, pytest.fail, None)
    best = []
    for epoch in (1, 2, 3):
        with torch.no_grad():
            network.fc.bias.fill_(epoch)
            averaged.state_dict()["fc.bias"].fill_(-epoch)
        record = seen.measure(epoch)
        best.append((seen.best["epoch"], seen.best["averaged"], seen.best["weights"]["fc.bias"][0].item()))
        assert network.fc.bias[0] == epoch
    assert measured == [1, -1, 2, -2, 3, -3]
    assert best == [(1, False, 1), (2, True, -2), (2, True, -2)]
    figures = {"val_clean": 90, "val_pgd10": 40, "val_ema_clean": 90, "val_ema_pgd10": 40}
    assert record == {"val_images": 256, **figures}


def test_what_does_not_attack_is_not_watched(network, monkeypatch):
    monkeypatch.setattr(watch, "evaluate", pytest.fail)
    assert Watch(tiny(method="natural"), network, None, None, None, pytest.fail, None).measure(1) == {}


@pytest.mark.parametrize(("count", "least", "most"), [(100, 1, 1), (256, 1, 1), (511, 1, 2), (1000, 3, 4)])
def test_few_are_spread_evenly(count, least, most):
    """Over all there are, of which the first half may be another class."""
    places = 2 * torch.arange(count)
    chosen = watch.few(SimpleNamespace(train=SimpleNamespace(at=lambda places: places)), places)
    assert len(chosen) == min(count, 256)
    gaps = torch.diff(chosen, append=torch.tensor([2 * count])) // 2
    assert chosen[0] == 0
    assert least <= gaps.min() <= gaps.max() <= most


def test_a_network_that_cannot_be_copied_holds_other_weights():
    """Its weights are made by a hook in each pass. Afterwards it has its own bits, in their places."""
    with pytest.warns(FutureWarning, match="weight_norm"):
        network = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(192, 10)), nn.BatchNorm1d(10))
    network(torch.rand(4, 3, 8, 8))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    places = [value.data_ptr() for value in network.state_dict().values()]
    other = {name: value + 1 for name, value in before.items()}

    def fail():
        with watch.holding(network, other):
            assert all(torch.equal(value, other[name]) for name, value in network.state_dict().items())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with watch.holding(network, None):
        pass
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [value.data_ptr() for value in network.state_dict().values()] == places


def test_what_an_epoch_says(network, monkeypatch):
    """PGD-10 of the training images, or of those held out the network's and the averaged weights'."""
    monkeypatch.setattr(watch, "evaluate", script([(40, 30), (41, 31), (42, 32)]))
    seen = Watch(tiny(method="madry"), network, None, None, range(256), pytest.fail, None)
    assert seen.said(seen.measure(1)) == "  PGD-10 30.0 %"
    averaged = Averaged(network, 0.9)
    seen = Watch(tiny(method="madry", ema=0.9), network, averaged, "held out", None, pytest.fail, None)
    assert seen.said(seen.measure(2)) == (
        "  held out: clean 90.0 %, PGD-10 31.0 %, averaged clean 90.0 %, PGD-10 32.0 %"
    )


@pytest.mark.slow
def test_single_steps_without_noise_collapse(capsys, monkeypatch):
    """FGSM from the image itself, of a large epsilon, is what collapses; its run says so and keeps what was."""
    monkeypatch.setattr("fastait.methods.images.pgd", without_noise)
    options = {"method": "madry", "attack_steps": 1, "step_size": 0.3, "epsilon": 0.3, "milestones": ()}
    run = run_training(tiny(**options, image_size=16, epochs=8), show=True)
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    collapsed = [record["epoch"] for record in records if record.get("collapsed")]
    print([(record["train_fgsm"], record["train_pgd10"]) for record in records])
    assert collapsed
    assert f"the training has collapsed in epoch {collapsed[0]}" in capsys.readouterr().err.replace("\n", " ")
    before, _ = load_model(Path("run/before-collapse.safetensors"))
    assert not torch.equal(before.state_dict()["fc.weight"], run.model.state_dict()["fc.weight"])


def without_noise(model, sample, settings):
    return images.Moved(images._ascend(model, sample, settings, sample.y, sample.x.clone()))
