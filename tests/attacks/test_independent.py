"""FGSM, PGD and CW against an independent implementation, foolbox's, on a trained model."""

import pytest
import torch
import trained

from fastait.attacks import cross_entropy, margin, pgd
from fastait.evaluation import evaluate

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


def theirs(kind, random_start, steps):
    attack = {"fgsm": foolbox.attacks.LinfPGD, "pgd": foolbox.attacks.LinfPGD, "cw": MarginPGD}[kind]
    step = EPSILON if kind == "fgsm" else STEP
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
    x, y = trained.tensors(150)
    model = trained.model("natural")
    torch.manual_seed(0)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    _, _, fooled = theirs(kind, True, steps)(wrapped, x.contiguous(), y, epsilons=[EPSILON])
    expected = 100 * (1 - fooled.double().mean().item())
    found = evaluate(model, trained.digits(150), [name], epsilon=EPSILON, step_size=STEP).accuracy()
    assert abs(found[name] - expected) < 4
    assert found[name] < found["clean"] - 15
