"""How far a process may be ahead of its GPU, and after which steps the processes of a run decide together."""

import time

import torch

from fastait.runtime.processes import Ranks

MOST_WAITING = 3
"""Steps that may be on the GPU or wait for it: so many that it has the next one while this process sees to a loader or
a progress bar, and so few that a signal, which is obeyed after them, is not kept waiting. Without a bound captured
steps, of one launch each, fill the driver's queue, and a signal waits for all of it."""

DECISION_SECONDS = 0.25
"""How long, about, the processes go on without a decision: much longer than it takes them to come to one, and short for
somebody who has sent a signal."""

MOST_STEPS = 20
"""Steps between two decisions at most: should steps become a hundred times as long, this is how many go by unasked."""


class Backlog:
    """The steps that ``device`` has been given and has not finished; of a CPU, none."""

    def __init__(self, device: torch.device):
        self._device = device
        # A thread that waits for such an event sleeps, and leaves its core to the loader.
        self._events = [torch.cuda.Event(blocking=True) for _ in range(MOST_WAITING)] if device.type == "cuda" else []
        self._steps = 0

    def add(self) -> None:
        """Count the step that was just launched on the current stream; wait for the one ``MOST_WAITING`` before it."""
        if self._events:
            event = self._events[self._steps % MOST_WAITING]
            event.synchronize()  # at once, if it was never recorded
            event.record(torch.cuda.current_stream(self._device))
            self._steps += 1


class Decisions:
    """The steps after which the processes decide, agreed on ahead: between them none waits for another's word.

    Args:
        ranks: the processes; one alone decides after each step.
        step: the first step that is not done; the same for all.
    """

    def __init__(self, ranks: Ranks, step: int):
        self.ranks = ranks
        self._last, self._next = step, step + 1
        self._since = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether all processes decide now that ``step`` steps are done; they find the same."""
        return step >= self._next

    def largest(self, step: int, *values: int) -> list[int]:
        """The largest of each value over all processes, which all call this after ``step`` steps."""
        now, done = time.monotonic(), step - self._last
        # Twice as many as last time at most: a GPU's queue is quickly filled, which says nothing about its speed.
        most = 1 if self.ranks.size == 1 else min(2 * done, MOST_STEPS)
        fitting = DECISION_SECONDS * done / max(now - self._since, 1e-6)
        *found, ahead = self.ranks.largest(*values, max(1, min(most, int(fitting))))
        self._last, self._next, self._since = step, step + ahead, now
        return found
