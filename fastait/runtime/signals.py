"""Signals that ask for an end, as a request to stop at the next step."""

import signal
import threading
from pathlib import Path
from types import FrameType

ENDS = (signal.SIGINT, signal.SIGTERM)
"""From people and from whoever ends a job; repeated, they mean at once."""

WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Of a terminal that is closed, and of batch systems whose time runs out. They may come more than once."""


class StopRequest:
    """While entered, the first of ``ENDS`` and ``WARNINGS`` is noted in ``number``.

    A second one of ``ENDS`` acts as it always does; further ``WARNINGS`` say nothing new. Signals that are ignored, as
    under nohup, and those that somebody else handles, in Python or in C, are left alone. So is everything outside the
    main thread, where Python sets no handlers.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            others = _set_in_c()
            for number in (*ENDS, *WARNINGS):
                previous = signal.getsignal(number)
                default = previous == signal.SIG_DFL and number not in others
                if default or previous == signal.default_int_handler:
                    signal.signal(number, self._note)
                    self._previous[number] = previous
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore(*self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
        if number in ENDS:
            self._restore(*ENDS)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]


def _set_in_c() -> set[int]:
    """The signals that are handled or ignored, as Linux knows them: what C code set Python may take for a default."""
    try:
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
        mask = int(status["SigCgt"], 16) | int(status["SigIgn"], 16)
    except (OSError, KeyError, ValueError):  # another system
        return set()
    return {number for number in (*ENDS, *WARNINGS) if mask >> (number - 1) & 1}
