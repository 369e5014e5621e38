"""Eager passes: a process is left as it was, whatever threads come and go in which order."""

import threading

import pytest
import torch

from fastait.runtime.eager import eagerly


def compiled():
    """How often a fresh function is compiled in one call."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    return len(graphs)


def test_nothing_is_compiled_within():
    assert compiled() == 1
    with eagerly(), eagerly():
        assert compiled() == 0
    assert compiled() == 1
    with pytest.raises(KeyError), eagerly():
        raise KeyError
    assert compiled() == 1


def test_threads_that_leave_in_the_order_in_which_they_came():
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first():
        with eagerly():
            first_in.set()
            second_in.wait()
        first_out.set()

    def second():
        first_in.wait()
        with eagerly():
            second_in.set()
            first_out.wait()

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiled() == 1
