"""Safetensors files with a checksum: what is damage, and what is not."""

import json

import pytest
import torch
from safetensors.torch import load, save

from fastait.checkpoints.sealed import KEY, Damaged, is_whole, opened, sealed

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
DATA = sealed(TENSORS, {"z": "1", "about": "x"})


def rewritten(data, change):
    """With another header, which ``change`` makes."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def test_what_was_written_is_read_by_us_and_by_the_library():
    tensors, metadata = opened(DATA)
    assert metadata == {"z": "1", "about": "x"}
    for found in (tensors, load(DATA)):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert sealed(TENSORS, {"about": "x", "z": "1"}) == DATA


def test_tied_tensors_and_views():
    whole = torch.arange(10.0)
    tensors, _ = opened(sealed({"a": whole, "b": whole, "c": whole[2:5]}, {}))
    assert torch.equal(tensors["b"], whole)
    assert torch.equal(tensors["c"], whole[2:5])


def test_files_without_a_checksum_are_read():
    tensors, metadata = opened(save(TENSORS, {"made by": "another program"}))
    assert metadata == {"made by": "another program"}
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_another_layout_of_the_same_is_whole():
    def change(header):
        header["__metadata__"] = dict(reversed(header["__metadata__"].items()))

    assert opened(rewritten(DATA, change))[1] == {"z": "1", "about": "x"}


def rename(header):
    header["c"] = header.pop("b")


def say_otherwise(header):
    header["__metadata__"]["about"] = "y"


def damage_the_key(header):
    header["__metadata__"]["gastait_sha256"] = header["__metadata__"].pop(KEY)


def reshape(header):
    header["a"]["shape"] = [3, 2]


def exchange_types(header):
    header["b"]["dtype"] = "F64"


@pytest.mark.parametrize("change", [rename, say_otherwise, damage_the_key, reshape, exchange_types])
def test_a_changed_header_is_damage(change):
    with pytest.raises(Damaged, match="damaged or changed since it was written"):
        opened(rewritten(DATA, change))


def test_every_flipped_bit_of_the_content_is_damage(tmp_path):
    for place in range(len(DATA) - 40, len(DATA)):
        for bit in range(8):
            data = bytearray(DATA)
            data[place] ^= 1 << bit
            with pytest.raises(Damaged):
                opened(bytes(data))
    (tmp_path / "w").write_bytes(DATA)
    assert is_whole(tmp_path / "w")
    (tmp_path / "w").write_bytes(DATA[:-1])
    assert not is_whole(tmp_path / "w")
    assert not is_whole(tmp_path / "nothing")
