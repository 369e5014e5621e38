"""What is wrong after a fault: with exit codes, with what was said, with files."""

import io
import json
import re
import signal

from fault_launcher import HANGS
from PIL import Image
from safetensors.torch import load

from fastait.checkpoints import checkpoint
from fastait.runtime.files import PARTIAL

SAID = re.compile(r"^fastait( \w+)?: (error: |interrupted)", re.MULTILINE)
BABBLE = ("Traceback", "terminate called", "Fatal Python error", "core dumped", "Exception ignored")


SUFFICED = "nothing happened"
"""What is said in place of something wrong where a limit on memory was none."""


def left(folder):
    """What was to be temporary."""
    return [f"{path.relative_to(folder)} was left" for path in sorted(folder.rglob(f"*{PARTIAL}"))]


def fits(case, codes, said):
    """What is wrong with how the processes of a fault ended and with what they said."""
    kind, own = case.fault.get("kind"), case.fault.get("rank", 0)
    number = case.fault.get("signal")
    yield from ("it hangs" for code in codes if code == HANGS)
    if kind == "clock":
        if set(codes) != {0}:
            yield f"exit codes {codes}: {last(said)}"
    elif number == signal.SIGKILL:
        if codes[own] != -number:
            yield f"exit codes {codes}: it was to be killed"
        elif {code for rank, code in enumerate(codes) if rank != own} - {0, 1}:
            yield f"exit codes {codes} of the other processes"
    elif kind == "signal":
        ended = codes[own]
        if ended not in ((128 + number,) if case.alone else (0, -number, 128 + number)):
            yield f"exit codes {codes}: {last(said)}"
        yield from one_line(said, bool(set(codes) - {0, -number}))
        return
    elif kind == "file size" or case.disk is not None or kind in ("gone", "memory", "worker"):
        if not {0, 1, 2} >= set(codes):
            yield f"exit codes {codes}: {last(said)}"
        unsaid = kind == "file size" and "cannot be written" not in "".join(said)
        if (unsaid or kind in ("gone", "worker")) and set(codes) == {0}:
            yield "it ended as if nothing had been"
        if kind == "memory" and set(codes) == {0}:
            yield SUFFICED
    yield from one_line(said, bool(set(codes) - {0, -signal.SIGKILL}))


def kept(case, folder, codes, said):
    """What is wrong with what a signal has left: a run that has begun is saved where it says that it was."""
    number, out = case.fault.get("signal", signal.SIGKILL), folder / case.command.out
    begun = (out / "config.json").exists() or list(out.glob("progress-*.jsonl"))
    if number != signal.SIGKILL and begun and -number in codes:
        yield f"it died of signal {number} without a word, and had begun"
    for step in re.findall(r"stopped at step (\d+) and saved", "".join(said)):
        saved = checkpoint.unpacked((out / "checkpoint.pt").read_bytes())
        if saved is None or saved["step"] != int(step):
            yield f"stopped at step {step}, and the checkpoint is of another"


def one_line(said, expected):
    """What is wrong with the words of processes of which one at least should have said why it ended."""
    for words in said:
        yield from (f"{word!r} was said: {words[-1500:]}" for word in BABBLE if word in words)
    lines = [len(SAID.findall(words)) for words in said]
    if max(lines) > 1 or (expected and not max(lines)):
        yield f"lines {lines} that say why it ended: {last(said)}"


def last(said):
    return " | ".join(words.strip().splitlines()[-1] for words in said if words.strip())


def torn(folder):
    """Which files that have their names cannot be read."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.name == "metrics.jsonl":
                [json.loads(line) for line in path.read_text().splitlines()]
            elif path.suffix == ".safetensors":
                load(path.read_bytes())
            elif path.suffix == ".png":
                Image.open(io.BytesIO(path.read_bytes())).load()
            elif path.suffix == ".pt" and checkpoint.unpacked(path.read_bytes()) is None:
                raise ValueError("no checkpoint")
        except Exception as error:  # each reader has its own
            yield f"{path.relative_to(folder)} is torn: {error}"
