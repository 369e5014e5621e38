"""Collapse: seen where it is, not where it is not, and what is kept then."""

import json
from pathlib import Path

import pytest
import torch
from tiny_run import tiny

from fastait import load_model, run_training
from fastait.evaluation.evaluate import Outcomes
from fastait.methods import images
from fastait.training import watch
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


def test_what_does_not_attack_is_not_watched(network, monkeypatch):
    monkeypatch.setattr(watch, "evaluate", pytest.fail)
    assert Watch(tiny(method="natural"), network, None, None, None, pytest.fail, None).measure(1) == {}


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
