"""Networks made of their names: what they draw, what they leave alone, what they refuse."""

import copy
import pickle
import sys
import threading
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from tolerances import REDUCTION
from torch import nn

from fastait.models import WideResNet, make, normalization
from fastait.models.gowal_wide_resnet import CIFAR10_MEAN, CIFAR10_STD
from fastait.runtime.errors import InputError

NAMES = (
    *("wrn-10-1", "wrn-10-1-silu", "resnet-18", "preact-resnet-18", "timm:resnet10t", "timm:vit_tiny_patch16_224"),
    "torchvision:mobilenet_v2",
)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def made(name, classes=10, seed=0, **options):
    if ":" in name and name.partition(":")[0] in ("timm", "torchvision"):
        pytest.importorskip(name.partition(":")[0])
    return make(name, classes, generator_seed=seed, **options)


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


@pytest.mark.parametrize("name", NAMES)
def test_seeds(name):
    """The same ones draw the same weights, whatever the caller's random state, default type and default device."""
    model = made(name)
    assert model.training
    assert {t.dtype for t in model.state_dict().values()} <= {torch.float32, torch.int64}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            other = made(name)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(model, other)
    assert not any(parameter.is_inference() for parameter in other.parameters())
    assert all(parameter.requires_grad for parameter in other.parameters())
    assert not same(model, made(name, seed=1))
    assert {t.device.type for t in (*other.parameters(), *other.buffers())} == {"cpu"}


def test_wide_resnets_are_drawn_as_ever():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        usual = WideResNet(16, 2, 7)
    assert same(made("wrn-16-2", 7, seed=3), usual)


@pytest.mark.parametrize("name", ["wrn-10-1", "timm:vit_tiny_patch16_224"])
def test_nothing_need_be_drawn(name):
    model = made(name, seed=None)
    model.load_state_dict(made(name, seed=1).state_dict(), strict=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), made(name, seed=1).eval()(x))


def test_another_thread_that_draws_notices_nothing():
    pytest.importorskip("torchvision")
    torch.manual_seed(1)
    expected = [torch.rand(4) for _ in range(400)]
    torch.manual_seed(1)
    seen, ready, done = [], threading.Event(), threading.Event()

    def draw():
        while len(seen) < 400:
            seen.append(torch.rand(4))
            ready.set()
            if len(seen) < 350:
                done.wait(0.0005)

    thread = threading.Thread(target=draw)
    thread.start()
    ready.wait()
    models = [made("torchvision:mobilenet_v2"), made("resnet-18")]
    done.set()
    thread.join()
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert same(models[0], made("torchvision:mobilenet_v2"))


@pytest.mark.parametrize("name", NAMES)
def test_a_step(name):
    model = made(name, 5, image_size=32)
    loss = F.cross_entropy(model(torch.rand(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wrn-10-1", ((0.5,) * 3, (0.5,) * 3)),
        ("wrn-10-1-silu", (CIFAR10_MEAN, CIFAR10_STD)),
        ("resnet-18", ((0.0,) * 3, (1.0,) * 3)),
        ("torchvision:mobilenet_v2", IMAGENET),
        ("timm:resnet10t", IMAGENET),
        ("timm:vit_tiny_patch16_224", ((0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_normalisation(name, expected):
    found = normalization(made(name))
    for ours, said in zip(found, expected, strict=True):
        assert ours == pytest.approx(said)
    assert normalization(nn.Linear(2, 2)) is None


@pytest.fixture
def mobilenet():
    return made("torchvision:mobilenet_v2", 3).eval()


def test_normalisation_is_the_first_operation_and_no_names_change(mobilenet):
    from torchvision import models

    plain = models.mobilenet_v2(num_classes=3).eval()
    plain.load_state_dict(mobilenet.state_dict(), strict=True)
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(mobilenet(x), plain((x - mean) / std), **REDUCTION[torch.float32])
    assert isinstance(mobilenet, models.MobileNetV2)
    assert type(mobilenet).__name__ == "MobileNetV2"


def test_torchs_tools_see_the_normalisation(mobilenet):
    from torchvision.models.feature_extraction import create_feature_extractor

    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = mobilenet(x)
        for other in (
            copy.deepcopy(mobilenet),
            pickle.loads(pickle.dumps(mobilenet)),
            torch.fx.symbolic_trace(mobilenet),
            torch.jit.script(mobilenet),
        ):
            torch.testing.assert_close(other(x), logits, **REDUCTION[torch.float32])
        extracted = create_feature_extractor(mobilenet, ["classifier"])(x)["classifier"]
        torch.testing.assert_close(extracted, logits, **REDUCTION[torch.float32])
        torch.testing.assert_close(mobilenet.double()(x.double()).float(), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("timm:resnet10x", {}, "timm has no classifier of that name; did you mean timm:resnet10t"),
        ("timm:resnet10t.nobodys", {}, "timm has no classifier of that name"),
        ("torchvision:resnet19", {}, "torchvision has no classifier of that name; did you mean torchvision:resnet"),
        ("torchvision:fcn_resnet50", {}, "torchvision has no classifier of that name"),
        ("timm:vit_tiny_patch16_224", {"image_size": 8}, "images of 8x8"),
        ("torchvision:vgg11", {"image_size": 16}, "does not take images of 16x16 in eval mode: RuntimeError"),
        ("wrn-10-1", {"pretrained": True}, "--pretrained is for timm:NAME and torchvision:NAME"),
        ("nets:make", {}, "function of somebody's own, .*--model nets:make on the command line, or model="),
    ],
)
def test_what_is_refused(name, options, said):
    with pytest.raises(InputError, match=said) as caught:
        made(name, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("library", "extra"), [("timm", "timm"), ("torchvision", "train")])
def test_a_library_that_is_not_there(library, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"{library} cannot be imported .*pip install 'fastait\[{extra}\]'"):
        make(f"{library}:resnet10t", 10, generator_seed=0)


def test_pretrained_weights_without_a_network(monkeypatch):
    api = pytest.importorskip("torchvision.models._api")

    def fails(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(api, "load_state_dict_from_url", fails)
    with pytest.raises(
        InputError, match=r"--pretrained: weights of torchvision:mobilenet_v2 cannot be had \(.*no route"
    ):
        made("torchvision:mobilenet_v2", pretrained=True)


def test_pretrained_weights_of_timm_without_a_network(monkeypatch):
    timm = pytest.importorskip("timm")

    def fails(*arguments, **options):
        raise OSError("no route to host")

    for name in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(timm.models._builder, name, fails)
    with pytest.raises(InputError, match=r"--pretrained: weights of timm:resnet10t cannot be had \(no route to host\)"):
        made("timm:resnet10t", pretrained=True)


def test_pretrained_weights_with_another_number_of_classes(monkeypatch):
    """All but the last layer are the library's; that one is drawn from the seed."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(9)
    theirs = models.mobilenet_v2().state_dict()
    monkeypatch.setattr(models._api, "load_state_dict_from_url", lambda *arguments, **options: theirs)
    model = made("torchvision:mobilenet_v2", 5, pretrained=True)
    ours = model.state_dict()
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == {
        "classifier.1.weight",
        "classifier.1.bias",
    }
    assert ours["classifier.1.weight"].shape == (5, 1280)
    assert same(model, made("torchvision:mobilenet_v2", 5, pretrained=True))
    assert same(made("torchvision:mobilenet_v2", 1000, pretrained=True), models.mobilenet_v2(weights="DEFAULT"))


NETS = """
import torch
from torch import nn

numbers = [1]

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(3), nn.Linear(3, classes)
    def forward(self, x):
        return self.fc(self.norm(x.mean(dim=(2, 3))))

def make(classes):
    return Net(classes)

def double(classes):
    return Net(classes).double()

def raises(classes):
    return Net(classes)(torch.rand(2, 5, 4, 4))

def leaves(classes):
    raise SystemExit(3)

def nothing(classes):
    pass

def seven(classes):
    return Net(7)

def plain(classes):
    return nn.Flatten(2)

def frozen(classes):
    return Net(classes).requires_grad_(False)

class Fails(Net):
    def forward(self, x):
        raise KeyError("size")

class Trains(Net):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits

def no_arguments():
    return Net(10)
"""


@pytest.fixture
def nets(monkeypatch):
    """A user's file in the current folder, which is not where Python looks."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    Path("nets.py").write_text(NETS)
    Path("broken.py").write_text("import torch\nx = torch.nope\n")
    Path("wrong.py").write_text("def make(:\n")
    Path("needs.py").write_text("import nothing_of_that_name\n")
    yield
    for name in ("nets", "broken", "wrong", "needs"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize("name", ["nets:make", "nets:Net", "nets:double"])
def test_a_users_own(name):
    path, state = list(sys.path), torch.get_rng_state()
    model = make(name, 6, generator_seed=0, allow_own=True)
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.norm.running_mean, torch.zeros(3)), "the trial leaves no statistics"
    assert model.norm.num_batches_tracked == 0
    assert same(model, make(name, 6, generator_seed=0, allow_own=True))
    assert model(torch.rand(4, 3, 32, 32)).shape == (4, 6)


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nets:mak", "nets has no 'mak'; did you mean 'make'"),
        ("nets:numbers", "is a list, where a function or a class is needed"),
        ("nets:raises", r"calling it with 10 classes failed: RuntimeError: .* \(.*nets.py:12\)"),
        ("nets:leaves", r"failed: SystemExit: 3 \(.*nets.py:24\)"),
        ("nets:nothing", "returns a NoneType, where a torch.nn.Module is needed"),
        ("nets:seven", "tells 7 classes apart, the data set has 10"),
        ("nets:plain", r"returns \[2, 3, 1024\] for 2 images in eval mode, where logits \[2, 10\]"),
        ("nets:frozen", "without parameters to train"),
        ("nets:Fails", r"images of 32x32 in eval mode: KeyError: 'size' \(.*nets.py:40\)"),
        ("nets:Trains", "returns a tuple for 2 images in train mode"),
        ("nets:no_arguments", "calling it with 10 classes failed: TypeError: .*argument"),
        ("net:make", "there is no module net in "),
        ("tim:resnet10t", "there is no module tim in .*Did you mean timm:resnet10t"),
        ("broken:make", r"importing broken failed: AttributeError: .*nope.* \(.*broken.py:2\)"),
        ("wrong:make", "importing wrong failed: SyntaxError: .*wrong.py, line 1"),
        ("needs:make", r"importing needs failed: ModuleNotFoundError: .*nothing_of_that_name.* \(.*needs.py:1\)"),
    ],
)
def test_what_is_wrong_with_a_users_own(name, said):
    path = list(sys.path)
    with pytest.raises(InputError, match=said) as caught:
        make(name, 10, generator_seed=0, allow_own=True)
    assert len(str(caught.value).splitlines()) == 1
    assert sys.path == path
