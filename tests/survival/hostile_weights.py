"""Files of weights that would run code, or that say that they are larger than they are."""

import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import torch

from fastait.checkpoints import checkpoint
from fastait.models import make

CLAIMED = 2**40
"""Bytes that files say they have: no machine's memory holds them."""


class Calls:
    """What unpickling would call."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def payloads(canary: str):
    """(what it is, a pickle that makes the folder ``canary`` when it is loaded as pickles usually are)."""
    import os
    from functools import partial

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"REDUCE, protocol {protocol}", pickle.dumps({"state_dict": Calls(os.mkdir, canary)}, protocol)
    text = canary.encode()
    yield "GLOBAL", b"cos\nmkdir\n(V" + text + b"\ntR."
    yield "INST", b"(V" + text + b"\nios\nmkdir\n."
    yield "OBJ", b"(cos\nmkdir\nV" + text + b"\no."
    yield "NEWOBJ", b"\x80\x02cos\nmkdir\nV" + text + b"\n\x85\x81."
    yield "STACK_GLOBAL", b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c" + bytes([len(text)]) + text + b"\x85R."
    yield "eval", pickle.dumps(Calls(eval, f"__import__('os').mkdir({canary!r})"), 2)
    yield "getattr", pickle.dumps(Calls(getattr, Calls(__import__, "os"), "mkdir"), 2)[:-1] + b"V" + text + b"\n\x85R."
    yield "partial", pickle.dumps(Calls(partial, os.mkdir, canary), 2)[:-1] + b")R."
    yield "a module's own loader", pickle.dumps(Calls(torch.hub.load, canary, "model"), 2)
    yield "numpy's objects", pickle.dumps({"acc": np.array([Calls(os.mkdir, canary)], dtype=object)}, 4)


def in_zip(data: bytes) -> bytes:
    """As torch saves, with another pickle in it."""
    return archive({"archive/data.pkl": data, "archive/version": b"3\n", "archive/byteorder": b"little"})


def in_legacy(data: bytes) -> bytes:
    """As torch saved before 1.6."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(part, 2) for part in head) + data + pickle.dumps([], 2)


def in_checkpoint(data: bytes) -> bytes:
    """With the checksum that our checkpoints have."""
    whole = in_zip(data)[: -checkpoint._LENGTH.size]
    return whole + checkpoint._closed(memoryview(whole))


def as_it_is(data: bytes) -> bytes:
    return data


CONTAINERS = {"bare": as_it_is, "zip": in_zip, "legacy": in_legacy, "checkpoint": in_checkpoint}


def archive(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return buffer.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            made.addfile(about, io.BytesIO(data))
    return buffer.getvalue()


def arrays(canary: str):
    """numpy's files of objects."""
    import os

    for name, save in (("npy", np.save), ("npz", np.savez)):
        buffer = io.BytesIO()
        save(buffer, np.array([Calls(os.mkdir, canary)], dtype=object))
        yield name, buffer.getvalue()


def outside(canary: str):
    """Archives whose parts would lie outside of a folder that they were unpacked in."""
    names = ("../../" * 9 + canary.lstrip("/") + "/file", canary + "/file")
    for name in names:
        yield "zip", archive({name: b"x", "archive/data.pkl": pickle.dumps({}), "archive/version": b"3\n"})
        yield (
            "tar",
            tar({name: b"x", "storages": b"x", "tensors": b"x", "pickle": pickle.dumps({}, 2), "sys_info": b""}),
        )


def claims():
    """(what it is, a file of torch's that says that it is larger than it is)."""

    def saved(content):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    state = make("wrn-10-1", 10, generator_seed=0).state_dict()
    name = "block1.layer.0.conv1.weight"
    parts = zipfile.ZipFile(io.BytesIO(saved(state)))
    zeros = {part: bytes(2**26) if part.endswith("/data/0") else parts.read(part) for part in parts.namelist()}
    yield "a compressed archive", archive(zeros, zipfile.ZIP_DEFLATED)
    yield "strides of 0", saved({**state, name: torch.zeros(1).expand(2**14, 2**14, 3, 3)})
    wide = {key: torch.zeros(1).expand(value.shape) if value.dim() else value for key, value in state.items()}
    yield "a network of strides of 0", saved(wide)
    small = saved({name: torch.zeros(4)})
    lie = parts_with(small, b"K\x04t", b"J" + struct.pack("<i", 2**30) + b"t")
    yield "a storage of more numbers", lie
    yield "a tensor of more numbers", parts_with(small, b"K\x04\x85", b"J" + struct.pack("<i", 2**30) + b"\x85")
    legacy = io.BytesIO()
    torch.save({name: torch.zeros(4)}, legacy, _use_new_zipfile_serialization=False)
    large = b"\x8a\x06" + CLAIMED.to_bytes(6, "little")
    yield "an old file's storage", legacy.getvalue().replace(b"K\x04N", large + b"N").replace(b"K\x04t", large + b"t")
    kind = b"cnumpy\ndtype\n(V" + b"V2000000000" + b"\nI00\nI01\ntR"
    scalars = b"".join(b"cnumpy.core.multiarray\nscalar\n" + kind + b"\x85R0" for _ in range(20))
    yield "numbers of numpy's of 2 GB each", in_zip(b"\x80\x02" + scalars + b"}.")
    yield "lists in lists", in_zip(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    deep = {f"block{group}.layer.{i}.conv1.weight": torch.zeros(1) for group in (1, 2, 3) for i in range(1665)}
    yield "thousands of blocks", saved({**deep, name: torch.zeros(16_000, 1, 1, 1), "fc.weight": torch.zeros(10, 1)})
    yield "names of a megabyte each", saved({"a" * 2**20 + str(i): torch.zeros(1) for i in range(8)})
    yield "a cut archive", small[: len(small) // 2]


def parts_with(data: bytes, old: bytes, new: bytes) -> bytes:
    """A file of torch's with something else in its pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        files = {name: parts.read(name) for name in parts.namelist()}
    (name,) = (name for name in files if name.endswith("data.pkl"))
    assert old in files[name]
    return archive({**files, name: files[name].replace(old, new)})


def safetensors(header: object, content: bytes = b"", size: int | None = None) -> bytes:
    """A file of this header, which says that it is ``size`` bytes long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + content


def lies():
    """(what it is, a safetensors file that lies)."""

    def one(start=0, end=16, shape=(4,), dtype="F32", **more):
        return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}, **more}

    b = {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}
    yield "no bytes", b""
    yield "a header of no length", safetensors(b"")
    yield "a header longer than the file", safetensors(one(), bytes(16), 2**20)
    yield "a header of 2^63 bytes", safetensors(one(), bytes(16), 2**63)
    yield "a header of spaces", safetensors(b" " * 2**24 + b"{}")
    yield "no JSON", safetensors(b"{]", bytes(16))
    yield "a list", safetensors([], bytes(16))
    yield "a deep header", safetensors(b'{"a":' * 100_000, bytes(16))
    yield "data beyond the end", safetensors(one(end=CLAIMED, shape=(CLAIMED // 4,)), bytes(16))
    yield "data before the beginning", safetensors(one(start=-16, end=0), bytes(16))
    yield "data that end before they begin", safetensors(one(16, 0), bytes(16))
    yield "data that overlap", safetensors(one(b=b), bytes(24))
    yield "a hole", safetensors(one(8, 24), bytes(24))
    yield "bytes behind", safetensors(one(), bytes(64))
    yield "a larger shape", safetensors(one(shape=(CLAIMED,)), bytes(16))
    yield "a shape that overflows", safetensors(one(shape=(2**32, 2**32, 2**32)), bytes(16))
    yield "a shape below 0", safetensors(one(shape=(-4,)), bytes(16))
    yield "a type that there is not", safetensors(one(dtype="X"), bytes(16))
    yield (
        "a name twice",
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"b":1}', bytes(4)),
    )
    yield "no data of a million tensors", safetensors({str(i): {} for i in range(100_000)})
    yield "metadata that are numbers", safetensors(one(__metadata__={"network": 3}), bytes(16))


def said():
    """(what it is, metadata of weights that are a network's)."""
    yield "a function of somebody's", {"network": "evil:net"}
    yield "a module of Python's", {"network": "antigravity:fly"}
    yield "huge images", {"network": "wrn-10-1", "image_size": "1000000000"}
    yield "a normalisation by 0", {"network": "wrn-10-1", "normalization": '{"mean": [0], "std": [0]}'}
    yield "a normalisation by infinity", {"network": "wrn-10-1", "normalization": '{"mean": [0], "std": [1e999]}'}
    yield "classes that are none", {"network": "wrn-10-1", "classes": '{"a": 1}'}
    yield "deep classes", {"network": "wrn-10-1", "classes": "[" * 100_000}
    yield (
        "escapes for classes",
        {"network": "wrn-10-1", "classes": json.dumps([f"\x1b]0;{i}\x07[red]\n" for i in range(10)])},
    )
    yield "a network of 10,000 layers", {"network": "wrn-9994-1000"}
