"""A network for test_process_signals.py, each of whose passes is counted, and takes long while a file says so."""

import time
from pathlib import Path

import torch

from fastait.models import WideResNet

PASSES, SLOW, SECONDS = Path("passes"), Path("slow"), 0.5


@torch.library.custom_op("fastait_tests::counted", mutates_args=())
def counted(x: torch.Tensor) -> torch.Tensor:
    with open(PASSES, "ab") as file:
        file.write(b".")
    time.sleep(SECONDS if SLOW.exists() else 0)
    return x.clone()


counted.register_fake(torch.empty_like)
counted.register_autograd(lambda ctx, grad: grad)


class Net(WideResNet):
    """An operator, so that it can be compiled with what is around it."""

    def features(self, x):
        return super().features(counted(x))


def make(num_classes):
    return Net(10, 1, num_classes)
