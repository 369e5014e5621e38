"""APGD against the released code, as pyautoattack ships it."""

import pytest
import small
import torch
import trained
from test_apgd import EPSILON, Smooth, Watch, objectives
from tolerances import REDUCTION

from fastait.attacks import RIGHT, classification, cross_entropy, frozen, verdict
from fastait.attacks.apgd import apgd
from fastait.attacks.losses import dlr, targeted, targeted_dlr, targets_of

theirs = pytest.importorskip("pyautoattack.autopgd_base", reason="pyautoattack is not installed")


def as_in_the_paper(attack, first):
    """``attack`` counting rises as the paper does: from ``first``, the losses at the start, and fewer than 3/4."""

    def few_rises(losses, step, interval, highest, k3=0.75):
        course = torch.cat([first[None], losses[: step + 1]])[-interval - 1 :]
        return ((course[1:] > course[:-1]).sum(0) < interval * k3).double()

    attack.check_oscillation = few_rises
    return attack


@pytest.mark.parametrize("loss", ["cross-entropy", "dlr", "targeted"])
def test_same_best_images(loss):
    model = small.new(Smooth).double().requires_grad_(False)
    draw = torch.Generator().manual_seed(1)
    x, noise = (torch.rand(12, 3, 16, 16, generator=draw, dtype=torch.float64) for _ in range(2))
    y, start = model(x).argmax(1), (x + EPSILON * (2 * noise - 1)).clamp(0, 1)
    targets = targets_of(model(x), y, 2)[:, 1]
    objective = objectives(model, y, targets)[loss][0]
    found = apgd(Watch(objective, y), None, x, y, start, epsilon=EPSILON)
    names = {"cross-entropy": "ce", "dlr": "dlr", "targeted": "dlr-targeted"}
    kind = theirs.APGDAttack_targeted if loss == "targeted" else theirs.APGDAttack
    attack = as_in_the_paper(kind(model, eps=EPSILON, device="cpu"), found.traces[:, 0])
    attack.loss, attack.y_target = names[loss], targets
    attack.init_hyperparam(x)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of its losses
    try:
        with torch.random.fork_rng():
            best, _, highest, _ = attack.attack_single_run(x, y, x_init=start)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(found.images, best, **REDUCTION[torch.float64])
    torch.testing.assert_close(found.traces.max(1).values, highest, **REDUCTION[torch.float64])


class Unmoved:
    """The released attack ``kind``, which starts from the images themselves: no chance decides who is ahead."""

    def __init__(self, kind, *args, **options):
        self.attack = kind(*args, **options)
        single = self.attack.attack_single_run
        self.attack.attack_single_run = lambda x, y: single(x, y, x_init=x)

    def standing(self, model, x, y):
        with torch.random.fork_rng(), frozen(model):
            return int((model(self.attack.perturb(x, y)).argmax(1) == y).sum())


def ours_standing(model, x, y, parts, steps):
    """How many stand after ``parts``: losses, or numbers of targets."""
    with frozen(model):
        targets = targets_of(model(x), y, 9)
        left = torch.nonzero(verdict(model(x), y) == RIGHT).flatten()
        for part in parts:
            if callable(part):
                objective = classification(model, y[left], part)
            else:
                objective = targeted(model, y[left], targets[left, part], targeted_dlr)
            found = apgd(objective, None, x[left], y[left], x[left], epsilon=RADIUS, steps=steps)
            assert torch.equal(found.verdicts, verdict(model(found.images), y[left]))
            left = left[found.verdicts == RIGHT]
    return len(left)


RADIUS = 24 / 255


def compare(method, samples, steps):
    model = trained.model(method)
    x, y = (t.contiguous() for t in trained.tensors(samples))
    counts = {}
    for name, parts, kind, more in (
        ("ce", [cross_entropy], theirs.APGDAttack, {"loss": "ce"}),
        ("dlr", [dlr], theirs.APGDAttack, {"loss": "dlr"}),
        ("targeted", list(range(9)), theirs.APGDAttack_targeted, {}),
    ):
        attack = Unmoved(kind, model, n_iter=steps, eps=RADIUS, device="cpu", **more)
        counts[name] = ours_standing(model, x, y, parts, steps), attack.standing(model, x, y)
    return counts


def test_as_strong():
    counts = compare("madry", 40, 20)
    assert all(ours <= theirs + 1 for ours, theirs in counts.values()), counts
    assert any(0 < ours < 40 for ours, _ in counts.values()), counts


@pytest.mark.slow
@pytest.mark.parametrize("method", ["natural", "madry", "adv-interp"])
def test_as_strong_in_a_hundred_steps(method):
    counts = compare(method, 100, 100)
    assert all(ours <= theirs + 1 for ours, theirs in counts.values()), counts
