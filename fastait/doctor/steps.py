"""Training steps: in 16 bits against fp32, captured against eager, and how fast they are."""

import time
from typing import TYPE_CHECKING, Any

from fastait.doctor.findings import Finding, Setup, ok, ready, skipped, wrong

if TYPE_CHECKING:
    import torch

METHOD = "adv-interp"
SIZE, BATCH, CLASSES = 16, 32, 10
"""Of the images that steps are compared on."""

SPEED_SIZE, SPEED_BATCH = 32, 64
"""Of those that are timed."""

LITTLE, SPEED_MODELS = "wrn-10-1", {"cpu": "wrn-10-1", "cuda": "wrn-28-10"}
"""Networks of what is compared, and of what is timed. The little one leaves a GPU idle between its launches: on an H100
16 bits made it 1.05 times as fast, and WRN-28-10 1.85 times."""

SECONDS = 1.0
"""How long each way is timed."""

AMP_AGREES = 0.9
"""Cosine between a 16-bit step's update and fp32's. Signs of small input gradients differ, so it is not one."""

GRAPH_AGREES = 0.999
"""The same of a captured step and an eager one, which launch the same kernels."""

FP16_TRIES = 12
"""A loss scale that overflows is halved, and the step not taken."""

SLOWER = 0.9
"""Several threads must be at least this times as fast as one. Where others use the cores they are far from it."""

PAYS = 1.05
"""How much faster 16 bits must be to be advised."""


def amp(setup: Setup) -> Finding:
    """The device's own 16-bit type moves the weights where fp32 does."""
    device = ready(setup)
    from fastait.runtime.precision import native_half

    dtype = native_half(device)
    if dtype is None:
        return skipped("this CPU has no native bf16, so --amp would change nothing")
    name = str(dtype).removeprefix("torch.")
    plain, half = (_update(device, kind) for kind in (None, dtype))
    if not bool(half.isfinite().all()) or not bool(half.any()):
        return wrong(f"a step in {name} moves no weights, or makes them NaN", "leave --amp out")
    cosine = _cosine(plain, half)
    if not cosine >= AMP_AGREES:
        return wrong(f"a step in {name} goes another way than in fp32: cosine {cosine:.3f}", "leave --amp out")
    return ok(f"a step in {name} goes where fp32 does: cosine {cosine:.3f}", dtype=name)


def graph(setup: Setup) -> Finding:
    """A captured step moves the weights as an eager one does."""
    if not setup.on_gpu:
        return skipped("CUDA graphs are for GPUs")
    device = ready(setup)
    import torch

    notes: list[str] = []
    deterministic, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        eager = _update(device, None, steps=2)
        captured = _update(device, None, steps=2, graph=True, note=notes.append)
    finally:
        torch.backends.cudnn.deterministic = deterministic
    if notes:
        return wrong(notes[0], "use --cuda-graph off, or update torch and the driver")
    cosine = _cosine(eager, captured)
    if not cosine >= GRAPH_AGREES:
        return wrong(f"a captured step goes another way than an eager one: cosine {cosine:.4f}", "use --cuda-graph off")
    return ok(f"a captured step is an eager one: cosine {cosine:.4f}")


def training(setup: Setup) -> Finding:
    """Images a second of a network: on a CPU with one thread and with all, in 16 bits where they are native."""
    device = ready(setup)
    import torch

    from fastait.runtime.precision import native_half

    threads, speeds = torch.get_num_threads(), {}
    if not setup.on_gpu and threads > 1:
        torch.set_num_threads(1)
        speeds["fp32, 1 thread"] = images_per_second(device, None)
        torch.set_num_threads(threads)
    way = "" if setup.on_gpu else f", {threads} thread{'s' * (threads > 1)}"
    speeds[f"fp32{way}"] = all_threads = images_per_second(device, None)
    dtype = native_half(device)
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        speeds[f"{name}{way}"] = images_per_second(device, dtype)
    seen = "; ".join(f"{name}: {speed:,.0f} images/s" for name, speed in speeds.items())
    facts: dict[str, Any] = {
        "images_per_second": {name: round(speed, 1) for name, speed in speeds.items()},
        "amp_pays": dtype is not None and list(speeds.values())[-1] >= PAYS * all_threads,
    }
    if not all(speed > 0 for speed in speeds.values()):
        return wrong(f"the loss of a step is not finite ({seen})", "see the checks above", **facts)
    one = speeds.get("fp32, 1 thread", 0.0)
    if all_threads < SLOWER * one:
        return wrong(
            f"{threads} threads are slower than one ({seen}): other jobs use these cores, or there are fewer than the "
            "system says",
            "set OMP_NUM_THREADS=1, or as many as are free, for each job that runs here",
            **facts,
        )
    network = SPEED_MODELS[device.type].upper()
    return ok(f"{network}, {SPEED_SIZE} px, batches of {SPEED_BATCH}: {seen}", **facts)


def images_per_second(device: "torch.device", dtype: "torch.dtype | None") -> float:
    """Of training steps, as a run takes them; 0 if a loss is not finite."""
    import torch

    from fastait.training.step import NEVER

    step = _step(device, dtype, SPEED_BATCH, SPEED_MODELS[device.type], graph=device.type == "cuda")
    batch = _batch(device, SPEED_BATCH, SPEED_SIZE)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for number in range(2):
        step(*batch, number)
    wait()
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS or not done:
        step(*batch, done + 2)
        wait()
        done += 1
    return 0.0 if step.totals.bad_step() != NEVER else done * SPEED_BATCH / passed


def _update(device: "torch.device", dtype: "torch.dtype | None", *, steps: int = 1, **options: Any) -> "torch.Tensor":
    """How ``steps`` steps from the same weights, on the same images and noise, move the weights: fp64, flat."""
    import torch

    step = _step(device, dtype, BATCH, LITTLE, **options)
    weights = list(step.model.parameters())
    before = [weight.detach().clone() for weight in weights]
    for number in range(steps):
        for _ in range(FP16_TRIES):
            scale = step.precision.scaler.get_scale()
            step(*_batch(device, BATCH, SIZE, number), number)
            if step.precision.scaler.get_scale() >= scale:
                break
    return torch.cat([(w.detach() - b).double().flatten() for w, b in zip(weights, before, strict=True)])


def _step(device: "torch.device", dtype: "torch.dtype | None", batch_size: int, name: str, **options: Any) -> Any:
    import torch

    from fastait.methods import METHODS, Settings
    from fastait.models import make
    from fastait.runtime.precision import Precision
    from fastait.training.optimizer import make_optimizer
    from fastait.training.step import TrainStep

    model = make(name, CLASSES, generator_seed=0)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    settings = Settings(8 / 255, 0.5, 1, 8 / 255, CLASSES)
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.1, weight_decay=2e-4)
    precision = Precision(device, dtype)
    return TrainStep(model, METHODS[METHOD], settings, optimizer, precision, seed=0, batch_size=batch_size, **options)


def _batch(device: "torch.device", size: int, height: int, number: int = 0) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (size, height, height, 3), generator=generator, dtype=torch.uint8)
    return images.to(device), torch.randint(0, CLASSES, (size,), generator=generator).to(device)


def _cosine(a: "torch.Tensor", b: "torch.Tensor") -> float:
    return float(a @ b / (a.norm() * b.norm()))
