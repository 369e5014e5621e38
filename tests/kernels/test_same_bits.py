"""What is promised to be the same on every device: pixels in [0, 1], and the steps and starts that kernels make too."""

import importlib

import pytest
import torch
from kernel_inputs import DEVICE, DTYPES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastait.data import ImageSet, to_float
from fastait_kernels._support import to_unit

augment, linf_step, random_start = (
    importlib.import_module(f"fastait_kernels.{name}") for name in ("augment", "linf_step", "random_start")
)
VALUES = torch.arange(256, dtype=torch.uint8)


class Divisions(TorchDispatchMode):
    """Notes what is divided by where a GPU would multiply by the reciprocal: a number, or a tensor on the CPU."""

    def __init__(self):
        super().__init__()
        self.divisions = 0
        self.inexact = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "div" in function.name().split("::")[1]:
            self.divisions += 1
            divisor = args[1]
            if not (isinstance(divisor, torch.Tensor) and divisor.device.type == "cuda"):
                self.inexact.append(divisor)
        return function(*args, **(kwargs or {}))


def on_a_gpu(call):
    """The divisions of ``call`` on fake tensors, which it makes on "cuda"."""
    try:
        with FakeTensorMode(), Divisions() as seen:
            call()
    except RuntimeError as error:
        if "driver" in str(error):
            pytest.skip("this torch asks for a driver for tensors that are fake")
        raise
    return seen


def pixels():
    return torch.zeros(4, 8, 8, 3, dtype=torch.uint8, device="cuda")


def images(dtype=torch.float32):
    return torch.zeros(4, 3, 8, 8, dtype=dtype, device="cuda")


def augmented(dtype):
    index, shift = (torch.zeros(shape, dtype=torch.int64, device="cuda") for shape in ((4,), (4, 2)))
    augment.reference(pixels(), index, shift, index.bool(), 2, dtype, 0.0, None, None)


def started(patch, epsilon):
    patch.setattr(random_start, "unit_noise", lambda n, seed, offset, place: torch.zeros(n, device="cuda"))
    random_start.reference(images(), epsilon, None, None)


def test_a_division_by_a_number_would_be_noticed():
    seen = on_a_gpu(lambda: images().div_(255))
    assert (seen.divisions, seen.inexact) == (1, [255])
    assert len(on_a_gpu(lambda: images() / torch.tensor(255.0)).inexact) == 1
    assert not on_a_gpu(lambda: images() / images()).inexact


@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_are_divided_by_what_lies_on_the_gpu(dtype):
    for call in (
        lambda: to_float(pixels(), dtype),
        lambda: ImageSet(pixels(), None).floats(torch.arange(2), torch.device("cuda"), dtype),
        lambda: augmented(dtype),
    ):
        seen = on_a_gpu(call)
        assert seen.divisions == 1
        assert not seen.inexact


def test_steps_and_starts_divide_by_nothing(monkeypatch):
    step = on_a_gpu(lambda: linf_step.reference(images(), images(), images(), 0.01, 0.03, 0.0, 1.0, None))
    start = on_a_gpu(lambda: started(monkeypatch, 0.03))
    assert (step.divisions, start.divisions) == (0, 0)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_every_value_is_rounded_once(dtype):
    """Against exact division in fp64: so rounded to fp32 the quotients of bytes are those of fp32 itself."""
    expected = (VALUES.double() / 255).to(dtype)
    assert torch.equal(to_unit(VALUES.to(DEVICE), dtype).cpu(), expected)
    assert torch.equal(to_float(VALUES.to(DEVICE).view(1, 16, 16, 1), dtype).flatten().cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [16, 32], ids=["masked", "whole blocks"])
def test_the_kernel_makes_the_same_of_every_value(dtype, side):
    set_of_one = VALUES.repeat(side * side // 256).view(1, side, side, 1).to(DEVICE)
    index, shift = (torch.zeros(shape, dtype=torch.int64, device=DEVICE) for shape in ((1,), (1, 2)))
    out = augment._empty(set_of_one, index, dtype)
    augment.launch(out, set_of_one, index, shift, index.bool(), 0, 0.0, None, None)
    assert torch.equal(out, to_float(set_of_one, dtype))
