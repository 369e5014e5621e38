"""Arguments that are nearly right: each is taken, or refused in one line that names it."""

import numpy as np
import pytest
import small
import torch
from torch import nn

from fastait import adversarial_interpolation, evaluate_robustness, masking_signs
from fastait.attacks import ATTACKS, RandomSignNoise, Subject, local_search, pgd, spsa
from fastait.models import WideResNet
from fastait.runtime.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def _short_autoattack():
    with pytest.MonkeyPatch.context() as patch:
        small.short_autoattack(patch)
        yield


MODEL, (X, Y) = small.new(), small.images(8)
WRONG = ["0.03", b"1", True, np.True_, torch.tensor(True), None, [1], torch.ones(1), np.ones(1), 1j]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_texts_truth_values_and_lists_are_no_numbers(wrong):
    numbers = [
        ("epsilon", lambda **o: pgd(MODEL, X, Y, steps=1, **o)),
        ("epsilon", lambda **o: evaluate_robustness(MODEL, X, Y, "pgd1", **o)),
        ("epsilon", lambda **o: masking_signs(MODEL, X, Y, **o)),
        ("epsilon", lambda **o: adversarial_interpolation(MODEL, X, Y, **o)),
        ("epsilon_y", lambda **o: adversarial_interpolation(MODEL, X, Y, **o)),
        ("step_size", lambda **o: pgd(MODEL, X, Y, steps=1, **o)),
        ("step_size", lambda **o: ATTACKS["pgd1"](MODEL, X, Y, epsilon=0.1, **o)),
    ]
    whole = [
        ("steps", lambda **o: pgd(MODEL, X, Y, **o)),
        ("steps", lambda **o: adversarial_interpolation(MODEL, X, Y, **o)),
        ("directions", lambda **o: spsa(MODEL, X, Y, **o)),
        ("rounds", lambda **o: local_search(MODEL, X, Y, **o)),
        ("seed", lambda **o: evaluate_robustness(MODEL, X, Y, "pgd1", **o)),
        ("seed", lambda **o: masking_signs(MODEL, X, Y, **o)),
    ]
    for kind, calls in (("a number", numbers), ("a whole number", whole)):
        for name, call in calls:
            with pytest.raises(TypeError, match=f"^{name} must be {kind}, got "):
                call(**{name: wrong})


@pytest.mark.filterwarnings("error")
def test_a_number_may_be_a_tensor_that_requires_grad():
    radius = torch.tensor(0.03, requires_grad=True)
    assert (pgd(MODEL, X, Y, epsilon=radius, steps=2) - X).abs().max() <= 0.0300001


@pytest.mark.filterwarnings("error")
def test_arrays_in_any_order_and_layout():
    x, y = X.numpy(), Y.numpy()
    fixed = x.copy()
    fixed.setflags(write=False)
    expected = evaluate_robustness(MODEL, X.flip(3), Y.flip(0), "pgd2")
    for images, labels in ((x[..., ::-1], y[::-1]), (x[..., ::-1].astype(">f4"), y[::-1].astype(">i8"))):
        found = evaluate_robustness(MODEL, images, labels, "pgd2")
        assert torch.equal(found.correct["pgd2"], expected.correct["pgd2"])
        assert pgd(MODEL, images, labels, steps=1).shape == X.shape
    assert pgd(MODEL, fixed, list(y), steps=1).shape == X.shape


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "y must be numbers"),
        (["cat"] * 8, "y must be numbers"),
        (Y.to_sparse(), "y must be a dense tensor"),
        (Y.float(), "y must be classes, whole numbers"),
    ],
)
def test_what_are_no_labels(labels, message):
    for call in (pgd, evaluate_robustness, local_search):
        with pytest.raises(TypeError, match=message):
            call(MODEL, X, labels)


@pytest.mark.parametrize("images", [None, X.tolist(), X.to_sparse(), X.to(torch.float8_e4m3fn), X + 0j])
def test_what_are_no_images(images):
    for call in (pgd, evaluate_robustness, adversarial_interpolation):
        with pytest.raises(TypeError, match="x must be "):
            call(MODEL, images, Y)


class Labelled(torch.Tensor):
    """As torchvision's images are: a subclass that is nothing but a name."""


def test_images_of_a_subclass_are_checked_too():
    with pytest.raises(ValueError, match=r"x must be in \[0, 1\]"):
        pgd(MODEL, (255 * X).as_subclass(Labelled), Y)


@pytest.mark.parametrize(
    "name", ["fgsm", "pgd2", "cw2-worst", "feature2", "eot2-pgd2", "spsa-4x1", "local-search-1", "quick"]
)
def test_classes_that_the_model_does_not_know(name):
    with pytest.raises(ValueError, match=r"y must be in \[0, 10\), the classes that Classifier tells apart, got 11"):
        ATTACKS[name](MODEL, X, torch.full_like(Y, 11), epsilon=0.03)


def test_a_surrogate_is_checked_like_the_model():
    def attacked(surrogate):
        return evaluate_robustness(MODEL, X, Y, "transfer-pgd2", surrogate=surrogate)

    with pytest.raises(InputError, match="the surrogate returns NaN"):
        attacked(lambda x: MODEL(x) * torch.nan)
    with pytest.raises(InputError, match=r"the surrogate is on cpu in torch\.float64, the model on cpu in"):
        attacked(small.new().double())
    few = small.new(classes=2)
    with pytest.raises(ValueError, match=r"y must be in \[0, 2\)"):
        attacked(few)
    with pytest.raises(ValueError, match=r"y must be in \[0, 2\)"):
        ATTACKS["transfer-pgd2"](MODEL, X, Y, epsilon=0.03, surrogate=few)


SHAPES = {
    "[B]": lambda z: z[:, 0],
    "[B, K, 1]": lambda z: z[:, :, None],
    "int": lambda z: z.long(),
    "too few": lambda z: z[:1],
    "too many": lambda z: torch.cat([z, z]),
    "a sum": lambda z: z.sum(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_that_are_no_logits(shape):
    def odd(x):
        return SHAPES[shape](MODEL(x))

    for call in (pgd, spsa, local_search, evaluate_robustness, ATTACKS["cw2-worst"], ATTACKS["autoattack"]):
        with pytest.raises(InputError, match=r"odd returns \(.*\) where logits \[B, K\] are needed: a row for"):
            call(odd, X, Y, epsilon=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_another_type(dtype):
    found = evaluate_robustness(lambda x: MODEL(x).to(dtype), X, Y, "spsa-4x2,local-search-2,cw2-best,autoattack")
    assert found.accuracy()["autoattack"] < 100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_every_type(dtype):
    model, x = small.new().to(dtype), X.to(dtype)
    for name in ("pgd2", "cw2-best", "spsa-4x2", "local-search-linf-2", "autoattack"):
        moved = ATTACKS[name](model, x, Y, epsilon=8 / 255)
        assert moved.dtype == dtype
        assert (moved.double() - x.double()).abs().max() <= 8 / 255 + 1e-7
        assert moved.min() >= 0
        assert moved.max() <= 1


def test_no_images():
    for name in ("pgd2", "feature2", "spsa-4x2", "local-search-2", "square"):
        assert ATTACKS[name](MODEL, X[:0], Y[:0], epsilon=0.03).shape == (0, 3, 16, 16)


def test_soft_labels_of_other_kinds():
    soft = torch.rand(8, 10).softmax(1)
    moved = adversarial_interpolation(MODEL, X, soft, generator=torch.Generator().manual_seed(0))[1]
    for given in (soft.numpy(), soft.tolist(), soft.double().requires_grad_()):
        again = adversarial_interpolation(MODEL, X, given, generator=torch.Generator().manual_seed(0))[1]
        assert torch.allclose(again, moved)
    assert adversarial_interpolation(MODEL, X, soft.bfloat16())[1].shape == (8, 10)
    for wrong in (soft * torch.nan, soft - 1, 2 * soft):
        with pytest.raises(ValueError, match="soft labels must be at least 0 and sum to 1"):
            adversarial_interpolation(MODEL, X, wrong)


class Held:
    """Somebody's wrapper."""

    def __init__(self, model):
        self.models = {"first": [model]}

    def __call__(self, x):
        return self.models["first"][0](x)

    def logits(self, x):
        return self(x)


several = [nn.Identity(), MODEL]
named = {"m": MODEL}


def by_hand(x):
    return MODEL(x)


def test_functions_that_reach_their_model_by_way_of_something():
    held = Held(MODEL)
    for function in (
        lambda x: several[1](x),
        lambda x: sum(model(x) for model in several[1:]),
        lambda x: named["m"](x),
        lambda x: by_hand(x) + 1,
        held,
        held.logits,
        lambda x: held(x),
        lambda x, model=MODEL: model(x),
    ):
        assert any(part is MODEL for part in Subject.of(function).parts)


@pytest.mark.parametrize("attacks", [None, 3, [3], b"pgd20"])
def test_attacks_that_are_no_names(attacks):
    with pytest.raises(TypeError, match="attacks must be names, such as"):
        evaluate_robustness(MODEL, X, Y, attacks)


@pytest.mark.parametrize(("model", "got"), [(None, "NoneType"), ("net", "str"), (small.Classifier, "the class Cl")])
def test_what_is_no_model(model, got):
    for call in (pgd, evaluate_robustness, adversarial_interpolation):
        with pytest.raises(TypeError, match=f"the model must be a module or a function of images, got {got}"):
            call(model, X, Y)


def test_a_network_of_ours_whose_last_layer_was_replaced():
    model = WideResNet(10, 1, num_classes=10).eval()
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(64, 5))
    assert adversarial_interpolation(model, X, Y % 5)[1].shape == (8, 5)


@pytest.mark.parametrize(
    "wrong", [7, "x", torch.zeros(1), np.random.default_rng(0)], ids=lambda value: type(value).__name__
)
def test_what_is_no_generator(wrong):
    for call in (pgd, ATTACKS["cw2"], ATTACKS["spsa-2x1"], ATTACKS["local-search-1"], adversarial_interpolation):
        with pytest.raises(TypeError, match=r"^generator must be a torch\.Generator or None, got "):
            call(MODEL, X, Y, generator=wrong)
    for call in (spsa, local_search):
        with pytest.raises(TypeError, match=r"^generator must be "):
            call(MODEL, X, Y, generator=wrong)


@pytest.mark.parametrize("name", [None, 7, torch.zeros(2)])
def test_what_is_no_name_of_an_attack(name):
    with pytest.raises(InputError, match="an attack's name must be a text, got "):
        ATTACKS[name]


def test_noise_of_odd_sizes_and_models():
    for wrong in (2.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\]"):
            RandomSignNoise(MODEL, wrong)
    for wrong in ("x", torch.zeros(3), None):
        with pytest.raises(TypeError, match="epsilon must be a number"):
            RandomSignNoise(MODEL, wrong)
    with pytest.raises(TypeError, match="model must be a module"):
        RandomSignNoise(lambda x: x)


def test_what_is_no_network_or_has_no_values():
    with pytest.raises(TypeError, match="the surrogate must be a module or a function of images, got int"):
        evaluate_robustness(MODEL, X, Y, "transfer-pgd1", surrogate=0)
    with pytest.raises(TypeError, match="the surrogate must be a module"):
        ATTACKS["transfer-pgd1"](MODEL, X, Y, surrogate=0)
    with pytest.raises(TypeError, match="feature_fn must be a function of images, got 0"):
        adversarial_interpolation(MODEL, X, Y, feature_fn=0)
    with pytest.raises(TypeError, match="x must have values, got a tensor"):
        evaluate_robustness(MODEL, X.to("meta"), Y)
