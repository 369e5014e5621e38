"""What a process of the doctor's does: checks in their order, an answer each, one line of JSON, on stdout.

By hand, to see what a check says on the way::

    python -m fastait.doctor.child '{"setup": {"asked": "cpu", "device": "cpu", "out": "runs"},
                                     "calls": ["fastait.doctor.loaders:dali"]}'
"""

import contextlib
import ctypes
import dataclasses
import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback

from fastait.doctor.findings import Finding, Setup, wrong
from fastait.runtime.errors import FastaitError, one_line, words

PARENT_DEATH_SIGNAL = 1
"""Of prctl, Linux's."""


def main() -> None:
    """Do what the first argument says."""
    _end_with_the_doctor()
    told = json.loads(sys.argv[1])
    setup = Setup(**told["setup"])
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print is no answer
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # asks where it hangs
    for call in told["calls"]:
        found = answer(call, setup)
        print(json.dumps(dataclasses.asdict(found)), file=answers, flush=True)
        # The first check says what --device means.
        setup = dataclasses.replace(setup, device=found.facts.get("device", setup.device))


def _end_with_the_doctor() -> None:
    """Where it is killed it cannot end its processes, so the system does."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def answer(call: str, setup: Setup) -> Finding:
    """What ``call`` found; an exception is something wrong."""
    module, _, name = call.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(setup)
    except Exception as error:
        traceback.print_exc()
        said = words(error)
        text = said if isinstance(error, FastaitError) else f"{type(error).__name__}: {said}"
        return wrong(one_line(text)[:400], "")


if __name__ == "__main__":
    main()
