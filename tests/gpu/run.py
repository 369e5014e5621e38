"""Everything that only a GPU can show, in parts of under ten minutes, as one JSON file.

``python tests/gpu/run.py --out FOLDER`` needs no network, and neither the project nor all of its packages installed:
what is missing is said, and what needs it is skipped. A part that crashes or hangs does not stop the others. Given
again, the command goes on with the parts that FOLDER/results.json does not have.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

from parts import ROOT, SECONDS, Part, parts
from recorder import read

sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from fastait.runtime.files import write_text  # noqa: E402

FOLDERS = ("", "kernels", "tests", "tests/gpu", "bench")
TAIL = 8000
"""Characters of a part's output that the JSON keeps where something went wrong."""


class Wrong(Exception):
    """One line for whoever started this."""


def arguments(argv):
    parser = argparse.ArgumentParser(description="Run tests/gpu, tests/kernels and bench on this machine's first GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json and a log for each part")
    parser.add_argument("--part", action="append", default=[], metavar="NAME", help="only this one, also if it is done")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="begin nothing that would not end by then")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with stand-ins for a GPU")
    return parser.parse_args(argv)


def environment(rehearsed):
    """Of a part."""
    path = [*(str(ROOT / folder) for folder in FOLDERS), os.environ.get("PYTHONPATH", "")]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}
    found["PYTHONFAULTHANDLER"] = "1"  # a crash, and what hangs when it is stopped, say where they are
    if rehearsed:
        found |= {"FASTAIT_REHEARSAL": "1", "CUDA_VISIBLE_DEVICES": ""}
    return found


def describe(rehearsed):
    """The machine, asked in another process: this one leaves the GPU alone."""
    command = [sys.executable, str(ROOT / "tests/gpu/describe.py"), *(["--rehearse"] if rehearsed else [])]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(rehearsed), timeout=300, cwd=ROOT
    )
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no word"])[-1]
        raise Wrong(f"no CUDA GPU that torch can use ({last}); --rehearse runs on the CPU with stand-ins")
    return json.loads(ended.stdout.splitlines()[-1])


def missing(part):
    """The first module that ``part`` needs and that is not there."""
    for name in part.needs:
        try:
            if importlib.util.find_spec(name) is None:
                return name
        except ModuleNotFoundError:  # of a module whose package is not there either
            return name
    return None


def run(part: Part, out: Path, rehearsed: bool, seconds: float = SECONDS) -> dict:
    """What became of ``part``."""
    if (name := missing(part)) is not None:
        return {"ended": "skipped", "why": f"{name} is not installed"}
    record, log, answer = (out / f"{part.name}{suffix}" for suffix in (".record", ".log", ".json"))
    record.unlink(missing_ok=True)
    rows = ROOT / ".benchmarks/fastait.json"
    began, clock = time.time(), time.monotonic()
    with open(log, "wb") as errors, open(answer, "wb") if part.answers else nullcontext(errors) as said:
        process = subprocess.Popen(
            [sys.executable, *part.argv],
            cwd=ROOT,
            env={**environment(rehearsed), "FASTAIT_RECORD": str(record)},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
            ended = "finished" if code >= 0 else f"crashed: {signal.Signals(-code).name}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # says where it is
            ended = f"stopped after {seconds:.0f} seconds"
        finally:
            code = stop(process)
    found = {"ended": ended, "exit": code, "seconds": round(time.monotonic() - clock, 1)}
    if part.answers:
        found = answered(answer) | found if ended != "finished" else found | answered(answer)
    else:
        found |= read(record)
        if ended == "finished" and code not in (0, 1, 5):
            found["ended"] = f"pytest could not run it: exit code {code}"
    if part.measures and rows.exists() and rows.stat().st_mtime >= began:
        found["bench"] = json.loads(rows.read_text())
    if not well(found):
        found["output"] = log.read_text("utf-8", "replace")[-TAIL:]
    record.unlink(missing_ok=True)
    return found


def stop(process):
    """Make an end of ``process`` and all that it started; its exit code."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(5 if process.poll() is None else 0)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def answered(path):
    """The JSON document that a part printed."""
    try:
        return {"answer": json.loads(path.read_text())}
    except ValueError:
        return {"ended": "it printed no JSON"}
    finally:
        path.unlink()


def well(found):
    """Whether nothing went wrong."""
    return found["ended"] in ("finished", "skipped") and not found.get("failed") and found.get("exit", 0) in (0, 5)


def line(name, found):
    """A part in one line."""
    text = f"{name}: {found['ended']}"
    if "why" in found:
        return f"{text}, {found['why']}"
    if "passed" in found:
        text += f", {found['passed']} passed, {len(found['failed'])} failed, {len(found['skipped'])} skipped"
    if found.get("unfinished"):
        text += f", in {found['unfinished']}"
    return f"{text}, {found['seconds']:.0f} s" + ("" if well(found) else "  <- not well")


def begin(out, rehearsed):
    """What is known already, of this machine."""
    out.mkdir(parents=True, exist_ok=True)
    machine = describe(rehearsed)
    file = out / "results.json"
    if not file.exists():
        return {"machine": machine, "parts": {}}
    results = json.loads(file.read_text())
    for name in ("device", "rehearsed", "torch", "commit"):
        then, now = results["machine"][name], machine[name]
        if then != now:
            raise Wrong(f"{file} is of another {name} ({then}, now {now}); choose another --out")
    return results


def main(argv):
    """Returns 0 if all is well, 1 if not, 2 for arguments that cannot be."""
    asked = arguments(argv)
    every = parts(asked.rehearse)
    began = time.monotonic()
    try:
        for name in asked.part:
            if name not in every:
                raise Wrong(f"--part {name}: there are {', '.join(every)}")
        out = asked.out.resolve()
        results = begin(out, asked.rehearse)
    except (Wrong, OSError) as error:
        print(f"run.py: error: {error}", file=sys.stderr)
        return 2
    machine = results["machine"]
    lacking = [package for package, version in machine["packages"].items() if version is None]
    print(
        f"{machine['device']}, torch {machine['torch']}" + (f"; not installed: {', '.join(lacking)}" if lacking else "")
    )
    for name in asked.part or [name for name in every if name not in results["parts"]]:
        left = float("inf") if asked.budget is None else 60 * asked.budget - (time.monotonic() - began)
        if left < 60:
            print(f"{name}: not begun, --budget {asked.budget:g} is spent; the same command goes on with it")
            continue
        found = run(every[name], out, asked.rehearse, min(SECONDS, left))
        results["parts"][name] = found
        write_text(out / "results.json", json.dumps(results, indent=1) + "\n")
        print(line(name, found), flush=True)
    print(f"written to {out / 'results.json'}")
    return 0 if all(map(well, results["parts"].values())) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on with the part that was running", file=sys.stderr)
        sys.exit(130)
