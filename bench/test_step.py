"""Whole training steps: ours against the reference path and against ours with single ingredients switched off."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from alternating import DEVICE, alternate
from machine import forward_flops, peak_flops
from results import NOTES, record
from ways import AMP, ON_GPU, SWITCHED_OFF, arithmetic, batch, make

from fastait import WideResNet
from fastait.runtime.precision import native_half

BATCH = 128 if not ON_GPU else 256 if torch.cuda.mem_get_info(DEVICE)[1] > 70e9 else 64
"""Every way's graph keeps its memory while the ways take turns: some 3 to 6 GB of WRN-28-10's and 256 images."""

NETWORKS = [(28, 10), (16, 2)] if ON_GPU else [(16, 2), (10, 1)]
ROUNDS = 10
FORWARDS = {"adv-interp": 6, "madry": 17}
"""What a step needs, in forward passes: x' without a graph, x forward and for its gradient, the update's three; or
seven times forward and for the gradient, and the update's three."""


def network(depth, widen_factor):
    torch.manual_seed(0)
    return WideResNet(depth, widen_factor, 10)


def small(benchmark):
    """Benchmarks that are only called once are called on little."""
    return not benchmark.enabled


def peak_memory(way, depth, widen_factor):
    script = Path(__file__).with_name("peak_memory.py")
    argv = [sys.executable, script, way, depth, widen_factor, BATCH]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def compare_steps(benchmark, method, depth, widen_factor, ways, *, memory=()):
    if small(benchmark):
        depth, widen_factor, size = 10, 1, 8
    else:
        size = BATCH
    model = network(depth, widen_factor)
    calls = {way: make(way, model, size, method) for way in ways if not small(benchmark) or way != "compiled"}
    medians = alternate(benchmark, calls, rounds=ROUNDS, warmup=3)
    if medians is None:
        return
    x = batch(1)[0].permute(0, 3, 1, 2).float() / 255
    calls.clear()
    if ON_GPU:
        torch.cuda.empty_cache()  # for the processes that measure memory
    needed = FORWARDS[method] * forward_flops(model.to(DEVICE), x) * size
    types = {way: arithmetic(way) for way in medians}
    best = {dtype: max(peak_flops(dtype).values()) for dtype in set(types.values())}
    used = {way: peak_memory(way, depth, widen_factor) for way in memory}
    record(
        f"{method}, WRN-{depth}-{widen_factor}, batch {size}, 32x32",
        medians,
        ways[0],
        n=ROUNDS,
        images=size,
        **{
            "type": {way: str(dtype).removeprefix("torch.") for way, dtype in types.items()},
            "GFLOP/s": {way: f"{needed / seconds / 1e9:.0f}" for way, seconds in medians.items()},
            "of_floor": {way: f"{100 * needed / s / best[types[way]]:.0f} %" for way, s in medians.items()},
            "peak_MB": {way: f"{bytes_ / 1e6:.0f}" for way, bytes_ in used.items()},
        },
    )
    for dtype in best:
        peaks = peak_flops(dtype)
        note = (
            f"{str(dtype).removeprefix('torch.')}: {peaks['matmul'] / 1e9:.0f} GFLOP/s in a matmul, "
            f"{peaks['convolution'] / 1e9:.0f} in a convolution, the best of 10 after the rounds; the larger is the "
            "floor's rate. GFLOP/s and the share count the arithmetic that the method needs (6F, madry 17F), whatever "
            "a way spends."
        )
        if note not in NOTES:
            NOTES.append(note)


@pytest.mark.parametrize(("depth", "widen_factor"), NETWORKS, ids=lambda value: str(value))
def test_step(benchmark, depth, widen_factor):
    """adv-interp against the reference; the first network with every ingredient switched off in turn."""
    first = (depth, widen_factor) == NETWORKS[0]
    amp = [] if ON_GPU or native_half(DEVICE) is None else [AMP]
    ways = ["reference", "fastait", "compiled", *amp, *(SWITCHED_OFF if first else [])]
    memory = ("reference", "fastait", "compiled") if first else ()
    compare_steps(benchmark, "adv-interp", depth, widen_factor, ways, memory=memory)


def test_pgd_7_training(benchmark):
    """madry against the same training written plainly with ``autograd.grad``."""
    compare_steps(benchmark, "madry", *NETWORKS[0], ["plain loop", "fastait", "compiled"])
