"""What is compiled runs as it was written, for a while."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from fastait.runtime.shared import Shared


def _enter(process: str) -> Any:
    return torch.compiler.set_stance("force_eager")  # from here on, not only as a context


def _leave(process: str, stance: Any) -> None:
    stance.__exit__(None, None, None)


_stance: Shared[str, Any] = Shared(_enter, _leave)
_PROCESS = "torch's stance is the process's"


def eagerly() -> AbstractContextManager[None]:
    """Nothing is compiled within, and what has been runs eagerly, in other threads too until the last one has left.

    torch puts back what each thread found, so that two which leave in the order in which they came would leave the
    process eager for good.
    """
    return _stance.held([_PROCESS])
