"""``fastait data``: the table and the picture."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_folder
from PIL import Image

from fastait.data import BatchPlan, ImageSet, make_loader
from fastait.data.__main__ import main
from fastait.data.picture import BACKGROUND, GAP, SAMPLES, augmented


def test_augmented_samples_are_those_that_a_run_sees():
    images = ImageSet(torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8), torch.arange(20))
    plan = BatchPlan(3, 20, 6, 2, True)
    seen = {}
    for x, y in make_loader(images, plan, torch.device("cpu"), dali=False, workers=None).batches(0, 4):
        seen |= dict(zip(y.tolist(), x, strict=True))
    index = torch.tensor([4, 0, 19])
    for i, pixels in zip(index.tolist(), augmented(images, plan, index), strict=True):
        assert torch.equal(pixels, seen[i])


def test_folder(tmp_path, capsys):
    """A red, a green and a blue class: colours, rows, positions and padding of the picture."""
    root = write_folder(tmp_path / "set", {"red": 0, "green": 0, "blue": 0})
    for split in ("train", "test"):
        for channel, name in enumerate(("red", "green", "blue")):
            pixels = np.full((32, 32, 3), 40, np.uint8)
            pixels[..., channel] = 255
            for i in range(8):
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    (root / "train" / "red" / "7.png").write_bytes(b"no image")
    assert main(["folder", "--data-dir", str(root), "--skip-bad-images", "--crop-padding", "5", "--out", "p.png"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "Samples of each class: p.png\n"
    rows = [line.replace("│", " ").split() for line in captured.out.splitlines()]
    assert ["0", "blue", "8", "8"] in rows
    assert ["2", "red", "7", "8"] in rows
    assert ["all", "23", "24"] in rows
    assert "stored as width x height (images): 32x32 (47)" in captured.out
    assert "red 0.157 to 1.000, mean 0.413, std 0.388" in captured.out  # 7 of 23 images are red
    assert "left out: 1 images" in captured.out
    assert "red/7.png is not a readable image" in captured.out

    picture = np.asarray(Image.open("p.png"))
    is_black = (picture == 0).all(axis=2)
    cell = 64 + GAP
    right = picture.shape[1] - SAMPLES * cell
    left = next(x for x in range(picture.shape[1]) if (picture[40, x] == (40, 40, 255)).all())
    for row, colour in enumerate(((40, 40, 255), (40, 255, 40), (255, 40, 40))):  # blue, green, red
        for column in range(SAMPLES):
            top = 24 + row * cell
            stored = picture[top : top + 64, left + column * cell : left + column * cell + 64]
            assert (stored == colour).all()
            augmented_cell = picture[top : top + 64, right + column * cell : right + column * cell + 64]
            assert ((augmented_cell == colour) | (augmented_cell == 0)).all()
            assert (augmented_cell[32, 32] == colour).all()
    assert is_black[:, right:].any()  # padding
    assert not is_black[:, : right - GAP].any()
    assert (picture[0, -1] == BACKGROUND).all()


def test_class_names_are_no_markup(tmp_path, capsys, monkeypatch):
    root = write_folder(tmp_path / "set", {"[bold]": 3, "[x]": 3}, size=(8, 8))
    monkeypatch.chdir(root)
    assert main(["folder", "--data-dir", ".", "--image-size", "8"]) == 0
    out = capsys.readouterr().out
    assert "[bold]" in out
    assert "[x]" in out
    assert Image.open("set.png").size[1] == 24 + 2 * (64 + GAP)


def test_class_names_do_nothing_to_a_terminal(tmp_path, capsys):
    """Nor to the command: markup, an emoji's code, escapes, a line's end, bytes that are no text."""
    names = ["[red]x[", ":cat: \\", "a\x1b[31m\x07", "new\nline", os.fsdecode(b"d\xe9"), "\u202eabc"]
    root = write_folder(tmp_path / "set", dict.fromkeys(names, 1), size=(8, 8))
    (root / "train" / names[2] / "bad\x1b.png").write_text("no image")
    argv = ["folder", "--data-dir", str(root), "--image-size", "8"]
    assert main(argv) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert main([*argv, "--skip-bad-images"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "[red]x[",
        ":cat: \\",
        r"a\x1b[31m\x07",
        r"new\nline",
        r"d\udce9",
        r"\u202eabc",
        r"bad\x1b.png is not",
    ):
        assert text in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_digits_are_the_default(capsys):
    assert main(["--image-size", "8"]) == 0
    assert "1797" in capsys.readouterr().out
    assert Image.open("digits.png").size[1] == 24 + 10 * (64 + GAP)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["digts"], "NAME: 'digts' is not one of digits, cifar10, .* Did you mean 'digits'"),
        (["folder"], "--dataset folder needs --data-dir"),
        (["digits", "--image-size", "3"], "--image-size must be at least 8"),
        (["digits", "--skip-bad-images"], "--skip-bad-images is for folder and parquet; --dataset digits has none"),
        (["digits", "--image-size", "8", "--out", "nowhere/p.png"], "--out nowhere/p.png cannot be written"),
        (["digits", "--image-size", "8", "--out", "p.doc"], "--out p.doc cannot be written: unknown file extension"),
        (["digits", "--image-size", "8", "--out", "p.psd"], "--out p.psd cannot be written: unknown file extension"),
        (["digits", "more"], "unexpected argument: more"),
    ],
)
def test_refusals(argv, message, capsys):
    import re

    assert main(argv) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert re.search(message, err)


def test_the_picture_is_written_whole(monkeypatch, capsys):
    """A disk that is full leaves what was there."""
    Path("digits.png").write_bytes(b"before")
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert main(["--image-size", "8"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "fastait data: error: digits.png could not be written: No space left on device; what it held before is unharmed"
    )
    assert Path("digits.png").read_bytes() == b"before"
    assert [path.name for path in Path().iterdir()] == ["digits.png"]


@pytest.mark.parametrize(("name", "kind"), [("p.JPG", "JPEG"), ("p.webp", "WEBP")])
def test_its_ending_says_its_format(name, kind):
    assert main(["--image-size", "8", "--out", name]) == 0
    assert Image.open(name).format == kind


def test_out_of_memory_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("fastait.data.__main__.load_dataset", lambda *args, **options: torch.empty(2**60))
    assert main(["--image-size", "8"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fastait data: error: out of memory (")
    assert said.endswith("); a smaller --image-size may help\n")
    assert said.count("\n") == 1
