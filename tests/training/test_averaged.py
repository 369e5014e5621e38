"""Averaged weights: against the sum written out, in tensors that stay, and in a run's files."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shard_worker import Keeping
from step_inputs import batch, make_step
from tiny_run import tiny
from tolerances import REDUCTION

from fastait import load_model, resume_training, run_training
from fastait.training.averaged import Averaged
from fastait.training.step import TrainStep


def test_the_average_is_the_sum_written_out(network):
    model = network.double()
    averaged = Averaged(model, 0.5)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = [tensor.data_ptr() for tensor in averaged.tensors()]
    for step in range(12):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(torch.ones_like(value) * (step + 1))
        averaged.add(torch.tensor([step]))
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            moving = value.is_floating_point()
            plain[name] = decay * plain[name] + (1 - decay) * value if moving else value.clone()
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-6, atol=1e-6)  # its share is of fp32
    assert [tensor.data_ptr() for tensor in averaged.tensors()] == tensors


def test_a_step_averages_what_it_has_made(network):
    models = [copy.deepcopy(network) for _ in range(2)]
    averaged = Averaged(models[0], 0.9)
    with_average, without = make_step(models[0], averaged=averaged), make_step(models[1])
    by_hand = Averaged(models[1], 0.9)
    for number in range(3):
        images, y = batch(number)
        for step in (with_average, without):
            step(images, y, number)
        by_hand.add(torch.tensor([number]))
    for name, value in averaged.state_dict().items():
        assert torch.equal(value, by_hand.state_dict()[name])
    held = {tensor.data_ptr() for tensor in with_average.state()}
    assert {tensor.data_ptr() for tensor in averaged.tensors()} <= held


class OnGpu(torch.Tensor):
    """What says of itself that it is on a GPU."""

    @property
    def device(self):
        return torch.device("cuda")


def test_the_few_launches_for_a_gpu_are_the_same_sum(network):
    models = [copy.deepcopy(network) for _ in range(2)]
    averages = [Averaged(model, 0.9) for model in models]
    for step in range(4):
        for model in models:
            generator = torch.Generator().manual_seed(step)
            with torch.no_grad():
                for value in model.parameters():
                    value.add_(torch.randn(value.shape, generator=generator))
        averages[0].add(torch.tensor([step]))
        averages[1].add(torch.tensor([step]).as_subclass(OnGpu))
    assert not torch.equal(averages[0].state_dict()["fc.weight"], network.fc.weight)
    for name, value in averages[0].state_dict().items():
        torch.testing.assert_close(value, averages[1].state_dict()[name], **REDUCTION[torch.float32])


def test_what_is_no_statistic_is_the_networks():
    """An average of its own that each pass puts anew, a constant, what is not finite, vectors of a spectral norm."""
    torch.manual_seed(0)
    model = Keeping()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    averaged = Averaged(model.train(), 0.9)
    step = make_step(model, "madry", averaged=averaged)
    for number in range(3):
        step(*batch(number, image=9), number)
    found = averaged.state_dict()
    assert model.mean.any()
    for name, value in model.state_dict().items():
        own = name.endswith(("mean", "scale", "mask", "_u", "_v", "tracked")) and "running" not in name
        assert torch.equal(found[name], value) == own, name


def test_a_run_writes_and_measures_them(monkeypatch):
    """Killed in the middle and resumed, the averages are to the bit what they would have been."""
    options = {"epochs": 2, "ema": 0.9, "schedule": "one-cycle", "clip_grad_norm": 1.0, "nesterov": True}
    whole = run_training(tiny(**options, val_fraction=0.25))
    files = {name: Path("run", name).read_bytes() for name in ("ema.safetensors", "model.safetensors")}
    assert files["ema.safetensors"] != files["model.safetensors"]
    assert whole.result["ema"].keys() == {"clean", "fgsm", "pgd20", "cw20"}
    assert whole.result["best"].keys() == {*whole.result["ema"], "epoch", "averaged", "pgd10"}
    model, _ = load_model(Path("run/ema.safetensors"))
    average = load_file("run/ema.safetensors")
    assert torch.equal(model.state_dict()["fc.weight"], average["fc.weight"])
    call = TrainStep.__call__

    def stop(self, images, y, step, *rest):
        if step == 20:
            raise KeyboardInterrupt
        return call(self, images, y, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            run_training(tiny(**options, val_fraction=0.25, out=Path("killed"), checkpoint_seconds=0.0))
    resumed = resume_training(Path("killed"))
    for name, content in files.items():
        assert Path("killed", name).read_bytes() == content
    assert resumed.result["best"] == whole.result["best"]
    assert Path("killed/best.safetensors").read_bytes() == Path("run/best.safetensors").read_bytes()
    rates = [json.loads(line)["lr"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rates[1] < 0.001 < rates[0]
