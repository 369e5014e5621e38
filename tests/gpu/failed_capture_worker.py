"""What a process of test_failed_capture_on_gpu.py does: a capture that fails, then everything that this must not have
broken. Prints what it saw as JSON.
"""

import json
import sys

import torch

from fastait.methods import METHODS, Settings
from fastait.models import WideResNet
from fastait.runtime.precision import Precision
from fastait.training.optimizer import make_optimizer
from fastait.training.step import NEVER, TrainStep

DEVICE = torch.device("cuda", 0)
LARGE = 64 << 20
"""Bytes of a tensor, large enough for a segment of its own."""


def synchronise(logits):
    logits.sum().item()


def run_out_of_memory(logits):
    torch.empty(2 * torch.cuda.mem_get_info()[1], dtype=torch.uint8, device=DEVICE)


def raise_an_error(logits):
    raise RuntimeError("while it is captured")


WAYS = {"synchronisation": synchronise, "memory": run_out_of_memory, "error": raise_an_error}


def failing_step(way, notes):
    """A step that fails while it is captured, in its loss, and has allocated a large tensor before."""
    torch.manual_seed(0)
    model = WideResNet(10, 2, 10).to(DEVICE).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer("sgd", model.parameters(), lr=0.05, weight_decay=2e-4)
    settings = Settings(8 / 255, 0.5, 1, 8 / 255, 10)
    step = TrainStep(
        *(model, METHODS["adv-interp"], settings, optimizer, Precision(DEVICE, None), 3),
        batch_size=64,
        graph=True,
        note=notes.append,
    )
    (loss,) = step.losses

    def failing(logits, *rest):
        if torch.cuda.is_current_stream_capturing():
            kept = torch.empty(LARGE, dtype=torch.uint8, device=DEVICE)
            WAYS[way](logits)
            del kept
        return loss(logits, *rest)

    step.losses = [failing]
    return step


def batch(number):
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (64, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return images.to(DEVICE), torch.randint(0, 10, (64,), generator=generator).to(DEVICE)


def freed_after_two_streams():
    """Whether a tensor that a second stream has used is freed."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    tensor = torch.empty(LARGE, dtype=torch.uint8, device=DEVICE)
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        tensor.add_(1)
    tensor.record_stream(other)
    del tensor
    torch.cuda.synchronize()
    torch.empty(LARGE, dtype=torch.uint8, device=DEVICE)  # the allocator looks at its events when it is asked
    return torch.cuda.memory_allocated() == before


def replayed():
    """What a graph that is captured now makes of 3."""
    x = torch.full((1,), 3.0, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2
    graph.replay()
    return y.item()


def returned():
    """Whether the captures' pools have returned their memory, but for a workspace of cuBLAS at most."""
    torch.cuda.empty_cache()
    segments = torch.cuda.memory_snapshot()
    return sum(s["total_size"] for s in segments if tuple(s.get("segment_pool_id", (0, 0))) != (0, 0)) < LARGE


def main(way):
    notes = []
    step = failing_step(way, notes)
    for number in range(3):
        step(*batch(number), number)
    seen = {
        "notes": notes,
        "graph": bool(step.graphs),
        "finite": step.totals.bad_step() == NEVER,
        "random": 0 <= torch.rand(1, device=DEVICE).item() < 1,
        "freed": freed_after_two_streams(),
        "replayed": replayed(),
        "returned": returned(),
        "stream": torch.cuda.current_stream() == torch.cuda.default_stream(),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
