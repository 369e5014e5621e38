"""Where a network's features are found, and that looking for them leaves the network alone."""

import pickle
import threading

import pytest
import torch
from odd_networks import (
    Averaged,
    Bound,
    CalledTwice,
    Convolution,
    Cosine,
    D,
    Exported,
    FeaturesWithin,
    HuggingFace,
    InPlace,
    K,
    LogSoftmax,
    NoGradients,
    OfTokens,
    OtherWidth,
    Reordered,
    Reparametrised,
    Rotation,
    Scaled,
    Small,
    Tuple,
    TwoHeads,
    TwoNames,
    TwoOfOneWidth,
    WithMethod,
)
from tolerances import REDUCTION
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastait.models import feature_function, make
from fastait.models.features import find_head, renew_head
from fastait.runtime.errors import InputError

"""Features and classes of the small networks."""


def small(kind=Small):
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        for _ in range(2):
            model(torch.rand(8, 3, 9, 9))
    return model.eval()


def images(count=5, seed=1):
    return torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def given(model, layer, x, call=-1):
    """What a layer is given in a pass, by torch's own hooks."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x.clone())
    handle.remove()
    return seen[call]


FOUND = (
    *(Small, LogSoftmax, Scaled, Reordered, InPlace, HuggingFace, NoGradients, TwoOfOneWidth, Rotation, CalledTwice),
    *(Bound, TwoNames, Convolution, OfTokens, FeaturesWithin),
)


@pytest.mark.parametrize("kind", FOUND)
def test_what_the_last_linear_layer_is_given(kind):
    model, x = small(kind), images()
    features = feature_function(model, x)
    assert features.source.startswith("what fc is given")
    assert torch.equal(features(x.clone()), given(model, model.fc, x))
    assert torch.equal(features.part().eval()(x.clone()), given(model, model.fc, x))


@pytest.mark.parametrize("kind", FOUND)
def test_compiled(kind):
    """In one graph, by dynamo; a second shape and a second pass too."""
    if kind is Bound:
        pytest.skip("dynamo of this torch cannot trace a forward that its owner holds")
    model = small(kind)
    part = feature_function(model, images()).part().eval()
    compiled = torch.compile(part, backend="eager", fullgraph=True, dynamic=False)
    for x in (images(), images(), images(3, seed=2)):
        torch.testing.assert_close(compiled(x.clone()), given(model, model.fc, x), **REDUCTION[torch.float32])
    assert not part.given


def test_gradients():
    model, x = small(LogSoftmax).requires_grad_(False), images().requires_grad_()
    features = feature_function(model, x)
    ours = torch.autograd.grad(features(x).square().sum(), x)[0]
    assert torch.equal(ours, torch.autograd.grad(model.hidden(x).square().sum(), x)[0])


def test_autocast():
    model, x = small(), images()
    features = feature_function(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(x), given(model, model.fc, x))
        again = feature_function(small(TwoOfOneWidth), x)
        assert again.source == f"what fc is given ({K} an image)"


def world(model):
    """Everything of a model that could have been touched."""
    return [
        (name, type(m), m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks), dict(m._modules))
        for name, m in model.named_modules()
    ]


@pytest.mark.parametrize("kind", [Small, CalledTwice, TwoNames])
def test_the_model_is_left_alone(kind):
    """In train mode too: no statistics change, nothing is drawn, nothing is registered."""
    model, x = small(kind).train(), images()
    model.body.eval()
    before, state = world(model), {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    features = feature_function(model, x)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert world(model) == before
    features(x)
    assert world(model) == before
    assert not torch.equal(torch.get_rng_state(), drawn), "further passes are in the model's own mode"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert pickle.loads(pickle.dumps(model)).fc.weight.shape == model.fc.weight.shape


def test_the_mode_is_that_of_each_pass():
    model, x = small(), images()
    features = feature_function(model, x)
    model.train()
    torch.manual_seed(1)
    ours = features(x)
    model.body[1].load_state_dict(small().body[1].state_dict())
    torch.manual_seed(1)
    assert torch.equal(ours, model.hidden(x))
    model.eval()
    assert torch.equal(features(x), model.hidden(x))


def test_found_once_for_each_set_of_parameters():
    passes = []
    model = small(TwoOfOneWidth)
    model.body.register_forward_hook(lambda *arguments: passes.append(1))
    x = images()
    for _ in range(3):
        feature_function(model, x)
    assert len(passes) == 1
    model.fc = nn.Linear(K, 3)
    assert feature_function(model, x)(x).shape == (5, K)
    assert len(passes) == 3


def test_threads():
    """Eight threads at once, each with images of its own, get what one gets alone."""
    model = small(CalledTwice)
    batches = [images(seed=seed) for seed in range(8)]
    features = feature_function(model, batches[0])
    alone = [features(x) for x in batches]
    wrong, start = [], threading.Barrier(8)

    def work(x, expected):
        start.wait()
        for _ in range(30):
            if not torch.equal(feature_function(model, x)(x), expected):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(batches, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_read_from_the_device():
    """Neither in the search nor in a pass: a CUDA graph can hold the pass."""
    with FakeTensorMode():
        model, x = Scaled().eval(), torch.rand(4, 3, 9, 9)
        assert feature_function(model, x)(x).shape == (4, D)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_looked_through(wrap):
    model, x = small(), images()
    for wrapped in (wrap(model), nn.Sequential(nn.Identity(), wrap(model)).eval()):
        features = feature_function(wrapped, x)
        assert "fc is given" in features.source
        assert torch.equal(features(x), given(model, model.fc, x))


def test_a_model_that_was_compiled_in_place():
    model, x = small(), images()
    expected = given(model, model.fc, x)
    model.compile(backend="eager")
    model(x)
    assert torch.equal(feature_function(model, x)(x), expected)


def test_distributed(tmp_path):
    model, x = small(), images()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert torch.equal(feature_function(wrapped, x)(x), given(model, model.fc, x))
    finally:
        torch.distributed.destroy_process_group()


def test_traced():
    model, x = small(), images()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(feature_function(traced, x)(x), given(model, model.fc, x))


def test_a_method_wins():
    model, x = small(WithMethod), images()
    for wrapped in (model, nn.DataParallel(model), torch.compile(model, backend="eager")):
        features = feature_function(wrapped, x)
        assert features.source == "features(x) of its class"
        assert torch.equal(features(x), model.features(x))
        assert torch.equal(features.part()(x), model.features(x))
    assert torch.equal(feature_function(torch.jit.script(small(Exported)), x)(x), model.features(x))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Cosine(), r"last weights of Cosine, \[4, 4\], are no linear layer's"),
        (Cosine().requires_grad_(False), r"last weights of Cosine, \[4, 4\], are no linear layer's"),
        (TwoHeads(), r"2 outputs of linear layers \(fc, second\)"),
        (Averaged(), r"2 outputs of linear layers \(fc\)"),
        (OtherWidth(), r"last linear layer, fc, makes \[2, 3\] of 2 images, not their 4 logits"),
        (Tuple(), "Tuple returns no logits"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no linear layer that makes its logits"),
        (nn.Sequential(nn.Conv2d(3, K, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), r"last weights of Sequential"),
        (torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(243, K))), "is scripted"),
        (len, "len has no features"),
    ],
)
def test_where_there_are_none(model, said):
    with pytest.raises(InputError, match=said) as caught:
        feature_function(model, images())
    assert len(str(caught.value).splitlines()) == 1
    if "returns no logits" not in said:
        assert "define a method features(x) in its class" in str(caught.value)


@pytest.mark.parametrize("kind", [Small, TwoNames, Convolution])
def test_a_last_layer_for_other_classes(kind):
    model, x = small(kind), images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    renew_head(model, find_head(model, x), 9)
    assert model(x).shape == (5, 9)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in before if name.endswith((".weight", ".bias")) and before[name].shape[0] == K
    }


LIBRARIES = (
    *(("torchvision:mobilenet_v2", 32, "classifier.1"), ("torchvision:mobilenet_v2", 64, "classifier.1")),
    *(("torchvision:vgg11", 32, "classifier.6"), ("torchvision:densenet121", 32, "classifier")),
    *(("timm:resnet10t", 32, "fc"), ("timm:vit_tiny_patch16_224", 32, "head")),
)


@pytest.mark.parametrize(("name", "size", "place"), LIBRARIES)
def test_networks_of_libraries(name, size, place):
    pytest.importorskip(name.partition(":")[0])
    model = make(name, 10, image_size=size, generator_seed=0).eval()
    x = torch.rand(3, 3, size, size)
    features = feature_function(model, x)
    assert features.source.startswith(f"what {place} is given")
    with torch.no_grad():
        assert torch.equal(features(x), given(model, model.get_submodule(place), x))


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-10-1-silu", "resnet-18", "preact-resnet-18"])
def test_networks_of_ours_have_the_method(name):
    """And it is what the finder would find."""
    model = make(name, 10, generator_seed=0).eval()
    x = torch.rand(3, 3, 16, 16)
    assert feature_function(model, x).source == "features(x) of its class"
    head = find_head(model, x)
    with torch.no_grad():
        assert torch.equal(model.features(x), given(model, model.get_submodule(head.place), x))


@pytest.mark.parametrize(
    "kind",
    [
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        lambda layer: layer.register_forward_hook(lambda module, given, made: 2 * made),
    ],
)
def test_layers_that_are_reparametrised(kind):
    """What they keep of their passes in train mode stays as it was."""
    model, x = Reparametrised(kind).train(), images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = feature_function(model, x)
    assert features.head.places == ("fc",)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    assert torch.equal(features(x), model.hidden(x))


def test_a_layer_that_is_given_its_input_by_name():
    class Named(Small):
        def forward(self, x):
            return self.fc(input=self.hidden(x))

    model, x = Named().eval(), images()
    assert torch.equal(feature_function(model, x)(x), model.hidden(x))


@pytest.mark.parametrize("sample", [nn.Module, [1.0], torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_a_sample_that_holds_no_images_is_named(sample):
    with pytest.raises(TypeError, match="sample must be"):
        feature_function(nn.Linear(2, 2), sample)
