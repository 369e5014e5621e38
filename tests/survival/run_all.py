"""What fastait survives, in numbers: everything of this folder in its long form, two parts at a time.

``python tests/survival/run_all.py`` prints what was tried, how often, and what went wrong, and ends with one line of
JSON; the exit code is 0 if nothing did. ``--part NAME`` runs that one alone, ``--short`` what the tests run. A part is
a module here with ``main(short, folder)``, which returns ``counts`` of what was tried in plain words, ``failures`` as
lines, and ``notes``.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
PATHS = [str(ROOT / folder) for folder in ("", "kernels", *SETTINGS["pythonpath"])]
"""Where the project and its tests' modules are."""

sys.path[:0] = PATHS

PARTS = ("faults", "endurance", "commands", "corruption", "calls", "hostile", "history")
"""The longest first, so that two of them at a time end together."""

AT_A_TIME = 2


def arguments(argv):
    parser = argparse.ArgumentParser(description="Kill, starve, damage, forge and fuzz, and count what is survived.")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--short", action="store_true", help="a few of each kind, as the tests do")
    parser.add_argument("--alone", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def alone(part, short, folder):
    """What became of a part, in this process."""
    try:
        found = importlib.import_module(part).main(short, folder)
    except Exception:
        traceback.print_exc()
        found = {"counts": {}, "failures": [f"{part} itself ended: {traceback.format_exc(-1).splitlines()[-1]}"]}
    return {"notes": {}, **found}


def run(part, short):
    """What became of a part, in a process and a folder of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"survival-{part}-") as folder:
        result = Path(folder, "found.json")
        command = [sys.executable, __file__, "--part", part, "--alone", folder, *(["--short"] if short else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)}
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=False)
        if result.exists():
            found = json.loads(result.read_text("utf-8"))
        else:
            found = {"counts": {}, "failures": [f"{part} itself ended with {ended.returncode}"], "notes": {}}
    found["seconds"] = round(time.monotonic() - began)
    print(
        f"{part}: {sum(found['counts'].values())} in {found['seconds']} s, {len(found['failures'])} failed", flush=True
    )
    return found


def machine():
    """Where this was: versions, cores and the day."""
    import torch

    from fastait.runtime.hardware import environment
    from fastait.runtime.version import __version__

    return {"date": str(date.today()), "fastait": __version__, **environment(torch.device("cpu"))}


def show(found):
    """Each kind and how often, part by part, and what went wrong."""
    width = max((len(kind) for part in found.values() for kind in part["counts"]), default=0)
    for name, part in found.items():
        print(f"\n{name}, {part['seconds']} s")
        for kind, count in part["counts"].items():
            print(f"  {kind:{width}}  {count:6d}")
        for kind, note in part["notes"].items():
            print(f"  {kind}: {note}")
        for line in part["failures"]:
            print(f"  FAILED: {line}")


def main(argv=None):
    """0 if everything was survived."""
    given = arguments(argv)
    if given.alone is not None:
        (part,) = given.part
        work = given.alone / "work"
        work.mkdir()
        found = alone(part, given.short, work)
        Path(given.alone, "found.json").write_text(json.dumps(found), "utf-8")
        return 0
    began = time.monotonic()
    names = [part for part in PARTS if part in (given.part or PARTS)]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = dict(zip(names, pool.map(lambda part: run(part, given.short), names), strict=True))
    show(found)
    failures = sum(len(part["failures"]) for part in found.values())
    print(f"\n{failures} failed; {time.monotonic() - began:.0f} s")
    print(json.dumps({**machine(), "short": given.short, "parts": found}))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
