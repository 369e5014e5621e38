"""Histories of a run, drawn: begun, killed, stopped, damaged, resumed, evaluated; all end as an undisturbed one."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_folder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tiny_run import OF_A_FOLDER

from fastait import recipe, resume_training, run_training
from fastait.eval_config import EvalArguments
from fastait.evaluation import journal
from fastait.evaluation.session import run_evaluation
from fastait.runtime.errors import Interrupted
from fastait.training import loop
from fastait.training.step import Totals

MANY, LONG = 80, 8
"""Histories, and rules of each at most."""

STEPS = 8
"""Of the run, over its epochs."""

NETWORK = "small:Classifier"

EVERY_STEP = {
    "model": NETWORK,
    "image_size": 16,
    "checkpoint_seconds": 0.0,
    "keep_checkpoints": 3,
    "ema": 0.9,
    "val_fraction": 0.25,
    "batch_size": 3,
}
FILES = ("model.safetensors", "best.safetensors", "ema.safetensors", "metrics.jsonl")
"""What of a run must be the same to the last byte."""

SHARE = st.floats(0, 1, exclude_max=True)
"""Of a file, that comes before the place where it is damaged."""

ATTACKS = ("fgsm", "pgd2-min2", "square-3")


def main(short: bool, folder: Path) -> dict[str, Any]:
    """Draw histories; what differs in the end is a failure that shows its history."""
    counts: Counter[str] = Counter({"histories": 0})
    failures: list[str] = []
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVING", float("inf"))  # a checkpoint after each step, however long saving takes
        write_folder(Path("images"), {"cat": 8, "dog": 8}, size=(16, 16))
        _begin(Path("whole"))
        expected = _ended(Path("whole"))

        class History(Run):
            """With the counts of this call."""

            whole, said = expected, counts

        try:
            _told(History) if short else _drawn(History)
        except Exception as error:
            notes = getattr(error, "__notes__", [])
            failures.append(" ".join(f"{type(error).__name__}: {error} {' '.join(notes)}".split()))
    return {"counts": dict(counts), "failures": failures, "notes": {}}


def _drawn(history: type["Run"]) -> None:
    run_state_machine_as_test(
        history,
        settings=settings(
            max_examples=MANY,
            stateful_step_count=LONG,
            derandomize=True,
            database=None,
            deadline=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _told(history: type["Run"]) -> None:
    """One in which everything happens."""
    run = history()
    run.begin()
    try:
        run.killed(2)
        run.stopped(3, signal.SIGTERM)
        run.checkpoint_damaged(0.5, 3)
        run.failed(6)
        run.killed(7)
        run.resumed()
        run.evaluation_killed(3)
        run.journal_cut(0.7)
    finally:
        run.teardown()


class Run(RuleBasedStateMachine):
    """A run in a folder of its own and its evaluation, each of which can be cut off at any moment and go on."""

    whole: dict[str, Any]
    said: Counter[str]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="."))
        self.run, self.evaluation = self.folder / "run", self.folder / "eval"
        self.said["histories"] += 1

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            _go_on(self.run)
            found = _ended(self.run, self.evaluation)
            other = [name for name, value in found.items() if value != self.whole[name]]
            if other:
                raise AssertionError(f"the end differs in {', '.join(other)}")
        finally:
            shutil.rmtree(self.folder)

    def _unfinished(self) -> bool:
        return not (self.run / "result.json").exists()

    def _has_two(self) -> bool:
        return self._unfinished() and (self.run / "checkpoint-1.pt").exists()

    @precondition(_unfinished)
    @rule(step=st.integers(0, STEPS - 1))
    def killed(self, step: int) -> None:
        """By SIGKILL, in a process of its own, once this step was taken."""
        self.said["killed"] += _killed(lambda: _at_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL), self.run))

    @precondition(_unfinished)
    @rule(step=st.integers(0, STEPS - 1), number=st.sampled_from((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)))
    def stopped(self, step: int, number: int) -> None:
        """By a signal that lets it save."""
        with contextlib.suppress(Interrupted):
            _at_step(step, lambda: signal.raise_signal(number), self.run)
            return
        self.said["stopped by a signal"] += 1

    @precondition(_unfinished)
    @rule(step=st.integers(0, STEPS - 1))
    def failed(self, step: int) -> None:
        """By an exception out of the middle of it."""
        with contextlib.suppress(KeyError):
            _at_step(step, lambda: {}["a defect"], self.run)
            return
        self.said["broken off by an exception"] += 1

    @precondition(_has_two)
    @rule(share=SHARE, bit=st.none() | st.integers(0, 7))
    def checkpoint_damaged(self, share: float, bit: int | None) -> None:
        """The newest one, by a bit or cut off; the one before it is there."""
        _damage(self.run / "checkpoint.pt", share, bit)
        _go_on_one(self.run)
        self.said["checkpoints damaged"] += 1

    @rule()
    def resumed(self) -> None:
        """To its end."""
        _go_on(self.run)
        self.said["resumed"] += 1

    @precondition(lambda self: not self._unfinished())
    @rule(line=st.integers(1, 6))
    def evaluation_killed(self, line: int) -> None:
        """Once so many lines of its journal were written."""
        self.said["evaluations killed"] += _killed(lambda: _at_line(line, self.run, self.evaluation))

    @precondition(lambda self: any(self.evaluation.glob("progress-*.jsonl")))
    @rule(share=SHARE)
    def journal_cut(self, share: float) -> None:
        """As a disk that lost its last blocks leaves it."""
        path = next(self.evaluation.glob("progress-*.jsonl"))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        self.said["journals cut"] += 1


def _begin(path: Path) -> None:
    run_training(recipe("digits", **{**OF_A_FOLDER, **EVERY_STEP, "out": path}))


def _go_on(path: Path) -> None:
    resume_training(path, model=NETWORK) if (path / "config.json").exists() else _begin(path)


def _go_on_one(path: Path) -> None:
    """One step further, so that no later damage meets an earlier one."""
    with contextlib.suppress(KeyError):
        _at_step(None, lambda: {}["enough"], path)


def _at_step(step: int | None, what: Callable[[], Any], path: Path) -> None:
    """Go on with the run, and do ``what`` after step ``step``, or after the second one of any number."""
    add, seen = Totals.add, []

    def adding(self: Any, loss: Any, logits: Any, y: Any, number: Any) -> None:
        add(self, loss, logits, y, number)
        seen.append(int(number))
        if int(number) == step or (step is None and len(seen) == 2):
            what()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Totals, "add", adding)
        _go_on(path)


def _at_line(line: int, run: Path, out: Path) -> None:
    """Evaluate, and die once so many lines were written."""
    put, left = journal.FileJournal.put, [line]

    def putting(*args: Any, **options: Any) -> None:
        put(*args, **options)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.FileJournal, "put", putting)
        _evaluate(run, out)


def _killed(work: Callable[[], None]) -> bool:
    """Do ``work`` in a copy of this process; whether it was killed at it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            torch.set_num_threads(1)  # as in hostile.py
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if (code := os.waitstatus_to_exitcode(status)) not in (0, -signal.SIGKILL):
        raise AssertionError(f"a process that was to be killed ended with exit code {code}")
    return bool(code)


def _damage(path: Path, share: float, bit: int | None) -> None:
    content = bytearray(path.read_bytes())
    place = int(share * len(content))
    if bit is None:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    path.write_bytes(content)


def _evaluate(run: Path, out: Path) -> None:
    asked = EvalArguments(run, model=NETWORK, attacks=ATTACKS, batch_size=2, device="cpu", out=out)
    run_evaluation(asked, show=False)


def _ended(run: Path, out: Path | None = None) -> dict[str, Any]:
    """What a finished run and its evaluation have come to."""
    out = out or run.with_name("whole-eval")
    _evaluate(run, out)
    found: dict[str, Any] = {name: (run / name).read_bytes() for name in FILES[:-1]}
    timed = ("seconds", "images_per_second", "time")
    epochs = [json.loads(line) for line in (run / FILES[-1]).read_text().splitlines()]
    found[FILES[-1]] = [{k: v for k, v in epoch.items() if not any(word in k for word in timed)} for epoch in epochs]
    result = json.loads((run / "result.json").read_text())
    found["result"] = {name: result[name] for name in ("clean", "fgsm", "pgd20", "cw20")}
    found["outcomes"] = [one["correct"] for one in json.loads((out / "eval.json").read_text())["outcomes"]]
    return found
