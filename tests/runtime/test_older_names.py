"""torch's older names for the switches of precision raise where only a part was set: never because of us."""

import itertools

import pytest
import torch

from fastait.runtime.precision import full_precision

CUDNN, MATMUL, ONEDNN = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn
NEW_NAMES = hasattr(CUDNN, "conv")  # from torch 2.9

SETTERS = {
    "torch's own": lambda: None,
    **{f"cudnn.allow_tf32 {v}": lambda v=v: setattr(CUDNN, "allow_tf32", v) for v in (True, False)},
    **{f"matmul.allow_tf32 {v}": lambda v=v: setattr(MATMUL, "allow_tf32", v) for v in (True, False)},
    **{v: lambda v=v: torch.set_float32_matmul_precision(v) for v in ("highest", "high", "medium")},
}
SWITCHES = {}
if NEW_NAMES:
    SWITCHES = {
        "all": torch.backends,
        "cudnn": CUDNN,
        "cudnn.conv": CUDNN.conv,
        "cudnn.rnn": CUDNN.rnn,
        "matmul": MATMUL,
        "onednn.conv": ONEDNN.conv,
        "onednn.rnn": ONEDNN.rnn,
        "onednn.matmul": ONEDNN.matmul,
    }
for name, switch in SWITCHES.items():
    less = "bf16" if name.startswith("onednn") else "tf32"
    for value in ("ieee", less, "none"):
        SETTERS[f"{name} {value}"] = lambda switch=switch, value=value: setattr(switch, "fp32_precision", value)

GETTERS = {
    "cudnn.allow_tf32": lambda: CUDNN.allow_tf32,
    "matmul.allow_tf32": lambda: MATMUL.allow_tf32,
    "float32_matmul_precision": torch.get_float32_matmul_precision,
}
if hasattr(ONEDNN, "allow_tf32"):
    GETTERS["onednn.allow_tf32"] = lambda: ONEDNN.allow_tf32


def answers():
    """What each older name says; "raises" where torch refuses."""
    found = {}
    for name, getter in GETTERS.items():
        try:
            found[name] = getter()
        except RuntimeError:
            found[name] = "raises"
    return found | {name: switch.fp32_precision for name, switch in SWITCHES.items()}


def reset(switches):
    """What torch begins with; the older names first, which set some of the others."""
    CUDNN.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for name, value in switches.items():
        SWITCHES[name].fp32_precision = value


@pytest.fixture
def start():
    switches = {name: switch.fp32_precision for name, switch in SWITCHES.items()}
    yield switches
    reset(switches)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_every_older_name_answers_inside_and_as_before_afterwards(start):
    """After any two settings of a caller's, by whichever name."""
    mixed = 0
    for first, second in itertools.product(SETTERS, SETTERS):
        reset(start)
        SETTERS[first]()
        SETTERS[second]()
        before = answers()
        with full_precision(torch.device("cpu")):
            inside = answers()
            with CUDNN.flags():  # as a model may
                pass
            assert answers() == inside
        after = answers()
        mixed += "raises" in before.values()
        assert "raises" not in inside.values(), (first, second, inside)
        assert {name: after[name] for name in after if before[name] != "raises"} == {
            name: value for name, value in before.items() if value != "raises"
        }, (first, second)
    assert mixed > 100 or not NEW_NAMES
