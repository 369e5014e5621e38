"""The state of a model while it is attacked."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastait.attacks.subject import Subject
from fastait.runtime.shared import Shared

_attackers: Counter[int] = Counter()
"""How many attacks each thread is in."""


class _Train:
    """Stands in for ``train`` of a module that is attacked: calls of other threads wait until it no longer is.

    Another thread that trains or evaluates the same model calls ``train()`` or ``eval()`` on it, and in train mode the
    attack would see other logits and change the running statistics. The attack's own thread is obeyed at once, since
    a random defence may switch its dropout on in every pass.
    """

    def __init__(self, module: nn.Module, own: Any):
        self.module = module
        self.own = own  # what the instance had in the class's place, or None
        self.waiting: list[bool] = []

    def __call__(self, mode: bool = True) -> nn.Module:
        if not _modules.holds(self.module):  # a copy that was made meanwhile
            self.leave()
        elif not _attackers[threading.get_ident()]:
            self.waiting.append(mode)
            return self.module
        return type(self.module).train(self.module, mode) if self.own is None else self.own(mode)

    def leave(self) -> None:
        """Give the place back."""
        if self.own is None:
            del self.module.__dict__["train"]
        else:
            self.module.__dict__["train"] = self.own


def _stand_in(module: nn.Module) -> tuple[bool, _Train]:
    stand_in = _Train(module, module.__dict__.get("train"))
    module.__dict__["train"] = stand_in
    return module.training, stand_in


def _leave(module: nn.Module, before: tuple[bool, _Train]) -> None:
    module.training, stand_in = before
    stand_in.leave()
    for mode in stand_in.waiting:
        module.train(mode)


_modules: Shared[nn.Module, tuple[bool, _Train]] = Shared(_stand_in, _leave)


def _fix(parameter: nn.Parameter) -> bool:
    trainable = parameter.requires_grad
    parameter.requires_grad_(False)
    return trainable


def _free(parameter: nn.Parameter, trainable: bool) -> None:
    parameter.requires_grad_(trainable)


_parameters = Shared(_fix, _free)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode with frozen parameters, so that a backward pass computes input gradients only.

    Every module's train/eval mode and every parameter's ``requires_grad`` are as they were afterwards, also after an
    exception, also where they were mixed. Several threads may attack one model: it is frozen until the last of them
    has ended, and what a thread that attacks nothing asks of ``train()`` or ``eval()`` meanwhile is done then.
    """
    thread = threading.get_ident()
    # From the leaves up, so that what waited for the whole model is done after what waited for its parts.
    with _modules.held(list(model.modules())[::-1]), _parameters.held(list(model.parameters())):
        _attackers[thread] += 1
        try:
            model.eval()
            if isinstance(model, Subject) and threading.active_count() > 1:
                time.sleep(0)  # a train() that another thread was in when it came to this now ends at the stand-ins
                model.eval()
            yield
        finally:
            _attackers[thread] -= 1
            if not _attackers[thread]:
                del _attackers[thread]
