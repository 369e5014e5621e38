"""A step of any network: against a plain loop, compiled, captured, in 16 bits; what it takes for the network's own."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fake_cuda import FakeCuda, recorded
from step_inputs import CPU, EPSILON, LR, batch, make_step
from test_draws import Dropping
from tolerances import FP32_LOSS_FP64_STEP
from torch import nn

from fastait.attacks import Noise
from fastait.data import to_float
from fastait.methods import METHODS
from fastait.models import feature_function, make
from fastait.runtime.randomness import derive
from fastait.training.compiled import Compiled

HEADS = {
    "wrn-10-1": ("fc", 16),
    "resnet-18": ("linear", 16),
    "timm:resnet10t": ("fc", 32),
    "timm:vit_tiny_patch16_224": ("head", 32),
    "torchvision:mobilenet_v2": ("classifier.1", 32),
}
"""The last layers, and an image size."""

SIZE = 4

slow = partial(pytest.param, marks=pytest.mark.slow)


class Odd(nn.Module):
    """Nothing that the others have: no BN, a convolution for a head, buffers of integers and constants, 1-d and 3-d
    parameters, one that is not trained, a block that is called twice, Dropout.
    """

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.fixed = nn.Parameter(torch.ones(8, 1, 1), requires_grad=False)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.full((3, 1, 1), 0.1))
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.again = nn.Conv2d(8, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x):
        if self.training:
            self.passes.add_(1)
        x = F.gelu(self.stem((x - self.mean) * self.scale))
        x = self.norm(self.again(F.gelu(self.again(x)))) * self.fixed
        return self.head(self.drop(x).mean((2, 3), keepdim=True)).flatten(1)


SMALL = {"odd": Odd, "dropping": Dropping}


def network(name, dtype=torch.float32):
    """(network, image size, its last layer's name)."""
    if name in SMALL:
        torch.manual_seed(4)
        return SMALL[name]().to(dtype), 16, "head"
    head, size = HEADS[name]
    if ":" in name:
        pytest.importorskip(name.partition(":")[0])
    model = make(name, 10, image_size=size, generator_seed=0).to(dtype)
    norms = [module for module in model.modules() if hasattr(module, "running_mean")]
    momenta = [module.momentum for module in norms]
    with torch.no_grad():  # without statistics of images, features of so deep a network are nearly zero
        for module in norms:
            module.momentum = 1.0
        model(to_float(batch(99, size=16, image=size)[0], dtype))
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    return model, size, head


def features_of(model, head, x):
    """What the layer ``head`` is given."""
    given = []
    hook = model.get_submodule(head).register_forward_pre_hook(lambda module, args: given.append(args[0]))
    model(x)
    hook.remove()
    return given[-1].flatten(1)


def towards_partners(model, head, z, x, y):
    target = features_of(model, head, x.flip(0)).detach()
    return F.cosine_similarity(features_of(model, head, z), target).sum()


def loss_of(model, head, z, x, y):
    return F.cross_entropy(model(z), y)


def plain_step(model, head, method, x, y, number):
    """Two steps of the attack on a copy in eval mode, one of plain SGD, with what the step draws."""
    noise = Noise.seeded(derive(3, "noise"), CPU)
    noise.seek(torch.tensor([number]))
    start, attacked = noise.start(x, EPSILON), copy.deepcopy(model).eval()
    rise, length = (towards_partners, EPSILON) if method == "adv-interp" else (loss_of, 2 / 255)
    for _ in range(2):
        start = start.detach().requires_grad_()
        (grad,) = torch.autograd.grad(rise(attacked, head, start, x, y), start)
        start = torch.min(torch.max(start.detach() + length * grad.sign(), x - EPSILON), x + EPSILON).clamp(0, 1)
    target = F.one_hot(y, 10).to(x.dtype)
    if method == "adv-interp":
        moved = 1 - (1 - 0.5) ** 2
        target = (1 - moved) * target + moved * (1 - target.flip(0)) / 9
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(3, "network", number, 0))
        logits = model.train()(start.detach())
    (-(target * logits.log_softmax(1)).sum(1).mean()).backward()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        slow("wrn-10-1", "adv-interp"),
        ("wrn-10-1", "madry"),
        slow("resnet-18", "adv-interp"),
        slow("resnet-18", "madry"),
        slow("timm:resnet10t", "adv-interp"),
        slow("timm:resnet10t", "madry"),
        slow("timm:vit_tiny_patch16_224", "adv-interp"),
        slow("timm:vit_tiny_patch16_224", "madry"),
        slow("torchvision:mobilenet_v2", "adv-interp"),
        slow("torchvision:mobilenet_v2", "madry"),
        ("odd", "adv-interp"),
        ("odd", "madry"),
    ],
)
def test_a_step_is_that_of_a_plain_loop(name, method):
    slow, size, head = network(name, torch.float64)
    fast = copy.deepcopy(slow).to(memory_format=torch.channels_last)
    trained = [parameter for parameter in slow.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LR, momentum=0.9, weight_decay=2e-4)
    features = feature_function(fast, torch.zeros(2, 3, size, size, dtype=torch.float64))
    step = make_step(fast, method, steps=2, features=features, at_a_time=3)
    before = copy.deepcopy(slow.state_dict())
    pixels, y = batch(5, size=SIZE, image=size)
    step(pixels, y, 5)
    plain_step(slow, head, method, to_float(pixels, torch.float64), y, 5)
    optimizer.step()
    for key, value in fast.state_dict().items():
        assert_updated_alike(value, slow.state_dict()[key], before[key])


def assert_updated_alike(found, expected, before):
    """As far as the losses, some of which are fp32, allow; relative to the largest change."""
    change = float((expected.double() - before.double()).abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=max(FP32_LOSS_FP64_STEP * change, 1e-12))


@pytest.fixture
def _quick_compiler(monkeypatch):
    """Dynamo alone, which is what a network can be too much for."""
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def both(name, method, *, dtype=torch.float64, **options):
    """Two steps of one network, the second with ``options``."""
    models = [network(name, dtype)[0].to(memory_format=torch.channels_last) for _ in range(2)]
    size = network(name)[1]
    found = [feature_function(model, torch.zeros(2, 3, size, size, dtype=dtype)) for model in models]
    common = {"steps": 2, "batch_size": SIZE}
    first = make_step(models[0], method, features=found[0], **common)
    return size, first, make_step(models[1], method, features=found[1], **common, **options)


@pytest.mark.usefixtures("_quick_compiler")
@pytest.mark.parametrize(
    ("name", "method"), [*(slow(name, "adv-interp") for name in HEADS), ("odd", "adv-interp"), ("odd", "madry")]
)
def test_compiled_steps_are_the_steps(name, method):
    """Without a graph break, and nothing is compiled after the first step."""
    size, eager, compiled = both(name, method, compile=True)
    before = [tensor.detach().clone() for tensor in eager.state()]
    for step in (eager, compiled):
        step(*batch(0, size=SIZE, image=size), 0)
    for found, expected, old in zip(compiled.state(), eager.state(), before, strict=True):
        assert_updated_alike(found.detach(), expected.detach(), old)
    for number in (1, 2):
        compiled(*batch(number, size=SIZE - number % 2, image=size), number)
    assert not torch._dynamo.utils.counters["graph_break"]
    passes = 3 if method == "adv-interp" else 2  # in train mode, in eval mode, and that without a gradient
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == passes


@pytest.mark.usefixtures("_quick_compiler")
@pytest.mark.parametrize("name", [slow("torchvision:mobilenet_v2"), "dropping", "odd"])
def test_compiled_features_are_attacked_in_eval_mode(name):
    """Dropout and BN are what they are in eval mode; then everything is in train mode again."""
    model, size, _ = network(name)
    features = feature_function(model, torch.zeros(2, 3, size, size))
    step = make_step(model, "adv-interp", batch_size=SIZE, compile=True, features=features)
    attacked = []
    compiled = step.features
    step.features = lambda x: attacked.append((compiled(x.detach()), compiled(x.detach()))) or compiled(x)
    before = [buffer.clone() for buffer in model.buffers()]
    trained = step.trained
    seen = []
    step.trained = lambda *args: seen.extend(buffer.clone() for buffer in model.buffers()) or trained(*args)
    modes = {id(module): module.training for module in step.model.modules()}
    step(*batch(0, size=SIZE, image=size), 0)
    assert all(torch.equal(a, b) for a, b in attacked)
    assert len(attacked) == 2
    assert all(torch.equal(a, b) for a, b in zip(before, seen, strict=True))
    assert modes == {id(module): module.training for module in step.model.modules()}
    assert len(modes) > len(list(model.modules()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", [slow("timm:vit_tiny_patch16_224"), slow("torchvision:mobilenet_v2"), "odd"])
def test_replays_in_16_bits(name, dtype, monkeypatch):
    """With buffers of every type, which the warm-up changes."""
    cuda = FakeCuda(monkeypatch)
    size, eager, graphed = both(name, "adv-interp", dtype=torch.float32, graph=True)
    for step in (eager, graphed):
        step.precision = type(step.precision)(CPU, dtype)
    recorded(graphed)
    cuda.tensors = [*graphed.state(), *(p.grad for p in graphed.optimizer.param_groups[0]["params"])]
    start = [tensor.clone() for tensor in graphed.state()]
    for number in range(2):
        for step in (eager, graphed):
            step(*batch(number, size=SIZE, image=size), number)
        assert all(torch.equal(a, b) for a, b in zip(eager.state(), graphed.state(), strict=True))
    assert graphed.graphs
    integers = [i for i, t in enumerate(start) if t.dtype == torch.int64 and t.dim() == 0]
    passes = [int(graphed.state()[i] - start[i]) for i in integers]
    assert set(passes[:-1]) <= {2}, "an update each"  # the last one counts images


def test_statistics_that_are_averaged_over_processes():
    """Running ones: a constant's mean is not always that constant."""
    model, _, _ = network("torchvision:mobilenet_v2")
    averaged = {id(buffer) for buffer in make_step(model, "natural").buffers.means}
    names = [name for name, buffer in model.named_buffers() if id(buffer) in averaged]
    assert names
    assert all(name.rpartition(".")[2] in ("running_mean", "running_var") for name in names)
    assert not make_step(Odd(), "natural").buffers.means


def test_features_must_be_given_where_the_model_has_no_method():
    with pytest.raises(ValueError, match="has no method of that name: give them"):
        make_step(Odd(), "adv-interp")
    assert not METHODS["madry"].interpolates
    make_step(Odd(), "madry")


def test_compiled_shares_everything_with_the_model():
    model = Odd()
    compiled = Compiled(model, feature_function(model, torch.zeros(2, 3, 16, 16)))
    assert list(compiled.parameters()) == list(model.parameters())
    assert list(compiled.buffers()) == list(model.buffers())
    compiled.eval()
    assert not any(module.training for module in [*compiled.modules(), *model.modules()])
