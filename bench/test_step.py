"""One training step of adversarial interpolation: fastait against the paper's algorithm written plainly.

The two alternate in one benchmark, so that a machine whose speed drifts slows both; the medians and their ratio stand
in the benchmark's extra info and are printed.
"""

import copy
import statistics
import time

import pytest
import torch

from fastait import WideResNet, reference
from fastait.engine.hardware import environment
from fastait.engine.precision import Precision
from fastait.engine.step import Totals, TrainStep
from fastait.methods import METHODS, Settings

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
BATCH = 128
ROUNDS = 10
WARMUP = 2


def synchronise():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(step):
    synchronise()
    start = time.perf_counter()
    step()
    synchronise()
    return time.perf_counter() - start


@pytest.mark.parametrize(("depth", "widen_factor"), [(10, 1), (16, 2)], ids=["WRN-10-1", "WRN-16-2"])
def test_step_against_reference(benchmark, capsys, depth, widen_factor):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    y = torch.randint(0, 10, (BATCH,), device=DEVICE)
    slow_model = WideResNet(depth, widen_factor, 10).to(DEVICE)
    fast_model = copy.deepcopy(slow_model).to(memory_format=torch.channels_last)

    def optimizer(model):
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)

    settings = Settings(epsilon=8 / 255, epsilon_y=0.5, steps=1, num_classes=10)
    totals = Totals(DEVICE)
    step = TrainStep(
        fast_model, METHODS["adv-interp"], settings, optimizer(fast_model), Precision(DEVICE, None), seed=0
    )
    x = images.permute(0, 3, 1, 2).float().div(255).contiguous()
    slow_optimizer = optimizer(slow_model)

    def fast():
        step(images, y, 0, totals)

    def slow():
        reference.train_step(slow_model, slow_optimizer, x, y, 10)

    ours, plain = [], []

    def pair():
        plain.append(timed(slow))
        ours.append(timed(fast))

    benchmark.pedantic(pair, rounds=ROUNDS, warmup_rounds=WARMUP)
    plain_seconds, our_seconds = statistics.median(plain[WARMUP:]), statistics.median(ours[WARMUP:])
    machine = environment(DEVICE)
    benchmark.extra_info.update(
        reference_seconds=plain_seconds,
        fastait_seconds=our_seconds,
        ratio=plain_seconds / our_seconds,
        rounds=ROUNDS,
        **machine,
    )
    with capsys.disabled():
        print(
            f"\nWRN-{depth}-{widen_factor}, batch {BATCH}, fp32, {machine['device']}: reference "
            f"{BATCH / plain_seconds:.0f} images/s, fastait {BATCH / our_seconds:.0f} images/s, ratio "
            f"{plain_seconds / our_seconds:.2f} (medians of {ROUNDS} alternating rounds)"
        )
