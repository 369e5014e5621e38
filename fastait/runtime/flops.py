"""Floating-point operations, counted while they are done.

They are those of convolutions, matrix products and attention, a multiplication and an addition each. Most formulas are
``torch.utils.flop_counter``'s; those here are of what it does not know, and of what it counts wrongly.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten


def counted(work: Callable[[], object]) -> int:
    """How many operations ``work`` does, in this thread. Tensors without values (FakeTensorMode's) will do."""
    with _Counter() as counter:
        work()
    return counter.flops


class _Counter(TorchDispatchMode):
    """``FlopCounterMode`` without its record of modules, whose hooks refuse the gradient of a module's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operator = func.overloadpacket
        if operator in _FORMULAS:
            self.flops += _FORMULAS[operator](*args, **(kwargs or {}))
        elif operator in flop_registry:
            self.flops += flop_registry[operator](*args, **(kwargs or {}), out_val=out)
        return out


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
) -> int:
    """Either gradient costs what the convolution did. torch's formula leaves the groups out of the weight's."""
    places = (x if transposed else grad).shape[2:]
    return (wanted[0] + wanted[1]) * 2 * len(x) * math.prod(places) * weight.numel()


def _attention(query: Tensor, key: Tensor, value: Tensor, *more: Any, **settings: Any) -> int:
    """Scores, and what they weigh. Of [B, heads, tokens, width] each."""
    return 2 * _scores(query, key) * (query.shape[-1] + value.shape[-1])


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *more: Any, **settings: Any) -> int:
    """Scores again, their gradient and the values', the queries' and the keys'."""
    return 2 * _scores(query, key) * (3 * query.shape[-1] + 2 * value.shape[-1])


def _scores(query: Tensor, key: Tensor) -> int:
    return math.prod(query.shape[:-1]) * key.shape[-2]


def _attention_layer(query: Tensor, key: Tensor, value: Tensor, width: int, *more: Any, **settings: Any) -> int:
    """``nn.MultiheadAttention`` in eval mode without gradients: three projections, attention, one projection."""
    tokens = math.prod(query.shape[:-1])
    return 2 * tokens * (4 * width * width + 2 * key.shape[-2] * width)


def _encoder_layer(src: Tensor, width: int, heads: int, *more: Any, **settings: Any) -> int:
    """``nn.TransformerEncoderLayer`` in eval mode without gradients."""
    within = more[11]  # the first weight of its two linear layers
    return _attention_layer(src, src, src, width) + 2 * math.prod(src.shape[:-1]) * 2 * within.numel()


_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten.convolution_backward: _convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._native_multi_head_attention: _attention_layer,
    _aten._transformer_encoder_layer_fwd: _encoder_layer,
}
