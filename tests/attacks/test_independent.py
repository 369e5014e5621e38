"""FGSM, PGD and CW against an independent implementation, foolbox's, on a trained model."""

import pytest
import torch
import trained

from fastait.attacks import cross_entropy, margin, pgd
from fastait.evaluation import evaluate_robustness

foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
eagerpy = pytest.importorskip("eagerpy")

EPSILON, STEP = 20 / 255, 5 / 255


class MarginPGD(foolbox.attacks.LinfPGD):
    """foolbox's PGD on the Carlini-Wagner loss, written with its own tensors."""

    def get_loss_fn(self, model, labels):
        def loss(inputs):
            logits = model(inputs).raw
            rows = torch.arange(len(logits))
            true = logits[rows, labels.raw]
            others = logits.clone()
            others[rows, labels.raw] = -torch.inf
            return eagerpy.astensor(-(true - others.max(1).values + 50).clamp(min=0).sum())

        return loss


def theirs(kind, random_start, steps, epsilon=EPSILON):
    attack = {"fgsm": foolbox.attacks.LinfPGD, "pgd": foolbox.attacks.LinfPGD, "cw": MarginPGD}[kind]
    step = epsilon if kind == "fgsm" else epsilon / 4
    return attack(abs_stepsize=step, steps=steps, random_start=random_start)


@pytest.mark.parametrize(
    ("kind", "loss", "steps"), [("fgsm", cross_entropy, 1), ("pgd", cross_entropy, 20), ("cw", margin, 20)]
)
def test_same_images_without_random_start(kind, loss, steps):
    """In fp64, where no gradient's sign hangs on rounding."""
    x, y = trained.tensors(40)
    model = trained.model("natural").double()
    try:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        _, (expected,), _ = theirs(kind, False, steps)(wrapped, x.double().contiguous(), y, epsilons=[EPSILON])
        ours = pgd(
            model,
            x.double(),
            y,
            epsilon=EPSILON,
            step_size=EPSILON if kind == "fgsm" else STEP,
            steps=steps,
            loss=loss,
            random_start=False,
        )
    finally:
        model.float()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "kind", "steps"), [("fgsm", "fgsm", 1), ("pgd20", "pgd", 20), ("cw20", "cw", 20)])
def test_same_accuracy_with_random_starts(name, kind, steps):
    """On images away from the ends: foolbox clips its start to the range of pixels, we clip after the first step."""
    x, y = trained.tensors(150)
    x, epsilon = 0.05 + 0.9 * x, 10 / 255
    model = trained.model("natural")
    torch.manual_seed(0)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    expected, found = [], []
    for seed in range(3):
        _, _, fooled = theirs(kind, True, steps, epsilon)(wrapped, x.contiguous(), y, epsilons=[epsilon])
        expected.append(100 * (1 - fooled.double().mean().item()))
        outcomes = evaluate_robustness(model, x, y, [name], epsilon=epsilon, step_size=epsilon / 4, seed=seed)
        found.append(outcomes.accuracy()[name])
    assert abs(sum(found) - sum(expected)) / 3 < 4
    assert max(found) < outcomes.accuracy()["clean"] - 15
