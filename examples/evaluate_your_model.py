"""How any module withstands attacks, and whether its gradients can be trusted.

Needs the extra ``train``; takes a few seconds on one core.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import fastait

EPSILON, STEP_SIZE = 0.1, 0.025  # of images in [0, 1]

# Your model: images in [0, 1] to logits. What it normalises by is its own first operation.
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(15):
    for batch in torch.randperm(1400).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()

x, y = x[1400:1600], y[1400:1600]
attacks = ["fgsm", "pgd20", "cw20", "pgd20-worst", "pgd20+cw20"]
outcomes = fastait.evaluate_robustness(model, x, y, attacks, epsilon=EPSILON, step_size=STEP_SIZE)
for name, accuracy in outcomes.accuracy().items():
    print(f"{name:12} {accuracy:5.1f} %")
print(f"images that withstand all: {int(outcomes.correct['pgd20+cw20'].sum())} of {len(x)}")

for check in fastait.masking_signs(model, x[:40], y[:40], epsilon=EPSILON):
    print("!" if check.fired else " ", f"{check.name}: {check.figure}")
