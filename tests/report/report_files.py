"""Folders of runs and evaluations as the commands write them, without training or attacking anything."""

import json
import math
from pathlib import Path

import torch

from fastait import recipe
from fastait.checkpoints.folder import RunFolder
from fastait.data import ImageSet
from fastait.evaluation.details import Source, write_examples, write_outcomes
from fastait.evaluation.kept import InMemory
from fastait.evaluation.masking import Check, as_rows
from fastait.evaluation.outcomes import Outcomes
from fastait.evaluation.results import Evaluation, as_json

CLASSES = tuple("0123456789")


def write_run(path, epochs=3, *, classes=CLASSES, finished=True, collapsed=None, **settings):
    """A run of so many epochs."""
    settings = {"image_size": 8, "epochs": epochs, "val_fraction": 0.1, "out": Path(path), **settings}
    config = recipe(settings.pop("recipe", "digits"), **settings).resolved()
    Path(path).mkdir(parents=True)
    folder = RunFolder(Path(path))
    folder.config_file.write_text(json.dumps(config.to_json() | {"classes": list(classes)}))
    wave = len(str(path))
    folder.write_metrics(
        [
            {
                "epoch": epoch,
                "step": 20 * epoch,
                "lr": 0.1 if epoch < epochs else 0.01,
                "loss": 2.3 * math.exp(-epoch / epochs) + 0.01 * math.sin(wave * epoch),
                "accuracy": 90.0 - 50.0 / epoch,
                "images": 1298,
                "zero_gradients": 0.5,
                "nan_gradients": 0.0,
                "images_per_second": 500.0 + wave,
                "seconds": 2.5,
                "val_images": 144,
                "val_clean": 95.0 - 20.0 / epoch,
                "val_fgsm": 80.0 - 20.0 / epoch,
                "val_pgd10": 70.0 - abs(epoch - 2),
                **({"collapsed": True} if epoch == collapsed else {}),
            }
            for epoch in range(1, epochs + 1)
        ]
    )
    if finished:
        figures = {"clean": 95.49, "fgsm": 80.0, "pgd20": 70.0, "cw20": 69.3}
        versions = {"fastait": "0.2.0", "python": "3.11.7", "torch": "2.14.1", "cuda": None, "device": "a CPU"}
        folder.save_result(
            {
                **figures,
                "weights": "last",
                "best": {**figures, "epoch": 2, "averaged": False, "pgd10": 70.0},
                "test_images": 355,
                "dataset": config.dataset,
                "method": config.method,
                "training_seconds": 75.0,
                "wall_seconds": 81.0,
                "precision": "fp32",
                "processes": 1,
                "threads": 2,
                **versions,
            }
        )
    return Path(path)


CHECKS = [
    Check("one step against many", False, "FGSM 80.0 %, PGD-20 70.0 %", "One step fools no more.", {"fgsm": 80.0}),
    Check(
        "unbounded attack",
        True,
        "8/255: 70.0 %, 255/255: 40.0 %",
        "At epsilon 1 any image is allowed, yet more than chance (10 %) withstand: PGD fails.",
        {"epsilon": [8 / 255, 1.0], "accuracy": [70.0, 40.0], "chance": 10.0},
    ),
    Check("loss along the steps", False, "mean loss 1", "The loss rises.", {"loss": [0.1, math.inf, 0.4]}),
]


def write_evaluation(path, models, *, n=40, attacks=("fgsm", "pgd20", "pgd100"), epsilons=(8 / 255,), **about):
    """An evaluation of ``models``, {name: where it lay}, by outcomes that are drawn; later attacks fool more."""
    path = Path(path)
    path.mkdir(parents=True)
    random = torch.Generator().manual_seed(len(attacks))
    labels = torch.arange(n) % 10
    images = ImageSet(torch.randint(0, 256, (n, 8, 8, 3), generator=random, dtype=torch.uint8), labels)
    evaluations, sources = [], []
    for model in models:
        for epsilon in epsilons:
            standing = torch.rand(n, generator=random) < 0.95
            correct = {"clean": standing}
            for attack in attacks:
                standing = standing & (torch.rand(n, generator=random) < 1 - 5 * epsilon)
                correct[attack] = standing
            wrong = (labels + 1 + torch.randint(0, 9, (n,), generator=random)) % 10
            outcomes = Outcomes(
                correct=correct,
                classes={name: torch.where(right, labels, wrong) for name, right in correct.items()},
                margins={"clean": torch.randint(-9999, 9999, (n,), generator=random)},
                losses={"pgd20": torch.linspace(0.1, 1, 20, dtype=torch.float64)},
            )
            kept = InMemory()
            clean = images.floats(torch.arange(n), torch.device("cpu"))
            moved = (clean + epsilon * torch.randn(clean.shape, generator=random).sign()).clamp(0, 1)
            kept.put({name: (torch.arange(n), moved) for name in attacks})
            evaluations.append(Evaluation(model, epsilon, outcomes))
            sources.append(dict.fromkeys(correct, Source(images, torch.arange(n), kept)))
    said = {
        "dataset": "digits",
        "classes": list(CLASSES),
        "images": n,
        "models": {name: str(place) for name, place in models.items()},
        "step_size": 2 / 255,
        "seed": 0,
        "input_noise": None,
        "masking": {model: as_rows(CHECKS) for model in models},
        **about,
    }
    (path / "eval.json").write_text(as_json(evaluations, said))
    write_outcomes(path / "outcomes.safetensors", evaluations, sources, {"classes": said["classes"]})
    write_examples(path / "examples.safetensors", evaluations, sources)
    return path


def change(file, **changes):
    """Other values in a file of one JSON object; None takes a key out."""
    found = json.loads(file.read_text())
    found = {key: value for key, value in (found | changes).items() if value is not None}
    file.write_text(json.dumps(found))
