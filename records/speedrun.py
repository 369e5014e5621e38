"""Make a record: ``python records/speedrun.py train RECORD --data-dir DIR [FLAGS]``, then ``evaluate``.

RECORD is a folder such as ``records/2026-11-27-name``. ``train`` trains once for each seed that it does not have, by
``fastait train --recipe cifar10-speedrun`` and the further flags, from a cold start and with nothing else running, and
keeps what the rules ask for. ``evaluate`` measures the weights, which stay in ``--work``, by AutoAttack; on this
machine or another. Both go on where they were interrupted. The table is ``records/table.py``'s.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import reference
import torch
from rules import BUSY, EVALUATION, RECIPE, SEEDS, WEIGHTS, seed_folder

from fastait.runtime.errors import FastaitError
from fastait.runtime.files import write_text
from fastait.runtime.hardware import environment

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "bench"))


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Train or evaluate the seeds of a record.")
    parser.add_argument("do", choices=("train", "evaluate"))
    parser.add_argument("record", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True, help="where CIFAR-10 lies")
    parser.add_argument("--images", default="CIFAR-10", help="what these images are, for headings")
    parser.add_argument("--work", type=Path, help="folder of runs and weights [default: runs/ and the record's name]")
    given, flags = parser.parse_known_args(argv)
    work, data = (given.work or Path("runs", given.record.name)).absolute(), given.data_dir.absolute()
    flags, said = ["--data-dir", str(data), *flags], {str(work): "RUNS", str(data): "DATA", f"{ROOT}/": ""}
    try:
        if given.do == "train":
            train(given.record, work, flags, given.images, said)
        else:
            evaluate(given.record, work, flags, said)
    except (OSError, ValueError, FastaitError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def train(record: Path, work: Path, flags: list[str], images: str, said: dict[str, str]) -> None:
    """Each seed that ``record`` does not have, and what the machine can do.

    Args:
        record: its folder.
        work: of the runs.
        flags: of ``fastait train``.
        images: what they are.
        said: what is kept in the place of this machine's paths.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about: dict[str, Any] = {"name": record.name, "track": "GPU" if device.type == "cuda" else "CPU", "images": images}
    about |= {"command": " ".join(["fastait", *_command(flags, SEEDS[0], work / seed_folder(SEEDS[0]))])}
    record.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        kept, run = record / seed_folder(seed), work / seed_folder(seed)
        if (kept / "time.json").exists():
            continue
        shutil.rmtree(run, ignore_errors=True)
        idle = wait_until_idle()
        about |= {"machine": about.get("machine") or machine(device)}
        before = reference.seconds(device)
        began = datetime.now(UTC)
        seconds = clock(_command(flags, seed, run), run, kept)
        found = {"began": began.isoformat(timespec="seconds"), "seconds": round(seconds, 1), "others": idle}
        found |= {"reference_seconds": [round(before, 3), round(reference.seconds(device), 3)]}
        found |= {"weights": WEIGHTS, "sha256": hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()}
        for name in ("config.json", "metrics.jsonl", "result.json"):
            keep((run / name).read_text("utf-8"), kept / name, said)
        keep((kept / "train.log").read_text("utf-8"), kept / "train.log", said)
        keep(json.dumps(about, indent=2) + "\n", record / "record.json", said)
        keep(json.dumps(found, indent=2) + "\n", kept / "time.json", said)
        print(f"{record.name} seed {seed}: {seconds:.1f} s", flush=True)


def _command(flags: list[str], seed: int, run: Path) -> list[str]:
    cache = run.with_name(f"{run.name}-cache")  # an empty one: decoding the images is on the clock
    return ["train", "--recipe", RECIPE, *flags, "--seed", str(seed), "--cache-dir", str(cache), "--out", str(run)]


def clock(command: list[str], run: Path, kept: Path) -> float:
    """Seconds from the start of the process to the line of its last epoch in ``metrics.jsonl``; waits for its end.

    Raises:
        ValueError: the training ended with another exit code than 0.
    """
    shutil.rmtree(run.with_name(f"{run.name}-cache"), ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    with open(kept / "train.log", "wb") as log:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "fastait", *command], stdout=log, stderr=log)
        ended = 0.0
        while process.poll() is None:
            if not ended and _all_epochs(run):
                ended = time.monotonic()
            time.sleep(0.1)
    shutil.rmtree(run.with_name(f"{run.name}-cache"), ignore_errors=True)
    if process.returncode or not ended:
        raise ValueError(f"the training ended with exit code {process.returncode}; see {kept / 'train.log'}")
    return ended - began


def _all_epochs(run: Path) -> bool:
    try:
        epochs = json.loads((run / "config.json").read_text("utf-8"))["epochs"]
        return len((run / "metrics.jsonl").read_text("utf-8").splitlines()) == epochs
    except (OSError, ValueError):  # not there yet
        return False


def evaluate(record: Path, work: Path, flags: list[str], said: dict[str, str]) -> None:
    """AutoAttack on each seed's weights that were trained and are not evaluated; arguments as ``train``'s."""
    for seed in SEEDS:
        kept, run = record / seed_folder(seed), work / seed_folder(seed)
        if (kept / "eval.json").exists() or not (kept / "time.json").exists():
            continue
        told = json.loads((kept / "time.json").read_text("utf-8"))["sha256"]
        weights = run / WEIGHTS
        if hashlib.sha256(weights.read_bytes()).hexdigest() != told:
            raise ValueError(f"{weights} are not the weights of {kept}: another sha256")
        out = work / f"{seed_folder(seed)}-eval"
        command = ["eval", str(weights), *EVALUATION, *flags, "--out", str(out)]
        with open(kept / "eval.log", "wb") as log:
            ended = subprocess.run([sys.executable, "-m", "fastait", *command], stdout=log, stderr=log, check=False)
        if ended.returncode:
            raise ValueError(f"the evaluation ended with exit code {ended.returncode}; see {kept / 'eval.log'}")
        keep((kept / "eval.log").read_text("utf-8"), kept / "eval.log", said)
        keep((out / "eval.json").read_text("utf-8"), kept / "eval.json", said)
        print((kept / "eval.log").read_text("utf-8"), flush=True)


def machine(device: torch.device) -> dict[str, Any]:
    """Its name, versions and peak rates in TFLOP/s, of a large product and a convolution."""
    from machine import peak_flops  # of bench/

    rates = {
        str(dtype).removeprefix("torch."): {name: round(flops / 1e12, 3) for name, flops in peak_flops(dtype).items()}
        for dtype in (torch.float32, torch.bfloat16)
    }
    return {**environment(device), "peak_tflops": rates}


def wait_until_idle(seconds: float = 600) -> float:
    """The share of the cores that others use in two seconds, once it is below ``BUSY``.

    Raises:
        ValueError: it does not get so low.
    """
    until = time.monotonic() + seconds
    while True:
        before = _cpu_times()
        time.sleep(2)
        total, idle = (after - first for after, first in zip(_cpu_times(), before, strict=True))
        if (busy := round(1 - idle / total, 3)) <= BUSY:
            return busy
        if time.monotonic() > until:
            raise ValueError(f"others use {busy:.0%} of this machine's cores; nothing else may run beside a record")


def _cpu_times() -> tuple[int, int]:
    """All ticks of all cores since the machine's start, and the idle ones."""
    ticks = [int(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def keep(text: str, path: Path, said: dict[str, str]) -> None:
    """``text`` as a file, without this machine's paths."""
    for place, name in said.items():
        text = text.replace(place, name)
    write_text(path, text)


if __name__ == "__main__":
    sys.exit(main())
