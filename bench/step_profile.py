"""Where the time of a training step goes: convolutions, BN, elementwise operations, our operators, gaps between them.

``python bench/step_profile.py [--json]`` profiles WRN-28-10 on a GPU and a small network on a CPU. With ``--json`` the
tables go to standard error and the figures to standard output. ``--little`` runs the lines and measures nothing.
"""

import bisect
import json
import re
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from alternating import DEVICE, seconds
from torch.profiler import ProfilerActivity, profile
from ways import ON_GPU, arithmetic, batch, make_step

from fastait import WideResNet
from fastait.runtime.hardware import environment

STEPS, ROUNDS = 5, 20
WAYS = ("fastait", "without CUDA graph", "without AMP", "compiled") if ON_GPU else ("fastait",)
NAMED = 15
"""How many kernels are named."""

BY_OPERATOR = (
    ("our operators", r"fastait_kernels"),
    ("copies and casts", r"::(copy_|_to_copy|contiguous|clone)$"),
    ("batch norm", r"batch_?norm"),
    ("convolutions", r"convolution"),
    ("optimiser", r"fused_sgd|_foreach|Optimizer"),
    ("matrix products", r"::(mm|addmm|bmm|linear|matmul)$"),
)
"""What a kernel is by the operator that launched it, the innermost that matches."""

BY_NAME = (
    ("our operators", r"^(linf_step|random_start|augment|cosine|forward|backward|varying)_kernel"),
    ("fused by the compiler", r"^triton_(poi|red|per|tem)_"),
    ("copies and casts", r"^Mem(cpy|set)|copy_kernel|direct_copy"),
    ("batch norm", r"(?i)batch_?norm|bn_(fw|bw|add)"),
    ("optimiser", r"multi_tensor_apply|FusedSgd"),
    ("convolutions", r"(?i)[fdw](prop|grad)|implicit_gemm|conv|winograd|cudnn|nchwToNhwc|nhwcToNchw"),
    ("matrix products", r"(?i)gemm|gemv|splitK|cutlass"),
    ("reductions", r"(?i)reduce|softmax|pool|scan|sort|^aten::(sum|mean|arg)"),
    ("allocations", r"^aten::(empty|resize)"),
    ("elementwise", r"elementwise|^aten::"),
)
"""What it is by its own name, where no operator says more."""


@dataclass(frozen=True)
class Kernel:
    """One piece of work on the device: microseconds, and the operators that launched it, the innermost first."""

    name: str
    start: float
    duration: float
    operators: tuple[str, ...] = ()


def category(kernel, learnt=()):
    """What ``kernel`` is; ``learnt`` says it of kernels of the same name that an operator launched."""
    for operator in kernel.operators:
        for name, pattern in BY_OPERATOR:
            if re.search(pattern, operator, re.IGNORECASE):
                return name
    if kernel.name in learnt:
        return learnt[kernel.name]
    return next((name for name, pattern in BY_NAME if re.search(pattern, kernel.name)), "other")


def kernels(trace, on_gpu=ON_GPU):
    """The work in a Chrome trace's events, in the order of its beginning. On a CPU an operator without parts is one."""
    events = [e for e in trace if e.get("ph") == "X"]
    threads = defaultdict(list)
    for event in events:
        if event.get("cat") == "cpu_op":
            threads[event["tid"]].append(event)
    if not on_gpu:
        return _leaves(threads)
    for operators in threads.values():
        operators.sort(key=lambda e: e["ts"])
    begun = defaultdict(list, {thread: [e["ts"] for e in operators] for thread, operators in threads.items()})
    launches = {
        e["args"]["correlation"]: e
        for e in events
        if e.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in e.get("args", {})
    }
    found = []
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            launch = launches.get(event["args"].get("correlation"))
            around = () if launch is None else _around(launch, threads[launch["tid"]], begun[launch["tid"]])
            found.append(Kernel(event["name"], event["ts"], event["dur"], around))
    return sorted(found, key=lambda kernel: kernel.start)


def _around(launch, operators, begun):
    """The operators within which ``launch`` was called, the innermost first; ``begun`` are their beginnings."""
    before = bisect.bisect_right(begun, launch["ts"])
    last = operators[max(0, before - 200) : before]
    return tuple(e["name"] for e in reversed(last) if e["ts"] + e["dur"] >= launch["ts"])


def _leaves(threads):
    found = []
    for operators in threads.values():
        operators.sort(key=lambda e: (e["ts"], -e["dur"]))
        begun = [e["ts"] for e in operators]
        for event, following in zip(operators, [*operators[1:], None], strict=True):
            if following is None or following["ts"] >= event["ts"] + event["dur"]:
                found.append(Kernel(event["name"], event["ts"], event["dur"], _around(event, operators, begun)))
    return sorted(found, key=lambda kernel: kernel.start)


def busy(work):
    """Microseconds in which at least one kernel of ``work``, in order, ran."""
    total, until = 0.0, float("-inf")
    for kernel in work:
        end = kernel.start + kernel.duration
        total += max(0.0, end - max(kernel.start, until))
        until = max(until, end)
    return total


def learn(work):
    """{a kernel's name: the category that most of its time was launched for}, of kernels whose operator is known."""
    times = defaultdict(Counter)
    for kernel in work:
        if kernel.operators:
            times[kernel.name][category(kernel)] += kernel.duration
    return {name: found.most_common(1)[0][0] for name, found in times.items()}


def summary(work, steps, learnt):
    """Shares of the device's time and its gaps, a step."""
    spent, launched, named = Counter(), Counter(), defaultdict(Counter)
    for kernel in work:
        kind = category(kernel, learnt)
        spent[kind] += kernel.duration
        launched[kind] += 1
        named[kernel.name[:160], kind].update(time=kernel.duration, launches=1)
    total = sum(spent.values())
    span = max(k.start + k.duration for k in work) - work[0].start
    top = sorted(named.items(), key=lambda item: -item[1]["time"])[:NAMED]
    return {
        "busy_ms": busy(work) / steps / 1e3,
        "span_ms": span / steps / 1e3,
        "gaps_percent": 100 * (1 - busy(work) / span),
        "launches": len(work) / steps,
        "shares": {
            kind: {"percent": 100 * time / total, "ms": time / steps / 1e3, "launches": launched[kind] / steps}
            for kind, time in spent.most_common()
        },
        "kernels": [
            {"name": name, "category": kind, "ms": found["time"] / steps / 1e3, "launches": found["launches"] / steps}
            for (name, kind), found in top
        ],
    }


def traced(call, steps):
    """The events of ``steps`` calls, after some that are not looked at."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
    with profile(activities=activities):  # the first makes the profiler's own tables
        call()
    seconds(call)
    with profile(activities=activities) as found:
        seconds(lambda: [call() for _ in range(steps)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        found.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def measure(way, network, size, learnt, *, method="adv-interp", steps=STEPS, rounds=ROUNDS):
    """(the profile of one way, its kernels)."""
    torch.manual_seed(0)
    step = make_step(way, WideResNet(*network, 10), size, method)
    images, y = batch(size)

    def call():
        step(images, y, 0)

    call()
    times = [seconds(call) for _ in range(rounds)]
    work = kernels(traced(call, steps))
    about = {
        "way": way,
        "method": method,
        "network": f"WRN-{network[0]}-{network[1]}",
        "batch": size,
        "type": str(arithmetic(way)).removeprefix("torch."),
        "ms": 1e3 * statistics.median(times),
        "n": rounds,
    }
    return {**about, **summary(work, steps, learnt | learn(work))}, work


def show(found, file):
    """A profile as text."""
    title = f"{found['method']}, {found['network']}, batch {found['batch']}, {found['type']}, {found['way']}"
    print(
        f"\n{title}: {found['ms']:.2f} ms a step (median of {found['n']}); profiled {found['span_ms']:.2f} ms, "
        f"{found['gaps_percent']:.1f} % of it gaps; {found['launches']:.0f} launches",
        file=file,
    )
    for kind, share in found["shares"].items():
        print(f"  {kind:24}{share['percent']:6.1f} %{share['ms']:10.3f} ms{share['launches']:8.0f}", file=file)
    for kernel in found["kernels"]:
        print(f"    {kernel['ms']:9.3f} ms{kernel['launches']:6.0f}  {kernel['name'][:90]}", file=file)


def main(argv):
    """Profile every way; the eager one first, whose operators say what kernels are."""
    little = "--little" in argv
    network, size = ((28, 10), 128) if ON_GPU and not little else ((10, 1), 8)
    file = sys.stderr if "--json" in argv else sys.stdout
    more = {"steps": 1, "rounds": 1} if little else {}
    learnt = learn(measure("without CUDA graph", network, size, {}, **more)[1]) if ON_GPU else {}
    profiles = []
    for way in WAYS:
        found, _ = measure(way, network, size, learnt, **more)
        show(found, file)
        profiles.append(found)
    if "--json" in argv:
        print(json.dumps({"machine": environment(DEVICE), "profiles": profiles}))


if __name__ == "__main__":
    main(sys.argv[1:])
