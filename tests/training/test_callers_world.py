"""Nothing of the caller's is disturbed by a run or an evaluation, and nothing that the caller set changes them."""

import random

import numpy as np
import pytest
import torch
from tiny_run import tiny

from fastait import resume_training, run_training
from fastait.data import load_dataset
from fastait.evaluation import evaluate
from fastait.models import WideResNet


def test_callers_random_state_is_untouched():
    before = torch.get_rng_state()
    run_training(tiny(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_global_generator_is_used(monkeypatch):
    """Neither seeded nor forked, on the CPU or a GPU: another thread may draw from them meanwhile."""

    def refuse(*arguments, **options):
        raise AssertionError("a global generator is touched")

    for name in ("torch.manual_seed", "torch.random.fork_rng", "torch.cuda.manual_seed_all", "torch.set_rng_state"):
        monkeypatch.setattr(name, refuse)
    run_training(tiny(epochs=1))


@pytest.mark.parametrize("kind", ["dtype", "device", "autocast"])
def test_a_callers_defaults_change_no_weights(kind):
    """Nor does an autocast; the generators of torch, numpy and Python are left alone, also where a run is loaded."""
    settings = {"epochs": 1, "method": "iat-manifold-mixup", "attack_steps": 1, "partners": "random"}
    usual = run_training(tiny(**settings, out="usual")).model.state_dict()
    before = torch.default_generator.get_state(), np.random.get_state()[1].tolist(), random.getstate()
    try:
        if kind == "dtype":
            torch.set_default_dtype(torch.float64)
        elif kind == "device":
            torch.set_default_device("meta")
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            found = [run_training(tiny(**settings)).model, resume_training("run").model]
        assert torch.get_default_dtype() == (torch.float64 if kind == "dtype" else torch.float32)
        assert torch.empty(0).device.type == ("meta" if kind == "device" else "cpu")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for model in found:
        for name, value in model.state_dict().items():
            assert value.dtype == usual[name].dtype
            assert torch.equal(value, usual[name]), name
    assert torch.equal(before[0], torch.default_generator.get_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_evaluation_is_fp32_whatever_the_caller_set():
    """No autocast and no TF32 inside, both as they were afterwards."""
    seen = []
    model = WideResNet(10, 1, 10)
    before = torch.backends.cudnn.allow_tf32
    assert before  # torch's default

    def look(module, inputs, output):
        seen.append((output.dtype, torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")))

    model.fc.register_forward_hook(look)
    images = load_dataset("digits", image_size=8).test.stratified(10)
    with torch.autocast("cpu", torch.bfloat16):
        evaluate(model, images, (), epsilon=0.1)
    assert set(seen) == {(torch.float32, False, False)}
    assert torch.backends.cudnn.allow_tf32 == before
