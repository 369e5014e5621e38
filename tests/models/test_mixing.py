"""Networks that are mixed on the way: what comes out, what it costs, and that nothing of it stays in the network."""

from collections import Counter

import pytest
import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastait.models import make
from fastait.models.mixing import Mixed, Mixing, Partners, mixed, mixing_places

OURS = ("wrn-10-1", "wrn-10-1-silu", "resnet-18", "preact-resnet-18")

PERMUTATION = torch.tensor([3, 0, 2, 4, 1])
PARTNERS = {
    "reversed": (Partners(), torch.arange(4, -1, -1)),
    "permuted": (Partners(PERMUTATION, PERMUTATION.argsort()), PERMUTATION),
    "some of several": (Partners(torch.tensor([3, 3, 3, 4, 0])), torch.tensor([3, 3, 3, 4, 0])),
}


def plainly(model, x, layer, own, index):
    """The logits by a hook that mixes with an index, as autograd knows it."""

    def mix(hidden):
        return own * hidden + (1 - own) * hidden[index]

    if layer == 0:
        return model(mix(x))
    hook = model.get_submodule(mixing_places(model)[layer - 1]).register_forward_hook(lambda *args: mix(args[2]))
    try:
        return model(x)
    finally:
        hook.remove()


def gradients(model, logits):
    model.zero_grad()
    logits.square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "partners"),
    [*((name, "permuted") for name in OURS), ("wrn-10-1", "reversed"), ("wrn-10-1", "some of several")],
)
def test_the_same_bits_as_a_hook_and_an_index(name, layer, partners):
    """Logits and gradients, train mode's statistics too; three that have one partner are summed in some order."""
    model = make(name, 10, generator_seed=0).to(memory_format=torch.channels_last)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x, own = torch.rand(5, 3, 8, 8), torch.tensor(0.3)
    ours, index = PARTNERS[partners]
    logits = mixed(model, x, Mixing(layer, own, ours))
    found = [logits, *gradients(model, logits), *(buffer.clone() for buffer in model.buffers())]
    model.load_state_dict(state)
    logits = plainly(model, x, layer, own, index)
    expected = [logits, *gradients(model, logits), *model.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Counted(TorchDispatchMode):
    """How often operators are called on tensors of four dimensions."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor) and args[0].dim() == 4:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def of(self, *names):
        return {name: self.counts[name] for name in names if self.counts[name]}


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize(("partners", "gather"), [("reversed", "flip"), ("permuted", "index")])
def test_one_gather_each_way(network, layer, partners, gather):
    with Counted() as counted:
        mixed(network, torch.rand(5, 3, 8, 8), Mixing(layer, torch.tensor(0.3), PARTNERS[partners][0])).sum().backward()
    moving = ("flip", "index", "index_put", "index_put_", "_index_put_impl_", "index_add", "scatter_add", "sort")
    assert counted.of(*moving) == {gather: 2 if layer else 1}  # images ask for no gradient


@pytest.mark.parametrize("partners", PARTNERS)
def test_rows_and_gradients_keep_the_memory_format(partners):
    ours, index = PARTNERS[partners]
    x = torch.rand(5, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    rows = ours(x)
    assert torch.equal(rows, x[index])
    assert rows.stride() == x.stride()
    weight = torch.rand_like(x)
    (grad,) = torch.autograd.grad(rows, x, weight)
    expected = torch.zeros_like(x).index_add_(0, index, weight)
    torch.testing.assert_close(grad, expected, rtol=0, atol=0)
    if ours.index is None or ours.inverse is not None:
        assert grad.stride() == x.stride()


def test_second_derivatives():
    ours, _ = PARTNERS["permuted"]
    x = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: ours(t) ** 3, x)


@pytest.mark.parametrize("name", OURS)
def test_the_network_is_left_alone(name):
    model = make(name, 10, generator_seed=0).eval()
    before = list(model.state_dict()), {id(module): dict(vars(module)) for module in model.modules()}
    x = torch.rand(2, 3, 8, 8)
    for layer in (1, 2):
        mixed(model, x, Mixing(layer, torch.tensor(0.5), Partners()))
        part = Mixed(model, mixing_places(model)[layer - 1])
        assert list(part.parameters()) == list(model.parameters())
        assert list(part.buffers()) == list(model.buffers())
    assert before == (list(model.state_dict()), {id(module): dict(vars(module)) for module in model.modules()})
    for tool in (fx.symbolic_trace, torch.jit.script):
        with torch.no_grad():
            torch.testing.assert_close(tool(model)(x), model(x))


def test_torchvisions_feature_extractor():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = make("wrn-10-1", 10, generator_seed=0).eval()
    x = torch.rand(2, 3, 8, 8)
    found = extraction.create_feature_extractor(model, ["block2", "fc"])(x)
    assert torch.equal(found["fc"], model(x))
    assert found["block2"].shape == (2, 32, 4, 4)


def test_the_mode_is_that_of_each_pass(network):
    x, mixing = torch.rand(5, 3, 8, 8), Mixing(1, torch.tensor(0.5), Partners())
    tracked = network.block3.layer[0].bn1.num_batches_tracked
    before = int(tracked)
    mixed(network.eval(), x, mixing)
    assert int(tracked) == before
    mixed(network.train(), x, mixing)
    assert int(tracked) == before + 1


class Own(nn.Module):
    """A network of somebody's own, with a block that is called as often as ``calls`` says."""

    mixing_places = ("body.block",)

    def __init__(self, calls=1):
        super().__init__()
        self.calls = calls
        self.body = nn.ModuleDict({"block": nn.Conv2d(3, 3, 1)})
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        for _ in range(self.calls):
            x = self.body["block"](x)
        return self.fc(x.mean((2, 3)))


def test_a_network_of_ones_own():
    model, x, own = Own(), torch.rand(5, 3, 2, 2), torch.tensor(0.25)
    ours, index = PARTNERS["permuted"]
    assert mixing_places(nn.DataParallel(model)) == ("body.block",)
    assert torch.equal(mixed(model, x, Mixing(1, own, ours)), plainly(model, x, 1, own, index))
    assert mixing_places(nn.Linear(1, 1)) == ()


@pytest.mark.parametrize(("calls", "said"), [(0, "body.block is not called"), (2, "called more than once")])
def test_a_place_that_is_not_called_once(calls, said):
    part = Mixed(Own(calls), "body.block")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=said):
            part(torch.rand(2, 3, 2, 2), torch.tensor(0.5), None, None)


def test_compiled_whole(network):
    """Without a graph break, and compiled once for the shares and partners of all steps."""
    torch._dynamo.utils.counters.clear()
    part = Mixed(network.eval(), "block1")
    compiled = torch.compile(part.forward, backend="eager", fullgraph=True, dynamic=False)
    x = torch.rand(5, 3, 8, 8)
    for share in (0.2, 0.7):
        partners = Partners(permutation := torch.randperm(5), permutation.argsort())
        expected = mixed(network, x, Mixing(1, torch.tensor(share), partners))
        assert torch.equal(compiled(x, torch.tensor(share), partners.index, partners.inverse), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_the_mixed_layer_makes_its_weight_in_each_pass(norm):
    """As hooks and parametrisations do; the gradient reaches what it is made of."""

    class Own(nn.Sequential):
        mixing_places = ("0",)

    model = Own(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    norm(model[0])
    x, own = torch.rand(5, 3, 8, 8), torch.tensor(0.7)
    model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    expected = gradients(model, plainly(model, x, 1, own, PARTNERS["reversed"][1]))
    got = gradients(model, mixed(model, x, Mixing(1, own, Partners())))
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one, other)
