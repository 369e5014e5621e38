"""Adversarial interpolation training of your own network in your own loop.

Needs torch, scikit-learn (for its digits) and fastait; takes a few seconds on one core.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import fastait
from fastait.attacks import pgd

EPSILON, STEP_SIZE = 0.1, 0.025  # of images in [0, 1]


class Network(nn.Module):
    """Any network will do that ends in a linear layer: its features are what that is given."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU()),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.body(x))


torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
test = x[1400:], y[1400:]

for interpolate in (False, True):
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(10):
        for batch in torch.randperm(1400).split(64):
            images, labels = x[batch], y[batch]
            if interpolate:  # moved images, and labels [B, 10] that have moved away from the partners' classes
                images, labels = fastait.adversarial_interpolation(model, images, labels, epsilon=EPSILON)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    x_adv = pgd(model, *test, epsilon=EPSILON, step_size=STEP_SIZE, steps=20)
    clean, moved = (100 * (model(t).argmax(dim=1) == test[1]).float().mean().item() for t in (test[0], x_adv))
    name = "adversarial interpolation" if interpolate else "natural training"
    print(f"{name}: clean {clean:.1f} %, under PGD-20 {moved:.1f} %")
