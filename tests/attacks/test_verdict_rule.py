"""However an image was found, it counts as fooled only if the model as it was given misclassifies the very image."""

import pytest
import torch
from torch import nn

from fastait.attacks import RIGHT, Subject, frozen, verdict
from fastait.attacks.batch import AttackedBatch
from fastait.attacks.by_name import _Drawn
from fastait.attacks.columns import parse
from fastait.attacks.suited import Suited

EPSILON, STEP = 0.06, 0.02

COLUMNS = (
    *("pgd3", "pgd3-worst", "pgd3-best", "cw3-min2", "eot2-pgd3", "eot2-pgd3-worst", "transfer-pgd3", "feature3"),
    *("spsa-8x2", "local-search-linf-2", "apgd-ce-5", "apgd-dlr-5", "apgd-t-4", "fab-t-4", "square-30", "pgd2+cw2"),
)


class Liar(Subject):
    """``model`` with something else in the place of the logits."""

    def __init__(self, model, lie):
        super().__init__(model)
        self.lie, self.images = lie, 0

    def forward(self, x):
        self.images += len(x)
        return self.lie(x, super().forward(x))


def _favours(x, logits, by=30.0):
    return logits + by * torch.eye(logits.shape[1], dtype=logits.dtype)[0]


LIES = {
    "finds nothing": _favours,
    "claims everything": lambda x, logits: _favours(x, logits, -30.0),
    "claims some": lambda x, logits: torch.where(x[:, :1, 0, 0] > 0.5, _favours(x, logits, -30.0), logits),
    "hides some": lambda x, logits: torch.where(x[:, :1, 0, 0] > 0.5, _favours(x, logits), logits),
    "not finite": lambda x, logits: logits * torch.nan,
    "another class": lambda x, logits: logits.roll(1, dims=1),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    return nn.Sequential(*layers).double()


@pytest.fixture(scope="module")
def of_one_class(network):
    """Images that the network takes for class 0, some of them for good, and their labels."""
    x = torch.rand(2000, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(x)
    x = x[logits.argmax(1) == 0][:24]
    assert len(x) == 24
    return x, torch.zeros(24, dtype=torch.int64)


def attacked(network, images, names, search):
    """Verdicts and images of an attack, or of several that are points of one trajectory."""
    x, y = images
    subject, other = Subject.of(network), Subject.of(nn.Sequential(network, nn.Identity()))
    draws = _Drawn(x, y, EPSILON, torch.Generator().manual_seed(0), Suited())
    batch = AttackedBatch(subject, other, x, y, EPSILON, STEP, draws, keep_images=True, search=search)
    with frozen(subject):
        found = batch.run([parse(name) for name in ([names] if isinstance(names, str) else names)])
    return (found.verdicts[names], found.images[names]) if isinstance(names, str) else (found.verdicts, found.images)


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_fools_nobody(network, of_one_class, lie):
    x, y = of_one_class
    for name in COLUMNS:
        verdicts, images = attacked(network, of_one_class, name, Liar(network, lie))
        with torch.no_grad():
            truth = verdict(network(images), y)
        assert torch.equal(verdicts[verdicts != RIGHT], truth[verdicts != RIGHT]), name
        assert ((images - x).abs() <= EPSILON + 1e-12).all()
        if name in ("pgd3", "pgd3-best", "eot2-pgd3", "feature3"):  # what withstands is the judge's word too
            assert torch.equal(verdicts, truth), name


@pytest.mark.parametrize("lie", ["claims everything", "finds nothing"])
def test_points_on_the_way_are_judged(network, of_one_class, lie):
    """As are those of the last step: what a margin ascends is that of the truth, whatever is added to a logit."""
    names = ["cw1", "cw2", "cw2-best", "cw3", "cw2-worst"]
    alone = attacked(network, of_one_class, names, None)[0]
    found, images = attacked(network, of_one_class, names, Liar(network, LIES[lie]))
    for name in names[:4]:
        with torch.no_grad():
            assert torch.equal(found[name], verdict(network(images[name]), of_one_class[1])), name
    for name in ("cw1", "cw2", "cw3"):
        assert torch.equal(found[name], alone[name]), name


@pytest.mark.parametrize("name", COLUMNS)
def test_the_truth_finds_what_the_model_finds(network, of_one_class, name):
    alone, images = attacked(network, of_one_class, name, None)
    found, same = attacked(network, of_one_class, name, Liar(network, lambda x, logits: logits))
    assert torch.equal(found, alone)
    assert torch.equal(same, images)


def test_some_fall_and_some_do_not(network, of_one_class):
    for name in ("pgd3", "apgd-ce-5", "square-30"):
        assert 0 < int((attacked(network, of_one_class, name, None)[0] == RIGHT).sum()) < 24, name


@pytest.mark.parametrize("name", ["cw3-worst", "cw3-min2"])
def test_the_attack_goes_on_with_whom_the_model_gets_right(network, of_one_class, name):
    """A margin's gradient is that of the truth, whatever is added to a logit."""
    alone, _ = attacked(network, of_one_class, name, None)
    found, _ = attacked(network, of_one_class, name, Liar(network, LIES["claims everything"]))
    assert torch.equal(found, alone)


def test_what_the_judge_is_asked(network, of_one_class):
    """All images at the last iterate; for the worst case the images themselves, suspects and what is left."""
    asked = []
    hook = network.register_forward_hook(lambda module, inputs, out: asked.append(len(inputs[0])))
    try:
        asked.clear()
        verdicts, _ = attacked(network, of_one_class, "pgd3", _counted(network))
        assert asked == [24]
        asked.clear()
        verdicts, _ = attacked(network, of_one_class, "pgd3-worst", _counted(network))
        assert asked[0] == 24
        assert sum(asked) == 48
    finally:
        hook.remove()
    assert (verdicts != RIGHT).any()


def _counted(network):
    """A faithful search whose passes are not the network's."""
    return Liar(lambda x: nn.Sequential(*network)(x), lambda x, logits: logits)
