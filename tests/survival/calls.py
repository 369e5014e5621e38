"""Public functions with odd arguments: each works, or says in one line which is wrong; nothing else changes."""

import contextlib
import io
import os
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import odd
import public
import small
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standing import changes, standing

import fastait
import fastait_kernels
from fastait.runtime.errors import FastaitError, one_line
from fastait.runtime.memory import ran_out

MANY, FEW = 200, 3

OURS = tuple(str(Path(module.__file__).parent) + os.sep for module in (fastait, fastait_kernels))
THEIRS = (small.__file__, odd.__file__)
"""Files of networks that are attacked: what they raise is theirs."""

SAID_AS = {
    "attacks": ("attack", "--attacks"),
    "model": ("the model", "Classifier", "network", "Identity", "Failing", "<lambda>", "--model", "has no features"),
    "surrogate": ("the surrogate", "Classifier", "Identity", "Failing", "<lambda>"),
    "x": ("image",),
    "y": ("soft labels",),
    "path": ("a path", "--resume", "no run", "is no"),
    "name": ("--dataset", "--recipe", "attack", "--model", "network"),
    "root": ("folder",),
    "feature_fn": ("features",),
    "sample": ("features", "x must"),
    "logits": ("returns",),
    "data_dir": ("folder", "--data-dir", "--dataset"),
    "generator": ("Generator",),
}
"""Other words than its name by which messages speak of an argument."""

PLACES = ("path", "root", "data_dir")
"""Arguments that a message names by beginning with what they are."""


def main(short: bool, folder: Path) -> dict[str, Any]:
    """Call every public function; failures are those that break the rules, one of each kind."""
    counts = {"public functions": len(public.CALLS), "calls": 0, "of them refused": 0}
    found: dict[Any, str] = {}

    def call(name: str, odd_ones: dict[str, Any]) -> None:
        function, right = public.CALLS[name]
        refused, what = tried(name, function, {**right(), **odd_ones}, tuple(odd_ones))
        counts["calls"] += 1
        counts["of them refused"] += refused
        shown = ", ".join(f"{key}={_shown(value)}" for key, value in odd_ones.items())
        for kind, line in what:
            found.setdefault((name, kind), f"{name}({shown}): {line}")

    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        public.write(Path())
        for function, right in public.CALLS.values():
            with contextlib.suppress(FastaitError):
                function(**right())  # what is imported at a first call may change the environment
        for name in public.CALLS:
            _many(name, call, FEW if short else MANY)
    return {"counts": counts, "failures": list(found.values()), "notes": {}}


def _many(name: str, call: Callable[[str, dict[str, Any]], None], examples: int) -> None:
    """Call the function with one odd argument or two, so often."""
    each = sorted(public.CALLS[name][1]())

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: Any) -> None:
        wrong = data.draw(st.lists(st.sampled_from(each), min_size=1, max_size=2, unique=True))
        call(name, {argument: _bearable(argument, data.draw(odd.arguments())) for argument in wrong})

    one()


LABOUR = ("steps", "directions", "rounds")
"""Arguments that may be as large as a caller has time for."""


def _bearable(argument: str, value: Any) -> Any:
    """``value``, but a number of which only the last of days would see the end."""
    return 2**63 if argument in LABOUR and isinstance(value, int) and value > 10 else value


def tried(
    name: str, function: Callable[..., Any], arguments: dict[str, Any], wrong: tuple[str, ...]
) -> tuple[bool, list[tuple[str, str]]]:
    """Call; whether it was refused, and what breaks the rules: (kind, a line) each."""
    before, kept = standing(), _content(arguments)
    drawn = name.startswith(public.DRAWING) or arguments.get("generator", 0) is None
    refused, what = False, []
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made = function(**arguments)
            del made  # which may be a file, mapped into memory
    except Exception as error:
        refused = True
        what += _judged(error, wrong, arguments)
    what += [("changed " + each[:12], each) for each in changes(before) if not (drawn and "torch's generator" in each)]
    what += [
        (f"argument {key}", f"its {key} was changed")
        for key, now in _content(arguments).items()
        if now != kept[key] and public.IN_PLACE.get(name) != key
    ]
    return refused, what


def _judged(error: Exception, wrong: tuple[str, ...], given: Mapping[str, Any]) -> list[tuple[str, str]]:
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.filename in THEIRS for frame in frames):
        return []
    said, where = str(error), f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    line = f"{type(error).__name__}: {said[:300]!r} ({where})"
    if ran_out(error):  # which is the machine's to say
        return []
    if not isinstance(error, TypeError | ValueError | FastaitError):
        return [(f"{type(error).__name__} {where}", f"an internal error: {line}")]
    if "unhashable" in said and isinstance(error, TypeError):  # a dictionary's own
        return []
    if not frames[-1].filename.startswith(OURS):
        return [(f"inner {where}", f"an error from within: {line}")]
    if len(said.splitlines()) != 1 or len(said) > 1000:
        return [(f"lines {where}", f"not one line: {line}")]
    words = [word for name in wrong for word in (name, name.replace("_", "-"), *SAID_AS.get(name, ()))]
    fits = [f"{name} must " for name in given]  # of two that do not go together, the other one
    paths = [given[name] for name in wrong if name in PLACES and isinstance(given[name], str | bytes | Path)]
    begins = tuple(one_line(os.fsdecode(path)) for path in paths if path)
    if not any(word in said for word in (*words, *fits)) and not said.startswith(begins):
        return [(f"name {where}", f"{' and '.join(wrong)} not named: {line}")]
    return []


def _content(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a call must not change of its arguments."""
    found = {}
    for name, value in arguments.items():
        if isinstance(value, torch.nn.Module):
            found[name] = [
                (key, one.training if isinstance(one, torch.nn.Module) else (one.requires_grad, one.grad is None))
                for key, one in (*value.named_modules(), *value.named_parameters())
            ]
        elif isinstance(value, torch.Tensor) and not value.is_inference():
            bits = None if value.is_meta or value.is_sparse else _bits(value)
            found[name] = bits, value.requires_grad, value.grad is None
    return found


def _bits(value: torch.Tensor) -> int:
    whole = value.detach().clone(memory_format=torch.contiguous_format).flatten()
    return hash(whole.view(torch.uint8).numpy().tobytes())


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"<{value.dtype} {list(value.shape)} {value.device} {value.layout}>"
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"<an int of {value.bit_length()} bits>"
    return repr(value)[:80]
