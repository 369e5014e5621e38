"""What only a GPU can show of the operators. Their numerics are those of tests/kernels, which run there too."""

import importlib
import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from rehearsal import DEVICE, nothing_waits, scaled
from tolerances import ROW

import fastait_kernels as ops

pytestmark = pytest.mark.usefixtures("_kernels")

BATCH = scaled(128, 8)
SHAPE = (BATCH, 3, 32, 32)


def images(seed=0):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.rand(SHAPE, generator=generator, device=DEVICE)
    return x.contiguous(memory_format=torch.channels_last)


def labels(seed=0):
    return torch.randint(0, 10, (BATCH,), generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_call_runs_the_kernel_and_equals_torch(dtype):
    module = importlib.import_module("fastait_kernels.linf_step")
    x, grad, origin = (images(i).to(dtype) for i in range(3))
    got = ops.linf_step(x, grad - 0.5, origin, 2 / 255, 8 / 255)
    expected = module.reference(x, grad - 0.5, origin, 2 / 255, 8 / 255, 0.0, 1.0, None)
    assert torch.equal(got, expected)
    assert got.stride() == x.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 1, 1), (BATCH, 1, 1, 1), (BATCH, 3, 1, 1), (1,), ()])
def test_numbers_that_vary_equal_torch(dtype, layout, shape):
    step, start = (importlib.import_module(f"fastait_kernels.{name}") for name in ("linf_step", "random_start"))
    x, grad, origin = (images(i).to(dtype).contiguous(memory_format=layout) for i in range(3))
    epsilon = torch.rand(shape, device=DEVICE) * 0.1
    got = ops.linf_step(x, grad - 0.5, origin, epsilon / 4, epsilon, -epsilon, 1.0)
    assert torch.equal(got, step.reference(x, grad - 0.5, origin, epsilon / 4, epsilon, -epsilon, 1.0, None))
    assert got.stride() == x.stride()
    seed, offset = (torch.tensor([n], device=DEVICE) for n in (5, 7))
    expected = start.reference(x, epsilon, seed, offset)
    assert torch.equal(ops.random_start(x, epsilon, seed, offset), expected)
    on_cpu = torch.tensor(8 / 255)  # of a plain number's worth, it needs no copy
    assert torch.equal(ops.linf_step(x, grad, origin, 0.01, on_cpu), ops.linf_step(x, grad, origin, 0.01, 8 / 255))


def test_sure_networks():
    """The kernels' own exp and log1p, on the hardware's exp2: signs and errors at most those of torch's log_softmax."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    for scale in (1, 30, 100):
        logits = scale * torch.randn(512, 10, generator=generator, device=DEVICE)
        target = logits.softmax(1)
        moved = logits + 1e-3 * scale * torch.randn(512, 10, generator=generator, device=DEVICE)
        leaf, grads = moved.clone().requires_grad_(), []
        for loss in (ops.soft_cross_entropy(leaf, target, "sum"), -(target * leaf.log_softmax(1)).sum()):
            grads.append(torch.autograd.grad(loss, leaf)[0].double())
        z, t = moved.double(), target.double()
        largest = F.one_hot(z.argmax(1), 10).bool()
        powers = (z - z.amax(1, keepdim=True)).exp()
        rest = powers.masked_fill(largest, 0).sum(1, keepdim=True)
        at_top = t.masked_fill(largest, 0).sum(1, keepdim=True) - t.sum(1, keepdim=True) * rest / (1 + rest)
        exact = torch.where(largest, at_top, powers / (1 + rest) * t.sum(1, keepdim=True) - t)
        ours, theirs = ((grad - exact).abs().mean() for grad in grads)
        assert ours <= 1.1 * theirs
        held = exact.abs() > 2.0**-126
        ours, theirs = ((grad.sign() != exact.sign())[held].double().mean() for grad in grads)
        assert ours <= theirs


def test_noise_is_that_of_the_cpu():
    x = images()
    seed, offset = torch.tensor([123456789], device=DEVICE), torch.tensor([7], device=DEVICE)
    on_gpu = ops.random_start(x, 8 / 255, seed, offset)
    on_cpu = ops.random_start(x.cpu(), 8 / 255, seed.cpu(), torch.tensor([7]))
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_capture_and_replay():
    """One graph of every operator: replays draw fresh noise and are otherwise equal to eager calls."""
    x, grad, origin = images(0), images(1) - 0.5, images(2)
    y = labels()
    logits = torch.randn(BATCH, 10, device=DEVICE, requires_grad=True)
    features, target = torch.rand(BATCH, 640, device=DEVICE, requires_grad=True), torch.rand(BATCH, 640, device=DEVICE)
    data = torch.randint(0, 256, (1000, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    index = torch.randint(0, 1000, (BATCH,), device=DEVICE)
    shift = torch.randint(0, 9, (BATCH, 2), device=DEVICE)
    flip = torch.rand(BATCH, device=DEVICE) < 0.5
    seed, offset = torch.tensor([5], device=DEVICE), torch.zeros(1, dtype=torch.int64, device=DEVICE)

    channels, each_image = torch.rand(3, 1, 1, device=DEVICE) * 0.1, torch.rand(BATCH, 1, 1, 1, device=DEVICE)

    def step():
        loss = (
            ops.soft_cross_entropy(logits, torch.softmax(logits.detach() * 2, 1))
            + ops.interpolated_cross_entropy(logits, y, y.flip(0), 0.5)
            + ops.margin_loss(logits, y)
            + ops.cosine_distance(features, target)
        )
        grads = torch.autograd.grad(loss, [logits, features])
        return (
            ops.random_start(x, 8 / 255, seed, offset),
            ops.linf_step(x, grad, origin, 2 / 255, 8 / 255),
            ops.linf_step(x, grad, origin, channels / 4, channels, -each_image, 1 + each_image),
            ops.augment(data, index, shift, flip, 4),
            loss.detach(),
            *grads,
        )

    eager = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()

    offset.zero_()
    graph.replay()
    first = [t.clone() for t in captured]
    graph.replay()
    second = [t.clone() for t in captured]
    assert offset.item() == 2
    assert torch.equal(first[0], eager[0])
    assert not torch.equal(second[0], first[0])
    for a, b, c in zip(first[1:], second[1:], eager[1:], strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, **ROW[torch.float32])


def test_nothing_waits_for_the_gpu():
    x, y, numbers = images(), labels(), torch.rand(3, 1, 1, device=DEVICE)
    logits = torch.randn(BATCH, 10, device=DEVICE, requires_grad=True)
    seed, offset = torch.tensor([5], device=DEVICE), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with nothing_waits():
        start = ops.random_start(x, 0.1, seed, offset)
        ops.linf_step_(start, x, x, 0.1, 0.1)
        ops.linf_step_(ops.random_start(x, numbers, seed, offset), x, x, 0.1, numbers, upper=numbers)
        loss = ops.interpolated_cross_entropy(logits, y, y, 0.5) + ops.margin_loss(logits, y)
        loss.backward()


def test_what_torch_computes_on_a_gpu_keeps_the_promises():
    """fp64 and rows too wide for a tile: no synchronisation, and NaN for a label out of range."""
    x = images().double()
    wide = torch.randn(4, 20_000, device=DEVICE)
    y = torch.tensor([0, 1, 20_000, -1], device=DEVICE)
    seed, offset = torch.tensor([5], device=DEVICE), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with nothing_waits():
        start = ops.random_start(x, 8 / 255, seed, offset)
        moved = ops.linf_step(start, x - 0.5, x, 0.1, 8 / 255)
        losses = [
            ops.margin_loss(wide, y, reduction="none"),
            ops.interpolated_cross_entropy(wide, y, y, 0.5, "none"),
        ]
    assert (moved - x).abs().max() <= 8 / 255 + 1e-9
    for loss in losses:
        assert loss.isnan().tolist() == [False, False, True, True]


def eager_linf(x, grad, origin):
    moved = x + 2 / 255 * grad.sign()
    return torch.min(torch.max(moved, origin - 8 / 255), origin + 8 / 255).clamp(0, 1)


def eager_interpolated(logits, y):
    one_hot = F.one_hot(y, logits.shape[1]).float()
    target = 0.5 * one_hot + 0.5 * (1 - one_hot.flip(0)) / (logits.shape[1] - 1)
    return F.cross_entropy(logits, target)


def median_us(call):
    for _ in range(20):
        call()
    times = []
    for _ in range(100):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def test_timing_is_printed(capsys):
    """No bound is asserted: the figures are for whoever reads them, with the GPU's name."""
    x, grad, origin = images(0), images(1) - 0.5, images(2)
    logits, y = torch.randn(BATCH, 10, device=DEVICE), labels()
    pairs = {
        "linf_step": (lambda: ops.linf_step(x, grad, origin, 2 / 255, 8 / 255), eager_linf, (x, grad, origin)),
        "interpolated_cross_entropy": (
            lambda: ops.interpolated_cross_entropy(logits, y, y.flip(0), 0.5),
            eager_interpolated,
            (logits, y),
        ),
    }
    with capsys.disabled():
        for name, (ours, eager, arguments) in pairs.items():
            compiled = torch.compile(eager)
            figures = [
                median_us(ours),
                median_us(lambda eager=eager, a=arguments: eager(*a)),
                median_us(lambda compiled=compiled, a=arguments: compiled(*a)),
            ]
            print(
                f"\n{name}, batch {BATCH}, {torch.cuda.get_device_name()}: {figures[0]:.1f} us, "
                f"eager {figures[1]:.1f} us, torch.compile {figures[2]:.1f} us (medians of 100, launch included)"
            )
