"""torch.compile."""

from fastait.doctor.findings import Finding, Setup, ok, ready, skipped, wrong
from fastait.doctor.limits import cpp_compiler

AGREES = 1e-3
"""Largest difference of a compiled pass and its gradient from the eager ones, of values around one."""


def compiled(setup: Setup) -> Finding:
    """A small pass and its gradient."""
    if not setup.on_gpu and cpp_compiler() is None:
        return skipped("no C++ compiler, see compiler")
    device = ready(setup)
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    x = torch.rand(4, 3, 16, 16).to(device).contiguous(memory_format=torch.channels_last)
    passes = []
    for call in (model, torch.compile(model, dynamic=False)):
        leaf = x.clone().requires_grad_()
        y = call(leaf)
        passes.append((y.detach(), torch.autograd.grad(y.square().sum(), leaf)[0]))
    error = max(float((a - b).abs().max()) for a, b in zip(*passes, strict=True))
    if not error <= AGREES:
        return wrong(f"a compiled pass differs from the eager one by {error:.2g}", "leave --compile out")
    return ok("a compiled pass and its gradient are the eager ones")
