"""Published strengths, as the releases' scripts have them, and what becomes of them in a run's settings."""

import dataclasses

import pytest

from fastait import recipe
from fastait.methods import METHODS, published
from fastait.training.prepare import method_settings


@pytest.mark.parametrize(
    ("dataset", "budget", "expected"),
    [("cifar10", 1, 0.027), ("cifar10", 8, 0.2), ("cifar10", 16, 2.0), ("svhn", 1, 1.657), ("svhn", 12, 3.162)],
)
def test_grad_align_is_as_strong_as_the_budget_needs(dataset, budget, expected):
    """Lines of its two scripts, which round to three places."""
    assert published.penalty("grad-align", dataset, budget / 255, "resnet-18") == pytest.approx(expected, abs=6e-4)


def test_what_a_run_is_told():
    def settings(method, **overrides):
        return method_settings(recipe("cifar10", method=method, **overrides), 10, training_steps=7)

    assert settings("mart").penalty == 6
    assert settings("mart", model="resnet-18").penalty == 5
    assert settings("nu-at").penalty == 4.5
    assert settings("nu-at", penalty=4).penalty == 4
    assert settings("nu-at").training_steps == 7
    assert settings("grad-align", epsilon=4 / 255).penalty == pytest.approx(0.2 / 10**0.5)
    assert settings("madry").penalty == settings("trades").penalty == 0
    assert settings("madry").awp == 0
    assert settings("madry", awp=0.01).awp == 0.01
    assert settings("fgsm-rs").step_size == pytest.approx(10 / 255)
    assert settings("fgsm-rs", epsilon=4 / 255).step_size == pytest.approx(5 / 255)
    assert settings("fgsm-rs", step_size=2 / 255).step_size == 2 / 255
    assert settings("n-fgsm").step_size == 8 / 255
    assert settings("mart").step_size == 2 / 255
    assert settings("mart").steps == 10


def test_a_run_s_folder_says_how_strong_it_was():
    """A resume does not depend on what a later version holds for published."""
    config = recipe("svhn", method="grad-align").resolved()
    assert config.penalty == pytest.approx(2.5)
    config.check()
    assert dataclasses.replace(config, penalty=3.0).penalty_weight() == 3.0
    assert recipe("svhn", method="madry").resolved().penalty is None


def test_awp_s_settings_are_of_methods_that_take_it():
    assert {method for method, _ in published.AWP} < {name for name, method in METHODS.items() if method.awp}


def test_the_fastat_benchmark_s_settings():
    """Its configs/cifar10, and ten steps of PGD."""
    config = recipe("cifar10-fastat", method="n-fgsm")
    assert (config.model, config.epochs, config.batch_size, config.lr) == ("resnet-18", 100, 128, 0.1)
    assert (config.schedule, config.weight_decay, config.label_smoothing) == ("one-cycle", 5e-4, 0.4)
    assert (config.ema, config.val_fraction * 50_000, config.epsilon) == (0.9995, 1000, 8 / 255)
    assert (config.crop_padding, config.flip, config.nesterov) == (4, True, False)
    madry = recipe("cifar10-fastat", method="madry")
    assert (madry.attack_steps, madry.step_size, madry.epochs) == (10, 2 / 255, 100)
    assert recipe("cifar10-fastat", method="nu-at").penalty == 4
    assert recipe("cifar10-fastat", method="grad-align").penalty_weight() == pytest.approx(0.2)
