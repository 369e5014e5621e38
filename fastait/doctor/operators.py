"""Every operator's kernel against its torch reference, and Triton's compiler.

On a GPU the kernels run there; without one they run in Triton's interpreter, on the CPU.
"""

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastait.doctor.findings import Finding, Setup, ok, ready, skipped, wrong
from fastait.runtime.errors import words

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AGREES = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-3}
"""How far a kernel may be from torch, on values around one: sums over a row in another order, and one rounding to the
type. What is wrong is wrong by far more."""

TARGET = "sm_90"
"""What is compiled for where there is no GPU."""

REMEDY = "install the triton that torch names; if it stays, report it with this command's --json"


def operators(setup: Setup) -> Finding:
    """All, in fp32 and in the 16-bit type that the device has."""
    device = ready(setup)
    import torch

    from fastait.runtime.precision import native_half
    from fastait_kernels._support import HAS_TRITON

    if not HAS_TRITON:
        if not setup.on_gpu:
            return skipped("triton is not installed; on a CPU the operators are torch's")
        return wrong("triton is not installed, so the operators run in torch, more slowly", "install triton")
    if setup.on_gpu and os.environ.get("TRITON_INTERPRET") == "1":
        return wrong("TRITON_INTERPRET=1: kernels run in Triton's interpreter, on the CPU", "unset TRITON_INTERPRET")
    bad, seen = [], set()
    for dtype in (torch.float32, native_half(device) or torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        for name, trial in TRIALS.items():
            try:
                for kernel, ours, theirs in trial(import_module(f"fastait_kernels.{name}"), Inputs(device, dtype)):
                    seen.add(kernel)
                    error = _largest_difference(ours, theirs)
                    if not error <= AGREES[kind]:
                        bad.append(f"{kernel} in {kind} by {error:.2g}")
            except Exception as error:
                why = f"{type(error).__name__}: {words(error, 200)}"
                return wrong(f"{name} in {kind} does not run: {why}", REMEDY)
    if bad:
        return wrong(f"not what torch computes: {', '.join(bad)}", REMEDY)
    how = "on the GPU" if setup.on_gpu else "in Triton's interpreter"
    return ok(f"{len(seen)} kernels, {how}, are what torch computes")


def compiler(setup: Setup) -> Finding:
    """Whether Triton compiles for GPUs, ahead of time where there is none."""
    from fastait_kernels._support import HAS_TRITON

    if setup.on_gpu:
        return skipped("the operators were compiled for the GPU")
    if not HAS_TRITON:
        return skipped("triton is not installed")
    import torch

    from fastait_kernels.cases import cases
    from fastait_kernels.report import compile_case

    case = cases(torch.float32)[0]
    row = compile_case(case, TARGET)
    if row.spills:
        return wrong(f"{case.name} for {TARGET} spills {row.spills} bytes of registers", REMEDY)
    return ok(f"compiles for GPUs: {case.name} for {TARGET}, {row.registers} registers, none spilled")


class Inputs:
    """Tensors of one type on one device, the same in every call."""

    def __init__(self, device: "torch.device", dtype: "torch.dtype"):
        import torch

        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(0)

    def random(self, *shape: int) -> "Tensor":
        """Uniform in [0, 1)."""
        import torch

        return torch.rand(shape, generator=self.generator).to(self.device, self.dtype)

    def integers(self, high: int, *shape: int) -> "Tensor":
        """int64, from 0 to ``high`` - 1."""
        import torch

        return torch.randint(high, shape, generator=self.generator).to(self.device)

    def outs(self, *shapes: "tuple[int, ...] | Tensor") -> "list[Tensor]":
        """What a kernel writes to, NaN before: fp32 of a shape, or like a tensor."""
        import torch

        made = [torch.empty(s, device=self.device) if isinstance(s, tuple) else torch.empty_like(s) for s in shapes]
        return [tensor.fill_(torch.nan) for tensor in made]


Trial = Iterator[tuple[str, "list[Tensor]", "list[Tensor]"]]
"""(a kernel's name, what it wrote, what torch computes)."""


def _linf_step(module: Any, new: Inputs) -> Trial:
    x, origin, slope = (new.random(3, 3, 8, 8) for _ in range(3))
    for name, epsilon in (("linf_step", 8 / 255), ("linf_step, per channel", new.random(3, 1, 1).float() * 0.1)):
        numbers = (x, slope - 0.5, origin, 2 / 255, epsilon, 0.0, 1.0, None)
        outs = new.outs(x)
        module.launch(*outs, *numbers)
        yield name, outs, [module.reference(*numbers)]


def _random_start(module: Any, new: Inputs) -> Trial:
    x, seed, offset = new.random(3, 3, 8, 8), new.integers(99, 1), new.integers(99, 1)
    for name, epsilon in (("random_start", 8 / 255), ("random_start, per channel", new.random(3, 1, 1).float() * 0.1)):
        outs = new.outs(x)
        module.launch(*outs, x, epsilon, seed, offset)
        yield name, outs, [module.reference(x, epsilon, seed, offset)]


def _augment(module: Any, new: Inputs) -> Trial:
    images, index, shift = new.integers(256, 6, 8, 8, 3).byte(), new.integers(6, 4), new.integers(5, 4, 2)
    batch = (images, index, shift, new.integers(2, 4) > 0, 2)
    noise = (0.1, new.integers(99, 1), new.integers(99, 1))
    outs = [out.permute(0, 3, 1, 2) for out in new.outs(new.random(4, 8, 8, 3))]
    module.launch(*outs, *batch, *noise)
    yield "augment", outs, [module.reference(*batch, new.dtype, *noise)]


def _soft_cross_entropy(module: Any, new: Inputs) -> Trial:
    logits, target, upstream = new.random(5, 10) * 8 - 4, new.random(5, 10).float().softmax(1), new.random(5).float()
    outs, theirs = new.outs((5,), (5,)), module.reference_forward(logits, target)
    module.launch_forward(*outs, logits, target)
    yield "soft_cross_entropy", outs, theirs
    outs = new.outs(logits)
    module.launch_backward(*outs, None, upstream, logits, target, theirs[1])
    yield "soft_cross_entropy, backward", outs, module.reference_backward(upstream, logits, target, False)[:1]


def _interpolated_cross_entropy(module: Any, new: Inputs) -> Trial:
    from fastait_kernels.soft_cross_entropy import reference_backward, reference_forward

    logits, upstream = new.random(5, 10) * 8 - 4, new.random(5).float()
    y, partner = new.integers(10, 5), new.integers(10, 5)
    target = module.interpolated_labels(y, partner, 0.5, 10, upstream.dtype)
    outs, theirs = new.outs((5,), (5,)), reference_forward(logits, target)
    module.launch_forward(*outs, logits, y, partner, 0.5)
    yield "interpolated_cross_entropy", outs, list(theirs)
    outs = new.outs(logits)
    module.launch_backward(*outs, upstream, logits, y, partner, theirs[1], 0.5)
    yield "interpolated_cross_entropy, backward", outs, list(reference_backward(upstream, logits, target, False)[:1])


def _margin_loss(module: Any, new: Inputs) -> Trial:
    logits, y, upstream = new.random(5, 10) * 8 - 4, new.integers(10, 5), new.random(5).float()
    outs, theirs = [*new.outs((5,)), y - 1], module.reference_forward(logits, y, 50.0)
    module.launch_forward(*outs, logits, y, 50.0)
    yield "margin_loss", outs, theirs
    outs = new.outs(logits)
    module.launch_backward(*outs, upstream, y, theirs[1])
    yield "margin_loss, backward", outs, [module.reference_backward(upstream, y, theirs[1], logits)]


def _cosine_distance(module: Any, new: Inputs) -> Trial:
    features, target = new.random(4, 40), new.random(4, 40)
    outs = new.outs((4,), (4, 40))
    module.launch(*outs, features, target)
    yield "cosine_distance", outs, module.reference(features, target, True)


TRIALS: dict[str, Callable[[Any, Inputs], Trial]] = {
    "linf_step": _linf_step,
    "random_start": _random_start,
    "augment": _augment,
    "soft_cross_entropy": _soft_cross_entropy,
    "interpolated_cross_entropy": _interpolated_cross_entropy,
    "margin_loss": _margin_loss,
    "cosine_distance": _cosine_distance,
}
"""Each module of operators and how its kernels are tried."""


def _largest_difference(ours: "list[Tensor]", theirs: "list[Tensor]") -> float:
    """NaN, which is not small, where one of the two is."""
    import torch

    found = [(a.double() - b.double()).abs().max() for a, b in zip(ours, theirs, strict=True)]
    return float(torch.stack(found).max())
