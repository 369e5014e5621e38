"""Signals that ask for an end, as a request to stop at the next step."""

import signal
import threading
from pathlib import Path
from types import FrameType

ENDS = (signal.SIGINT, signal.SIGTERM)
"""From people and from whoever ends a job; repeated, they mean at once."""

WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Of a terminal that is closed, and of batch systems whose time runs out. They may come more than once."""


LOST = int(signal.SIGCONT)
"""What stands for a signal where the work was taken over by somebody else."""


class StopRequest:
    """While entered, the first of ``ENDS`` and ``WARNINGS`` is noted in ``number``.

    One within another notes what that one noted before, and tells it what comes.

    A second one of ``ENDS`` acts as it always does; further ``WARNINGS`` say nothing new. Signals that are ignored, as
    under nohup, and those that somebody else handles, in Python or in C, are left alone. So is everything outside the
    main thread, where Python sets no handlers.

    Args:
        patience: seconds after which a request is a KeyboardInterrupt, whatever runs then; None for never. Where
            somebody else uses the alarm of this process it is left to them, and nothing is interrupted.
    """

    def __init__(self, patience: float | None = None) -> None:
        self.number: int | None = None
        self._patience = patience
        self._previous: dict[int, object] = {}
        self._around: StopRequest | None = None
        self._thread = 0

    def __enter__(self) -> "StopRequest":
        self._thread = threading.get_ident()
        self._around = next((other for other in reversed(_entered) if other._thread == self._thread), None)
        if self._around is not None:
            self.number = self._around.number
        _entered.append(self)
        if threading.current_thread() is threading.main_thread():
            others = _set_in_c()
            for number in WARNINGS if self.number in ENDS else (*ENDS, *WARNINGS):
                previous = signal.getsignal(number)
                default = previous == signal.SIG_DFL and number not in others
                ours = self._around is not None and previous == self._around._note
                if default or ours or previous == signal.default_int_handler:
                    signal.signal(number, self._note)
                    self._previous[number] = previous
            if self._patience is not None and self._alarm_is_free():
                self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, signal.default_int_handler)
        return self

    def __exit__(self, *exception: object) -> None:
        _entered.remove(self)
        if signal.SIGALRM in self._previous:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._restore(*self._previous)

    def _alarm_is_free(self) -> bool:
        handled = signal.getsignal(signal.SIGALRM) != signal.SIG_DFL or signal.SIGALRM in _set_in_c()
        return not handled and signal.getitimer(signal.ITIMER_REAL)[0] == 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number in (None, LOST):
            self.number = number
            if self._patience is not None and signal.SIGALRM in self._previous:
                signal.setitimer(signal.ITIMER_REAL, self._patience)
        if number in ENDS:
            self._restore(*ENDS)
        if self._around is not None:
            self._around._note(number, frame)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]


_entered: list[StopRequest] = []


def ask_to_stop(number: int, thread: int) -> None:
    """As if the signal had come, for the requests that the thread of this identity has entered."""
    for request in tuple(_entered):
        if request._thread == thread and request.number is None:
            request.number = number


def _set_in_c() -> set[int]:
    """The signals that are handled or ignored, as Linux knows them: what C code set Python may take for a default."""
    try:
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
        mask = int(status["SigCgt"], 16) | int(status["SigIgn"], 16)
    except (OSError, KeyError, ValueError):  # another system
        return set()
    return {number for number in (*ENDS, *WARNINGS, signal.SIGALRM) if mask >> (number - 1) & 1}
