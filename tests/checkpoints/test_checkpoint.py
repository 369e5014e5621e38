"""The format of checkpoints: what torch reads, every kind of damage, and the one before the last."""

import contextlib
import errno
import itertools
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastait.checkpoints import checkpoint
from fastait.runtime.errors import InputError, RunError

STATE = {"step": 3, "model": {"weight": torch.arange(2000.0)}, "nothing": None, "name": "a"}
DATA = checkpoint.packed(STATE)


def test_torch_reads_it_as_ever(tmp_path):
    (tmp_path / "c.pt").write_bytes(DATA)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert state["format"] == checkpoint.FORMAT
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    assert checkpoint.unpacked(DATA)["step"] == 3


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_seen(place, change):
    damaged = bytearray(DATA)
    damaged[place] ^= change
    assert checkpoint.unpacked(bytes(damaged)) is None


def test_a_flipped_bit_of_what_stands_at_the_end_is_seen():
    """The length of the comment, its mark and the checksum: 80 bytes of what the checksum is of come before them."""
    for place in range(len(DATA) - 160, len(DATA)):
        for bit in range(8):
            damaged = bytearray(DATA)
            damaged[place] ^= 1 << bit
            assert checkpoint.unpacked(bytes(damaged)) is None, (place, bit)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, len(DATA) - 1))
def test_a_truncated_file_is_seen(length):
    assert checkpoint.unpacked(DATA[:length]) is None


def test_swapped_and_zeroed_pages_are_seen():
    page = 512
    swapped = DATA[:page] + DATA[2 * page : 3 * page] + DATA[page : 2 * page] + DATA[3 * page :]
    zeroed = DATA[: 4 * page] + bytes(page) + DATA[5 * page :]
    assert checkpoint.unpacked(swapped) is checkpoint.unpacked(zeroed) is None


def test_the_format_before_goes_on(tmp_path):
    best = {"epoch": 1, "val_clean": 80.0, "val_pgd10": 40.0, "weights": {}}
    state = {"format": checkpoint.FORMAT_WITHOUT_CHECKSUM, "step": 4, "best": best}
    torch.save(state, tmp_path / "checkpoint.pt")
    found = checkpoint.load(tmp_path / "checkpoint.pt", pytest.fail)
    best = {"epoch": 1, "averaged": False, "pgd10": 40.0, "weights": {}}
    assert found["watch"] == {"best": best, "most": 0.0, "before": None, "collapsed": None}
    assert found["averaged"] is None
    assert found["step"] == 4


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_as_many_as_asked_for_are_kept(tmp_path, keep):
    path = tmp_path / "checkpoint.pt"
    for step in range(6):
        checkpoint.save(path, {"step": step}, keep)
    names = {"checkpoint.pt", "checkpoint-1.pt", "checkpoint-2.pt", "checkpoint-3.pt"}
    assert {file.name for file in tmp_path.iterdir()} == set(sorted(names, key=len)[:1]) | {
        f"checkpoint-{number}.pt" for number in range(1, keep)
    }
    for number in range(keep):
        assert checkpoint.unpacked(checkpoint.before(path, number).read_bytes())["step"] == 5 - number


def test_a_damaged_one_gives_way_to_the_one_before(tmp_path):
    path, notes = tmp_path / "checkpoint.pt", []
    for step in range(3):
        checkpoint.save(path, {"step": step}, 3)
    path.write_bytes(path.read_bytes()[:-100])
    assert checkpoint.load(path, notes.append)["step"] == 1
    assert notes == [f"warning: {path} is damaged; the run goes on from checkpoint-1.pt, of step 1"]
    for number in (1, 2):
        file = checkpoint.before(path, number)
        file.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"checkpoint.pt is truncated, damaged .* move it away"):
        checkpoint.load(path, notes.append)


def test_fewer_than_before(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for step in range(4):
        checkpoint.save(path, {"step": step}, 4)
    checkpoint.save(path, {"step": 4}, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint-1.pt"}


def killed_after(operations, patch):
    """Make the process die before its ``operations``-th change of a name."""
    left = iter(range(operations))

    def dying(original):
        def call(*arguments, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return call

    for name in ("link", "replace", "unlink"):
        patch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_kill_between_two_names(tmp_path, monkeypatch, keep):
    """Whichever of those that were there are damaged, one that was good is found, or the new one."""
    for damaged in itertools.product((False, True), repeat=keep):
        for operations in range(4 + keep):
            folder = tmp_path / f"{damaged} {operations}"
            folder.mkdir()
            path = folder / "checkpoint.pt"
            for step in range(keep):
                checkpoint.save(path, {"step": step}, keep)
            good = [keep - 1 - number for number in range(keep) if not damaged[number]]
            for number in range(keep):
                if damaged[number]:
                    checkpoint.before(path, number).write_bytes(DATA[:-1])
            with monkeypatch.context() as patch:
                killed_after(operations, patch)
                with contextlib.suppress(KeyboardInterrupt):
                    checkpoint.save(path, {"step": keep}, keep)
                    operations = None
            if good or operations is None:
                found = checkpoint.load(path, lambda text: None)["step"]
                assert found == keep if operations is None else found >= max(good)


def test_a_kill_where_files_have_no_second_names(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    assert checkpoint.load(path, pytest.fail) is None
    for step in range(2):
        checkpoint.save(path, {"step": step}, 2)
    for operations in range(4):
        with monkeypatch.context() as patch:
            killed_after(operations, patch)
            patch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError))
            with contextlib.suppress(KeyboardInterrupt):
                checkpoint.save(path, {"step": 2}, 2)
        assert checkpoint.load(path, pytest.fail)["step"] == (2 if operations == 3 else 1)


def test_a_full_disk_takes_none_of_those_that_are_there(tmp_path, monkeypatch):
    """The last one is damaged: the only good one is still there after a write that failed."""
    path = tmp_path / "checkpoint.pt"
    for step in range(2):
        checkpoint.save(path, {"step": step}, 2)
    path.write_bytes(DATA[:-1])

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="could not be written: No space left on device; what it held before is un"):
            checkpoint.save(path, {"step": 2}, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint-1.pt"}
    assert checkpoint.load(path, lambda text: None)["step"] == 0
