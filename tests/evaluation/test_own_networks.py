"""Files and run folders of networks that a function of somebody's own makes."""

import sys
from pathlib import Path

import plain_networks as plain
import pytest
import torch
from files_of_others import OWN, SIZE, argv, outcomes, own_weights, refused, run_folder, within
from tolerances import REDUCTION

from fastait.eval import main
from fastait.evaluation import entrants, load_model
from fastait.evaluation.model_files import read_model
from fastait.evaluation.normalization import ZERO_ONE, Normalization
from fastait.models import make
from fastait.models.names import parse
from fastait.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("few_images")


def test_files_of_a_function_of_ones_own(capsys, own):
    """By its name alone; what is asked for is done to images in front of it."""
    model, state = own_weights(own)
    torch.save({"state_dict": within("net.", state)}, "file.pt")
    x = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(load_model("file.pt", model=own)[0](x), model(x))
    shifted = load_model("file.pt", model=own, mean=[0.4], std=[0.2])[0]
    torch.testing.assert_close(shifted(x), model((x - 0.4) / 0.2), **REDUCTION[torch.float32])
    assert main(argv("file.pt", model=own)) == 0
    assert (
        f"{own} (as asked for); the normalisation [0, 1] is assumed (it is what a function" in capsys.readouterr().err
    )
    assert main(argv("file.pt", model=own, mean=0.4, std=0.2)) == 0
    err = capsys.readouterr().err
    assert "(x - [0.4, 0.4, 0.4]) / [0.2, 0.2, 0.2] is assumed (as asked for)" in err
    assert "trained with another one" not in err
    line = refused(capsys, *argv("file.pt", model=own.replace("Net", "other")))
    assert ":other: without 2.bias, 2.weight; with " in line


def test_what_a_function_of_ones_own_does_is_its_own_matter(own):
    """Numbers in its own buffers are not taken for somebody's in front of it."""
    name = own.replace("Net", "Normalising")
    model, state = own_weights(name)
    torch.save(within("net.", state), "file.pt")
    loaded = read_model("file.pt", name)
    assert loaded.normalizations == (ZERO_ONE,)
    x = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(loaded.normalized(ZERO_ONE)(x), model(x))


def test_averages_of_parameters_alone():
    """They lack BN's statistics, so that they are no whole network."""
    model = make("resnet-18", 3, generator_seed=0).eval()
    averaged = {name: value + 1 for name, value in model.named_parameters()}
    torch.save({"model": model.state_dict(), "model_ema": averaged}, "file.pt")
    loaded = read_model("file.pt", "resnet-18")
    assert loaded.notes == ()
    assert torch.equal(loaded.network.conv1.weight, model.conv1.weight)


def test_outcomes_of_a_function_that_has_changed_are_measured_anew(own):
    module = own.partition(":")[0]
    own = f"{module}:other"
    torch.save(own_weights(own)[1], "file.pt")
    assert main(argv("file.pt", model=own)) == 0
    before = outcomes()
    Path(f"{module}.py").write_text(OWN.replace("nn.Identity()", "nn.Hardtanh(0, 0.1)"))
    del sys.modules[module]
    sys.path_importer_cache.clear()
    assert main(argv("file.pt", model=own)) == 0
    assert outcomes() != before


def test_outcomes_of_a_class_that_has_changed_are_measured_anew(own, monkeypatch):
    """The function's module only hands on a class of another one."""
    module = own.partition(":")[0]
    handed = f"{module}_on"
    Path(f"{handed}.py").write_text(f"from {module} import Net")
    torch.save(own_weights(own)[1], "file.pt")
    code = []
    for text in (OWN, OWN.replace("nn.Identity()", "nn.Hardtanh(0, 0.1)"), OWN):
        Path(f"{module}.py").write_text(text)
        for name in (module, handed):
            sys.modules.pop(name, None)
        sys.path_importer_cache.clear()
        named = parse(f"{handed}:Net")
        code.append(entrants.code_of(named, read_model("file.pt", str(named)).network))
    sys.modules.pop(handed)
    assert code[0] == code[2] != code[1]
    assert entrants.code_of(parse("wrn-10-1"), make("wrn-10-1", 2, generator_seed=0)) == ""


def test_a_layer_called_as_one_of_ours_is_not_ours():
    """DMWideResNet's files may lack mean and std; a network of somebody's own has what its file has."""
    Path("named_alike.py").write_text(ALIKE)
    torch.save({"init_conv.weight": torch.rand(4, 3, 3, 3), "fc.weight": torch.rand(10, 4)}, "file.pt")
    loaded = read_model("file.pt", "named_alike:Net")
    sys.modules.pop("named_alike")
    assert loaded.network.state_dict().keys() == {"init_conv.weight", "fc.weight"}


ALIKE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.init_conv = nn.Conv2d(3, 4, 3, bias=False)
        self.fc = nn.Linear(4, num_classes, bias=False)

    def forward(self, x):
        return self.fc(self.init_conv(x).mean(dim=(2, 3)))
"""


def test_a_run_folder_that_names_a_function_is_no_permission(capsys, own):
    model, state = own_weights(own)
    del sys.modules[own.partition(":")[0]]
    run = run_folder(Path("run"), own, state, model=own)
    (run / "checkpoint.pt").touch()
    for path in (run, run / "model.safetensors"):
        with pytest.raises(
            InputError, match=rf"is a function of somebody's own, .*--model {own} on the command line, or"
        ):
            load_model(path)
        assert own.partition(":")[0] not in sys.modules
    assert f"--model {own}" in refused(capsys, *argv(run))
    assert own.partition(":")[0] not in sys.modules
    x = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(load_model(run, model=own)[0](x), model(x))
    Path("moved.py").write_text(OWN)
    moved = read_model(run, "moved:Net")
    assert moved.named_by == f"as asked for, where its file says {own}"
    with pytest.raises(InputError, match=f"its file says that its network is {own}, not --model resnet-18"):
        load_model(run, model="resnet-18")


def test_run_folders_say_all():
    """Also those of version 0.1, and settings without a word in the weights; what is wrong is said with its place."""
    state = make("wrn-10-1", 10, generator_seed=0).state_dict()
    x = torch.rand(1, 3, SIZE, SIZE)
    expected = load_model(run_folder(Path("new"), "wrn-10-1", state, model="wrn-10-1"))[0](x)
    for name, said, config in (
        ("old", "WRN-10-1", {"depth": 10, "widen_factor": 1}),
        ("silent", None, {"model": "wrn-10-1"}),
        ("older", None, {"depth": 10, "widen_factor": 1, "classes": list("0123456789")}),
    ):
        loaded = read_model(run_folder(Path(name), said, state, **config))
        assert loaded.name == "wrn-10-1"
        assert loaded.named_by == "its file says so"
        assert [str(one) for one in loaded.normalizations] == ["[-1, 1]"]
        assert torch.equal(loaded.network(x), expected)
    said = [[0.1, 0.2, 0.3], [0.2, 0.2, 0.2]]
    (found,) = read_model(run_folder(Path("said"), None, state, model="wrn-10-1", normalization=said)).normalizations
    assert found == Normalization.of(*said)
    for name, config, message in (
        ("a", {"model": "wrn-11-1"}, "a/config.json: --model wrn-11-1: a wide ResNet's depth must be"),
        ("f", {"model": "nonsense"}, "f/config.json: --model: 'nonsense' is no network"),
        ("b", {"model": 3}, "b/config.json is damaged"),
        ("c", {"model": "wrn-10-1", "image_size": "big"}, "c/config.json is damaged: image_size must be"),
        ("d", {"model": "wrn-10-1", "normalization": [[0.5]]}, "d/config.json is damaged"),
        ("e", {"model": "resnet-18"}, "are not those of resnet-18: .*; they are those of wrn-10-1"),
    ):
        with pytest.raises(InputError, match=message):
            read_model(run_folder(Path(name), None, state, **config))


def test_one_name_for_several_models(capsys, own):
    """--model is for those that do not say or show to be another network."""
    state = make("wrn-10-1", 10, generator_seed=0).state_dict()
    run = run_folder(Path("run"), "wrn-10-1", state, model="wrn-10-1")
    torch.save(state, "shown.pt")
    torch.save(plain.weights(plain.gowal_table(10, 1, 10)), "hidden.pt")
    assert main(argv(run, "shown.pt", "hidden.pt", model="wrn-10-1-silu")) == 0
    err = capsys.readouterr().err
    for line in (
        "run: wrn-10-1 (its file",
        "shown.pt: wrn-10-1 (its weights",
        "hidden.pt: wrn-10-1-silu (as asked for)",
    ):
        assert line in err
    assert "its file says that its network is wrn-10-1, not --model" in refused(
        capsys, *argv(run, "shown.pt", model="wrn-10-1-silu")
    )
    assert "hidden.pt: the weights are not those of" in refused(
        capsys, *argv("shown.pt", "hidden.pt", model="wrn-10-1")
    )
    own_run = run_folder(Path("own"), own, own_weights(own)[1], model=own)
    assert main(argv(run, model=own, surrogate=own_run)) == 0


def test_export_by_the_command(capsys, own):
    run = run_folder(Path("run"), "resnet-18", make("resnet-18", 10, generator_seed=0).state_dict(), model="resnet-18")
    assert main(argv(run, export="robustbench")) == 0
    assert "out/run-robustbench.pt is for RobustBench's ResNet(BasicBlock, [2, 2," in capsys.readouterr().err
    torch.save(own_weights(own)[1], "file.pt")
    line = refused(capsys, *argv("file.pt", model=own, export="robustbench", out="other"))
    assert line.endswith(f"resnet-18, preact-resnet-18 and their variants, not for file.pt ({own})")
