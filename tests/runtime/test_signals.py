"""Which signals ask for an end, and which are left to those who handle them."""

import contextlib
import faulthandler
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from fastait.data import BatchPlan, load_dataset
from fastait.data.loaders.torch import TorchLoader
from fastait.runtime.signals import ENDS, LOST, WARNINGS, StopRequest, ask_to_stop

ALL = (*ENDS, *WARNINGS)


@pytest.fixture(autouse=True)
def _handlers():
    """As Python starts, even if a background shell has SIGINT ignored; what a test leaves is put back."""
    before = {number: signal.getsignal(number) for number in ALL}
    for number in ALL:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
def test_each_asks_for_an_end(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert stop.number == number
    assert signal.getsignal(number) == before


def test_warnings_come_more_than_once_and_people_mean_it():
    with StopRequest() as stop:
        for number in (*WARNINGS, *WARNINGS):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
        assert stop.number == WARNINGS[0]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)


def test_what_nobody_sees_to_is_interrupted():
    with StopRequest(0.01) as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM) or time.sleep(20)
    assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    with StopRequest(0.01):
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.05)  # it was seen to
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.05)


@pytest.mark.parametrize("by", ["a timer", "a handler"])
def test_somebody_elses_alarm_stays(by):
    if by == "a timer":
        signal.setitimer(signal.ITIMER_REAL, 100)
    else:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with StopRequest(0.01) as stop:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert stop.number == signal.SIGTERM
        assert (signal.getitimer(signal.ITIMER_REAL)[0] > 90) == (by == "a timer")
        assert (signal.getsignal(signal.SIGALRM) == signal.SIG_IGN) == (by == "a handler")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.parametrize("number", ALL)
def test_what_is_ignored_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_IGN
        assert stop.number is None
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize("number", ALL)
def test_a_callers_handler_stays_and_is_called(number):
    called = []
    signal.signal(number, lambda *args: called.append(args[0]))
    handler = signal.getsignal(number)
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert stop.number is None
    assert called == [number]
    assert signal.getsignal(number) == handler


def test_a_handler_in_c_stays():
    with open("trace", "w") as trace:
        faulthandler.register(signal.SIGUSR1, file=trace)
        try:
            with StopRequest() as stop:
                signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert stop.number is None
    assert Path("trace").read_text().count("Current thread") == 2


def test_other_threads_touch_nothing():
    found = []

    def enter():
        with StopRequest():
            found.extend(signal.getsignal(number) for number in ALL)

    before = [signal.getsignal(number) for number in ALL]
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == before


def test_loader_workers_outlive_every_signal():
    """Sent to each process, as batch systems do; the workers go on and then end with the loader."""

    def children():
        return set(map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()))

    others = children()  # the compiler's, of other tests
    images = load_dataset("digits", image_size=8).train
    loader = TorchLoader(images, BatchPlan(0, len(images), 64, 0, False), torch.device("cpu"), workers=1)
    with StopRequest() as stop, contextlib.closing(loader.batches(0, 30)) as batches:
        next(batches)
        (worker,) = children() - others
        for number in ALL:
            os.kill(worker, number)
        assert len(list(batches)) == 29
        assert stop.number is None
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize("number", ALL)
def test_one_within_another(number):
    """Both note it; the handlers are those from before afterwards, and a second one of ENDS acts as it always does."""
    before = signal.getsignal(number)
    with StopRequest() as outer:
        with StopRequest() as inner:
            signal.raise_signal(number)
            assert inner.number == outer.number == number
            if number in ENDS:
                assert signal.getsignal(number) == before
        with StopRequest() as late:
            assert late.number == number  # what came before is not forgotten
            if number in ENDS:
                assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before


def test_a_request_from_within_reaches_its_thread_alone():
    found = {}

    def elsewhere(entered, asked):
        with StopRequest() as stop:
            entered.set()
            asked.wait(10)
            found["elsewhere"] = stop.number

    entered, asked = threading.Event(), threading.Event()
    thread = threading.Thread(target=elsewhere, args=(entered, asked))
    thread.start()
    entered.wait(10)
    with StopRequest() as stop:
        ask_to_stop(LOST, threading.get_ident())
        found["here"] = stop.number
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    asked.set()
    thread.join()
    assert found == {"here": LOST, "elsewhere": None}
    with StopRequest() as stop:
        assert stop.number is None
