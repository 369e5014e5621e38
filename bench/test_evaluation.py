"""Evaluation: table 3's columns against a loop per column, and PGD-20 against other people's."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
import trained
from alternating import DEVICE, alternate
from results import NOTES, record

from fastait.attacks import Noise, margin
from fastait.data import ImageSet
from fastait.evaluation import evaluate
from fastait.runtime.precision import full_precision
from fastait.runtime.randomness import derive

STEPS = (20, 50, 100, 200, 300, 500, 1000)
"""Table 3 of the paper."""

ROUNDS, FEW_ROUNDS = 5, 2
TABLE_IMAGES, IMAGES = 12, 128
EPSILON, STEP = 8 / 255, 2 / 255
SIZE = 32


def cross_entropy(logits, y):
    return F.cross_entropy(logits, y)


def carlini_wagner(logits, y):
    return margin(logits, y).mean()


def loop(model, x, y, start, steps, loss, every_iterate):
    """One column as it is commonly written: bool [B]."""
    model.eval()
    moved, standing = start, None
    if every_iterate:
        with torch.no_grad():
            standing = model(x).argmax(1) == y
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(model(moved), y), moved)
        moved = moved.detach() + STEP * grad.sign()
        moved = torch.min(torch.max(moved, x - EPSILON), x + EPSILON).clamp(0, 1)
        if every_iterate:
            with torch.no_grad():
                standing &= model(moved).argmax(1) == y
    if every_iterate:
        return standing
    with torch.no_grad():
        return model(moved).argmax(1) == y


@pytest.mark.parametrize("count", [pytest.param("last iterate", marks=pytest.mark.slow), "worst case"])
def test_eval_table_3(benchmark, count):
    """14 columns: PGD and CW with 20 to 1000 steps."""
    steps = STEPS if benchmark.enabled else (2, 3)
    model = natural()
    size = TABLE_IMAGES if benchmark.enabled else 4
    images = trained.digits(size, SIZE)
    x, y = images.floats(torch.arange(size), DEVICE).contiguous(), images.labels.to(DEVICE)
    start = Noise.seeded(derive(0, "evaluation"), DEVICE).start(
        x.contiguous(memory_format=torch.channels_last), EPSILON
    )
    losses = {"pgd": cross_entropy, "cw": carlini_wagner}
    suffix = "-worst" if count == "worst case" else ""
    found = {}

    def plain():
        with full_precision(DEVICE):
            found["plain"] = {
                f"{name}{t}{suffix}": loop(model, x, y, start, t, loss, bool(suffix))
                for name, loss in losses.items()
                for t in steps
            }

    def ours():
        names = [f"{name}{t}{suffix}" for name in losses for t in steps]
        found["ours"] = evaluate(model, images, names, epsilon=EPSILON, step_size=STEP).correct

    medians = alternate(benchmark, {"a loop per column": plain, "evaluate": ours}, rounds=FEW_ROUNDS, warmup=0)
    different = sum(int((outcome.cpu() != found["ours"][name]).sum()) for name, outcome in found["plain"].items())
    assert different == 0
    if medians is not None:
        group = f"table 3, {count}, 14 columns, natural WRN-10-1, {size} images of 32x32"
        lowest = min(100 * outcome.double().mean().item() for outcome in found["ours"].values())
        facts = {"lowest_accuracy": dict.fromkeys(medians, f"{lowest:.0f} %")}
        record(group, medians, "a loop per column", n=FEW_ROUNDS, images=size, **facts)


def natural():
    """An undefended network as a user has it, contiguous."""
    return trained.model("natural", size=SIZE).to(DEVICE).to(memory_format=torch.contiguous_format)


def half_robust(model, images):
    """An epsilon under which PGD-20 leaves about half of the images."""
    low, high = 0.0, 0.5
    for _ in range(7):
        middle = (low + high) / 2
        accuracy = evaluate(model, images, ["pgd20"], epsilon=middle, step_size=middle / 4).accuracy()["pgd20"]
        low, high = (middle, high) if accuracy > 50 else (low, middle)
    return high


def test_eval_pgd_20(benchmark):
    """One batch by torchattacks, foolbox and us, the last time as worst case, which lets fooled images go."""
    size = IMAGES if benchmark.enabled else 4
    model = natural()
    images: ImageSet = trained.digits(size, SIZE)
    x, y = images.floats(torch.arange(size), DEVICE).contiguous(), images.labels.to(DEVICE)
    epsilon = half_robust(model, images) if benchmark.enabled else 0.1
    step = epsilon / 4
    robust = {}

    def ours(name):
        def call():
            found = evaluate(model, images, [name], epsilon=epsilon, step_size=step)
            robust[f"evaluate, {name}"] = found.accuracy()[name]

        return call

    ways = {}
    if importlib.util.find_spec("torchattacks"):
        import torchattacks

        theirs = torchattacks.PGD(model, eps=epsilon, alpha=step, steps=20)

        def attacks():
            with full_precision(DEVICE):
                moved = theirs(x, y)
                with torch.no_grad():
                    robust["torchattacks"] = 100 * (model(moved).argmax(1) == y).double().mean().item()

        ways["torchattacks"] = attacks
    if importlib.util.find_spec("foolbox"):
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=DEVICE)
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=20)

        def fools():
            with full_precision(DEVICE):
                _, _, fooled = attack(wrapped, x, y, epsilons=[epsilon])
                robust["foolbox"] = 100 * (1 - fooled.double().mean().item())

        ways["foolbox"] = fools
    ways |= {f"evaluate, {name}": ours(name) for name in ("pgd20", "pgd20-worst")}
    baseline = next(iter(ways))
    medians = alternate(benchmark, ways, rounds=ROUNDS)
    if medians is not None:
        group = f"PGD-20, natural WRN-10-1, {size} images of 32x32, epsilon {epsilon:.3f}"
        shown = {way: f"{value:.1f} %" for way, value in robust.items()}
        record(group, medians, baseline, n=ROUNDS, images=size, accuracy=shown)
        NOTES.append("PGD-20 of others: one batch and the outcomes; of evaluate: clean outcomes too.")
