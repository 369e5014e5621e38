"""How far the host runs ahead of a GPU, and after which steps processes decide; on stand-ins for events and clocks."""

import threading

import pytest
import torch
from fake_cuda import FakeCuda

from fastait.runtime.processes import Ranks
from fastait.training import pace
from fastait.training.pace import DECISION_SECONDS, MOST_STEPS, MOST_WAITING, Backlog, Decisions


def test_no_more_than_a_few_steps_wait_for_the_gpu(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    backlog = Backlog(torch.device("cuda", 0))
    unfinished = []
    for _ in range(20):
        before = len(cuda.waits)
        backlog.add()
        (wait, waited), (record, recorded) = cuda.waits[before:]
        assert (wait, record) == ("synchronize", "record")
        unfinished = [event for event in unfinished if event != waited]
        unfinished.append(recorded)
        assert len(unfinished) <= MOST_WAITING
    assert unfinished == [2, 0, 1]  # of the last three steps, in their order


def test_a_cpu_is_not_waited_for(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    Backlog(torch.device("cpu")).add()
    assert cuda.events == 0


class Pair:
    """Two processes, here threads, with a clock each; a step takes what ``seconds`` says of its number and process."""

    def __init__(self, patch, seconds):
        self.seconds, self.barrier, self.said = seconds, threading.Barrier(2, timeout=30), [(), ()]
        self.clock = threading.local()
        patch.setattr(pace.time, "monotonic", lambda: self.clock.now)

    def largest(self, rank, *values):
        self.said[rank] = values
        self.barrier.wait()
        found = [max(pair) for pair in zip(*self.said, strict=True)]
        self.barrier.wait()
        return found

    def process(self, rank, steps, found):
        ranks = Ranks(rank, 2)
        self.clock.now = 0.0
        decisions = Decisions(ranks, 0)
        for step in range(1, steps + 1):
            self.clock.now += self.seconds(step, rank)
            if decisions.due(step):
                assert decisions.largest(step, rank, -rank) == [1, 0]
                found.append(step)

    def run(self, steps):
        """The steps after which both decided."""
        found = [], []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ranks, "largest", lambda ranks, *values: self.largest(ranks.rank, *values))
            threads = [threading.Thread(target=self.process, args=(rank, steps, found[rank])) for rank in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found[0] == found[1] != []
        return found[0]


def gaps(decided):
    return [b - a for a, b in zip([0, *decided], decided, strict=False)]


def test_decisions_about_every_quarter_of_a_second(monkeypatch):
    found = gaps(Pair(monkeypatch, lambda step, rank: 1 / 32).run(400))
    assert found[:3] == [1, 2, 4]
    assert set(found[3:]) == {8}
    assert DECISION_SECONDS == 8 / 32


def test_the_faster_process_s_word_counts(monkeypatch):
    found = gaps(Pair(monkeypatch, lambda step, rank: (1 / 16, 1 / 32)[rank]).run(400))
    assert set(found[3:]) == {8}


def test_short_steps_are_not_left_alone_for_long(monkeypatch):
    assert max(gaps(Pair(monkeypatch, lambda step, rank: 1e-3).run(400))) == MOST_STEPS


def test_long_steps_have_a_decision_each(monkeypatch):
    assert set(gaps(Pair(monkeypatch, lambda step, rank: 0.3).run(20))) == {1}


def test_a_queue_that_fills_quickly_does_not_mislead(monkeypatch):
    """The first steps are only launched; then each takes a second: two steps are left alone, or four, and no more."""
    found = gaps(Pair(monkeypatch, lambda step, rank: 1e-3 if step <= MOST_WAITING else 1.0).run(20))
    assert found[:3] == [1, 2, 4]
    assert set(found[3:]) == {1}


def test_steps_that_become_long_are_noticed_in_time(monkeypatch):
    pair = Pair(monkeypatch, lambda step, rank: 1e-3 if step <= 200 else 0.1)
    found = pair.run(300)
    late = [step for step in found if step > 200 + MOST_STEPS]
    assert max(gaps(late)[1:]) == 2
    assert MOST_STEPS * 0.1 <= 2  # seconds that a signal waits


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 5.0])
def test_one_process_decides_after_each_step(monkeypatch, seconds):
    clock = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    decisions = Decisions(Ranks(), 7)
    for step in range(8, 20):
        clock[0] += seconds
        assert decisions.due(step)
        assert decisions.largest(step, step, -step) == [step, -step]
