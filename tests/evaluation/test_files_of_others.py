"""Files of others by the command and from Python: RobustBench's networks and libraries'."""

import re
import sys
from pathlib import Path

import plain_networks as plain
import pytest
import torch
import torch.nn.functional as F
from files_of_others import SIZE, argv, digits, outcomes, refused, within
from tolerances import LOGITS_FP32, REDUCTION
from torch import nn

from fastait.checkpoints.weights import About, packed
from fastait.data import load_dataset
from fastait.eval import main
from fastait.evaluation import entrants, load_model
from fastait.evaluation.model_files import read_model
from fastait.evaluation.normalization import CIFAR_10, MINUS_ONE_ONE, ZERO_ONE, Normalized, Ordered
from fastait.evaluation.robustbench import export_robustbench
from fastait.models import feature_function, make
from fastait.runtime.errors import InputError
from fastait.runtime.processes import Ranks

pytestmark = pytest.mark.usefixtures("few_images")


BOTH = r"its weights have the names of several networks; say which it is by --model {0} or {1}, or model= in Python$"


MU_SIGMA = {"mu": torch.tensor([0.4914, 0.4822, 0.4465])[None, :, None, None], "sigma": torch.full((1, 3, 1, 1), 0.25)}


def normalised(x):
    return ((x - MU_SIGMA["mu"]) / MU_SIGMA["sigma"]).double()


PREACT = plain.resnet_table(10, preact=True)


PREACT_BN = plain.resnet_table(10, preact=True, final_bn=True)


GOWAL = plain.gowal_table(10, 1, 10)


ROBUSTBENCH = {
    "ResNet": (
        None,
        plain.resnet_table(10),
        lambda state, x: plain.resnet(state, normalised(x)),
        {},
        lambda state: {"state_dict": within("module.", state | MU_SIGMA)},
    ),
    "PreActResNet": ("preact-resnet-18", PREACT, plain.preact_resnet, {"inputs": "zero-one"}, dict),
    "PreActResNet, V2, BN": (
        "preact-resnet-18-v2-bn",
        PREACT_BN,
        lambda state, x: plain.preact_resnet(state, normalised(x), second_version=True),
        {},
        lambda state: (
            within("model.", state) | within("normalize.", {"mean": MU_SIGMA["mu"], "std": MU_SIGMA["sigma"]})
        ),
    ),
    "DMWideResNet, SiLU": (
        "wrn-10-1-silu",
        GOWAL,
        lambda state, x: plain.gowal(state, x, 10),
        {},
        lambda state: {"model_state_dict": within("module.0.", state)},
    ),
    "DMWideResNet, ReLU": ("wrn-10-1-relu", GOWAL, lambda state, x: plain.gowal(state, x, 10, F.relu), {}, dict),
}


@pytest.mark.parametrize("kind", ROBUSTBENCH)
def test_networks_of_robustbench(capsys, kind):
    """Logits in Python, and right and wrong images by the command, are those of networks written independently."""
    name, table, logits, options, wrap = ROBUSTBENCH[kind]
    state = plain.weights(table)
    torch.save(
        wrap({key: value.float() if value.is_floating_point() else value for key, value in state.items()}), "file.pt"
    )
    x, labels = digits()
    with torch.no_grad():
        expected = logits(state, x)
        model, _ = load_model("file.pt", model=name, **options)
        found = model(x.float())
    assert (found - expected).abs().max() < LOGITS_FP32 * expected.abs().max()
    assert main(argv("file.pt", **options, **({} if name is None else {"model": name}))) == 0
    assert f"file.pt: {name or 'resnet-18'} (" in capsys.readouterr().err
    assert outcomes()["clean"] == "".join(str(int(right)) for right in expected.argmax(1) == labels)


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (PREACT_BN, ("preact-resnet-18-bn", "preact-resnet-18-v2-bn")),
        (GOWAL, ("wrn-10-1-silu", "wrn-10-1-relu")),
    ],
)
def test_files_that_do_not_show_which_variant_they_are(capsys, table, names):
    torch.save(within("module.", plain.weights(table)), "file.pt")
    with pytest.raises(InputError, match=BOTH.format(*names)):
        load_model("file.pt")
    line = refused(capsys, *argv("file.pt", model="resnet-18"))
    assert "file.pt: the weights are not those of resnet-18: with" in line.replace("without", "with")
    assert line.endswith(f"they are those of {names[0]} or {names[1]}")
    assert not Path("out").exists()


def test_variants_are_not_taken_for_one_another():
    """The journal of one holds nothing of the other, though the weights are the same."""
    torch.save(plain.weights(GOWAL), "file.pt")
    found = []
    for name in ("wrn-10-1-silu", "wrn-10-1-relu", "wrn-10-1-silu"):
        assert main(argv("file.pt", model=name)) == 0
        found.append(outcomes())
    assert found[0] == found[2] != found[1]
    assert len(Path("out/progress-0.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"weight": torch.zeros(2, 2)},
            r"show no network that has a name here \(it has weight, \.\.\.\); say which it is",
        ),
        (
            {key.replace("layer1.1", "layer1.2"): value for key, value in plain.weights(PREACT).items()}
            | plain.weights(PREACT),
            r"its weights are those of a PreActResNet of 3\+2\+2\+2 blocks, which has no name here; --model package",
        ),
    ],
)
def test_weights_that_show_no_name(capsys, state, said):
    torch.save(state, "file.pt")
    with pytest.raises(InputError, match=said):
        load_model("file.pt")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet18", "--model: 'resnet18' is no network: .* Did you mean 'resnet-18'?"),
        ("timm:resnet10x", "timm has no classifier of that name; did you mean timm:resnet10t"),
        ("no_such_module:net", "file.pt: --model no_such_module:net: there is no module no_such_module"),
        ("wrn-16-1", "the weights are not those of wrn-16-1: without .*; they are those of wrn-10-1$"),
    ],
)
def test_names_that_do_not_fit(capsys, model, said):
    if model.startswith("timm"):
        pytest.importorskip("timm")
    torch.save(make("wrn-10-1", 10, generator_seed=0).state_dict(), "file.pt")
    line = refused(capsys, *argv("file.pt", model=model))
    assert re.search(said, line), line


def test_timm_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    torch.save(make("wrn-10-1", 10, generator_seed=0).state_dict(), "file.pt")
    assert "pip install 'fastait[timm]'" in refused(capsys, *argv("file.pt", model="timm:resnet10t"))


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:mobilenet_v2"])
def test_networks_of_libraries(name):
    """Whatever they are wrapped in, and with as many classes as their last layer has rows."""
    pytest.importorskip(name.partition(":")[0])
    model = make(name, 7, generator_seed=0).eval()
    x = torch.rand(2, 3, 32, 32)
    lightning = within("model.", model.state_dict()) | {"criterion.weight": torch.ones(3)}
    averaged = {"model": make(name, 7, generator_seed=1).state_dict(), "ema": {"module": model.state_dict()}}
    for state in (nn.DataParallel(model).state_dict(), {"state_dict": lightning}, averaged):
        torch.save(state, "file.pt")
        loaded = read_model("file.pt", name)
        assert loaded.num_classes == 7
        assert torch.equal(loaded.network(x), model(x))
        (normalization,) = loaded.normalizations
        assert loaded.normalized(normalization) is loaded.network
    raw = within("0.", {"mean": torch.full((3,), 0.3), "std": torch.full((3,), 0.2)}) | within("1.", model.state_dict())
    torch.save(raw, "file.pt")
    wrapped, _ = load_model("file.pt", model=name)
    expected = type(model).__base__.forward(model, (x - 0.3) / 0.2)
    torch.testing.assert_close(wrapped(x), expected, **REDUCTION[torch.float32])


@pytest.mark.slow
def test_a_network_of_one_size(capsys):
    pytest.importorskip("timm")
    name = "timm:vit_tiny_patch16_224"
    model = make(name, 10, image_size=48, generator_seed=0).eval()
    torch.save(model.state_dict(), "file.pt")
    with pytest.raises(InputError, match=r"file.pt: the weights are not those of \S+: with other shapes of pos_embed"):
        load_model("file.pt", model=name)
    x = torch.rand(1, 3, 48, 48)
    assert torch.equal(load_model("file.pt", model=name, image_size=48)[0](x), model(x))
    Path("said.safetensors").write_bytes(packed(dict(model.state_dict()), About(name, image_size=48)))
    assert torch.equal(load_model("said.safetensors")[0](x), model(x))
    assert main(argv("file.pt", model=name, image_size=48)) == 0
    capsys.readouterr()
    assert main(argv("said.safetensors", image_size=None)) == 0
    capsys.readouterr()
    line = refused(capsys, *argv("said.safetensors", image_size=32))
    assert f"said.safetensors: {name} does not take images of 32x32: AssertionError: Input height (32)" in line


def probed(loaded, labels_by=None, asked=None):
    """The entrant of 60 test images, labelled as the network does by one of its normalisations."""
    images = load_dataset("digits", image_size=SIZE).test.stratified(60)
    if labels_by is not None:
        with torch.no_grad():
            labels = loaded.normalized(labels_by)(images.floats(torch.arange(60), torch.device("cpu"))).argmax(1)
        images = type(images)(images.images, labels)
    classes = [str(digit) for digit in range(10)]
    options = {"numbered": False, "device": torch.device("cpu"), "ranks": Ranks()}
    return entrants.make_entrant(loaded, classes, asked=asked, images=images, **options)


def test_how_a_resnet_normalises_is_measured():
    torch.save(plain.weights(plain.resnet_table(10)), "file.pt")
    loaded = read_model("file.pt")
    for right in (ZERO_ONE, CIFAR_10):
        found = probed(loaded, right)
        assert found.normalization == right
        assert "the file does not say; clean accuracy on 60 test images: [0, 1] " in found.why
    with pytest.warns(UserWarning, match=r"\[0, 1\] is assumed"):
        load_model("file.pt")


def test_how_gowals_network_normalises():
    state = plain.weights(GOWAL)
    x, _ = digits()
    for drop, why in ((False, "the file holds mean and std"), (True, "the file does not say")):
        kept = {key: value for key, value in state.items() if not (drop and key in ("mean", "std"))}
        torch.save(kept, "file.pt")
        loaded = read_model("file.pt", "wrn-10-1-silu")
        assert loaded.why == why
        (normalization,) = loaded.normalizations
        numbers = state if not drop else {"mean": torch.tensor(CIFAR_10.mean), "std": torch.tensor(CIFAR_10.std)}
        assert normalization.mean == pytest.approx(numbers["mean"].flatten().tolist())
        assert loaded.normalized(normalization) is loaded.network
        other = loaded.normalized(MINUS_ONE_ONE)
        ones = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.5)}
        with torch.no_grad():
            expected = plain.gowal({**state, **ones}, x, 10)
            assert (other(x.float()) - expected).abs().max() < LOGITS_FP32 * expected.abs().max()


def test_whatever_the_caller_has_set():
    torch.save(make("resnet-18", 10, generator_seed=0).state_dict(), "file.pt")
    x = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    expected = load_model("file.pt", mean=[0.4], std=[0.2])[0](x)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            model = load_model("file.pt", mean=[0.4], std=[0.2])[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model(x), expected)
    model(x).sum().backward()
    assert x.grad.any()


class Odd(nn.Module):
    """Its features are not what its last layer is given."""

    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def features(self, x):
        return self.c(x)

    def forward(self, x):
        return self.f(self.features(x).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "wrap", [lambda model: Normalized(model, CIFAR_10), lambda model: Ordered(model, range(9, -1, -1))]
)
def test_features_of_wrapped_networks(wrap):
    """A method of the network's class wins, also behind what orders its logits or normalises."""
    x = torch.rand(3, 3, SIZE, SIZE)
    for model in (Odd(), nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 10))):
        wrapped = wrap(model.eval()).eval()
        given = (x - wrapped.mean) / wrapped.std if isinstance(wrapped, Normalized) else x
        expected = feature_function(model, x)(given)
        torch.testing.assert_close(feature_function(wrapped, x)(x), expected, **REDUCTION[torch.float32])
        assert expected.dim() == (4 if isinstance(model, Odd) else 2)


EXPORTED = {
    "wrn-16-2": "Hendrycks2019UsingNet(depth=16, widen_factor=2)",
    "wrn-16-2-silu": "DMWideResNet(num_classes=10, depth=16, width=2, activation_fn=Swish)",
    "wrn-10-1-relu": "DMWideResNet(num_classes=10, depth=10, width=1, activation_fn=nn.ReLU)",
    "resnet-18": "ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)",
    "preact-resnet-18": "PreActResNet(PreActBlock, [2, 2, 2, 2], num_classes=10)",
    "preact-resnet-18-v2-bn": "PreActResNet(PreActBlockV2, [2, 2, 2, 2], num_classes=10, bn_before_fc=True)",
}


@pytest.mark.parametrize("name", EXPORTED)
def test_exports_say_which_class_loads_them(name):
    model = make(name, 10, generator_seed=0)
    assert export_robustbench(model, Path("file.pt")) == EXPORTED[name]
    state = torch.load("file.pt", weights_only=True)
    assert state.keys() == model.state_dict().keys()
    if name.startswith(("resnet", "preact")):
        assert state.keys() == plain.resnet_table(10, name.startswith("preact"), name.endswith("bn")).keys()
    elif "-16-2-" in name:
        assert {key: tuple(value.shape) for key, value in state.items()} == plain.gowal_table(16, 2, 10)
