"""Robustness of a model, measured: attacks by name, checkpoints of several origins, results, and signs of masking."""

from fastait.evaluation.batches import default_batch_size
from fastait.evaluation.evaluate import evaluate, units
from fastait.evaluation.logits import check_logits
from fastait.evaluation.masking import Check, masking_report
from fastait.evaluation.model_files import load_model
from fastait.evaluation.outcomes import CLEAN, Outcomes
from fastait.evaluation.robustness import evaluate_robustness, masking_signs

__all__ = [
    "CLEAN",
    "Check",
    "Outcomes",
    "check_logits",
    "default_batch_size",
    "evaluate",
    "evaluate_robustness",
    "load_model",
    "masking_report",
    "masking_signs",
    "units",
]
