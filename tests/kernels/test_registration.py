"""The operators as torch.library citizens: opcheck, gradients, torch.compile, autocast, fake tensors."""

import shutil
import warnings

import pytest
import torch
from kernel_inputs import DEVICE, LAYOUTS, random
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import fastait_kernels as ops

NAMESPACE = torch.ops.fastait_kernels
LABELS = torch.tensor([0, 3, 1], device=DEVICE)


def scalar(value=0):
    return torch.tensor([value], device=DEVICE)


def operator_calls(dtype, layout="contiguous"):
    """(operator, arguments) of every registered operator."""
    x, grad, origin = (random((2, 3, 4, 5), dtype, layout, seed=i) for i in range(3))
    counts = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    logits, target = (random((3, 5), dtype, seed=i) for i in range(2))
    upstream = random((3,), torch.float64 if dtype == torch.float64 else torch.float32)
    rest = logits.to(upstream.dtype).logsumexp(1)
    images = torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8, device=DEVICE)
    shift = torch.ones(3, 2, dtype=torch.int64, device=DEVICE)
    step = (0.1, 0.05, 0.0, 1.0)
    channels, image = random((3, 1, 1), torch.float32, seed=5), random((2, 1, 1, 1), torch.float32, seed=6)
    varying = (0.1, 0.0, 0.0, 0.0, None, channels, -image, image + 1)
    grad_logits = logits.clone().requires_grad_()
    return [
        (NAMESPACE.linf_step, (x, grad, origin, *step)),
        (NAMESPACE.linf_step_out, (x, grad, origin, *step, None, torch.empty_like(x))),
        (NAMESPACE.linf_step_out, (x, grad, origin, *step, counts, torch.empty_like(x))),
        (NAMESPACE.linf_step_, (x.clone(), grad, origin, *step, None)),
        (NAMESPACE.linf_step_varying, (x, grad, origin, *varying)),
        (NAMESPACE.linf_step_varying_out, (x, grad, origin, *varying, None, torch.empty_like(x))),
        (NAMESPACE.linf_step_varying_out, (x, grad, origin, *varying, counts, torch.empty_like(x))),
        (NAMESPACE.linf_step_varying_, (x.clone(), grad, origin, *varying, None)),
        (NAMESPACE.random_start_varying, (x, channels, scalar(3), scalar(), 4)),
        (NAMESPACE.random_start, (x, 0.1, scalar(3), scalar(), 4)),
        (NAMESPACE.soft_cross_entropy, (grad_logits, target.clone().requires_grad_())),
        (NAMESPACE.soft_cross_entropy, (grad_logits, target)),
        (NAMESPACE.soft_cross_entropy_backward, (upstream, logits, target, rest, True)),
        (NAMESPACE.interpolated_cross_entropy, (grad_logits, LABELS, LABELS.flip(0), 0.5)),
        (NAMESPACE.interpolated_cross_entropy_backward, (upstream, logits, LABELS, LABELS.flip(0), rest, 0.5)),
        (NAMESPACE.margin_loss, (grad_logits, LABELS, 50.0)),
        (NAMESPACE.margin_loss_backward, (upstream, LABELS, LABELS.flip(0), logits)),
        (NAMESPACE.cosine_distance, (grad_logits, target, True)),
        (NAMESPACE.cosine_distance, (logits, target, False)),
        (NAMESPACE.cosine_distance_backward, (upstream, logits.to(upstream.dtype), dtype)),
        (NAMESPACE.augment, (images, LABELS, shift, LABELS > 1, 2, torch.float32)),
        (NAMESPACE.augment_with_start, (images, LABELS, shift, LABELS > 1, 2, torch.float32, 0.1, scalar(1), scalar())),
    ]


CALLS = [pytest.param(i, id=f"{i}-{operator}") for i, (operator, _) in enumerate(operator_calls(torch.float32))]


@pytest.mark.parametrize("index", CALLS)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(torch.float32, "contiguous"), (torch.float32, "channels_last"), (torch.bfloat16, "contiguous")],
)
def test_opcheck(index, dtype, layout):
    operator, arguments = operator_calls(dtype, layout)[index]
    opcheck(operator.default, arguments)


def test_every_operator_is_checked():
    checked = {str(operator) for operator, _ in operator_calls(torch.float32)}
    registered = {f"fastait_kernels.{name}" for name in dir(NAMESPACE) if name != "name"}
    assert {name for name in registered if name in checked or not name.startswith("fastait_kernels._")} == checked


def double(shape, seed=0):
    return random(shape, torch.float64, low=-1, seed=seed).requires_grad_()


@pytest.mark.parametrize(
    "function",
    [
        lambda z: ops.soft_cross_entropy(z, double((3, 5), 1), "sum"),
        lambda t: ops.soft_cross_entropy(double((3, 5), 1).detach(), t, "none"),
        lambda z: ops.interpolated_cross_entropy(z, LABELS, LABELS.flip(0), 0.3),
        lambda z: ops.margin_loss(z, LABELS, 50.0, "sum"),
        lambda a: ops.cosine_distance(a, double((3, 5), 2).detach(), "none"),
    ],
    ids=["soft_cross_entropy", "its target", "interpolated_cross_entropy", "margin_loss", "cosine_distance"],
)
def test_gradcheck(function):
    assert torch.autograd.gradcheck(function, double((3, 5)))


def public_calls(dtype=torch.float32, layout="channels_last"):
    """A function per public operator, of (images like the first argument, rows like the second)."""
    target = random((3, 5), dtype, seed=9)
    origin = random((2, 3, 4, 5), dtype, layout, seed=8)
    seed = scalar(1)
    images = torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8, device=DEVICE)
    shift = torch.ones(3, 2, dtype=torch.int64, device=DEVICE)

    channels, image = random((3, 1, 1), torch.float32, seed=5), random((2, 1, 1, 1), torch.float32, seed=6)

    def in_place(x, rows):
        x = x.clone()
        return ops.linf_step_(x, origin, origin, 0.1, 0.05) * 2

    return {
        "linf_step": lambda x, rows: ops.linf_step(x * 1, origin, origin, 0.1, 0.05),
        "linf_step_": in_place,
        "linf_step, varying": lambda x, rows: ops.linf_step(x * 1, origin, origin, channels, 0.05, -image, image + 1),
        "linf_step_, varying": lambda x, rows: ops.linf_step_(x.clone(), origin, origin, channels.mean(), image) * 2,
        "random_start, varying": lambda x, rows: ops.random_start(x, channels, seed, scalar()),
        "random_start": lambda x, rows: ops.random_start(x, 0.1, seed, scalar()),
        "soft_cross_entropy": lambda x, rows: ops.soft_cross_entropy(rows * 2, target),
        "interpolated_cross_entropy": lambda x, rows: ops.interpolated_cross_entropy(rows, LABELS, LABELS.flip(0), 0.5),
        "margin_loss": lambda x, rows: ops.margin_loss(rows, LABELS),
        "cosine_distance": lambda x, rows: ops.cosine_distance(rows, target, "sum"),
        "augment": lambda x, rows: ops.augment(images, LABELS, shift, LABELS > 1, 2),
    }


def run_both(name, dtype, layout, backend):
    function = public_calls(dtype, layout)[name]
    x = random((2, 3, 4, 5), dtype, layout)
    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend=backend)):
        rows = random((3, 5), dtype, low=-2).requires_grad_()
        out = call(x, rows)
        grads = torch.autograd.grad(out.sum(), rows) if out.requires_grad else ()
        results.append((out, *grads))
    return results


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", public_calls())
def test_compiles_whole(name, layout):
    eager, compiled = run_both(name, torch.float32, layout, "aot_eager")
    for a, b in zip(eager, compiled, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU")
def test_inductor_keeps_strides_and_values():
    """Inductor chooses layouts; what reaches an operator must still be what its kernel reads."""
    conv = torch.nn.Conv2d(3, 3, 3, padding=1).to(DEVICE, memory_format=torch.channels_last)
    images = torch.randint(0, 256, (4, 4, 5, 3), dtype=torch.uint8, device=DEVICE)
    shift = torch.ones(2, 2, dtype=torch.int64, device=DEVICE)

    def function(x, origin, rows, offset, counts):
        x = x + ops.augment(images, LABELS[:2], shift, LABELS[:2] > 1, 1)
        start = ops.random_start(torch.sigmoid(x), 0.1, offset, offset.clone())
        start = start + ops.augment(
            images, LABELS[:2], shift, LABELS[:2] > 1, 1, epsilon=0.1, seed=offset, offset=offset.clone()
        )
        moved = ops.linf_step(start, torch.sin(x * 7), origin, 0.1, 0.05, counts=counts)
        moved = ops.linf_step_(moved.clone(), torch.sin(x * 5), origin, 0.1, 0.05)
        moved = ops.linf_step(moved, torch.cos(x), origin, 0.1, origin.detach().amax((0, 2, 3), keepdim=True) * 0.1)
        moved = ops.random_start(moved, rows.detach()[:, :1, None].abs() * 0.01, offset, offset.clone())
        features = conv(moved).flatten(1)
        loss = ops.cosine_distance(features, features.detach().flip(0), "sum")
        loss = loss + ops.soft_cross_entropy(rows, rows.detach().softmax(1)) + ops.margin_loss(rows, LABELS)
        return moved, loss + ops.interpolated_cross_entropy(rows, LABELS, LABELS.flip(0), 0.5)

    for layout in ("contiguous", "channels_last"):
        x, origin = (random((2, 3, 4, 5), torch.float32, layout, seed=i) for i in range(2))
        results = []
        for call in (function, torch.compile(function, fullgraph=True)):
            rows = random((3, 5), torch.float32).requires_grad_()
            counts = torch.zeros(2, dtype=torch.int64, device=DEVICE)
            moved, loss = call(x, origin, rows, scalar(4), counts)
            results.append((moved, loss.detach(), counts, *torch.autograd.grad(loss, [rows, conv.weight])))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)
        assert results[0][0].stride() == results[1][0].stride()


@pytest.mark.parametrize("name", public_calls())
def test_autocast_changes_nothing(name):
    """An operator computes in fp32 whatever it is given, so autocast has nothing to cast."""
    function = public_calls()[name]
    x, rows = random((2, 3, 4, 5), torch.float32, "channels_last"), random((3, 5), torch.float32)
    plain = function(x, rows)
    with warnings.catch_warnings(), torch.autocast(DEVICE.type, torch.bfloat16):
        warnings.simplefilter("error")
        inside = function(x, rows)
    assert inside.dtype == plain.dtype
    assert torch.equal(inside, plain)


def test_no_host_synchronisation():
    """Fake tensors raise at every .item() and data-dependent shape: a step's worth of operators needs none."""
    with FakeTensorMode():
        x, origin = torch.empty(4, 3, 8, 8), torch.empty(4, 3, 8, 8)
        seed, offset, counts = (torch.empty(n, dtype=torch.int64) for n in (1, 1, 2))
        y = torch.empty(4, dtype=torch.int64)
        rows = torch.empty(4, 10, requires_grad=True)
        images = torch.empty(20, 8, 8, 3, dtype=torch.uint8)
        batch = ops.augment(images, y, torch.empty(4, 2, dtype=torch.int64), torch.empty(4, dtype=torch.bool), 2)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        start = ops.random_start(x, 0.1, seed, offset)
        ops.linf_step_(start, x, origin, 0.1, 0.1, counts=counts)
        channels, image = torch.empty(3, 1, 1), torch.empty(4, 1, 1, 1)
        start = ops.random_start(x, channels, seed, offset)
        ops.linf_step_(start, x, origin, channels, image, counts=counts)
        assert ops.linf_step(start, x, origin, 0.1, channels, -image, torch.empty(())).shape == x.shape
        loss = (
            ops.soft_cross_entropy(rows, rows.detach())
            + ops.interpolated_cross_entropy(rows, y, y, 0.5)
            + ops.margin_loss(rows, y)
            + ops.cosine_distance(rows, rows.detach())
        )
        loss.backward()
        assert rows.grad.shape == (4, 10)


def test_layouts_are_what_they_say():
    x = torch.zeros(2, 3, 4, 5)
    assert [LAYOUTS[k](x).stride() for k in ("contiguous", "channels_last")] == [(60, 20, 5, 1), (60, 1, 15, 3)]
    assert LAYOUTS["permuted"](x).shape == x.shape
    assert LAYOUTS["permuted"](x).stride() not in [(60, 20, 5, 1), (60, 1, 15, 3)]


def test_depends_on_torch_alone():
    """Installed for its operators only, it must not need the trainer."""
    import subprocess
    import sys

    script = (
        "import sys, fastait_kernels\n"
        "found = {m.split('.')[0] for m in sys.modules} & "
        "{'fastait', 'cyclopts', 'rich', 'nvidia.dali', 'sklearn', 'torchvision', 'safetensors'}\n"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_triton_the_torch_references_serve():
    import subprocess
    import sys

    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, fastait_kernels as k\n"
        "x = torch.rand(2, 3)\n"
        "k.linf_step(x, x, x, .1, .1); k.soft_cross_entropy(x, x); k.margin_loss(x, torch.tensor([0, 1]))\n"
        "k.random_start(x, .1, torch.tensor([1]), torch.tensor([0])); k.cosine_distance(x, x)\n"
        "from fastait_kernels.report import main; sys.exit(main([]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("error: nothing can be compiled: triton is not installed")
