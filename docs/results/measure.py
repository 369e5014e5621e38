"""Measure the networks of a sweep: ``python docs/results/measure.py SWEEP [RUN...] --data-dir DIR [FLAGS]``.

SWEEP is the name of a TOML file beside this one, such as ``methods``, whose ``fastait sweep`` trained them into
``sweeps/SWEEP`` or ``--trained``. Each is measured by one ``fastait eval``, by ``tables.attacks`` on as many images as
the file says, with these flags, into ``--work``; a folder here, ``SWEEP/RUN``, gets its settings, its epochs, each
image's outcome and the hash of the weights. What has such a folder is left alone, what was interrupted goes on, and
runs named here may be measured side by side. The tables are ``tables.py``'s.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tables import FOLDER, ROOT, attacks

from fastait.reproduction.sweep import Sweep, read_sweep
from fastait.runtime.errors import FastaitError
from fastait.runtime.files import write_text


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Measure the networks of a sweep.")
    parser.add_argument("sweep", help="the name of a TOML file beside this one")
    parser.add_argument("runs", nargs="*", help="those that are measured [default: all of them]")
    parser.add_argument("--data-dir", type=Path, required=True, help="where CIFAR-10 lies")
    parser.add_argument("--trained", type=Path, help="the sweep's folder [default: sweeps/SWEEP]")
    parser.add_argument("--work", type=Path, help="folder of the evaluations [default: evals/SWEEP]")
    parser.add_argument("--masking", action="store_true", help="look for masked gradients too")
    given, flags = parser.parse_known_args(argv)
    trained = (given.trained or Path("sweeps", given.sweep)).absolute()
    work, data = (given.work or Path("evals", given.sweep)).absolute(), given.data_dir.absolute()
    said = {str(trained): "SWEEP", str(work): "EVALS", str(data): "DATA", f"{ROOT}/": ""}
    flags = ["--data-dir", str(data), *(["--masking"] if given.masking else []), *flags]
    try:
        sweep = read_sweep(FOLDER / f"{given.sweep}.toml")
        for run in given.runs or runs(sweep):
            kept = FOLDER / given.sweep / run
            if not (kept / "eval.json").exists():
                measure(trained / "runs" / run, sweep, work / run, flags, kept, said)
    except (OSError, ValueError, FastaitError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def runs(sweep: Sweep) -> Iterator[str]:
    """The folders of its runs."""
    for seed in sweep.seeds:
        for system in sweep.systems:
            yield system + (f"-seed={seed}" if seed else "")


def measure(run: Path, sweep: Sweep, out: Path, flags: list[str], kept: Path, said: dict[str, str]) -> None:
    """One of them.

    Args:
        run: its folder.
        sweep: that it is of.
        out: of the evaluation, which goes on with what is there.
        flags: further ones of ``fastait eval``.
        kept: what is kept of both, and where.
        said: instead of this machine's paths.

    Raises:
        ValueError: the evaluation failed.
    """
    weights = run / ("ema.safetensors" if sweep.weights == "ema" else "model.safetensors")
    command = [
        "eval",
        str(weights),
        "--attacks",
        ",".join(attacks(kept.parent.name)),
        "--samples",
        str(sweep.samples),
        *flags,
    ]
    command += ["--epsilon", "8/255", "--dataset", "parquet", "--out", str(out)]
    ended = subprocess.run([sys.executable, "-m", "fastait", *command], check=False)
    if ended.returncode:
        raise ValueError(f"the evaluation of {run} ended with exit code {ended.returncode}")
    places = {**said, json.loads((run / "config.json").read_text("utf-8"))["data_dir"]: "DATA"}
    kept.mkdir(parents=True, exist_ok=True)
    for file in (run / "config.json", run / "metrics.jsonl", run / "result.json", out / "eval.json"):
        text = file.read_text("utf-8")
        for place, name in places.items():
            text = text.replace(place, name)
        write_text(kept / file.name, text)
    found = {"weights": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    write_text(kept / "weights.json", json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
