"""Networks from files of several origins."""

import numpy as np
import pytest
import torch
import trained
from safetensors.torch import save_file

from fastait.errors import InputError, RunError
from fastait.evaluation import load_model
from fastait.evaluation.checkpoints import export_robustbench
from fastait.models import WideResNet


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


def test_safetensors_and_run_folders(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(logits(load_model(tmp_path / "w.safetensors")[0]), logits(network))
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
    assert torch.equal(logits(load_model(path)[0]), logits(network))
    with pytest.raises(InputError, match="is for fastait's WideResNet, not Linear"):
        export_robustbench(torch.nn.Linear(1, 1), path)
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
    assert "is no wide ResNet: it has no 'block1.layer.0.conv1.weight'; it has weight" in refused(
        torch.nn.Linear(2, 2, bias=False).state_dict()
    )
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
    assert "is no wide ResNet" in refused({**state, "block1.layer.0.conv1.weight": torch.tensor(1.0)})


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
def test_damaged_files(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"file\.\w+ is no (file of weights|safetensors file)"):
        load_model(tmp_path / name)


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
