"""Timing of several ways in turn, so that a machine whose speed drifts slows all of them."""

import statistics
import time

import torch

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def seconds(call):
    """How long one call takes, the GPU's work included."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(benchmark, contenders, *, rounds, warmup=1):
    """Call each of ``contenders``, a dict, once a round in turn; returns their median seconds by name.

    Where benchmarks are disabled each is called once, for its own sake, and None is returned.
    """
    times = {name: [] for name in contenders}

    order = list(contenders)

    def one_round():
        for name in order:
            times[name].append(seconds(contenders[name]))
        order.append(order.pop(0))  # who comes first is a difference too

    if not benchmark.enabled:
        benchmark.pedantic(one_round)
        return None
    for call in contenders.values():
        for _ in range(warmup):
            call()
    benchmark.pedantic(one_round, rounds=rounds)
    return {name: statistics.median(measured) for name, measured in times.items()}
