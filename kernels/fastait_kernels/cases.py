"""The kernels as they are launched for a typical batch: what ``report`` and the tests compile ahead of time."""

import importlib
from dataclasses import dataclass
from typing import Any

import torch

POINTER = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}
ELEMENTS = 128 * 3 * 32 * 32
"""A batch of 128 CIFAR images."""

ROWS, CLASSES, FEATURES = 128, 10, 640


@dataclass(frozen=True)
class Case:
    """One kernel in one dtype.

    Attributes:
        name: operator, and pass where it has two.
        kernel: the jitted function.
        signature: argument name -> Triton type, ``constexpr`` for compile-time ones.
        constants: values of the compile-time arguments.
        aligned: arguments whose value is a multiple of 16, as Triton finds at launch.
        num_warps: of a program.
        options: further compile options.
        block: elements of a program.
        minimum_bytes: bytes that an element costs if every input is read once and every output written once.
        elements: elements of the batch.
        wide: the types read and written in whole blocks, whose accesses must be 16 bytes wide: (loads, stores).
        elementwise: whether only the unmasked body counts, the last block being masked.
        scalar_bytes: one-byte loads of one address by a whole program.
    """

    name: str
    dtype: torch.dtype
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    num_warps: int
    options: dict[str, Any]
    block: int
    minimum_bytes: float
    elements: int
    wide: tuple[int, int]
    elementwise: bool
    scalar_bytes: int


def _case(
    name: str,
    dtype: torch.dtype,
    module: str,
    kernel: str,
    types: dict[str, Any],
    aligned: tuple[str, ...] = (),
    **rest: Any,
) -> Case:
    """``types`` maps each argument to a Triton type, or to its value if it is a compile-time constant."""
    constants = {key: value for key, value in types.items() if not isinstance(value, str)}
    pointers = tuple(key for key, value in types.items() if isinstance(value, str) and value.startswith("*"))
    defaults: dict[str, Any] = {"num_warps": 4, "options": {}, "wide": (0, 0), "elementwise": False, "scalar_bytes": 0}
    return Case(
        name=name,
        dtype=dtype,
        kernel=getattr(importlib.import_module(f"fastait_kernels.{module}"), kernel),
        signature={key: value if isinstance(value, str) else "constexpr" for key, value in types.items()},
        constants=constants,
        aligned=pointers + aligned,
        **{**defaults, **rest},
    )


def _augment(dtype: torch.dtype, noise: bool) -> Case:
    from fastait_kernels.augment import QUADS

    return _case(
        "augment, with start" if noise else "augment",
        dtype,
        "augment",
        "augment_kernel",
        {
            "out_ptr": POINTER[dtype],
            "images_ptr": "*u8",
            "index_ptr": "*i64",
            "shift_ptr": "*i64",
            "flip_ptr": "*i1",
            "n": "i32",
            "size": "i32",
            "padding": "i32",
            "epsilon": "fp32",
            "seed_ptr": "*i64" if noise else None,
            "offset_ptr": "*i64" if noise else None,
            "HEIGHT": 32,
            "WIDTH": 32,
            "CHANNELS": 3,
            "SCALE": dtype != torch.uint8,
            "NOISE": noise,
            "ONE_IMAGE": True,
            "QUADS": QUADS,
        },
        num_warps=4 if dtype.itemsize == 4 else 2,
        options={"enable_fp_fusion": False},
        block=4 * QUADS,
        minimum_bytes=1 + dtype.itemsize,
        elements=ELEMENTS,
        wide=(0, 1),
        elementwise=True,
        scalar_bytes=1,
    )


def _varying(image: bool, channel: bool) -> dict[str, int]:
    """Where numbers lie that differ per image, per channel or both, for a channels-last batch."""
    return {
        "IMAGE_STRIDE": 3 * 32 * 32 * image,
        "IMAGE_SIZE": 0,
        "CHANNEL_STRIDE": int(channel),
        "CHANNEL_SIZE": 3 * channel,
    }


def _varying_step(dtype: torch.dtype, per: str) -> Case:
    """The sign step with four tensors of numbers, one for each image or channel."""
    from fastait_kernels.linf_step import BLOCK_BYTES

    image, channel = per == "image", per == "channel"
    names = ("STEP", "EPSILON", "LOWER", "UPPER")
    return _case(
        f"linf_step, per {per}",
        dtype,
        "linf_step",
        "varying_kernel",
        {
            **{f"{t}_ptr": POINTER[dtype] for t in ("out", "x", "grad", "origin")},
            "counts_ptr": None,
            "n": "i32",
            **dict.fromkeys(("step_size", "epsilon", "lower", "upper"), "*fp32"),
            **_varying(image, channel),
            **{f"{name}_IMAGE": int(image) for name in names},
            **{f"{name}_CHANNEL": int(channel) for name in names},
            "COUNT": False,
            "BLOCK": BLOCK_BYTES // dtype.itemsize,
        },
        block=BLOCK_BYTES // dtype.itemsize,
        minimum_bytes=4 * dtype.itemsize,
        elements=ELEMENTS,
        wide=(3, 1),
        elementwise=True,
    )


def _varying_start(dtype: torch.dtype) -> Case:
    """The random start with a radius for each channel of each image."""
    from fastait_kernels.random_start import quads

    return _case(
        "random_start, per image and channel",
        dtype,
        "random_start",
        "varying_kernel",
        {
            "out_ptr": POINTER[dtype],
            "x_ptr": POINTER[dtype],
            "n": "i32",
            "epsilon": "*fp32",
            "seed_ptr": "*i64",
            "offset_ptr": "*i64",
            "quads_before": "i32",
            **_varying(image=True, channel=True),
            "EPSILON_IMAGE": 3,
            "EPSILON_CHANNEL": 1,
            "QUADS": quads(dtype.itemsize),
        },
        options={"enable_fp_fusion": False},
        block=4 * quads(dtype.itemsize),
        minimum_bytes=2 * dtype.itemsize,
        elements=ELEMENTS,
        wide=(1, 1),
        elementwise=True,
    )


def cases(dtype: torch.dtype) -> list[Case]:
    """Every kernel for images, logits or features of ``dtype``; uint8 images are ``augment``'s alone."""
    if dtype == torch.uint8:
        return [_augment(dtype, noise=False)]
    from fastait_kernels.cosine_distance import warps
    from fastait_kernels.linf_step import BLOCK_BYTES
    from fastait_kernels.random_start import quads
    from fastait_kernels.soft_cross_entropy import tile

    p, size = POINTER[dtype], dtype.itemsize
    block, start_quads = BLOCK_BYTES // size, quads(size)
    shape = tile(CLASSES)
    rows: dict[str, Any] = {
        "num_warps": shape.pop("num_warps"),
        "block": shape["ROWS"] * CLASSES,
        "elements": ROWS * CLASSES,
    }
    per_row = 1 / CLASSES
    found = []
    for count in (False, True):
        found.append(
            _case(
                "linf_step, counting" if count else "linf_step",
                dtype,
                "linf_step",
                "linf_step_kernel",
                {
                    **{f"{t}_ptr": p for t in ("out", "x", "grad", "origin")},
                    "counts_ptr": "*i64" if count else None,
                    "n": "i32",
                    **dict.fromkeys(("step_size", "epsilon", "lower", "upper"), "fp32"),
                    "COUNT": count,
                    "BLOCK": block,
                },
                block=block,
                minimum_bytes=4 * size,
                elements=ELEMENTS,
                wide=(3, 1),
                elementwise=True,
            )
        )
    found.append(
        _case(
            "random_start",
            dtype,
            "random_start",
            "random_start_kernel",
            {
                "out_ptr": p,
                "x_ptr": p,
                "n": "i32",
                "epsilon": "fp32",
                "seed_ptr": "*i64",
                "offset_ptr": "*i64",
                "quads_before": "i32",
                "QUADS": start_quads,
            },
            options={"enable_fp_fusion": False},
            block=4 * start_quads,
            minimum_bytes=2 * size,
            elements=ELEMENTS,
            wide=(1, 1),
            elementwise=True,
        )
    )
    found += [_varying_step(dtype, "channel"), _varying_step(dtype, "image"), _varying_start(dtype)]
    found += [_augment(dtype, noise) for noise in (False, True)]
    integers = dict.fromkeys(("rows", "num_classes"), "i32")
    found += [
        _case(
            "soft_cross_entropy",
            dtype,
            "soft_cross_entropy",
            "forward_kernel",
            {
                "loss_ptr": "*fp32",
                "rest_ptr": "*fp32",
                "logits_ptr": p,
                "target_ptr": "*fp32",
                **integers,
                "logits_stride": "i32",
                "target_stride": "i32",
                **shape,
            },
            minimum_bytes=size + 4 + 8 * per_row,
            **rows,
        ),
        _case(
            "soft_cross_entropy, backward",
            dtype,
            "soft_cross_entropy",
            "backward_kernel",
            {
                "logits_grad_ptr": p,
                "target_grad_ptr": None,
                "upstream_ptr": "*fp32",
                "logits_ptr": p,
                "target_ptr": "*fp32",
                "rest_ptr": "*fp32",
                **integers,
                **dict.fromkeys(("logits_stride", "target_stride", "upstream_stride"), "i32"),
                "TARGET_GRAD": False,
                **shape,
            },
            minimum_bytes=2 * size + 4 + 8 * per_row,
            **rows,
        ),
        _case(
            "interpolated_cross_entropy",
            dtype,
            "interpolated_cross_entropy",
            "forward_kernel",
            {
                "loss_ptr": "*fp32",
                "rest_ptr": "*fp32",
                "logits_ptr": p,
                "y_ptr": "*i64",
                "y_partner_ptr": "*i64",
                **integers,
                **dict.fromkeys(("logits_stride", "y_stride", "y_partner_stride"), "i32"),
                "own": "fp32",
                "other": "fp32",
                **shape,
            },
            minimum_bytes=size + 24 * per_row,
            **rows,
        ),
        _case(
            "interpolated_cross_entropy, backward",
            dtype,
            "interpolated_cross_entropy",
            "backward_kernel",
            {
                "grad_ptr": p,
                "upstream_ptr": "*fp32",
                "logits_ptr": p,
                "y_ptr": "*i64",
                "y_partner_ptr": "*i64",
                "rest_ptr": "*fp32",
                **integers,
                **dict.fromkeys(("logits_stride", "y_stride", "y_partner_stride", "upstream_stride"), "i32"),
                "own": "fp32",
                "other": "fp32",
                **shape,
            },
            minimum_bytes=2 * size + 24 * per_row,
            **rows,
        ),
        _case(
            "margin_loss",
            dtype,
            "margin_loss",
            "forward_kernel",
            {
                "loss_ptr": "*fp32",
                "rival_ptr": "*i64",
                "logits_ptr": p,
                "y_ptr": "*i64",
                **integers,
                "logits_stride": "i32",
                "y_stride": "i32",
                "kappa": "fp32",
                **shape,
            },
            minimum_bytes=size + 20 * per_row,
            **rows,
        ),
        _case(
            "margin_loss, backward",
            dtype,
            "margin_loss",
            "backward_kernel",
            {
                "grad_ptr": p,
                "upstream_ptr": "*fp32",
                "y_ptr": "*i64",
                "rival_ptr": "*i64",
                **integers,
                "upstream_stride": "i32",
                "y_stride": "i32",
                **shape,
            },
            minimum_bytes=size + 20 * per_row,
            **rows,
        ),
    ]
    for width, one_tile in ((FEATURES, True), (8192, False)):
        found.append(
            _case(
                "cosine_distance" if one_tile else "cosine_distance, long rows",
                dtype,
                "cosine_distance",
                "cosine_kernel",
                {
                    "distance_ptr": "*fp32",
                    "grad_ptr": "*fp32",
                    "features_ptr": p,
                    "target_ptr": p,
                    **dict.fromkeys(("width", "stride", "target_stride"), "i32"),
                    "least": "fp32",
                    "GRAD": True,
                    "ONE_TILE": one_tile,
                    "BLOCK": 1024 if one_tile else 4096,
                },
                aligned=("width", "stride", "target_stride"),
                num_warps=warps(1024 if one_tile else 4096, size),
                block=1024 if one_tile else 4096,
                minimum_bytes=2 * size + 4 + 4 / width,
                elements=ROWS * width,
                wide=(2, 1),
            )
        )
    return found
