"""What no command has words for and is the system's to say: one line, exit code 1. What is ours to mend is raised."""

import pytest
import torch

from fastait.runtime.cli import run


def _raising(error):
    def body(argv):
        raise error

    return body


def _ask_for_much(argv):
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (_raising(MemoryError("Unable to allocate 4 GiB")), "out of memory (Unable to allocate 4 GiB); smaller images"),
        (_raising(MemoryError()), "out of memory (MemoryError); smaller images"),
        (_ask_for_much, "out of memory ("),
        (_raising(FileNotFoundError(2, "No such file or directory", "a\nfile")), "a\\nfile: No such file or directory"),
        (_raising(PermissionError(13, "Permission denied", "file")), "file: Permission denied"),
    ],
)
def test_one_line(body, said, capsys):
    assert run("fastait", body, []) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"fastait: error: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError("a defect"), KeyError("a defect")])
def test_defects_are_not_hidden(error):
    with pytest.raises(type(error), match="a defect"):
        run("fastait", _raising(error), [])
