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
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "records"))

from speedrun import keep
from tables import FOLDER, ROOT, Run, attacks, planned

from fastait.runtime.errors import FastaitError, InputError


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
        of_name = {run.folder.name: run for run in planned(FOLDER / f"{given.sweep}.toml")}
        for name in given.runs or of_name:
            if name not in of_name:
                raise InputError(f"{given.sweep}.toml has no run {name!r}; it has {', '.join(of_name)}")
            if not (of_name[name].folder / "eval.json").exists():
                measure(of_name[name], trained / "runs" / name, work / name, flags, said)
    except (OSError, ValueError, FastaitError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(run: Run, trained: Path, out: Path, flags: list[str], said: dict[str, str]) -> None:
    """One of them.

    Args:
        run: which.
        trained: the folder of its training.
        out: of the evaluation, which goes on with what is there.
        flags: further ones of ``fastait eval``.
        said: what is kept in the place of this machine's paths.

    Raises:
        ValueError: the evaluation failed.
    """
    weights = trained / ("ema.safetensors" if run.sweep.weights == "ema" else "model.safetensors")
    command = ["eval", str(weights), "--attacks", ",".join(attacks(run.file)), "--epsilon", "8/255"]
    command += ["--samples", str(run.sweep.samples), "--dataset", "parquet", "--out", str(out), *flags]
    ended = subprocess.run([sys.executable, "-m", "fastait", *command], check=False)
    if ended.returncode:
        raise ValueError(f"the evaluation of {trained} ended with exit code {ended.returncode}")
    said = {**said, json.loads((trained / "config.json").read_text("utf-8"))["data_dir"]: "DATA"}
    found = {"weights": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    run.folder.mkdir(parents=True, exist_ok=True)
    keep(json.dumps(found, indent=2) + "\n", run.folder / "weights.json", said)
    for file in (trained / "config.json", trained / "metrics.jsonl", trained / "result.json", out / "eval.json"):
        keep(file.read_text("utf-8"), run.folder / file.name, said)  # the last one says that all are there


if __name__ == "__main__":
    sys.exit(main())
