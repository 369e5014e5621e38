"""The flags of a command whose work several processes share, and the processes that share it.

This module imports nothing heavy.
"""

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from fastait.runtime.console import say
from fastait.runtime.errors import InputError, Interrupted, NotWritten, check_choice, one_line, words
from fastait.runtime.files import write_text
from fastait.runtime.signals import StopRequest
from fastait.runtime.threads import SAID_BY, usable_cores

SUBMIT = ("local", "slurm")

TOKEN = "FASTAIT_TOKEN"
"""The variable by which a job is told what the folder holds that it was submitted for."""

TOKEN_FILE = "token"

WARNING = 120
"""Seconds before its time runs out that a job is told so: enough to save."""


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not whole numbers with commas between, such as 0,1,2") from None


@dataclass(frozen=True)
class Company:
    """Who does the work."""

    worker: bool = field(default=False, kw_only=True, metadata={"negative": ""})
    """Be one of any number of workers, on any machines that share --out: each run and evaluation is done by one of
    them, and what one leaves unfinished is taken over. Ends when all is there, and prints no tables."""

    status: bool = field(default=False, kw_only=True, metadata={"negative": ""})
    """Say what is done, running, waiting and failed, where and how far; do nothing else."""

    submit: str | None = field(default=None, kw_only=True)
    """Start workers: local (on this machine, its GPUs and cores shared out; prints the tables in the end) or slurm (an
    array of jobs)."""

    workers: int | None = field(default=None, kw_only=True)
    """How many --submit starts. [default: local: one per GPU, or per two cores where there is none; slurm: 4]"""

    gpus: int | None = field(default=None, kw_only=True)
    """GPUs of each job. [default: 1, or 0 with --device cpu]"""

    time: str | None = field(default=None, kw_only=True)
    """Time limit of each job, as sbatch takes it. A job whose time runs out saves, and is queued again."""

    partition: str | None = field(default=None, kw_only=True)
    """Partition of the jobs."""

    account: str | None = field(default=None, kw_only=True)
    """Account that the jobs are charged to."""

    def check_company(self, **others: bool) -> None:
        """Raise an InputError unless one thing is asked for; ``others`` are flags that do something else too."""
        asked = {"--worker": self.worker, "--status": self.status, "--submit": self.submit is not None}
        asked |= {f"--{name.replace('_', '-')}": given for name, given in others.items()}
        given = [flag for flag, is_given in asked.items() if is_given]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given[:2])} are two things to do; leave one out")
        if self.submit is not None:
            check_choice("--submit", self.submit, SUBMIT)
        for name in ("workers", "gpus", "time", "partition", "account"):
            value, for_slurm = getattr(self, name), name != "workers"
            if value is not None and (self.submit is None or (for_slurm and self.submit != "slurm")):
                raise InputError(f"--{name} is for --submit {'slurm' if for_slurm else 'local or slurm'}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers must be at least 1, got {self.workers}")
        if self.gpus is not None and self.gpus < 0:
            raise InputError(f"--gpus must be at least 0, got {self.gpus}")


GROUPS = {"Workers": tuple(one.name for one in dataclasses.fields(Company))}
"""Of the flags on the help page."""


def worker_command(command: str, arguments: Any) -> list[str]:
    """The command line of a worker for what ``arguments`` say, a dataclass with ``Company``'s fields."""
    flags: list[str] = []
    ours = {one.name for one in dataclasses.fields(Company)}
    for one in dataclasses.fields(arguments):
        value = getattr(arguments, one.name)
        if one.name in ours or value is None or value == one.default:
            continue
        if not one.kw_only:
            flags[:0] = [*map(str, value)] if isinstance(value, tuple) else [str(value)]
        elif isinstance(value, bool):
            flags.append(_flag(one.name))
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flags += [_flag(one.name), text]
    return [sys.executable, "-m", "fastait", command, *flags, "--worker"]


def token(folder: Path) -> str:
    """What ``folder`` is known by to those who share it; written where it is not yet.

    Raises:
        InputError: the folder cannot be made.
        NotWritten: it cannot be written.
    """
    path = folder / TOKEN_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, token_hex(8) + "\n", shared=True)
        return path.read_text().strip()
    except OSError as error:
        raise InputError(f"--out: {folder} cannot be used: {error.strerror}") from None


def refuse_not_shared(folder: Path) -> None:
    """Raise an InputError where this is a job and ``folder`` is not the one that it was submitted for."""
    asked = os.environ.get(TOKEN)
    if not asked:
        return
    try:
        found = (folder / TOKEN_FILE).read_text().strip()
    except OSError:
        found = ""
    if found != asked:
        raise InputError(
            f"--out: {folder.absolute()} is here not the folder that this job was submitted for; it must lie where all "
            "machines see the same files"
        )


def run_here(command: Sequence[str], folder: Path, workers: int | None) -> None:
    """Run workers on this machine until all have ended; those that failed are said, and may have left something.

    Args:
        command: of a worker.
        folder: of the work; logs go to ``logs`` in it.
        workers: how many; None for one per GPU, or per two cores.

    Raises:
        Interrupted: a signal asked for an end; they have saved and ended.
        NotWritten: a log cannot be written.
    """
    gpus = _visible_gpus()
    count = workers or len(gpus) or max(1, usable_cores() // 2)
    threads = str(max(1, usable_cores() // count))
    logs = folder / "logs"
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    with StopRequest() as stop:
        for number in range(count):
            environment = dict(os.environ)
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            if not any(os.environ.get(name) for name in SAID_BY):
                environment["OMP_NUM_THREADS"] = threads
            log = logs / f"worker-{number + 1}.log"
            try:
                logs.mkdir(parents=True, exist_ok=True)
                with open(log, "wb") as file:
                    # A session of its own: a terminal's Ctrl-C reaches it once, through this process.
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=file,
                        env=environment,
                        start_new_session=True,
                    )
            except OSError as error:
                for other, _ in running:
                    other.terminate()
                raise NotWritten(f"{log} could not be written: {error.strerror}") from None
            running.append((process, log))
        said = "" if any(os.environ.get(name) for name in SAID_BY) else f", {threads} threads each"
        say(
            f"{count} workers{said}{f', on {len(gpus)} GPUs' if gpus else ''}; what they say is in {one_line(logs)}",
            error=True,
        )
        told = False
        while any(process.poll() is None for process, _ in running):
            if stop.number is not None and not told:
                told = True
                for process, _ in running:
                    process.terminate()
            time.sleep(0.2)
    if stop.number is not None:
        raise Interrupted("stopped; the workers have saved what is done, and the same command goes on", stop.number)
    for process, log in running:
        if process.returncode:
            text = f"warning: a worker ended with exit code {process.returncode}: {_last_line(log)} ({log})"
            say(one_line(text), error=True)


def run_by_slurm(command: Sequence[str], folder: Path, company: Company, cpu: bool) -> str:
    """Write the script of an array of workers and submit it; returns what sbatch says.

    Args:
        command: of a worker.
        folder: of the work, on a disk that all machines share; the script and the jobs' logs go to ``logs`` in it.
        company: what the jobs are given.
        cpu: whether they need no GPU.

    Raises:
        InputError: there is no SLURM here, or it refuses the jobs.
        NotWritten: the script cannot be written.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise InputError("--submit slurm: there is no sbatch here; submit from a machine of the cluster")
    script = folder / "logs" / "workers.sh"
    known = token(folder / "claims")
    try:
        script.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritten(f"{script} could not be written: {error.strerror}") from None
    write_text(script, job_script(command, folder, company, known, cpu))
    done = subprocess.run([sbatch, str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"--submit slurm: {words(done.stderr or done.stdout, 300)} (the script is {script})")
    return f"{words(done.stdout)}: {company.workers or 4} workers by {script}; they log beside it"


def job_script(command: Sequence[str], folder: Path, company: Company, known: str, cpu: bool) -> str:
    """The text of the script that each job of the array runs."""
    gpus = company.gpus if company.gpus is not None else 0 if cpu else 1
    logs = folder.absolute() / "logs"
    options = [
        "--job-name=fastait",
        f"--array=1-{company.workers or 4}",
        "--requeue",
        "--open-mode=append",
        f"--output={logs}/%A_%a.log",
        f"--signal=B:USR1@{WARNING}",
        *([f"--gpus={gpus}"] if gpus else []),
        *(
            f"--{name}={value}"
            for name in ("time", "partition", "account")
            if (value := getattr(company, name)) is not None
        ),
    ]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            f"export {TOKEN}={known}",
            "# The worker saves at a signal. Others take over what it had; a job whose time ran out is queued again.",
            "trap 'kill -USR1 $worker' USR1",
            "# SLURM may have sent SIGTERM to the worker too: a second would end it at once, a SIGHUP does not.",
            "trap 'kill -HUP $worker' TERM",
            f"{shlex.join(command)} &",
            "worker=$!",
            "wait $worker; code=$?",
            "while kill -0 $worker 2>/dev/null; do wait $worker; code=$?; done",
            "# SLURM_JOB_ID of one of the jobs is the array's, and would queue all of them.",
            "[ $code -eq 138 ] && scontrol requeue ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
            "exit $code",
            "",
        ]
    )


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return words(lines[-1], 300) if lines else "it said nothing"


def _flag(name: str) -> str:
    return "--" + name.strip("_").replace("_", "-")
