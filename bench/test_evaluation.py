"""Accuracy under PGD-20: ``evaluate`` against a loop as it is commonly written."""

import torch
import torch.nn.functional as F
from alternating import DEVICE, alternate
from results import record
from ways import EPSILON, ON_GPU, batch

from fastait import WideResNet
from fastait.data import ImageSet
from fastait.engine.precision import full_precision
from fastait.engine.prepare import cached_images
from fastait.evaluation import evaluate

IMAGES, BATCH, WIDEN_FACTOR = (2560, 256, 10) if ON_GPU else (128, 128, 1)
ROUNDS = 6


def plain(model, x, y):
    model.eval()
    x_adv = x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)
    for _ in range(20):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = x_adv.detach() + 2 / 255 * grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)
    with torch.no_grad():
        return [(model(images).argmax(1) == y).float().mean().item() for images in (x, x_adv)]


def test_pgd_20(benchmark):
    torch.manual_seed(0)
    size = IMAGES if benchmark.enabled else 8
    model = WideResNet(10, WIDEN_FACTOR, 10).to(DEVICE).eval()
    fast = WideResNet(10, WIDEN_FACTOR, 10).to(DEVICE).to(memory_format=torch.channels_last).eval()
    fast.load_state_dict(model.state_dict())
    images, y = batch(size)
    test_set = ImageSet(images.cpu(), y.cpu())
    x = images.permute(0, 3, 1, 2).float().div(255).contiguous()

    def whole_set():
        with full_precision(DEVICE):
            for i in range(0, size, BATCH):
                plain(model, x[i : i + BATCH], y[i : i + BATCH])

    at_a_time = BATCH if ON_GPU else cached_images(WIDEN_FACTOR, 32)
    medians = alternate(
        benchmark,
        {
            "plain loop": whole_set,
            "evaluate": lambda: evaluate(fast, test_set, ["pgd20"], epsilon=EPSILON, seed=0, batch_size=at_a_time),
        },
        rounds=ROUNDS,
    )
    if medians is not None:
        group = f"evaluation, clean and PGD-20, WRN-10-{WIDEN_FACTOR}, {size} images, fp32"
        record(group, medians, "plain loop", n=ROUNDS, images=size)
