"""Files that somebody made on purpose: refused or shown harmlessly in a line, no code run, memory bounded, measured."""

import contextlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hostile_images
import hostile_weights
import numpy as np
import parquet_tables
import torch
from PIL import Image
from safetensors.torch import save

from fastait import recipe, run_training
from fastait.data.__main__ import main as data
from fastait.eval import main as evaluate
from fastait.models import make
from fastait.report.__main__ import main as report
from fastait.train import main as train

SHORT = 16
"""Of how many cases the short form runs one."""

CANARY, OUTSIDE = "canary", "outside"
"""Folders that code of a file's, and paths in it, would make."""

ROOM = 2**33
"""Bytes of addresses that a case may take besides, so that what goes wrong ends it and not the machine."""

SECONDS = 120
"""What a case may take before it counts as endless."""


@dataclass(frozen=True)
class Case:
    """A file, and what is done with it.

    Attributes:
        kind: under which it is counted.
        name: what it is.
        act: calls a command in an empty folder, which it is given, and returns its exit code.
        codes: those that are right.
        names: what the line of a refusal must have in it.
        most: MB that it may take.
    """

    kind: str
    name: str
    act: Callable[[Path], int]
    codes: tuple[int, ...] = (2,)
    names: str = ""
    most: int = 200


@dataclass(frozen=True)
class Outcome:
    """What came of a case: its exit code, None if it had none; all that it printed; MB that it took."""

    code: int | None
    said: str
    peak: float

    def wrong(self, case: Case, place: Path) -> str:
        """What must not be, in a few words; nothing if all is well."""
        lines = [line for line in self.said.splitlines() if ": error: " in line]
        if (place / CANARY).exists():
            return "code was run"
        if (place / OUTSIDE).exists():
            return "something was written elsewhere"
        if self.code not in case.codes or "Traceback" in self.said:
            return f"exit code {self.code}: {self.said[-500:]!r}"
        if self.code and (len(lines) != 1 or case.names not in lines[0]):
            return f"not one line that names {case.names}: {self.said[-500:]!r}"
        if odd := re.search(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u202a-\u202e]", self.said):
            return f"{odd[0]!r} was printed"
        if self.said and max(map(len, self.said.splitlines())) > 5_000:
            return "a line of more than 5,000 letters was printed"
        return f"{self.peak:.0f} MB" if self.peak > case.most else ""


def measured(case: Case, place: Path) -> Outcome:
    """Run a case in a child process, in the folder ``place``."""
    place.mkdir()
    said, told = place.with_suffix(".said"), place.with_suffix(".told")
    if (child := os.fork()) == 0:
        try:
            _in_child(case, place, said, told)
        finally:
            os._exit(1)
    until = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.002)
    code, peak = json.loads(told.read_text()) if told.exists() else (None, 0.0)
    return Outcome(code, said.read_text("utf-8", "replace"), peak)


def _in_child(case: Case, place: Path, said: Path, told: Path) -> None:
    handle = os.open(said, os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", buffering=1) for number in (1, 2))  # noqa: SIM115
    os.chdir(place)
    torch.set_num_threads(1)  # mends torch's pool after the fork; two threads that do it at once end the process
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        code = case.act(place)
    except BaseException:
        import traceback

        traceback.print_exc()
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    told.write_text(json.dumps([code, peak / 1024]))
    os._exit(0)


ARGV = ["--device", "cpu", "--dataset", "digits", "--image-size", "8", "--samples", "10", "--attacks", "fgsm"]
OF_NOTHING = (0, 2)


def weights_cases() -> Iterator[Case]:
    """Files of weights, and checkpoints."""

    def evaluated(name: str, content: bytes) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            Path(name).write_bytes(content)
            return evaluate([name, "--out", "out", *ARGV])

        return act

    def begun_with(name: str, content: bytes) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            Path(name).write_bytes(content)
            return train(["--init-from", name, "--image-size", "8", "--device", "cpu", "--out", "out"])

        return act

    def resumed(content: bytes) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            unfinished(place)
            Path("run/checkpoint.pt").write_bytes(content)
            return train(["--resume", "run"])

        return act

    for what, payload in hostile_weights.payloads(CANARY):
        for container, made in hostile_weights.CONTAINERS.items():
            content = made(payload)
            act = resumed(content) if container == "checkpoint" else evaluated("w.pt", content)
            names = "checkpoint.pt" if container == "checkpoint" else "w.pt"
            yield Case("pickles", f"{what}, {container}", act, names=names)
    for suffix, content in hostile_weights.arrays(CANARY):
        yield Case("pickles", suffix, evaluated(f"w.{suffix}", content), names=f"w.{suffix}")
    for suffix, content in hostile_weights.outside(OUTSIDE):
        yield Case("archives", suffix, evaluated(f"w.{suffix}", content), names=f"w.{suffix}")
    for what, content in hostile_weights.claims():
        yield Case("weights that claim", what, evaluated("w.pt", content), names="w.pt", most=400)
    state = make("wrn-10-1", 10, generator_seed=0).state_dict()
    for what, content in hostile_weights.lies():
        yield Case("safetensors", what, evaluated("w.safetensors", content), names="w.safetensors")
        yield Case("safetensors", f"{what}, --init-from", begun_with("w.safetensors", content), names="w.safetensors")
    for what, metadata in hostile_weights.said():
        content = save(state, metadata)
        yield Case("metadata", what, evaluated("w.safetensors", content), (0, 2), most=400)


HARMLESS = ("text.png", "profile.png", "claims.xbm", "strips.tiff", "claims.tiff", "frame.gif")
"""Images whose lies are about what is not needed, and that may be shown."""


def image_cases() -> Iterator[Case]:
    """Image files and Parquet files."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)

    def shown(name: str, content: Callable[[], bytes]) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            for folder in ("train/a", "train/b", "test/a", "test/b"):
                Path("images", folder).mkdir(parents=True)
                Image.fromarray(pixels).save(Path("images", folder, "0.png"))
            Path("images/train/a", name).write_bytes(content())
            return data(["folder", "--data-dir", "images", "--image-size", "8", "--out", "sheet.png"])

        return act

    for name, content in hostile_images.pictures():
        codes = (0, 2) if name in HARMLESS else (2,)
        yield Case("images", name, shown(name, lambda content=content: content), codes, names=name)
    name, made = hostile_images.LARGEST
    yield Case("images", name, shown(name, made), (0,), most=1_200)
    good = parquet_tables.table([0, 1, 1, 0])

    def table(content: bytes) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            parquet_tables.write(place / "set", [good], [good])
            Path("set/train.parquet").write_bytes(content)
            return data(["parquet", "--data-dir", "set", "--image-size", "8", "--out", "sheet.png"])

        return act

    for what, content in hostile_images.tables():
        yield Case("parquet", what, table(content), (0, 2), most=700)


def unfinished(place: Path, **settings: object) -> None:
    """A run that has not come to a checkpoint, of other settings than it wrote."""
    images = place / "images"
    for number, folder in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (images / folder).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(number * 4 + i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / folder / f"{i}.png")
    options = {"image_size": 8, "epochs": 1, "batch_size": 4, "eval_samples": 4, "device": "cpu", "method": "natural"}
    config = recipe("digits", **{**options, "dataset": "folder", "data_dir": str(images)}).to_json()
    (place / "run").mkdir()
    (place / "run" / "config.json").write_text(json.dumps({**config, **settings}))
    code = f"import os; os.mkdir({str(place / CANARY)!r})\ndef net(classes): pass\n"
    (place / "evil.py").write_text(code)


def config_cases() -> Iterator[Case]:
    """Settings of somebody's run."""

    def resumed(settings: dict) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            unfinished(place, **settings)
            return train(["--resume", "run"])

        return act

    def evaluated(settings: dict) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            unfinished(place, **settings)
            content = save(make("wrn-10-1", 2, generator_seed=0).state_dict())
            Path("run/model.safetensors").write_bytes(content)
            return evaluate(["run", "--device", "cpu", "--attacks", "fgsm", "--out", "out"])

        return act

    for what, settings in hostile_images.settings():
        yield Case("configs", what, resumed(settings), (0, 2) if "milestones" in settings else (2,), most=400)
        yield Case("configs", f"{what}, eval", evaluated(settings), (0, 2), most=400)
    outside = {"cache_dir": OUTSIDE, "out": OUTSIDE}
    for what, act in (("--resume", resumed), ("eval", evaluated)):
        yield Case("configs", f"paths elsewhere, {what}", act(outside), (0,), most=400)
        elsewhere = {"dataset": "cifar10", "data_dir": f"../{OUTSIDE}/data", "image_size": 32}
        yield Case("configs", f"a download elsewhere, {what}", act(elsewhere), names="data", most=400)
    yield Case("configs", "deep", _text("config.json", "[" * 100_000), names="config.json")
    yield Case("configs", "a number of 5,000 digits", _text("config.json", "1" * 5_000), names="config.json")
    odd = {"method": "\x1b[31m", "clean": 1e999, "test_images": 10**400}
    yield Case("configs", "a result of infinity", _text("result.json", json.dumps(odd)), names="result.json")


def _text(name: str, text: str) -> Callable[[Path], int]:
    def act(place: Path) -> int:
        unfinished(place)
        Path("run", name).write_text(text)
        return train(["--resume", "run"])

    return act


NAMES = {
    "escapes": "\x1b]0;title\x07\x1b[2J",
    "markup": "[red]bold[/red]".replace("/", "\\"),
    "HTML": "<img src=x onerror=alert(1)>",
    "a formula": "=cmd|' !A0",
    "lines": "new\nline\r\x85",
    "right to left": "\u202etxt.exe",
}


def name_cases() -> Iterator[Case]:
    """Names of classes and runs, through all that shows them."""

    def shown(name: str) -> Callable[[Path], int]:
        def act(place: Path) -> int:
            unfinished(place)
            for part in ("train", "test"):
                Path("images", part, "a").rename(Path("images", part, name))
            codes = [data(["folder", "--data-dir", "images", "--image-size", "8", "--out", "sheet.png"])]
            run = Path("runs", name)
            settings = {"image_size": 8, "epochs": 1, "batch_size": 4, "eval_samples": 4, "device": "cpu"}
            config = recipe("digits", **settings, dataset="folder", data_dir="images", method="natural", out=run)
            run_training(config, show=True)
            codes.append(evaluate([str(run), "--device", "cpu", "--attacks", "fgsm,pgd1", "--out", "out"]))
            codes.append(report([str(run), "--eval", "out", "--out", "page.html"]))
            page, sheet = Path("page.html").read_text(), Path("out/eval.csv").read_text()
            assert "<img src=x" not in page
            assert not any(
                cell.startswith(("=", "+", "-", "@")) for line in sheet.splitlines() for cell in line.split(",")
            )
            return max(codes)

        return act

    for what, name in NAMES.items():
        yield Case("names", what, shown(name), (0,), most=600)


def cases() -> list[Case]:
    """All of them."""
    return [*weights_cases(), *image_cases(), *config_cases(), *name_cases()]


def _import_all(place: Path) -> None:
    """What commands import late, so that no case does it again and has it counted as its memory.

    No gradient is computed: torch's threads for that do not survive a fork.
    """
    place.mkdir()
    unfinished(place)
    (place / "w.pt").write_bytes(b"")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        data(["folder", "--data-dir", str(place / "images"), "--image-size", "8", "--out", str(place / "sheet.png")])
        evaluate([str(place / "w.pt"), *ARGV])


def tried(short: bool, folder: Path) -> dict:
    """``main``, in a process that has computed no gradients."""
    torch.set_num_threads(1)  # what a fork leaves of others cannot be used
    _import_all(folder / "warm")
    counts: Counter[str] = Counter()
    failures, peaks = [], dict[str, float]()
    for number, case in enumerate(cases()[:: SHORT if short else 1]):
        outcome = measured(case, place := folder / str(number))
        counts[case.kind] += 1
        peaks[case.kind] = max(peaks.get(case.kind, 0.0), round(outcome.peak))
        if wrong := outcome.wrong(case, place):
            failures.append(f"{case.kind}, {case.name}: {wrong}")
    return {"counts": dict(counts), "failures": failures, "notes": {"peak MB": peaks}}


def main(short: bool, folder: Path) -> dict:
    """Try every file, or every ``SHORT``-th; see ``run.py`` for what is returned."""
    told = folder / "told.json"
    argv = [sys.executable, __file__, "short" if short else "long", str(told)]
    subprocess.run(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
    found = json.loads(told.read_text())
    print(f"hostile: {sum(found['counts'].values())} files, {len(found['failures'])} did harm", flush=True)
    return found


if __name__ == "__main__":
    _, length, to = sys.argv
    Path(to).write_text(json.dumps(tried(length == "short", Path(to).parent)))
