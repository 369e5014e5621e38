"""The unit of the records' second column: the time of a hundred steps that never change, in plain torch.

Seconds of different machines do not compare, and peak rates say little about convolutions. This file is part of the
rules: a change of it makes the records before it incomparable.
"""

import time

import torch
import torch.nn.functional as F
from torch import nn

BATCH, STEPS, WARM_UP = 128, 100, 20


def network() -> nn.Module:
    """Three convolutions with BN, on images [B, 3, 32, 32]."""
    layers: list[nn.Module] = []
    for inside, outside, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2)):
        layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def seconds(device: torch.device) -> float:
    """Of a hundred steps of SGD in fp32 on one random batch, in channels-last, as torch is set up."""
    torch.manual_seed(0)
    model = network().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.rand(BATCH, 3, 32, 32).to(device, memory_format=torch.channels_last)
    y = torch.randint(0, 10, (BATCH,)).to(device)
    began = 0.0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            began = _now(device)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return _now(device) - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
