"""Timing of two ways in turn, so that a machine whose speed drifts slows both."""

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


def compare(benchmark, ours, theirs, *, rounds, warmup):
    """Time ``theirs`` and ``ours`` alternately; returns their medians in seconds (ours, theirs) and records both."""
    times = {"ours": [], "theirs": []}

    def pair():
        times["theirs"].append(seconds(theirs))
        times["ours"].append(seconds(ours))

    benchmark.pedantic(pair, rounds=rounds, warmup_rounds=warmup)
    medians = [statistics.median(times[name][warmup:]) for name in ("ours", "theirs")]
    benchmark.extra_info.update(
        ours_seconds=medians[0], theirs_seconds=medians[1], ratio=medians[1] / medians[0], rounds=rounds
    )
    return medians
