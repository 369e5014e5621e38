"""What stands for the work behind a valid command line: training, measuring, downloads, other processes.

All that comes before it is real: parsing, the checks of settings, the reading of configs, data sets and model files,
the making of networks and folders; and what comes after it: the writing and printing of results.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from urllib.error import URLError

import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from fastait.data import cache as decoded
from fastait.data import sources
from fastait.doctor import examination
from fastait.doctor.findings import ok
from fastait.doctor.jobs import Result
from fastait.evaluation import session
from fastait.evaluation.outcomes import CLEAN, Outcomes
from fastait.report import charts, page
from fastait.reproduction import cost, worker
from fastait.runtime import memory, threads
from fastait.training import run
from fastait_kernels import report

FACTS = {"device": "cpu", "gpus": [], "compute_mode": None}


@contextmanager
def stubbed() -> Iterator[None]:
    """While entered, the commands do no long work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_go_on", _trained)
        patch.setattr(session, "evaluate", _evaluated)
        patch.setattr(session, "masking_report", lambda *args, **options: [])
        patch.setattr(worker.Crew, "work", lambda self, wanted: list(wanted))
        patch.setattr(cost, "run_cost", cache(lambda config, classes: _COST))
        patch.setattr(cost, "evaluation_flops", lambda *args: 1.0)
        patch.setattr(cost, "measured_rate", lambda *args: 1.0)
        for module in ("fastait.reproduce", "fastait.sweep"):
            patch.setattr(f"{module}.run_here", lambda command, folder, workers: None)
        patch.setattr(page, "drawings", lambda runs, note: ([], []))
        patch.setattr(examination, "do_jobs", _examined)
        patch.setattr(report, "compile_all", lambda targets: [])
        patch.setattr(report, "missing", cache(report.missing))
        patch.delenv("TRITON_INTERPRET", raising=False)
        patch.setattr(sources, "_digits", cache(sources._digits))
        patch.setattr(decoded, "load", partial(_loaded, decoded.load, {}))
        patch.setattr(charts, "_document", lambda sheet: '<svg viewBox="0 0 1 1"></svg>')
        for source in (CIFAR10, CIFAR100, SVHN):
            patch.setattr(source, "__init__", _no_internet)
        patch.setattr(memory, "keep_freed_memory", lambda: None)  # these two are for a process of one command
        patch.setattr(threads, "set_threads", lambda: None)
        patch.setattr("fastait.data.__main__.set_threads", lambda: None)
        yield


_COST = cost.Cost(parameters=1, forward=1.0, step=2.0)


def _loaded(load, known, split, request, folder, note):
    """The digits are decoded once for all lines."""
    if split.source != "digits" or request.size > 16:
        return load(split, request, folder, note)
    key = split.name, request
    if key not in known:
        known[key] = load(split, request, folder, note)
    return known[key]


def _trained(folder, prepared, report, checkpoint, settle, checkpoint_file=None):
    prepared.ranks.from_first(settle)
    report.finish()
    return run.TrainResult(folder.path, prepared.model, {})


def _evaluated(model, images, attacks, *, epsilon, tick, advance, **options):
    nothing = torch.zeros(len(images), dtype=torch.bool)
    for name in (CLEAN, *attacks):
        tick(name, 0)
        advance(name, len(images))
    classes = dict.fromkeys((CLEAN, *attacks), nothing.long())
    return Outcomes(correct=dict.fromkeys((CLEAN, *attacks), nothing), classes=classes, margins={CLEAN: nothing.long()})


def _examined(jobs, setup, at_once, done):
    for check in (check for job in jobs for check in job.checks):
        done(Result(check, ok("fine", **FACTS) if check.name == "machine" else ok("fine"), 0.0))


def _no_internet(*args, **options):
    raise URLError("no internet")
