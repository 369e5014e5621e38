"""What attacks may be given: any classifier, any layout, any state of the caller's program."""

import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from torch import nn

from fastait import adversarial_interpolation, evaluate_robustness, masking_signs
from fastait.attacks import ATTACKS, Subject, fgsm, local_search, pgd, spsa
from fastait.runtime.errors import InputError

EPSILON = 8 / 255
NAMES = ["fgsm", "pgd3", "cw3-worst", "pgd3-best", "cw3-min2", "feature3", "eot2-pgd2", "pgd2+cw2", "pgd2-zero"]
BLACK_BOXES = ["spsa-4x2", "local-search-2", "local-search-linf-2"]
STAGED = ["apgd-ce", "square", "autoattack", "autoattack-rand"]


@pytest.fixture(scope="module", autouse=True)
def _short_autoattack():
    with pytest.MonkeyPatch.context() as patch:
        small.short_autoattack(patch)
        yield


FUNCTIONS = {
    "fgsm": fgsm,
    "pgd": lambda *a, **o: pgd(*a, steps=2, **o),
    "spsa": lambda *a, **o: spsa(*a, directions=2, steps=1, **o)[0],
    "local search": lambda *a, **o: local_search(*a, rounds=1, **o)[0],
    "autoattack": lambda *a, **o: ATTACKS["autoattack"](*a, **o),
    "by name": lambda *a, **o: ATTACKS["cw2-min2"](*a, **o),
    "interpolation": lambda *a, **o: adversarial_interpolation(*a, **o)[0],
    "evaluation": lambda *a, **o: evaluate_robustness(*a, "pgd2", **o),
    "masking": masking_signs,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_images_and_budgets_outside_are_refused(name):
    model, (x, y) = small.new(), small.images(4)
    for bad, what in ((2 * x - 1, r"-0\.99"), (255 * x, "254"), (x * torch.nan, "nan")):
        with pytest.raises(ValueError, match=rf"x must be in \[0, 1\], got .*{what}"):
            FUNCTIONS[name](model, bad, y)
    x[0, 0, 0, 0] = 1.0000001
    with pytest.raises(ValueError, match=r"to 1\.0000001; .*clamp"):
        FUNCTIONS[name](model, x, y)
    x.clamp_(max=1)
    for bad in (8.0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="epsilon must be in"):
            FUNCTIONS[name](model, x, y, epsilon=bad)
    with pytest.raises(TypeError, match="epsilon must be a number, got '8/255'"):
        FUNCTIONS[name](model, x, y, epsilon="8/255")
    with pytest.raises(ValueError, match="classes from 0 on, got -100"):
        FUNCTIONS[name](model, x, torch.full_like(y, -100))
    with pytest.raises(TypeError, match="divide uint8 images by 255"):
        FUNCTIONS[name](model, (255 * x).byte(), y)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in ("evaluation", "masking")])
def test_views_numbers_and_modes(name):
    """Views, numpy's numbers, small integers, requires_grad and inference mode change nothing but the layout."""
    model, (x, y) = small.new(), small.images(8)
    attack = FUNCTIONS[name]
    torch.manual_seed(3)
    expected = attack(model, x[::2].contiguous(), y[::2], epsilon=EPSILON)
    wide = torch.zeros(4, 3, 20, 20)
    wide[:, :, 2:18, 2:18] = x[::2]
    with torch.inference_mode():
        born_there = x[::2] * 1
    for view in (x[::2], wide[:, :, 2:18, 2:18], x[::2].contiguous().requires_grad_(), born_there):
        torch.manual_seed(3)
        with warnings.catch_warnings(), torch.inference_mode(view is born_there):
            warnings.simplefilter("error")
            moved = attack(model, view, y[::2].to(torch.uint8), epsilon=np.float32(EPSILON))
        assert torch.allclose(moved, expected, atol=1e-6)
        assert not moved.requires_grad
    expanded = x[:1].expand(4, -1, -1, -1)
    assert attack(model, expanded, y[:1].expand(4).numpy()).shape == expanded.shape


def test_evaluation_takes_what_users_have():
    model, (x, y) = small.new(), small.images(8)
    expected = evaluate_robustness(model, x, y, ["pgd3", "cw3"]).correct

    class WithLogits(small.Classifier):
        def forward(self, x):
            return SimpleNamespace(logits=super().forward(x))

    class WithDict(small.Classifier):
        def forward(self, x):
            return {"loss": None, "logits": super().forward(x)}

    traced = torch.jit.trace(model, x[:2])
    models = [model, lambda x: model(x), model.forward, small.new(WithLogits), small.new(WithDict), traced]
    for other in models:
        for labels in (y.int(), y.numpy(), y.tolist()):
            found = evaluate_robustness(other, x, labels, "pgd3, cw3", epsilon=np.float64(EPSILON))
            assert all(torch.equal(found.correct[name], outcome) for name, outcome in expected.items())
    assert evaluate_robustness(model, x.numpy(), y, "pgd3").correct["pgd3"].equal(expected["pgd3"])


def test_a_function_puts_its_model_into_eval_mode():
    model, (x, y) = small.new().train(), small.images(8)
    before = [b.clone() for b in model.buffers()]
    for function in (lambda x: model(x), lambda x, model=model: model(x), model.forward, model.__call__):
        moved = pgd(function, x, y, generator=torch.Generator().manual_seed(0))
        assert torch.equal(moved, pgd(model, x, y, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


class Tuple(small.Classifier):
    def forward(self, x):
        return super().forward(x), None


class Nothing(small.Classifier):
    def forward(self, x):
        return None


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("kind", "what"), [(Tuple, "a tuple"), (Nothing, "nothing")])
def test_what_is_no_logits_is_said(name, kind, what):
    x, y = small.images(4)
    with pytest.raises(InputError, match=rf"{kind.__name__} returns {what} where logits \[B, K\] are needed"):
        FUNCTIONS[name](small.new(kind), x, y)
    with pytest.raises(TypeError, match="must be a module or a function of images, got str"):
        FUNCTIONS[name]("model.pt", x, y)


class Detached(small.Classifier):
    def features(self, x):
        return super().features(x).detach()

    def forward(self, x):
        return super().forward(x).detach()


class Unused(small.Classifier):
    def features(self, x):
        return super().features(torch.ones_like(x).requires_grad_())


@pytest.mark.parametrize("kind", [Detached, Unused])
@pytest.mark.parametrize("name", ["pgd", "fgsm", "by name", "autoattack", "interpolation", "evaluation", "masking"])
def test_a_model_without_gradients(name, kind):
    x, y = small.images(4)
    with pytest.raises(InputError, match=r"no gradient reaches the images: .*spsa and square"):
        FUNCTIONS[name](small.new(kind), x, y)
    blind = [*BLACK_BOXES, "square"]
    assert evaluate_robustness(small.new(kind), x, y, blind).correct.keys() == {"clean", *blind}


def test_features_that_are_none():
    class TupleFeatures(small.Classifier):
        def features(self, x):
            return (super().features(x),)

        def forward(self, x):
            return self.f(self.features(x)[0].flatten(1))

    model, (x, y) = small.new(TupleFeatures), small.images(4)
    with pytest.raises(TypeError, match=r"features\(x\) of TupleFeatures returns a tuple where a tensor"):
        adversarial_interpolation(model, x, y)
    with pytest.raises(InputError, match="returns a tuple where a tensor of features"):
        evaluate_robustness(model, x, y, "feature2")
    with pytest.raises(TypeError, match="feature_fn returns a tuple where a tensor of features"):
        adversarial_interpolation(model, x, y, feature_fn=model.features)
    with pytest.raises(InputError, match=r"no gradient reaches the images: .*feature_fn"):
        adversarial_interpolation(model, x, y, feature_fn=torch.no_grad()(small.new().features))


class InPlace(small.Classifier):
    def features(self, x):
        return super().features(x.sub_(0.5).div_(0.5))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_model_that_normalises_in_place(name):
    model, (x, y) = small.new(InPlace), small.images(4)
    before = x.clone()
    FUNCTIONS[name](model, x, y)
    assert torch.equal(x, before)


def test_in_place_or_not_the_outcomes_are_the_same():
    class Apart(small.Classifier):
        def features(self, x):
            return super().features((x - 0.5) / 0.5)

    x, y = small.images(12)
    names = [*NAMES, *BLACK_BOXES, *STAGED, "transfer-pgd3"]
    found = [evaluate_robustness(m, x, y, names, surrogate=m).correct for m in map(small.new, (InPlace, Apart))]
    assert all(torch.equal(found[0][name], outcome) for name, outcome in found[1].items())


def test_a_stale_number_of_classes_is_not_believed():
    model, (x, y) = small.new(), small.images(4)
    model.num_classes = 1000
    assert adversarial_interpolation(model, x, y)[1].shape == (4, 10)
    model.f = nn.Linear(512, 7)
    assert adversarial_interpolation(model, x, y % 7)[1].shape == (4, 7)


class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.f, self.b = nn.Linear(768, 10), nn.BatchNorm1d(768, track_running_stats=False)

    def features(self, x):
        return self.b(x.flatten(1))

    def forward(self, x):
        return self.f(self.features(x))


def test_no_image_is_tried_alone():
    model, (x, y) = small.new(BatchStatistics), small.images(9)
    found = evaluate_robustness(model, x, y, ["pgd2", "apgd-ce"], batch_size=4)
    assert len(found.correct["pgd2"]) == 9
    assert adversarial_interpolation(model, x, y)[0].shape == x.shape
    with pytest.raises(InputError, match="one alone has no logits"):
        evaluate_robustness(model, x, y + 0, "local-search-1")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_default_types_and_devices_do_not_matter(dtype):
    model, (x, y) = small.new(), small.images(8)

    def everything():
        torch.manual_seed(0)
        found = evaluate_robustness(model, x, y, [*NAMES, *BLACK_BOXES, *STAGED])
        signs = masking_signs(model, x, y)
        moved = [pgd(model, x, y, steps=2), *adversarial_interpolation(model, x, y)]
        return {**found.correct, **dict(enumerate(moved))}, signs

    expected, signs = everything()
    torch.set_default_dtype(dtype)
    try:
        found, again = everything()
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert again == signs
    torch.set_default_device("meta")
    try:
        assert all(not value.is_meta for value in everything()[0].values())
    finally:
        torch.set_default_device(None)


def test_the_callers_random_states_are_left_alone():
    model, (x, y) = small.new(), small.images(4)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    evaluate_robustness(model, x, y, [*NAMES, *BLACK_BOXES, *STAGED])
    masking_signs(model, x, y)
    for attack in ("pgd", "fgsm", "spsa", "local search", "by name", "autoattack"):
        FUNCTIONS[attack](model, x, y, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[2], strict=True))


@pytest.mark.parametrize(
    "name", [*NAMES, *BLACK_BOXES, *STAGED, "pgd-min", "spsa-2x1+local-search-linf-1", "transfer-pgd2", "pgd100"]
)
def test_every_name_is_an_attack(name):
    """Its images fool the model as often as they are said to, and are in the ball."""
    model, (x, y) = small.new(), small.images(8)
    more = {"surrogate": model} if "transfer" in name else {}
    moved = ATTACKS[name](model, x, y, epsilon=EPSILON, generator=torch.Generator().manual_seed(0), **more)
    assert moved.shape == x.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    if name != "local-search-2":
        assert (moved - x).abs().max() <= EPSILON + 1e-6
    if not name.startswith(("spsa", "local", "feature", "square")):
        assert (model(moved).argmax(1) == y).sum() < 6


def test_names_that_count_more_fool_more():
    model, (x, y) = small.new(), small.images(40)

    def standing(name):
        moved = ATTACKS[name](model, x, y, epsilon=6 / 255, generator=torch.Generator().manual_seed(0))
        return int((model(moved).argmax(1) == y).sum())

    assert standing("pgd2-worst") <= standing("pgd2")
    assert 0 < standing("pgd1-min9") < standing("pgd1")


def test_names_that_are_none():
    with pytest.raises(InputError, match="Did you mean 'pgd20'"):
        ATTACKS["pdg20"]
    with pytest.raises(InputError, match="need the model that they are made on"):
        ATTACKS["transfer-pgd2"](small.new(), *small.images(2), epsilon=EPSILON)
    assert list(ATTACKS) == ["fgsm", "pgd20", "cw20"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": -1}, ValueError, "batch_size must be at least 1, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, got 2.5"),
        ({"epsilon": torch.ones(3)}, TypeError, r"epsilon must be a number, got a tensor.* \[3\]"),
    ],
)
def test_numbers_that_are_none(options, error, message):
    model, (x, y) = small.new(), small.images(4)
    for call in (evaluate_robustness, masking_signs):
        with pytest.raises(error, match=message):
            call(model, x, y, **options)


def test_steps_that_are_none():
    model, (x, y) = small.new(), small.images(2)
    for options in ({"steps": 0}, {"step_size": 0}, {"step_size": float("nan")}, {"at_a_time": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            pgd(model, x, y, **options)
    with pytest.raises(ValueError, match="step_size must be above 0, got nan"):
        evaluate_robustness(model, x, y, step_size=float("nan"))
    for options in ({"directions": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1"):
            spsa(model, x, y, **options)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        local_search(model, x, y, rounds=0)


def test_nothing_is_read_while_a_graph_is_captured(monkeypatch):
    """A check would synchronise: images that would be refused pass, as they do in a compiled function."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    model, (x, y) = small.new(), small.images(2)
    assert pgd(model, 255 * x, y, steps=1).shape == x.shape


def test_a_model_that_switches_precision_in_its_pass():
    class Switching(small.Classifier):
        def forward(self, x):
            with torch.backends.cudnn.flags(allow_tf32=torch.backends.cudnn.allow_tf32):
                return super().forward(x)

    model, (x, y) = small.new(Switching), small.images(4)
    assert evaluate_robustness(model, x, y, "pgd2").accuracy()["clean"] == 100


def test_a_subject_is_not_wrapped_twice():
    subject = Subject.of(small.new())
    assert Subject.of(subject) is subject
