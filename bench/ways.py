"""Ways to do one training step on one batch: the reference path, ours, and ours with ingredients switched off."""

import copy

import torch
import torch.nn.functional as F
from alternating import DEVICE
from ingredients import eager_loss, interpolate

from fastait import reference
from fastait.methods import METHODS, Settings
from fastait.runtime.precision import Precision, native_half
from fastait.training.averaged import Averaged
from fastait.training.optimizer import make_optimizer
from fastait.training.prepare import cached_images
from fastait.training.step import TrainStep

EPSILON = 8 / 255
ON_GPU = DEVICE.type == "cuda"

OURS = {
    "channels_last": True,
    "amp": ON_GPU,
    "graph": ON_GPU,
    "compile": False,
    "parts": True,
    "fused_sgd": True,
    "ema": None,
    "clip": None,
    "awp": 0.0,
}
"""A run's own choices: on a GPU ``--amp`` and its default graph, on a CPU fp32."""

FP32 = "without AMP"
"""A way of its own on a GPU; on a CPU ``fastait`` is."""

SWITCHED_OFF = {
    "without channels-last": {"channels_last": False},
    "without frozen weights": {"freeze": False},
    "without frozen weights, with a graph for the partners": {"freeze": False, "graph_free_partner": False},
    "with a deep copy of the network": {"copied": True},
    "without fused operators": {"fused": False},
    "without fused SGD": {"fused_sgd": False},
    **({FP32: {"amp": False}, "without CUDA graph": {"graph": False}} if ON_GPU else {}),
    **({} if ON_GPU else {"whole batch attacked at once": {"parts": False}}),
}


AMP = "with --amp"
"""On a CPU with native bf16 another way; on a GPU what ``fastait`` does."""

COMPILED_AMP = "with --amp --compile"

EMA, CLIP, AWP = "with averaged weights", "with clipping", "with AWP"

OPTIONS = {
    "compiled": {"compile": True},
    AMP: {"amp": True},
    COMPILED_AMP: {"amp": True, "compile": True},
    EMA: {"ema": 0.9995},
    CLIP: {"clip": 1.0},
    AWP: {"awp": 0.01},
    **SWITCHED_OFF,
}

PLAIN, PLAIN_ALONE, PLAIN_AMP = "plain loop", "plain loop, images' gradient alone", "plain loop under autocast"
"""The method as one would write it; with the attack's gradient for the images alone; in bf16 or fp16."""

WRITTEN = ("reference", PLAIN, PLAIN_ALONE, PLAIN_AMP)


def batch(size, seed=0):
    """uint8 images [size, 32, 32, 3] and classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return images.to(DEVICE), torch.randint(0, 10, (size,), generator=generator).to(DEVICE)


def make(way, model, size, method="adv-interp"):
    """A call that does one step of ``way`` on a copy of ``model`` and one batch of ``size``."""
    images, y = batch(size)
    if way in WRITTEN:
        return _plain(copy.deepcopy(model).to(DEVICE).train(), images, y, method, way)
    if not {**OURS, **OPTIONS.get(way, {})}["channels_last"]:
        images = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    step = make_step(way, model, size, method)
    return lambda: step(images, y, 0)


def make_step(way, model, size, method="adv-interp"):
    """Our step in the way ``way`` on a copy of ``model``, for batches of ``size``."""
    model = copy.deepcopy(model).to(DEVICE).train()
    options = {**OURS, **OPTIONS.get(way, {})}
    ingredients = {key: value for key, value in options.items() if key not in OURS}
    if options["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
    parts = cached_images(model, 32) if options["parts"] and not ON_GPU else None
    steps, step_size = (7, 2 / 255) if method == "madry" else (1, EPSILON)
    step = TrainStep(
        model,
        METHODS[method],
        Settings(EPSILON, 0.5, steps, step_size, model.num_classes, parts, awp=options["awp"]),
        make_optimizer("sgd", model.parameters(), lr=0.1, weight_decay=2e-4) if options["fused_sgd"] else _sgd(model),
        Precision(DEVICE, native_half(DEVICE) if options["amp"] else None),
        seed=0,
        clip_norm=options["clip"],
        averaged=options["ema"] and Averaged(model, options["ema"]),
        batch_size=size,
        compile=options["compile"],
        graph=options["graph"],
        note=_refuse,
    )
    if ingredients:
        step.move_images = [interpolate(**ingredients)]
    if not ingredients.get("fused", True):
        step.losses = [eager_loss]
    return step


def arithmetic(way):
    """The type that ``way``'s convolutions multiply."""
    if way in WRITTEN:
        return native_half(DEVICE) if way == PLAIN_AMP else torch.float32
    return native_half(DEVICE) if {**OURS, **OPTIONS.get(way, {})}["amp"] else torch.float32


def _refuse(note):
    raise RuntimeError(note)  # a step without its graph would be timed as one with it


def _sgd(model):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)


def _plain(model, images, y, method, way):
    """The method as one would write it: contiguous, fp32, a float batch made beforehand."""
    x = images.permute(0, 3, 1, 2).float().div(255).contiguous()
    optimizer = _sgd(model)
    if method == "adv-interp":
        return lambda: reference.train_step(model, optimizer, x, y, model.num_classes)

    def madry():
        model.eval()
        x_adv = x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)
        for _ in range(7):
            x_adv = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
            x_adv = x_adv.detach() + 2 / 255 * grad.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x_adv), y).backward()
        optimizer.step()

    def n_fgsm():
        with torch.autocast(DEVICE.type, native_half(DEVICE), enabled=way == PLAIN_AMP):
            start = (x + torch.empty_like(x).uniform_(-2 * EPSILON, 2 * EPSILON)).clamp(0, 1).requires_grad_()
            loss = F.cross_entropy(model(start), y)
        if way == PLAIN_ALONE:
            (grad,) = torch.autograd.grad(loss, start)
        else:
            loss.backward()  # as FastAT's code does: the weights' gradients are computed too, and thrown away
            grad = start.grad
        x_adv = (start.detach() + EPSILON * grad.sign()).clamp(0, 1)
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, native_half(DEVICE), enabled=way == PLAIN_AMP):
            loss = F.cross_entropy(model(x_adv), y)
        loss.backward()
        optimizer.step()

    return {"madry": madry, "n-fgsm": n_fgsm}[method]
