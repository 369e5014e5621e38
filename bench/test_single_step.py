"""Training by N-FGSM's single steps against a plain loop, and what averaging, clipping and AWP add to a step."""

import torch
from alternating import DEVICE, alternate
from results import record
from ways import (
    AMP,
    AWP,
    CLIP,
    COMPILED_AMP,
    EMA,
    FP32,
    ON_GPU,
    PLAIN,
    PLAIN_ALONE,
    PLAIN_AMP,
    arithmetic,
    make,
    make_step,
)

from fastait.models.by_name import make as make_network
from fastait.runtime.precision import native_half
from fastait.training.optimizer import clip_gradients

BATCH = 128 if ON_GPU else 16
ROUNDS = 20 if ON_GPU else 5
HALF = native_half(DEVICE) is not None


def compare(benchmark, group, method, ways):
    """Whole steps in turn; the ratios are to the first of ``ways``."""
    network, size = _network(benchmark)
    calls = {
        way: make(way, network, size, method)
        for way in ways
        if benchmark.enabled or way not in (COMPILED_AMP, "compiled")
    }
    medians = alternate(benchmark, calls, rounds=ROUNDS, warmup=3)
    if medians is not None:
        types = {way: str(arithmetic(way)).removeprefix("torch.") for way in medians}
        record(f"{group}, batch {size}, 32x32", medians, ways[0], n=ROUNDS, images=size, type=types)


def test_n_fgsm(benchmark):
    """A loop that calls ``backward`` in attack and update spends 6F, ours 5F."""
    fp32, half, compiled = (FP32, "fastait", "compiled") if ON_GPU else ("fastait", AMP, COMPILED_AMP)
    ways = [PLAIN, PLAIN_ALONE, fp32, *([PLAIN_AMP, half, compiled] if HALF else ["compiled"])]
    compare(benchmark, "n-fgsm, ResNet-18", "n-fgsm", ways)


def test_what_a_step_can_have_besides(benchmark):
    """Whole steps with it and without."""
    compare(benchmark, "n-fgsm with more, ResNet-18", "n-fgsm", ["fastait", EMA, CLIP])


def test_awp(benchmark):
    """Three forward passes' worth more than the 17 of PGD with 7 steps."""
    compare(benchmark, "madry with more, ResNet-18", "madry", ["fastait", AWP])


def test_parts_of_a_step(benchmark):
    """Averaging and clipping alone, which are less than whole steps differ by from round to round."""
    network, size = _network(benchmark)
    step = make_step(EMA, network, size, "n-fgsm")
    calls = {
        "a step": make("fastait", network, size, "n-fgsm"),
        "averaging": _captured(lambda: step.averaged.add(step.number)),
        "clipping": _captured(lambda: clip_gradients(step.optimizer, 1.0)),
    }
    medians = alternate(benchmark, calls, rounds=ROUNDS, warmup=3)
    if medians is not None:
        shares = {part: f"{100 * seconds / medians['a step']:.2f} %" for part, seconds in medians.items()}
        record("parts of a step of n-fgsm, ResNet-18", medians, "a step", n=ROUNDS, images=size, share=shares)


def _network(benchmark):
    """ResNet-18 and the size of a batch; where benchmarks are only called once, little."""
    name, size = ("resnet-18", BATCH) if benchmark.enabled else ("wrn-10-1", 8)
    return make_network(name, 10, generator_seed=0), size


def _captured(call):
    """As a step has it: within a CUDA graph, where there are such."""
    if not ON_GPU:
        return call
    call()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
