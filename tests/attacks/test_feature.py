"""The feature attack and the defence that random noise is."""

import pytest
import torch
import trained

from fastait.attacks import RandomSignNoise
from fastait.attacks.batch import expected
from fastait.attacks.feature import targets, towards
from fastait.evaluation import evaluate


def test_targets_are_of_another_class_and_uniform():
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 2, 2])
    counts = torch.zeros(8, 8)
    for restart in range(2000):
        chosen = targets(labels, 5, restart)
        assert (labels[chosen] != labels).all()
        counts[torch.arange(8), chosen] += 1
    for i in range(8):
        others = counts[i][labels != labels[i]]
        expected = 2000 / len(others)
        assert ((others - expected) ** 2 / expected).sum() < 24  # at most 5 degrees of freedom, one in a thousand
    assert torch.equal(targets(labels, 5, 3), targets(labels, 5, 3))
    assert not torch.equal(targets(labels, 5, 3), targets(labels, 6, 3))
    assert targets(torch.zeros(3, dtype=torch.int64), 0, 0).tolist() == [0, 1, 2]


def test_objective_is_the_cosine_of_features():
    model, (x, _) = trained.model("natural"), trained.tensors(6)
    objective = towards(model, x.flip(0))
    with torch.no_grad():
        rows = torch.tensor([4, 1])
        losses, logits = objective(x[rows], rows)
        features = model.features(x)
        expected = torch.nn.functional.cosine_similarity(features[rows], features.flip(0)[rows]) - 1
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)
    assert logits is None


def test_feature_attack_fools_and_restarts_fool_more():
    images = trained.digits(40)
    model = trained.model("adv-interp")
    names = ["feature10", "feature10-min4", "feature10-zero"]
    found = evaluate(model, images, names, epsilon=30 / 255, step_size=6 / 255)
    assert found.accuracy()["feature10"] < found.accuracy()["clean"]
    assert not (found.correct["feature10-min4"] & ~found.correct["feature10"]).any()
    assert found.accuracy()["feature10-min4"] < found.accuracy()["feature10"]


def test_noise_is_of_signs_clipped_and_reseeded():
    seen = []
    model = RandomSignNoise(torch.nn.Identity(), 0.1)
    x = torch.full((2, 3, 40, 40), 0.95)
    for seed in (1, 1, 2):
        model.reseed(seed)
        seen.append((model(x), model(x)))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][0], seen[0][1])
    assert not torch.equal(seen[0][0], seen[2][0])
    values, counts = seen[0][0].unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.85, 1.0]))
    assert abs(counts[0] / counts.sum() - 0.5) < 0.03
    with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\]"):
        RandomSignNoise(model, 8)


def test_noisy_model_is_evaluated_reproducibly_and_attacked_through_its_noise():
    images = trained.digits(40)
    noisy = RandomSignNoise(trained.model("natural"), 20 / 255).eval()
    names = ["pgd10", "eot8-pgd10"]
    found, again = (evaluate(noisy, images, names, epsilon=20 / 255, step_size=5 / 255) for _ in range(2))
    for name, outcome in found.correct.items():
        assert torch.equal(outcome, again.correct[name])
    assert found.accuracy()["eot8-pgd10"] <= found.accuracy()["pgd10"] + 5
    assert found.accuracy()["eot8-pgd10"] < found.accuracy()["clean"]


def test_expectation_over_transformation_averages_gradients():
    factors = iter([1.0, 3.0, 8.0])

    def objective(images, rows):
        return next(factors) * images.flatten(1).sum(1) * (rows + 1), images.flatten(1)

    images, rows = torch.rand(2, 1, 2, 2).requires_grad_(), torch.tensor([0, 4])
    losses, logits = expected(objective, 3)(images, rows)
    (grad,) = torch.autograd.grad(losses.sum(), images)
    torch.testing.assert_close(grad, 4 * (rows + 1.0)[:, None, None, None].expand_as(images))
    assert logits is None  # of which draw? the judge is asked
    assert next(factors, None) is None


def test_expectation_sees_through_a_random_sign_of_the_gradient():
    """A defence that turns the gradient round in a fifth of all passes."""

    class Flipping(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.generator = model, torch.Generator().manual_seed(0)

        def forward(self, x):
            logits = self.model(x)
            sign = 1.0 if torch.rand((), generator=self.generator) < 0.8 else -1.0
            return logits.detach() + sign * (logits - logits.detach())

    images, model = trained.digits(40), trained.model("natural")
    options = {"epsilon": 20 / 255, "step_size": 20 / 255}
    names = ["eot15-pgd1-zero", "pgd1-zero"]
    plain = evaluate(model, images, names, **options).correct["pgd1-zero"]
    found = evaluate(Flipping(model), images, names, **options, batch_size=4)
    assert torch.equal(found.correct["eot15-pgd1-zero"], plain)
    assert not torch.equal(found.correct["pgd1-zero"], plain)
