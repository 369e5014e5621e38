"""What a run says that it computes in, on machines that stand-ins tell of."""

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from step_inputs import batch, make_step
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastait import recipe, resume_training, run_training
from fastait.checkpoints.folder import RunFolder
from fastait.runtime.precision import Precision


def name_on(patch, capability, dtype=None):
    """Of a GPU's arithmetic; ``capability`` is asked of that GPU alone."""
    gpu = torch.device("cuda", 1)
    patch.setattr(torch.cuda, "get_device_capability", lambda device: {gpu: capability}[device])
    with FakeTensorMode():
        return Precision(gpu, dtype).name


@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler")
@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "tf32"), ((9, 0), "tf32"), ((12, 0), "tf32")],
)
def test_tf32_is_of_cards_that_have_it(monkeypatch, capability, expected):
    assert name_on(monkeypatch, capability) == expected
    assert name_on(monkeypatch, capability, torch.float16) == "fp16"
    assert name_on(monkeypatch, capability, torch.bfloat16) == "bf16"


def test_it_is_what_the_run_began_with(monkeypatch):
    """torch's switch for convolutions, when the run was prepared."""
    convolutions = torch.backends.cudnn
    before = convolutions.allow_tf32
    try:
        convolutions.allow_tf32 = False
        assert name_on(monkeypatch, (9, 0)) == "fp32"
        convolutions.allow_tf32 = True
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        with FakeTensorMode():
            precision = Precision(torch.device("cuda", 0), None)
        convolutions.allow_tf32 = False
        assert precision.name == "tf32"
    finally:
        convolutions.allow_tf32 = before


def test_cpus_and_cards_of_others_have_none(monkeypatch):
    assert Precision(torch.device("cpu"), None).name == "fp32"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert name_on(monkeypatch, (9, 4)) == "fp32"


@pytest.mark.parametrize("capabilities", [{"avx512_bf16": True}, {"avx2": True}], ids=["native bf16", "none"])
def test_a_run_says_what_it_computes_in_and_what_it_could(monkeypatch, capsys, capabilities):
    """In the line that it begins with; a resume cannot choose any more."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    config = recipe("digits", image_size=8, epochs=1, eval_samples=10, device="cpu", out=Path("run"))
    saved = RunFolder.save_checkpoint

    def save_and_stop(self, state, keep):
        saved(self, state, keep)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_training(config, show=True)
    beginning = [line for line in capsys.readouterr().err.replace("\n", " ").split("; ") if "wrn-10-1" in line]
    words = "wrn-10-1, fp32 (bf16 with --amp), " if "avx512_bf16" in capabilities else "wrn-10-1, fp32, "
    assert len(beginning) == 1
    assert beginning[0].startswith(words)
    assert resume_training("run", show=True).result["precision"] == "fp32"
    said = capsys.readouterr().err.replace("\n", " ")
    assert "wrn-10-1, fp32, " in said
    assert "with --amp" not in said


def test_a_steps_weights_are_its_own(network):
    """torch keeps the weights that it cast until the outermost autocast ends, which may be around all steps."""
    models = [network, copy.deepcopy(network)]
    within, alone = (make_step(model, dtype=torch.bfloat16) for model in models)
    with torch.autocast("cpu", enabled=False):
        for number in range(3):
            within(*batch(number, image=8), number)
    for number in range(3):
        alone(*batch(number, image=8), number)
    assert all(torch.equal(a, b) for a, b in zip(within.state(), alone.state(), strict=True))


class Casts(TorchDispatchMode):
    """Counts what is made of each of ``tensors`` in another type."""

    def __init__(self, tensors):
        super().__init__()
        self.names = {id(tensor): name for name, tensor in tensors}
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() == "aten::_to_copy" and id(args[0]) in self.names:
            self.counts[self.names[id(args[0])]] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("method", "passes"), [("natural", 0), ("madry", 3), ("iat-mixup", 3), ("trades", 4)])
def test_how_often_weights_are_cast(network, method, passes):
    """Once for all of an update's passes, and in each pass of an attack, whose weights are frozen."""
    step = make_step(network, method, dtype=torch.bfloat16, steps=3)
    with Casts(network.named_parameters()) as casts:
        step(*batch(0, image=8), 0)
    cast = {name for name, p in network.named_parameters() if p.dim() > 1 or name == "fc.bias"}
    assert casts.counts == dict.fromkeys(cast, 1 + passes)
