"""Networks from files of several origins."""

import numpy as np
import pytest
import torch
import trained
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fastait.checkpoints.weights import About, packed
from fastait.evaluation import load_model
from fastait.evaluation.model_files import read_model
from fastait.evaluation.normalization import MINUS_ONE_ONE, ZERO_ONE, Normalization
from fastait.evaluation.robustbench import export_robustbench
from fastait.models import WideResNet
from fastait.runtime.errors import InputError, RunError


@pytest.fixture
def network():
    torch.manual_seed(3)
    model = WideResNet(16, 2, 7)
    model.train()
    model(torch.rand(8, 3, 16, 16))
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "acc": np.float64(0.9), 3: "three"},
        lambda state: {"net": {f"module.{k}": v for k, v in state.items()}, "epoch": 199, "acc": 0.9},
        lambda state: {"net": {f"module.basic_net.{k}": v for k, v in state.items()}},
        lambda state: {f"model.{k}": v for k, v in state.items()},
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
        lambda state: {**state, **{k.replace("block1", "sub_block1"): v for k, v in state.items() if "block1" in k}},
    ],
    ids=["bare", "state_dict", "authors", "feature-scatter", "model.", "without counters", "sub_block1"],
)
def test_state_dicts(tmp_path, network, wrap):
    torch.save(wrap(network.state_dict()), tmp_path / "file.pt")
    model, config = load_model(tmp_path / "file.pt", "minus-one-one")
    assert not model.training
    assert config == {}
    assert torch.equal(logits(model), logits(network))


def other(state):
    """Weights that are not meant."""
    return {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}


def within(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(nn.DataParallel(model)).state_dict(),
        lambda model: {"state_dict": nn.DataParallel(torch.compile(model)).state_dict()},
        lambda model: {"model": within("model.", model.state_dict()) | {"criterion.weight": torch.ones(3)}},
        lambda model: (
            nn.ModuleDict({"block1": torch.compile(model.block1)}).state_dict()
            | {name: value for name, value in model.state_dict().items() if not name.startswith("block1.")}
        ),
        lambda model: within("net.model.", model.state_dict()),
        lambda model: {"checkpoint": {"weights": model.state_dict()}, "optimizer": {"state": {"0": torch.ones(2)}}},
    ],
    ids=["compile of parallel", "parallel of compile", "lightning", "compiled block", "net.model.", "nested"],
)
def test_names_that_wrappers_leave(tmp_path, network, wrap):
    torch.save(wrap(network), tmp_path / "file.pt")
    found = read_model(tmp_path / "file.pt")
    assert torch.equal(logits(found.network), logits(network))
    assert found.notes == (
        ("tensors beside its network are passed over ('criterion.weight')",)
        if "criterion" in str(torch.load(tmp_path / "file.pt").get("model", {}).keys())
        else ()
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda good, bad: {"model": bad, "model_ema": good},
        lambda good, bad: {"state_dict": within("module.", bad), "ema_state_dict": within("module.", good)},
        lambda good, bad: {"state_dict": bad, "state_dict_ema": good},
        lambda good, bad: {"model": bad, "ema": {"module": good, "decay": 0.99}},
        lambda good, bad: {"model_state_dict": good, "unaveraged_model_state_dict": bad},
        lambda good, bad: {"state_dict": within("model.", bad) | within("ema_model.module.", good)},
        lambda good, bad: within("online_model.", bad) | within("ema_model.", good) | {"step": torch.tensor(3)},
    ],
    ids=["model_ema", "ema_state_dict", "timm", "ema.module", "unaveraged", "lightning", "ema-pytorch"],
)
def test_averaged_weights_before_plain_ones(tmp_path, network, wrap):
    torch.save(wrap(network.state_dict(), other(network.state_dict())), tmp_path / "file.pt")
    found = read_model(tmp_path / "file.pt")
    assert torch.equal(logits(found.network), logits(network))
    assert len(found.notes) == 1
    assert "it holds 2 networks" in found.notes[0]


def test_averages_that_torch_makes(tmp_path, network):
    torch.save(AveragedModel(nn.DataParallel(network)).state_dict(), tmp_path / "file.pt")
    found = read_model(tmp_path / "file.pt")
    assert torch.equal(logits(found.network), logits(network))
    assert not found.notes
    averaged = within("swa.", AveragedModel(network).state_dict())
    torch.save({"model": within("net.", other(network.state_dict())) | averaged}, tmp_path / "file.pt")
    found = read_model(tmp_path / "file.pt")
    assert "averaged weights are taken, model.swa" in found.notes[0]
    with pytest.warns(UserWarning, match="averaged weights are taken"):
        assert torch.equal(logits(load_model(tmp_path / "file.pt", "minus-one-one")[0]), logits(network))


@pytest.mark.parametrize(
    ("add", "normalization"),
    [
        (lambda state: state | within("sub_", {n: v for n, v in state.items() if n.startswith("block1")}), ZERO_ONE),
        (lambda state: state | {"mu": torch.zeros(1, 3, 1, 1), "sigma": torch.ones(1, 3, 1, 1)}, ZERO_ONE),
        (lambda state: state | {"mean": torch.tensor(0.5), "std": torch.tensor(0.5)}, MINUS_ONE_ONE),
        (
            lambda state: (
                within("1.", state) | {"0.mean": torch.tensor([0.4, 0.5, 0.6]), "0.std": torch.full((3,), 0.2)}
            ),
            Normalization.of([0.4, 0.5, 0.6], [0.2]),
        ),
        (
            lambda state: {
                "net": within("module.model.", state)
                | {
                    "module.normalize.mean": torch.full((3, 1, 1), 51.0),
                    "module.normalize.std": torch.full((3, 1, 1), 102.0),
                }
            },
            Normalization.of([0.2], [0.4]),
        ),
    ],
    ids=["sub_block1", "mu", "mean", "sequential", "normalize"],
)
def test_files_that_say_how_they_normalise(tmp_path, network, add, normalization):
    torch.save(add(network.state_dict()), tmp_path / "file.pt")
    (found,) = read_model(tmp_path / "file.pt").normalizations
    assert found.like(normalization)
    model, _ = load_model(tmp_path / "file.pt")  # without a warning, which would be an error here
    x = torch.rand(2, 3, 16, 16)
    normalized = (x - torch.tensor(normalization.mean)[:, None, None]) / torch.tensor(normalization.std)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(model(x), network((normalized + 1) / 2))


def test_numbers_saved_by_numpy_1(tmp_path, network, monkeypatch):
    monkeypatch.setattr(np.float64(0).__reduce__()[0], "__module__", "numpy.core.multiarray")
    torch.save({"net": network.state_dict(), "acc": np.float64(0.9)}, tmp_path / "file.pt")
    monkeypatch.undo()
    model, _ = load_model(tmp_path / "file.pt", "minus-one-one")
    assert torch.equal(logits(model), logits(network))


def test_files_that_do_not_say(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "file.pt")
    with pytest.warns(
        UserWarning, match=r"file.pt does not say how its network normalises images; \[-1, 1\] is assumed"
    ):
        load_model(tmp_path / "file.pt")
    model, _ = load_model(tmp_path / "file.pt", mean=(0.4, 0.5, 0.6), std=[0.2])
    with pytest.raises(InputError, match="is for networks that normalise by themselves"):
        export_robustbench(model, tmp_path / "export.pt")


@pytest.mark.parametrize("size", [torch.zeros(2, 2), torch.zeros(99), pytest.param(10**5000, id="long")])
def test_a_size_that_is_none_is_named_on_one_line(size):
    with pytest.raises(InputError, match="image_size must be a whole number from 1 to 4096, got ") as raised:
        load_model("any", image_size=size)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("size", ["x", 0, 10**6, 2.5])
def test_sizes_of_images_that_are_none(tmp_path, size):
    with pytest.raises(InputError, match=rf"^image_size must be a whole number from 1 to 4096, got '?{size}'?$"):
        load_model(tmp_path / "any", model="resnet-18", image_size=size)
    with pytest.raises(InputError, match="any: no such run folder or file"):
        load_model(tmp_path / "any", image_size=np.int64(8))


def test_paths_and_what_is_left_alone(tmp_path, network, monkeypatch):
    """Paths are texts too; loading draws nothing, and what it returns is contiguous whatever the file holds."""
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"net": network.to(memory_format=torch.channels_last).state_dict()}, tmp_path / "file.pt")
    before = torch.get_rng_state()
    for path in ("~/file.pt", str(tmp_path / "file.pt"), np.str_("file.pt")):
        model, _ = load_model(path, "minus-one-one")
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_default_dtype(torch.float64)
    try:
        model, _ = load_model("file.pt", "minus-one-one")
    finally:
        torch.set_default_dtype(torch.float32)
    for trained_or_loaded in (model, trained.model("natural")):
        for parameter in trained_or_loaded.parameters():
            assert parameter.dtype == torch.float32
            assert parameter.stride() == torch.empty(parameter.shape).stride()
    with pytest.raises(InputError, match="a path of a run or of weights is needed, got Linear"):
        load_model(nn.Linear(1, 1))
    with pytest.raises(InputError, match="no such run folder"):
        load_model("x" * 5000)


def test_safetensors_and_run_folders(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(logits(load_model(tmp_path / "w.safetensors", "minus-one-one")[0]), logits(network))
    model, config = load_model(trained.run("natural").folder)
    assert config["dataset"] == "digits"
    torch.testing.assert_close(logits(model), logits(trained.model("natural")), rtol=1e-4, atol=1e-4)  # other strides


def test_a_network_on_the_unit_range(tmp_path, network):
    """RobustBench's plain WideResNet takes images as they are; ours maps them to [-1, 1] first."""
    torch.save(network.state_dict(), tmp_path / "file.pt")
    model, _ = load_model(tmp_path / "file.pt", "zero-one")
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(2 * x - 1), network(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.features(2 * x - 1), network.features(x), rtol=1e-4, atol=1e-5)


def test_export_is_a_flat_state_dict_with_robustbenchs_names(tmp_path, network):
    """Its WideResNet has a stem, three blocks of ``layer.N.{bn1,conv1,bn2,conv2,convShortcut}``, bn1 and fc."""
    path = tmp_path / "robustbench.pt"
    export_robustbench(network, path)
    state = torch.load(path, weights_only=True)
    parts = {"conv1", "bn1", "fc", "block1", "block2", "block3"}
    assert {name.split(".")[0] for name in state} == parts
    inside = {name.split(".")[3] for name in state if name.startswith("block")}
    assert inside == {"bn1", "conv1", "bn2", "conv2", "convShortcut"}
    assert state["block2.layer.0.convShortcut.weight"].shape == (64, 32, 1, 1)
    assert torch.equal(logits(load_model(path, "minus-one-one")[0]), logits(network))
    for other in (torch.nn.Linear(1, 1), WideResNet(10, 1, 10, stride=2)):
        with pytest.raises(InputError, match="variants, not for the model"):
            export_robustbench(other, path)
    with pytest.raises(RunError, match="could not be written"):
        export_robustbench(network, tmp_path / "nowhere" / "file.pt")


def test_other_architectures_are_named(tmp_path, network):
    def refused(state):
        torch.save(state, tmp_path / "file.pt")
        with pytest.raises(InputError) as caught:
            load_model(tmp_path / "file.pt")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    state = network.state_dict()
    assert "show no network that has a name here (it has weight, ...); say which it is by --model NAME" in refused(
        torch.nn.Linear(2, 2, bias=False).state_dict()
    )
    conv = torch.nn.Conv2d(3, 64, 7)
    resnet = {
        "conv1.weight": conv.weight,
        "bn1.weight": torch.ones(64),
        "layer1.0.conv1.weight": torch.ones(64, 64, 3, 3),
    }
    assert refused(resnet).endswith("timm:NAME, torchvision:NAME or package.module:function")
    stem = refused({**state, "conv1.weight": torch.zeros(16, 3, 7, 7)})
    assert "with other shapes of conv1.weight (16x3x7x7, needed 16x3x3x3)" in stem
    assert "with other numbers than fp32 in fc.bias" in refused({**state, "fc.bias": state["fc.bias"].int()})
    assert r"with ev\nil\x1b[2J" in refused({**state, "ev\nil\x1b[2J": torch.zeros(1)})
    assert "holds 'fc.bias' twice" in refused({**state, "module.fc.bias": state["fc.bias"]})
    looped = {"state_dict": {"a": torch.ones(1)}}
    looped["state_dict"]["state_dict"] = looped
    assert "show no network that has a name here" in refused(looped)
    assert "without block3.layer.1.conv2.weight" in refused(
        {k: v for k, v in state.items() if k != "block3.layer.1.conv2.weight"}
    )
    assert "with extra.weight" in refused({**state, "extra.weight": torch.zeros(1)})
    assert "with other shapes of block2.layer.0.conv1.weight" in refused(
        {**state, "block2.layer.0.conv1.weight": torch.zeros(1)}
    )
    assert "holds no state dict" in refused({"epoch": 3})
    assert "holds no state dict" in refused([1, 2])
    assert "holds no state dict" in refused({0: torch.zeros(1)})
    assert "show no network that has a name here" in refused(
        {**state, "block1.layer.0.conv1.weight": torch.tensor(1.0)}
    )


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
def test_damaged_files(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"file\.\w+ is no (file of weights|safetensors file)"):
        load_model(tmp_path / name)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"classes": "cat, dog"}, "metadata are damaged"),
        ({"classes": "3"}, "classes must be a list of names"),
        ({"classes": "[1, 2]"}, "classes must be a list of names"),
        ({"classes": "[" * 100_000}, "metadata are damaged"),
        ({"classes": '["cat", "d\\u001b[2J"]'}, r"names 2 classes \('cat', 'd\\x1b\[2J'\), its network tells 7 apart"),
        ({"normalization": "[]"}, "metadata are damaged"),
        ({"normalization": '{"mean": [0.5], "std": [0]}'}, "std must be"),
        ({"normalization": '{"mean": [0.5, NaN, 0], "std": [1]}'}, "mean must be"),
    ],
)
def test_metadata_that_are_none(tmp_path, network, metadata, message):
    save_file(network.state_dict(), tmp_path / "w.safetensors", {"network": "wrn-16-2", **metadata})
    with pytest.raises(InputError, match=message) as caught:
        load_model(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_truncated_weights(tmp_path, network):
    whole = packed(network.state_dict(), About("WRN-16-2", tuple("abcdefg")))
    assert whole == packed(network.state_dict(), About("WRN-16-2", tuple("abcdefg")))
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "w.safetensors").write_bytes(whole[:size])
        with pytest.raises(InputError, match="is no safetensors file"):
            load_model(tmp_path / "w.safetensors")


def test_config_json_of_another_program(tmp_path, network):
    """Such as transformers', which lies beside a model.safetensors too."""
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"id2label": {}}')
    assert read_model(tmp_path).config == {}
    assert len(read_model(tmp_path).normalizations) == 2


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such run folder or file of weights"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is no finished run: it has no model\.safetensors"):
        load_model(tmp_path)


def test_files_that_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, ("gotcha", "w"))

    torch.save(Evil(), tmp_path / "file.pt")
    with pytest.raises(InputError, match="is no file of weights"):
        load_model(tmp_path / "file.pt")
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.parametrize("wrong", [5, [None], "x", [torch.zeros(2)], {"a": 1}])
def test_normalisations_that_are_none(wrong):
    for given in ({"mean": wrong, "std": [0.5]}, {"mean": [0.5], "std": wrong}):
        with pytest.raises(InputError, match=r"^--(mean|std) must be numbers, one or three, got "):
            load_model("nowhere", **given)
