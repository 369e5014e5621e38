"""Odd arguments: what is nearly right, of another type or shape, or out of all bounds."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

SHAPES = (
    *((), (0,), (1,), (2,), (4,), (5,), (4, 1), (4, 10), (4, 0), (0, 10), (5, 10), (4, 3, 16), (0, 3, 16, 16)),
    *((4, 3, 16, 16), (1, 3, 16, 16), (4, 16, 16, 3), (4, 1, 16, 16), (4, 3, 1, 1), (4, 3, 0, 16), (2, 4, 3, 16, 16)),
)
DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool),
    *(torch.complex64, torch.float8_e4m3fn),
)
FILLS = (0.0, 0.5, 1.0, -1.0, 2.0, 9.0, 10.0, 1e30, float("nan"), float("inf"))


class Failing(nn.Module):
    """Another's network that cannot do what it is asked."""

    def forward(self, x):
        raise RuntimeError("of its own")


@st.composite
def tensors(draw: Any) -> Any:
    """Of any shape, type and content, in any layout."""
    shape, dtype, fill = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES)), draw(st.sampled_from(FILLS))
    if dtype in (torch.uint8, torch.bool, torch.int32, torch.int64):
        fill = 3.0 if not -1 <= fill <= 10 else fill
    if dtype in (torch.uint8, torch.bool):
        fill = abs(fill)
    made = torch.full(shape, fill).to(dtype)
    how = draw(st.sampled_from(("", "", "", "meta", "sparse", "array", "list", "gaps", "grad", "inference")))
    if dtype == torch.float8_e4m3fn or how == "":
        return made
    if how == "meta":
        return made.to("meta")
    if how == "sparse":
        return made.to_sparse() if made.dim() else made
    if how == "array":
        return made.float().numpy() if dtype == torch.bfloat16 else made.numpy()
    if how == "list":
        return made.tolist()
    if how == "gaps":
        return torch.stack([made, made], -1)[..., 0]
    if how == "grad":
        return made.requires_grad_() if made.is_floating_point() else made
    with torch.inference_mode():
        return made.clone()


NUMBERS = (
    *(0, 1, 2, -1, 3, 10, 2**31, 2**63, -(2**63), 10**400, 10**5000, 0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e-320, 1e308),
    *(float("nan"), float("inf"), -float("inf"), 1j, True, False, Fraction(1, 3), np.float32(0.5), np.int64(2)),
    *(np.float64("nan"), np.bool_(True), np.array(2), np.array(0.5), np.array([0.5]), np.array("x")),
)
THINGS = (
    *(
        None,
        "",
        "x",
        "0.03",
        "8/255",
        "\0",
        "\ud800",
        "a\nb",
        "[red]",
        "x" * 300,
        b"1",
        b"\xff",
        [],
        [1],
        [None],
        (),
        (1, 2),
    ),
    *(
        {},
        {"a": 1},
        set(),
        range(3),
        object(),
        int,
        nn.Module,
        len,
        print,
        Path("nowhere"),
        Path("a\0"),
        Path("/"),
        ...,
    ),
    *(nn.Identity(), Failing(), lambda x: None, lambda x: "x", lambda x: x, lambda x: x.flatten(1)[:, :0]),
    *(NotImplemented, iter([1]), torch.float32, torch.device("cpu"), np.dtype("f4"), Exception("x")),
)


def arguments() -> st.SearchStrategy[Any]:
    """Anything."""
    return st.one_of(st.sampled_from(NUMBERS), st.sampled_from(THINGS), tensors())
