"""Outcomes per image: the naive way's, whatever is computed together."""

import pytest
import torch
import trained
from torch import nn

from fastait.attacks import ATTACKS, Noise, cross_entropy, margin, pgd
from fastait.data import FloatSet
from fastait.evaluation import check_logits, default_batch_size, evaluate, evaluate_robustness
from fastait.runtime.errors import InputError
from fastait.runtime.randomness import derive

EPSILON, STEP = 20 / 255, 5 / 255
OPTIONS = {"epsilon": EPSILON, "step_size": STEP}
NAMES = ["fgsm", "pgd3", "pgd10", "cw10", "pgd10-worst", "pgd5-best", "pgd3-min3", "feature3-min2", "transfer-pgd10"]
NAMES += ["pgd3-zero", "eot2-cw3", "spsa-4x2", "local-search-2", "local-search-linf-2", "pgd3-worst+cw3-worst"]
NAMES += ["fgsm-min6", "fgsm-worst+fgsm-min6"]


@pytest.fixture(scope="module")
def whole():
    return everything()


def everything(**options):
    return evaluate(
        trained.model("natural").double(),
        trained.digits(30),
        NAMES,
        **OPTIONS,
        **{"surrogate": trained.model("adv-interp").double(), "seed": 4, "batch_size": 12, **options},
    )


@pytest.fixture(autouse=True)
def _fp32_again():
    yield
    for method in ("natural", "adv-interp"):
        trained.model(method).float()


def naive(model, x, y, steps, loss, restart=0, seed=4, step_size=STEP, random_start=True):
    """A loop of its own for one column, from the evaluation's random start."""
    noise = Noise.seeded(derive(seed, "evaluation"), x.device)
    noise.seek(torch.tensor([restart]))
    moved = noise.start(x, EPSILON) if random_start else x
    for _ in range(steps):
        leaf = moved.detach().requires_grad_()
        grad = torch.autograd.grad(loss(model(leaf), y).sum(), leaf)[0]
        moved = torch.min(torch.max(leaf.detach() + step_size * grad.sign(), x - EPSILON), x + EPSILON).clamp(0, 1)
    return moved


def test_columns_equal_the_naive_loop(whole):
    model, (x, y) = trained.model("natural").double(), trained.tensors(30)
    x = x.double()

    def correct(moved):
        with torch.no_grad():
            return model(moved).argmax(1) == y

    plain = {
        "clean": correct(x),
        "fgsm": correct(naive(model, x, y, 1, cross_entropy, step_size=EPSILON)),
        "pgd3": correct(naive(model, x, y, 3, cross_entropy)),
        "pgd10": correct(naive(model, x, y, 10, cross_entropy)),
        "cw10": correct(naive(model, x, y, 10, margin)),
        "pgd3-zero": correct(naive(model, x, y, 3, cross_entropy, random_start=False)),
        "transfer-pgd10": correct(naive(trained.model("adv-interp").double(), x, y, 10, cross_entropy)),
        "pgd3-min3": torch.stack([correct(naive(model, x, y, 3, cross_entropy, r)) for r in range(3)]).all(0),
        "pgd10-worst": torch.stack(
            [correct(x), *(correct(naive(model, x, y, t, cross_entropy)) for t in range(1, 11))]
        ).all(0),
        "pgd3-worst+cw3-worst": torch.stack(
            [
                correct(x),
                *(correct(naive(model, x, y, t, loss)) for t in range(1, 4) for loss in (cross_entropy, margin)),
            ]
        ).all(0),
    }
    starts = [correct(naive(model, x, y, 1, cross_entropy, r, step_size=EPSILON)) for r in range(6)]
    plain["fgsm-min6"] = torch.stack(starts).all(0)
    plain["fgsm-worst+fgsm-min6"] = plain["fgsm-min6"] & plain["clean"]
    assert plain["fgsm-min6"].sum() < plain["fgsm"].sum()
    for name, outcome in plain.items():
        assert torch.equal(whole.correct[name], outcome), name
    assert 0 < plain["pgd10"].sum() < plain["fgsm"].sum() < 30


def test_transferred_images_are_judged_by_the_model():
    robust, surrogate = trained.model("adv-interp"), trained.model("natural")
    names = ["transfer-pgd10", "eot2-transfer-pgd10", "transfer-pgd10-worst"]
    found = evaluate(robust, trained.digits(40), names, **OPTIONS, surrogate=surrogate).accuracy()
    own = evaluate(surrogate, trained.digits(40), ["pgd10"], **OPTIONS).accuracy()["pgd10"]
    for name in names:
        assert found[name] > own + 30, name


def test_pgd20_and_fgsm_are_the_attacks_of_that_name():
    """The column and the function of a batch: two ways to the same accuracy, from different starts."""
    model, (x, y) = trained.model("natural"), trained.tensors(100)
    found = evaluate(model, trained.digits(100), tuple(ATTACKS), epsilon=EPSILON).accuracy()
    for name, attack in ATTACKS.items():
        moved = attack(model, x, y, epsilon=EPSILON, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert abs(100 * (model(moved).argmax(1) == y).double().mean() - found[name]) <= 6


@pytest.mark.parametrize("batch_size", [4, 30])
def test_batches_do_not_matter(whole, batch_size):
    other = everything(batch_size=batch_size)
    for name, outcome in whole.correct.items():
        assert torch.equal(other.correct[name], outcome), name
    for name, queries in whole.queries.items():
        assert torch.equal(other.queries[name], queries), name


def test_columns_asked_for_alone_are_the_same(whole):
    for name in NAMES:
        alone = evaluate(
            trained.model("natural").double(),
            trained.digits(30),
            [name],
            **OPTIONS,
            surrogate=trained.model("adv-interp").double(),
            seed=4,
            batch_size=12,
        )
        assert torch.equal(alone.correct[name], whole.correct[name]), name
        assert alone.queries.keys() == {name} & whole.queries.keys()


def test_the_seed_matters(whole):
    found = everything(seed=5).correct
    assert torch.equal(found["clean"], whole.correct["clean"])
    assert any(not torch.equal(outcome, whole.correct[name]) for name, outcome in found.items())


def test_queries_are_those_of_black_boxes(whole):
    assert whole.queries.keys() == {"spsa-4x2", "local-search-2", "local-search-linf-2"}
    assert all((queries >= 1).all() for queries in whole.queries.values())
    assert whole.queries["spsa-4x2"].max() == 1 + 2 * 9


class Memory(dict):
    """A journal that forgets nothing and counts what is asked for and put."""

    def __init__(self):
        self.puts = 0

    def get(self, unit):
        return super().get(str(unit), [])

    def sums(self, unit):
        return []

    def put(self, unit, places, found, sums):
        self.puts += 1
        self.setdefault(str(unit), []).append((places, found))


def test_nothing_is_computed_again():
    memory, images, model = Memory(), trained.digits(30), trained.model("natural")
    first = evaluate(model, images, ["pgd3", "spsa-2x1"], **OPTIONS, batch_size=12, journal=memory)
    assert memory.puts == 9
    again = evaluate(model, images, ["spsa-2x1", "pgd3"], **OPTIONS, batch_size=12, journal=memory)
    assert memory.puts == 9
    for name, outcome in first.correct.items():
        assert torch.equal(again.correct[name], outcome)
    assert torch.equal(again.queries["spsa-2x1"], first.queries["spsa-2x1"])
    evaluate(model, images, ["pgd3", "pgd4"], **OPTIONS, batch_size=12, journal=memory)
    assert memory.puts == 12  # pgd4 alone
    evaluate(model, images, ["pgd3"], epsilon=EPSILON, step_size=STEP / 2, batch_size=12, journal=memory)
    assert memory.puts == 18


def test_the_model_is_left_as_it_was():
    model, surrogate = trained.model("natural"), trained.model("adv-interp")
    model.zero_grad(set_to_none=True)
    model.train()
    model.block1.eval()
    model.fc.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        evaluate(model, trained.digits(8), ["pgd2", "transfer-pgd2", "spsa-1x1"], surrogate=surrogate)
        assert model.training
        assert not model.block1.training
        assert not model.fc.bias.requires_grad
        assert model.fc.weight.requires_grad
        assert model.fc.weight.grad is None
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    finally:
        model.eval()
        model.fc.bias.requires_grad_(True)


def test_tensors_of_any_model():
    x, y = trained.tensors(20)
    found = evaluate_robustness(trained.model("natural"), x, y, ["pgd3", "cw3"], **OPTIONS)
    same = evaluate(trained.model("natural"), trained.digits(20), ["pgd3", "cw3"], **OPTIONS)
    for name, outcome in same.correct.items():
        assert torch.equal(found.correct[name], outcome)
    other = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    assert evaluate_robustness(other, x, y, ["pgd2"]).accuracy().keys() == {"clean", "pgd2"}


class Viewing(nn.Module):
    """A network that views its convolution's output, which a channels-last one does not allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 256, 10)

    def forward(self, x):
        self.seen = x.is_contiguous(memory_format=torch.channels_last)
        out = self.conv(x)
        return self.fc(out.view(len(x), -1))


def test_a_model_that_cannot_be_channels_last():
    x, y = trained.tensors(8)
    model = Viewing()
    found = evaluate_robustness(model, x, y, ["pgd2"])
    assert found.correct["pgd2"].shape == (8,)
    assert not model.seen


def test_weights_stay_where_they_are():
    """Also meanwhile: another thread may be in a convolution of them."""
    model = trained.model("natural").to(memory_format=torch.contiguous_format)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    strides = [parameter.stride() for parameter in model.parameters()]
    seen, moved = [], []

    def watch(module, inputs, out):
        seen.append(inputs[0].stride())
        moved.append([parameter.data_ptr() for parameter in model.parameters()] != places)

    hook = model.conv1.register_forward_hook(watch)
    contiguous = trained.tensors(4)[0].contiguous()
    evaluate_robustness(model, contiguous, trained.tensors(4)[1], ["pgd2"])
    hook.remove()
    assert seen[-1][1] == 1  # the images are channels-last
    assert not any(moved)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert [parameter.stride() for parameter in model.parameters()] == strides


@pytest.mark.parametrize(("size", "images"), [(32, 32), (16, 128), (64, 8)])
def test_batches_fit_the_cache(size, images):
    """2 MiB for the widest activation of WRN-10-1: 16 channels of fp32 at full size; 8 images at least."""
    assert (
        default_batch_size(trained.model("natural"), FloatSet(torch.rand(1, 3, size, size), torch.zeros(1))) == images
    )


X, Y = torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        ((X * 255).byte(), Y, {}, TypeError, "divide uint8 images by 255"),
        (X, Y.float(), {}, TypeError, "y must be classes, whole numbers"),
        (X[0], Y, {}, ValueError, r"x must be \[B, C, H, W\], got shape \(3, 8, 8\)"),
        (X, Y[:2], {}, ValueError, r"y must be one class per image, \[3\]"),
        (2 * X - 1, Y, {}, ValueError, r"x must be in \[0, 1\], got -.*normalise inside the model"),
        (255 * X, Y, {}, ValueError, r"x must be in \[0, 1\]"),
        (X * torch.nan, Y, {}, ValueError, r"x must be in \[0, 1\], got nan"),
        (X, Y + 9, {}, ValueError, r"y must be in \[0, 10\), got 9 to 11"),
        (X, Y - 1, {}, ValueError, "y must be classes from 0 on, got -1"),
        (X, Y, {"epsilon": 8}, ValueError, r"epsilon must be in \(0, 1\]"),
        (X, Y, {"step_size": 0}, ValueError, "step_size must be above 0"),
        (X, Y, {"attacks": ["pdg20"]}, InputError, "Did you mean 'pgd20'"),
        (X, Y, {"attacks": ["transfer-pgd2"]}, InputError, "need the model that they are made on: --surrogate"),
    ],
)
def test_bad_tensors(x, y, options, error, message):
    with pytest.raises(error, match=message):
        evaluate_robustness(trained.model("natural"), x, y, **options)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Softmax(dim=1), "returns probabilities; attacks need logits"),
        (nn.Threshold(1e9, torch.nan), "returns NaN or infinity"),
        (nn.Unflatten(1, (2, 5)), r"returns \(2, 2, 5\) where logits \[B, K\] are needed"),
    ],
)
def test_models_that_return_no_logits(layer, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), layer)
    with pytest.raises(InputError, match=message):
        evaluate_robustness(model, X, Y)


def test_a_model_without_parameters_is_given_images_as_they_are():
    found = evaluate_robustness(nn.Flatten(), X, Y, ["spsa-2x1"])
    assert torch.equal(found.correct["clean"], X.flatten(1).argmax(1) == Y)


def test_class_counts():
    check_logits(torch.randn(2, 10), 10)
    with pytest.raises(InputError, match="tells 10 classes apart, the data set has 7"):
        check_logits(torch.randn(2, 10), 7)


def test_logits_of_no_images_are_no_probabilities():
    check_logits(torch.zeros(0, 10), 10)
    with pytest.raises(InputError, match="returns probabilities"):
        check_logits(torch.full((1, 10), 0.1), 10)


def test_logits_are_of_a_type_that_is_computed_in():
    with pytest.raises(InputError, match=r"returns a tensor, torch.float8_e4m3fn \[4, 10\] on cpu where logits"):
        check_logits(torch.zeros(4, 10).to(torch.float8_e4m3fn), 10)


def test_pgd_takes_any_loss_per_image():
    x, y = trained.tensors(4)
    moved = pgd(trained.model("natural"), x, y, steps=2, loss=lambda logits, y: -logits.gather(1, y[:, None])[:, 0])
    assert moved.shape == x.shape
