"""The files that command lines may name: what commands write and read, whole, damaged, and other than they seem.

Everything lies in one folder, that of the commands, and is put back once a command has changed it.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

import parquet_tables
import torch
from conftest import write_folder
from safetensors.torch import save_file

from fastait import recipe, run_training
from fastait.eval_config import EvalArguments
from fastait.evaluation.session import run_evaluation
from fastait.models import make

SIZE = 8
"""Pixels a side of all images but those of digits."""

SWEEP = """\
seeds = [0]
[settings]
recipe = "digits"
image_size = 8
epochs = 1
eval_samples = 10
device = "cpu"
[product]
method = ["natural", "madry"]
[evaluation]
attacks = ["fgsm"]
"""

BAD_SWEEPS = {
    "seeds": SWEEP.replace("[0]", '"none"'),
    "nan": SWEEP.replace("epochs = 1", "epochs = nan"),
    "date": SWEEP.replace("epochs = 1", "epochs = 1979-05-27T07:32:00Z"),
    "attacks": SWEEP.replace('["fgsm"]', "7"),
    "huge": SWEEP.replace("[0]", "[123456789012345678901234567890]"),
    "nested": SWEEP.replace('["natural", "madry"]', "[[1], {a = 2}]"),
    "rows": "rows = 3\n",
    "markup": SWEEP.replace("natural", "[red]x[/red]"),
    "cut": SWEEP[:60],
    "deep": "x = " + "[" * 2000 + "]" * 2000,
    "number": "x = " + "1" * 5000,
    "path": SWEEP.replace("epochs = 1", "epochs = 1\ndata_dir = 5"),
    "settings": "settings = 3\n[product]\nmethod = ['natural']\n",
    "evaluation": SWEEP.replace("[evaluation]", "evaluation = 3\n[other]"),
    "epsilons": SWEEP + "epsilons = [true]\nstep_size = 'x'\n",
    "weights": SWEEP + "weights = [1]\n",
    "samples": SWEEP + "samples = 1e400\n",
}

DEVICES = {"null": 3, "full": 7}
"""Minor numbers: what is written to the first is gone, to the second is refused."""


class World:
    """The files in ``folder``, the one that commands run in; ``names`` are those that lines may name."""

    def __init__(self, folder: Path):
        self.folder = folder / "files" / "here"
        self.folder.mkdir(parents=True)
        self._whole = folder / "whole"
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            _make()
        finally:
            os.chdir(before)
        self.names = sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        shutil.copytree(self.folder, self._whole, symlinks=True, ignore=shutil.ignore_patterns(*DEVICES))
        self._stamps = self._seen()

    def _seen(self) -> dict[str, tuple[int, ...]]:
        """What tells a file from another one of its name."""
        found = {}
        for folder, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                about = os.lstat(path)
                kept = stat.S_ISREG(about.st_mode)
                found[path] = (about.st_mode, *((about.st_size, about.st_mtime_ns) if kept else ()))
        return found

    def lost_devices(self) -> list[str]:
        """Devices that are none any more."""
        return [name for name in DEVICES if not (self.folder / name).is_char_device()]

    def put_back(self) -> None:
        """Everything as it was, if anything is not."""
        now = self._seen()
        other = {path for path in now.keys() | self._stamps.keys() if now.get(path) != self._stamps.get(path)}
        for path in sorted(other & now.keys(), reverse=True):  # what lies in a folder before the folder
            os.rmdir(path) if stat.S_ISDIR(now[path][0]) else os.unlink(path)
        for path in sorted(other & self._stamps.keys()):
            name = os.path.relpath(path, self.folder)
            if name in DEVICES:
                _device(path, DEVICES[name])
            elif stat.S_ISDIR(self._stamps[path][0]):
                os.mkdir(path)
            else:
                shutil.copy2(self._whole / name, path, follow_symlinks=False)
        for path in self.folder.parent.iterdir():
            if path != self.folder:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _make() -> None:
    """All of it, in the current folder."""
    write_folder(Path("images"), {"cat": 4, "dog": 4}, size=(SIZE, SIZE))
    write_folder(Path("bad-images"), {"cat": 2, "[red]dog[/red]": 2}, size=(SIZE, SIZE))
    Path("bad-images/train/cat/0.png").write_bytes(b"no image")
    write_folder(Path("one-class"), {"cat": 2}, size=(SIZE, SIZE))
    parquet_tables.write(Path("parquet"), [parquet_tables.table([0, 1, 0, 1])], [parquet_tables.table([0, 1], first=4)])
    Path("bad-parquet").mkdir()
    Path("bad-parquet/train.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    Path("bad-parquet/test.parquet").write_bytes(b"")
    settings = {"dataset": "folder", "data_dir": "images", "image_size": SIZE, "batch_size": 4, "device": "cpu"}
    run_training(recipe("digits", **settings, epochs=1, eval_samples=2, method="natural", out="run"))
    run_evaluation(EvalArguments("run", attacks="fgsm", samples=2, device="cpu", out="eval"), show=False)
    _damaged_runs()
    save_file(make("wrn-10-1", 2, image_size=SIZE, generator_seed=0).state_dict(), "weights.safetensors")
    torch.save(make("wrn-10-1", 2, image_size=SIZE, generator_seed=0).state_dict(), "weights.pt")
    data = Path("weights.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(data[:1000])
    Path("lies.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + data[8:])
    Path("empty.pt").write_bytes(b"")
    Path("no.pt").write_bytes(b"PK\x03\x04" + bytes(50))
    Path("sweep.toml").write_text(SWEEP)
    for name, text in BAD_SWEEPS.items():
        Path(f"sweep-{name}.toml").write_text(text)
    Path("bytes.toml").write_bytes(b"\xff\xfe" + bytes(20))
    Path("[red]run[").symlink_to("run")
    Path("a\udcff.toml").write_text(SWEEP)
    Path("empty").mkdir()
    Path("loop").symlink_to("loop")
    Path("nowhere").symlink_to("gone")
    for name, minor in DEVICES.items():
        _device(name, minor)


def _damaged_runs() -> None:
    """Copies of the run, a file of each damaged or gone."""
    config = Path("run/config.json").read_text()
    damaged = {
        "empty": ("config.json", b""),
        "list": ("config.json", b"[1, 2]"),
        "deep": ("config.json", b"[" * 100000),
        "key": ("config.json", config.replace('"epochs"', '"epoch"').encode()),
        "type": ("config.json", config.replace('"image_size": 8', '"image_size": {}').encode()),
        "huge": ("config.json", config.replace('"image_size": 8', '"image_size": ' + "9" * 5000).encode()),
        "classes": ("config.json", config.replace('"classes": [', '"classes": 5, "other": [').encode()),
        "binary": ("config.json", bytes(range(256))),
        "result": ("result.json", b"{"),
        "figures": ("result.json", b"[]"),
        "clean": ("result.json", b'{"clean": "x"}'),
        "metrics": ("metrics.jsonl", b'{"epoch": 1}\n[]\n\xff\n'),
        "weights": ("model.safetensors", b"no weights"),
    }
    for name, (file, data) in damaged.items():
        shutil.copytree("run", f"run-{name}")
        Path(f"run-{name}", file).write_bytes(data)
    shutil.copytree("run", "run-begun")
    for name in ("result.json", "model.safetensors"):
        Path("run-begun", name).unlink()
    shutil.copytree("run-begun", "run-torn")
    Path("run-torn/checkpoint.pt").write_bytes(b"torn")
    shutil.copytree("eval", "eval-bad")
    Path("eval-bad/eval.json").write_text('{"outcomes": 3, "results": [{}]}')


def _device(path: str, minor: int) -> None:
    """A device of our own where that is allowed: what would be replaced must not be the machine's."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        with open(path, "rb"):
            pass
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        os.symlink(f"/dev/{os.path.basename(path)}", path)
