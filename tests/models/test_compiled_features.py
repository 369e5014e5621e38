"""A compiled model's features are compiled in its way, and those of the model."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastait import adversarial_interpolation
from fastait.models import feature_function


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6)), nn.Linear(6, 3)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.fc(self.features(x))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(F.dropout(self.first(x), training=self.training))


class Nested(nn.Module):
    """Its last layer lies deeper, in a block that is random in training."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6)), Head()

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture(params=[Own, Nested])
def model(request):
    torch.manual_seed(0)
    return request.param().double()


@pytest.fixture
def graphs():
    """Each graph that was compiled."""
    return []


@pytest.fixture
def passes():
    """Each graph that was run."""
    return []


@pytest.fixture
def compiled(model, graphs, passes):
    def backend(graph, example):
        graphs.append(graph)
        return lambda *args: passes.append(graph) or graph.forward(*args)

    return torch.compile(model, backend=backend)


def batch(count=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 4, 4, dtype=torch.float64, generator=generator), torch.arange(count) % 3


def test_interpolation_by_a_compiled_model(model, compiled, graphs, passes):
    """The same images, by graphs that are made once, though the model is trained in between."""
    x, y = batch()
    for step in range(3):
        model.train()
        drawn = [torch.Generator().manual_seed(step) for _ in range(2)]
        expected, _ = adversarial_interpolation(model, x, y, generator=drawn[0])
        found, _ = adversarial_interpolation(compiled, x, y, generator=drawn[1])
        torch.testing.assert_close(found, expected)
        if step == 0:
            made = len(graphs)
        else:
            assert len(passes) == 2  # of the partners and of the images
        passes.clear()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
    assert len(graphs) == made


def test_in_the_mode_that_the_model_is_in(model, compiled):
    x, _ = batch()
    features, plain = feature_function(compiled, x), feature_function(model, x)
    for mode in (True, False, True):
        model.train(mode)
        torch.manual_seed(0)
        expected = plain(x)
        torch.manual_seed(0)
        torch.testing.assert_close(features(x), expected)


def test_other_layers_are_seen(model, compiled):
    x, _ = batch()
    compiled.eval()
    before = feature_function(compiled, x)(x)
    if isinstance(model, Nested):
        model.head.first = nn.Linear(6, 6).double()
    else:
        model.body[1] = nn.Linear(48, 6).double()
    after = feature_function(compiled, x)(x)
    torch.testing.assert_close(after, feature_function(model, x)(x))
    assert (after - before).abs().max() > 0.01


@pytest.mark.parametrize("kind", [Own, Nested])
def test_a_compiled_model_is_not_kept(kind):
    model = torch.compile(kind().double(), backend="eager")
    adversarial_interpolation(model, *batch())
    gone = weakref.ref(model), weakref.ref(model._orig_mod)
    del model
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
