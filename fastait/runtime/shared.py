"""State that several threads may need changed at once: the first one changes it, the last one puts it back."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Before = TypeVar("Before")


@dataclass
class _Hold(Generic[T, Before]):
    subject: T
    before: Before
    holders: int = 0


class Shared(Generic[T, Before]):
    """A change to objects that lasts as long as anybody holds it.

    Args:
        change: makes the change to an object and returns what it was before.
        restore: puts an object back to what it was before.
    """

    def __init__(self, change: Callable[[T], Before], restore: Callable[[T, Before], None]):
        self._change = change
        self._restore = restore
        self._lock = threading.RLock()
        self._holds: dict[int, _Hold[T, Before]] = {}

    def holds(self, subject: T) -> bool:
        """Whether anybody holds ``subject``."""
        return id(subject) in self._holds

    @contextmanager
    def alone(self, subject: T) -> Iterator[bool]:
        """Whether nobody holds ``subject`` but one; who comes or leaves waits until this ends."""
        with self._lock:
            yield id(subject) in self._holds and self._holds[id(subject)].holders == 1

    @contextmanager
    def held(self, subjects: Iterable[T]) -> Iterator[None]:
        """Change ``subjects``, told apart by identity, until this and every other holder has left."""
        taken: list[int] = []
        try:
            with self._lock:
                for subject in subjects:
                    hold = self._holds.get(id(subject))
                    if hold is None:
                        hold = self._holds[id(subject)] = _Hold(subject, self._change(subject))
                    hold.holders += 1
                    taken.append(id(subject))
            yield
        finally:
            with self._lock:
                for key in taken:
                    hold = self._holds[key]
                    hold.holders -= 1
                    if not hold.holders:
                        del self._holds[key]
                        self._restore(hold.subject, hold.before)


def by_all_threads(make: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[None]]:
    """Contexts of a switch of the process's, made by ``make``: the first thread's is entered, and left by the last.

    torch's own put back what each thread found: two that leave in the order in which they came would leave the process
    switched over for good.
    """

    def enter(make: Callable[[], AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
        context = make()
        context.__enter__()
        return context

    def leave(_: object, context: AbstractContextManager[Any]) -> None:
        context.__exit__(None, None, None)

    shared = Shared(enter, leave)
    return lambda: shared.held([make])
