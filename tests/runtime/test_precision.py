"""The switches of precision: strict inside, as they were outside, and readable by torch's older names in between."""

import pytest
import torch

from fastait.runtime import hardware
from fastait.runtime.precision import full_precision, native_half

NEW_NAMES = hasattr(torch.backends.cudnn, "conv")
needs_new_names = pytest.mark.skipif(not NEW_NAMES, reason="before torch 2.9 there is no fp32_precision")

if NEW_NAMES:
    BACKENDS = torch.backends.cudnn, torch.backends.mkldnn
    PARENTS = (torch.backends, *BACKENDS)
    SWITCHES = (
        *(torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul),
        *(torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul),
    )
else:
    PARENTS = SWITCHES = ()


def state():
    older = torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32
    return [s.fp32_precision for s in (*PARENTS, *SWITCHES)], *map(asked, older)


def asked(getter):
    try:
        return getter()
    except RuntimeError:  # of a mixture of old and new names it does not speak
        return None


@pytest.fixture
def _put_back():
    before, products, convolutions = state()
    yield
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
    for switch, value in zip((*PARENTS, *SWITCHES), before, strict=True):
        switch.fp32_precision = value


def legacy(value):
    torch.backends.cudnn.allow_tf32 = value


SETTINGS = {
    "torch's own": lambda: None,
    "tf32 products": lambda: torch.set_float32_matmul_precision("high"),
    "bf16 products": lambda: torch.set_float32_matmul_precision("medium"),
    "no tf32": lambda: legacy(False),
    "tf32": lambda: legacy(True),
}
if NEW_NAMES:
    SETTINGS |= {
        "all tf32": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
        "all strict": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
        "a part": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    }


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("_put_back")
def test_strict_inside_and_as_before_outside(name):
    SETTINGS[name]()
    before = state()
    with full_precision(torch.device("cpu")):
        assert {s.fp32_precision for s in SWITCHES} <= {"ieee"}
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        with torch.backends.cudnn.flags(allow_tf32=True):  # as a model may
            assert torch.backends.cudnn.allow_tf32
        assert {s.fp32_precision for s in SWITCHES} <= {"ieee"}  # for its next pass
        assert not torch.backends.cudnn.allow_tf32
    assert state() == before


@needs_new_names
@pytest.mark.usefixtures("_put_back")
def test_an_older_name_that_could_be_read_can_be_read_again():
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"  # now the name of the line above raises
    assert torch.backends.cuda.matmul.allow_tf32
    with full_precision(torch.device("cpu")):
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


@needs_new_names
@pytest.mark.usefixtures("_put_back")
def test_what_followed_follows_again():
    with full_precision(torch.device("cpu")):
        pass
    torch.backends.fp32_precision = "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.mkldnn.conv.fp32_precision == "tf32"


HALF = {"avx512_bf16", "amx_bf16", "bf16"}
SAID = {
    "x86 with AVX2": ("processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n", None),
    "x86 with AVX-512's bf16": ("flags\t\t: fpu avx512f avx512_bf16\nbugs\t\t:\n", torch.bfloat16),
    "x86 with AMX": ("flags\t\t: amx_bf16 amx_tile\n", torch.bfloat16),
    "ARM without": ("processor\t: 0\nFeatures\t: fp asimd i8mm\n", None),
    "ARM with bf16": ("Features\t: fp asimd i8mm bf16\n", torch.bfloat16),
    "nothing": (None, None),
}


@pytest.mark.parametrize("name", SAID)
def test_native_half_where_torch_does_not_say(name, tmp_path, monkeypatch):
    text, expected = SAID[name]
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        hardware.CPUINFO.write_text(text)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert native_half(torch.device("cpu")) == expected


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="before torch 2.11 torch does not say")
def test_linux_and_torch_agree():
    assert hardware.cpu_features() & HALF == {name for name in HALF if torch.cpu.get_capabilities().get(name)}
