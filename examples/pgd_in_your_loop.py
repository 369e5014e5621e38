"""PGD training with the operators in a plain PyTorch loop, beside the same loop without an attack.

Needs torch, scikit-learn (for its digits) and fastait_kernels; takes a few seconds on one core.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from fastait_kernels import linf_step, random_start

EPSILON, STEP_SIZE, STEPS = 0.1, 0.025, 7  # of images in [0, 1]


def attack(model, x, y, seed, draws):
    """PGD from a random start: seven sign steps, each projected to the ball and to the range of pixels by one call."""
    x_adv = random_start(x, EPSILON, seed, draws).clamp_(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        grad = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)[0]
        x_adv = linf_step(x_adv.detach(), grad, x, STEP_SIZE, EPSILON)
    return x_adv


def train(x, y, seed, draws, adversarial):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(x)).split(64):
            images = attack(model, x[batch], y[batch], seed, draws) if adversarial else x[batch]
            optimizer.zero_grad()
            F.cross_entropy(model(images), y[batch]).backward()
            optimizer.step()
    return model


def accuracy(model, x, y):
    with torch.no_grad():
        return 100 * (model(x).argmax(dim=1) == y).float().mean().item()


digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
seed, draws = torch.tensor([1]), torch.tensor([0])  # random_start counts its draws itself
for name, adversarial in (("natural", False), ("PGD", True)):
    model = train(x[:1400], y[:1400], seed, draws, adversarial)
    moved = attack(model, x[1400:], y[1400:], seed, draws)
    print(f"{name} training: clean {accuracy(model, x[1400:], y[1400:]):.1f} %", end=", ")
    print(f"under PGD-{STEPS} {accuracy(model, moved, y[1400:]):.1f} %")
