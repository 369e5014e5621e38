"""What a check is told, and what it found."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

OK, WRONG, SKIPPED = "ok", "wrong", "skipped"


@dataclass(frozen=True)
class Setup:
    """What a check is told.

    Attributes:
        asked: ``--device`` as it was given.
        device: what torch calls it: cpu or cuda:N.
        out: the folder of ``--out``; need not exist.
    """

    asked: str
    device: str
    out: str

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to work with."""
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        status: ``OK``, ``WRONG``, or ``SKIPPED``: what is checked does not exist here.
        message: one line: what was seen, what is wrong, or why nothing was tried.
        remedy: what to do where something is wrong.
        facts: plain values for the JSON document, and for what is advised at the end.
    """

    status: str
    message: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def ok(message: str, **facts: Any) -> Finding:
    """What is checked works."""
    return Finding(OK, message, facts=facts)


def wrong(message: str, remedy: str, **facts: Any) -> Finding:
    """It does not."""
    return Finding(WRONG, message, remedy, facts)


def skipped(why: str) -> Finding:
    """There is no such thing here."""
    return Finding(SKIPPED, why)


def ready(setup: Setup) -> "torch.device":
    """The device of ``setup``, torch's current one, with as many threads as our commands have; for what computes.

    It concerns the whole process, which is the check's own.
    """
    import torch

    from fastait.runtime.threads import set_threads

    set_threads()
    device = torch.device(setup.device)
    if setup.on_gpu and torch.cuda.is_available():
        torch.cuda.set_device(device)
    return device
