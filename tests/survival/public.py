"""Every public function and class, and how it is called rightly; what lies below and checks nothing is listed apart."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import small
import torch
from conftest import write_folder

import fastait
import fastait.attacks as attacks
import fastait.evaluation as evaluation
import fastait_kernels as kernels
from fastait import data, models
from fastait.checkpoints.weights import About, packed

MODULES = ("fastait", "fastait.attacks", "fastait.evaluation", "fastait.models", "fastait.data", "fastait_kernels")

MODEL = small.new()
X, Y = small.images(4)
LOGITS = torch.linspace(-1, 1, 40).reshape(4, 10)
SOFT = torch.full((4, 10), 0.1)
PIXELS = torch.zeros(6, 4, 4, 3, dtype=torch.uint8)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def counter() -> torch.Tensor:
    return torch.tensor([1])


def _batch() -> dict[str, Any]:
    return {"model": MODEL, "x": X, "y": Y}


def _attack() -> dict[str, Any]:
    return {**_batch(), "epsilon": 0.03, "generator": generator()}


def _step() -> dict[str, Any]:
    return {"x": X, "grad": X, "origin": X, "step_size": 0.1, "epsilon": 0.1, "lower": 0.0, "upper": 1.0}


CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "fastait.TrainConfig": (lambda **given: fastait.TrainConfig(**given).check(), lambda: vars(fastait.TrainConfig())),
    "fastait.recipe": (
        lambda **given: fastait.recipe(**given).check(),
        lambda: {"name": "digits", "method": "natural", "epochs": 2, "milestones": (1,), "model": "wrn-10-1"},
    ),
    "fastait.adversarial_interpolation": (
        fastait.adversarial_interpolation,
        lambda: {**_attack(), "epsilon_y": 0.5, "steps": 1, "feature_fn": MODEL.features},
    ),
    "fastait.evaluate_robustness": (
        fastait.evaluate_robustness,
        lambda: {
            **_batch(),
            "attacks": "fgsm,feature1",
            "epsilon": 0.03,
            "step_size": 0.01,
            "seed": 0,
            "batch_size": 2,
            "surrogate": MODEL,
        },
    ),
    "fastait.load_model": (
        fastait.load_model,
        lambda: {
            "path": "weights.safetensors",
            "inputs": "auto",
            "model": None,
            "image_size": None,
            "mean": None,
            "std": None,
        },
    ),
    "fastait.run_training": (fastait.run_training, lambda: {"config": None}),
    "fastait.resume_training": (fastait.resume_training, lambda: {"path": "run", "workers": 0, "device": "cpu"}),
    "fastait.attacks.pgd": (
        attacks.pgd,
        lambda: {**_attack(), "step_size": 0.01, "steps": 1, "random_start": True, "at_a_time": 2},
    ),
    "fastait.attacks.fgsm": (attacks.fgsm, _attack),
    "fastait.attacks.cw20": (attacks.cw20, _attack),
    "fastait.attacks.pgd20": (attacks.pgd20, _attack),
    "fastait.attacks.spsa": (attacks.spsa, lambda: {**_attack(), "directions": 2, "steps": 1, "at_a_time": 4}),
    "fastait.attacks.local_search": (attacks.local_search, lambda: {**_attack(), "rounds": 1, "at_a_time": 4}),
    "fastait.attacks.ATTACKS": (
        lambda name, **given: attacks.ATTACKS[name](**given),
        lambda: {"name": "fgsm", **_attack()},
    ),
    "fastait.attacks.Subject": (attacks.Subject, lambda: {"model": MODEL, "classes": 10}),
    "fastait.attacks.RandomSignNoise": (attacks.RandomSignNoise, lambda: {"model": MODEL, "epsilon": 0.03}),
    "fastait.evaluation.check_logits": (evaluation.check_logits, lambda: {"logits": LOGITS, "classes": 10}),
    "fastait.models.make": (
        models.make,
        lambda: {"name": "wrn-10-1", "num_classes": 2, "image_size": 16, "generator_seed": 0},
    ),
    "fastait.models.WideResNet": (
        models.WideResNet,
        lambda: {"depth": 10, "widen_factor": 1, "num_classes": 2, "in_channels": 3},
    ),
    "fastait.models.ResNet18": (models.ResNet18, lambda: {"num_classes": 2}),
    "fastait.models.PreActResNet18": (models.PreActResNet18, lambda: {"num_classes": 2}),
    "fastait.models.GowalWideResNet": (
        models.GowalWideResNet,
        lambda: {"depth": 10, "widen_factor": 1, "num_classes": 2, "activation": "silu"},
    ),
    "fastait.models.feature_function": (models.feature_function, lambda: {"model": MODEL, "sample": X}),
    "fastait.models.normalization": (models.normalization, lambda: {"model": MODEL}),
    "fastait.data.load_dataset": (
        data.load_dataset,
        lambda: {"name": "folder", "data_dir": "images", "image_size": 8, "cache_dir": None, "image_column": None},
    ),
    "fastait.data.load_unlabeled": (
        data.load_unlabeled,
        lambda: {"root": "images", "image_size": 8, "cache_dir": None},
    ),
    "fastait_kernels.linf_step": (kernels.linf_step, _step),
    "fastait_kernels.linf_step_": (kernels.linf_step_, lambda: {**_step(), "x": X.clone()}),
    "fastait_kernels.LinfStep": (
        kernels.LinfStep,
        lambda: {"step_size": 0.1, "epsilon": 0.1, "lower": 0.0, "upper": 1.0},
    ),
    "fastait_kernels.random_start": (
        kernels.random_start,
        lambda: {"x": X, "epsilon": 0.1, "seed": counter(), "offset": counter(), "place": 0},
    ),
    "fastait_kernels.soft_cross_entropy": (
        kernels.soft_cross_entropy,
        lambda: {"logits": LOGITS, "target": SOFT, "reduction": "mean"},
    ),
    "fastait_kernels.SoftCrossEntropy": (kernels.SoftCrossEntropy, lambda: {"reduction": "mean"}),
    "fastait_kernels.interpolated_cross_entropy": (
        kernels.interpolated_cross_entropy,
        lambda: {"logits": LOGITS, "y": Y, "y_partner": Y, "epsilon_y": 0.5, "reduction": "mean"},
    ),
    "fastait_kernels.margin_loss": (
        kernels.margin_loss,
        lambda: {"logits": LOGITS, "y": Y, "kappa": 50.0, "reduction": "mean"},
    ),
    "fastait_kernels.cosine_distance": (
        kernels.cosine_distance,
        lambda: {"features": LOGITS, "target_features": LOGITS, "reduction": "mean"},
    ),
    "fastait_kernels.augment": (
        kernels.augment,
        lambda: {
            "images_u8": PIXELS,
            "index": torch.arange(2),
            "shift": torch.zeros(2, 2, dtype=torch.int64),
            "flip": torch.zeros(2, dtype=torch.bool),
            "padding": 0,
            "dtype": torch.float32,
            "epsilon": 0.1,
            "seed": counter(),
            "offset": counter(),
        },
    ),
}
"""Name -> function and arguments that it takes; each is given odd ones in the place of some of these."""

ALIKE = {
    "fastait.evaluation.evaluate_robustness": "fastait.evaluate_robustness",
    "fastait.evaluation.load_model": "fastait.load_model",
    "fastait.WideResNet": "fastait.models.WideResNet",
}
"""The same under another name."""

IN_PLACE = {
    "fastait_kernels.linf_step_": "x",
    "fastait_kernels.random_start": "offset",
    "fastait_kernels.augment": "offset",
}
"""What a function is there to change."""

DRAWING = ("fastait.models.", "fastait.attacks.RandomSignNoise")
"""Whose weights are drawn as torch draws them."""

LONG = ("fastait.masking_signs", "fastait.evaluation.masking_signs")
"""What checks its arguments by the same functions as ``evaluate_robustness`` and takes seconds."""

BELOW = {
    "fastait.attacks": (
        *("Attack", "Noise", "Point", "ascend", "classification", "cross_entropy", "frozen", "input_gradient"),
        *("margin", "parts", "sign_step", "trajectory", "verdict", "NOT_FINITE", "RIGHT", "WRONG"),
    ),
    "fastait.evaluation": (
        *("CLEAN", "Check", "Outcomes", "default_batch_size", "evaluate", "masking_report", "units"),
    ),
    "fastait.models": ("Features",),
    "fastait.data": (
        *("Batch", "BatchPlan", "Dataset", "FloatSet", "ImageFiles", "ImageSet", "Loader", "Shard", "make_loader"),
        "to_float",
    ),
    "fastait": ("__version__",),
}
"""What training steps and evaluations call, with arguments that were checked above, and what holds values."""


def write(folder: Path) -> None:
    """The files that the calls name."""
    write_folder(folder / "images", {"cat": 2, "dog": 2}, size=(8, 8))
    weights = packed(models.make("wrn-10-1", 10, generator_seed=0).state_dict(), About("wrn-10-1"))
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "run").mkdir()
    (folder / "run" / "model.safetensors").write_bytes(weights)
    (folder / "run" / "config.json").write_text(json.dumps(fastait.TrainConfig(device="cpu").to_json()))
    figures = dict.fromkeys(("clean", "fgsm", "pgd20", "cw20", "test_images", "epsilon"), 1.0)
    result = {**figures, "method": "natural", "dataset": "digits"}
    (folder / "run" / "result.json").write_text(json.dumps(result))


def names() -> set[str]:
    """All public names."""
    return {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}


def listed() -> set[str]:
    """Those that are spoken of here."""
    return {*CALLS, *ALIKE, *LONG, *(f"{module}.{name}" for module, below in BELOW.items() for name in below)}
