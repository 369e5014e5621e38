"""The commands that faults strike, and what of theirs must be the same afterwards."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

TIMES = ("seconds", "images_per_second", "training_seconds", "wall_seconds")


@dataclass(frozen=True)
class Command:
    """A command, run in a folder of its own beside ``images`` and the finished run ``trained``.

    Attributes:
        name: of it here.
        module: whose ``main`` it is.
        argv: its arguments.
        out: the folder or file that it writes, relative.
        ranks: how many processes.
        lasting: files that a finished one leaves with the same bytes, as patterns.
    """

    name: str
    module: str
    argv: tuple[str, ...]
    out: str
    ranks: int = 1
    lasting: tuple[str, ...] = ()

    def going_on(self, folder):
        """The arguments of the command that goes on with what lies in ``folder``."""
        if self.module == "fastait.train" and (folder / self.out / "config.json").exists():
            return ["--resume", self.out]
        return list(self.argv)

    def made(self, folder):
        """{file or figure: bytes or values}: all that must not depend on faults."""
        found = {}
        for pattern in self.lasting:
            for path in sorted(folder.glob(pattern)):
                found[str(path.relative_to(folder))] = path.read_bytes()
        for name in ("metrics.jsonl", "result.json", "eval.json"):
            for path in folder.glob(f"**/{name}"):
                text = path.read_text()
                values = list(map(json.loads, text.splitlines())) if "jsonl" in name else json.loads(text)
                found[str(path.relative_to(folder))] = _timeless(values)
        return found

    def names(self, folder):
        """The names of all files that a finished one leaves, save those that there are as many of as there were starts,
        and earlier checkpoints, which there may be none of yet."""
        files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        by_starts = {"adversarial", "claims", "outcomes", "checkpoint-1.pt"}
        return {str(path) for path in files if not set(path.parts) & by_starts}


def _timeless(values):
    if isinstance(values, dict):
        return {name: _timeless(value) for name, value in values.items() if name not in TIMES}
    return [_timeless(value) for value in values] if isinstance(values, list) else values


SET = ("--dataset", "folder", "--data-dir", "../images", "--cache-dir", "cache", "--image-size", "8")
RUN = ("--device", "cpu", "--epochs", "2", "--batch-size", "8", "--eval-samples", "4", "--ema", "0.9")
RUN += ("--crop-padding", "1", "--flip", "--val-fraction", "0.25", "--checkpoint-seconds", "0", "--out", "run")
MADRY = ("--method", "madry", "--attack-steps", "1")

_train = Command("training", "fastait.train", (*SET, *RUN, *MADRY), "run", lasting=("run/*.safetensors",))
_eval = Command(
    "evaluation",
    "fastait.eval",
    (
        *("../trained/run", "--data-dir", "../images", "--cache-dir", "cache", "--device", "cpu", "--batch-size", "4"),
        *("--attacks", "pgd2-min2,autoattack", "--epsilon", "2/255", "--save-images", "--out", "out"),
    ),
    "out",
    lasting=("out/*.csv", "out/*.md", "out/*.safetensors"),
)
COMMANDS = (
    _train,
    replace(_train, name="training, worker", argv=(*_train.argv, "--workers", "1")),
    replace(_train, name="training, DALI", argv=(*_train.argv, "--dali")),
    replace(_train, name="training, interpolation", argv=(*SET, *RUN)),
    replace(_train, name="training, two processes", ranks=2),
    _eval,
    replace(_eval, name="evaluation, two processes", ranks=2),
    Command(
        "data",
        "fastait.data.__main__",
        ("folder", "--data-dir", "../images", "--cache-dir", "cache", "--image-size", "8", "--out", "set.png"),
        "set.png",
        lasting=("set.png", "cache/**/*.u8", "cache/**/*.json"),
    ),
    Command(
        "reproduce",
        "fastait.reproduce",
        ("figure2", "--scale", "small", "--device", "cpu", "--out", "reproduction"),
        "reproduction",
        lasting=("reproduction/small/*.csv", "reproduction/small/runs/*/*.safetensors"),
    ),
)


def write_images(root: Path, each: int = 16) -> None:
    """Two classes that can be told apart, in files."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for number, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                pixels = random.integers(0, 128, (8, 8, 3), dtype=np.uint8) + np.uint8(127 * number)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
