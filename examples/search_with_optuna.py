"""Optuna searches settings of a training; fastait makes each run. Ray Tune and others call it the same way.

Needs the extra ``train`` and optuna; takes some seconds on one core. What is searched is measured on images held out of
the training set, never on test images.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna

import fastait


def robust_accuracy(trial: optuna.Trial, folder: Path) -> float:
    """Accuracy in % under PGD-10 after the last epoch, on the images held out."""
    config = fastait.recipe(
        "digits",
        lr=trial.suggest_float("lr", 0.02, 0.2, log=True),
        epsilon_y=trial.suggest_float("epsilon_y", 0.1, 0.7),
        val_fraction=0.2,
        image_size=8,
        epochs=2,
        milestones=(2,),
        eval_samples=10,
        seed=0,  # the same for all; train the best again with others before you believe it
        out=folder / str(trial.number),
    )
    run = fastait.run_training(config)
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    return last["val_pgd10"]


with TemporaryDirectory() as folder:
    # With storage="sqlite:///..." several processes search together, and a study goes on where it was stopped.
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda trial: robust_accuracy(trial, Path(folder)), n_trials=3)
    best = fastait.resume_training(Path(folder, str(study.best_trial.number)))
    print(f"best of {len(study.trials)}: {study.best_params}, {study.best_value:.1f} % under PGD-10 on images held out")
    print({name: best.result[name] for name in ("clean", "pgd20")})
