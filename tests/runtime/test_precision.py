"""The switches of precision: strict inside, as they were outside, and readable by torch's older names in between."""

import pytest
import torch

from fastait.runtime.precision import full_precision

BACKENDS = torch.backends.cudnn, torch.backends.mkldnn
PARENTS = (torch.backends, *BACKENDS)
SWITCHES = (
    *(torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul),
    *(torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul),
)


def state():
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # of a mixture of old and new names it does not speak
        older = None
    return [s.fp32_precision for s in (*PARENTS, *SWITCHES)], older


@pytest.fixture
def _put_back():
    before = state(), torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.set_float32_matmul_precision(before[0][1])
    for switch, value in zip((*PARENTS, *SWITCHES), before[0][0], strict=True):
        switch.fp32_precision = value


def legacy(value):
    torch.backends.cudnn.allow_tf32 = value


SETTINGS = {
    "torch's own": lambda: None,
    "tf32 products": lambda: torch.set_float32_matmul_precision("high"),
    "bf16 products": lambda: torch.set_float32_matmul_precision("medium"),
    "no tf32": lambda: legacy(False),
    "tf32": lambda: legacy(True),
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
        assert {s.fp32_precision for s in SWITCHES} == {"ieee"}
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        with torch.backends.cudnn.flags(allow_tf32=True):  # as a model may
            assert torch.backends.cudnn.allow_tf32
        assert {s.fp32_precision for s in SWITCHES} == {"ieee"}  # for its next pass
        assert not torch.backends.cudnn.allow_tf32
    assert state() == before


@pytest.mark.usefixtures("_put_back")
def test_an_older_name_that_could_be_read_can_be_read_again():
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"  # now the name of the line above raises
    assert torch.backends.cuda.matmul.allow_tf32
    with full_precision(torch.device("cpu")):
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("_put_back")
def test_what_followed_follows_again():
    with full_precision(torch.device("cpu")):
        pass
    torch.backends.fp32_precision = "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.mkldnn.conv.fp32_precision == "tf32"
