"""What torch saved is read as it is; what claims more than it holds, or would run code, is not."""

import io
import zipfile

import hostile_weights
import numpy as np
import pytest
import torch

from fastait.checkpoints.pickled import Unsafe, unpickled, unpickled_bytes

STATE = {"a": torch.arange(4.0), "b": torch.zeros(2, 3)}


@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_and_numbers(tmp_path, as_zip):
    content = {"net": STATE, "tied": STATE, "acc": np.float64(90.5), "epoch": np.int64(3), "lr": 0.1}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=as_zip)
    found = unpickled(tmp_path / "w.pt")
    assert torch.equal(found["net"]["a"], STATE["a"])
    assert (found["acc"], found["lr"]) == (None, 0.1)
    assert torch.equal(unpickled_bytes((tmp_path / "w.pt").read_bytes())["tied"]["b"], STATE["b"])


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_tensors_that_claim_more_than_there_is():
    large = torch.zeros(1).expand(1000, 1000)
    for content in ({"a": large}, {"a": {"b": {"c": large}}}):
        with pytest.raises(Unsafe, match=r"its tensors would be .* bytes, the file has"):
            unpickled_bytes(saved(content))
    tied = torch.zeros(1000)
    assert len(unpickled_bytes(saved({"a": tied, "b": tied, "c": tied.view(10, 100)}))) == 3


def test_archives_that_would_unpack_or_are_cut():
    packed = hostile_weights.archive({"archive/data.pkl": bytes(10_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(Unsafe, match=r"its archive of \d+ bytes would become 10,000"):
        unpickled_bytes(packed)
    with pytest.raises(Unsafe, match="its archive is damaged: File is not a zip file"):
        unpickled_bytes(saved(STATE)[:500])


def test_code_is_refused(tmp_path):
    for what, data in hostile_weights.payloads(str(tmp_path / "canary")):
        with pytest.raises(Unsafe):
            unpickled_bytes(hostile_weights.in_zip(data))
        assert not (tmp_path / "canary").exists(), what


def test_parts_that_lie_within_one_another_are_refused():
    """Small archives that become large without compression: their parts share their bytes."""
    data = hostile_weights.archive({"archive/data.pkl": bytes(1000)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
    entry = data[start : data.rindex(b"PK\5\6")]
    end = bytearray(data[data.rindex(b"PK\5\6") :])
    end[8:12] = (20).to_bytes(2, "little") * 2
    end[12:16] = (20 * len(entry)).to_bytes(4, "little")
    with pytest.raises(Unsafe, match="would become 20,000"):
        unpickled_bytes(data[:start] + 20 * entry + bytes(end))
