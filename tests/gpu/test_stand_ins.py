"""A rehearsal's graph does again what was recorded, and only that, and notices what a CUDA graph cannot hold."""

import pytest
import stand_ins
import torch


def captured(call):
    graph = stand_ins.Graph()
    with stand_ins.capture(graph):
        result = call()
    return graph, result


def test_a_replay_reads_its_inputs_anew_and_writes_where_it_wrote():
    x = torch.arange(4.0)
    leaf = torch.ones(4, requires_grad=True)
    leaf.grad = torch.zeros(4)
    total = torch.zeros(4)

    def call():
        total.add_(x.view(2, 2).t().reshape(4))
        (leaf * total).sum().backward()
        return total * 2

    graph, doubled = captured(call)
    x.fill_(10)
    total.zero_()
    leaf.grad.zero_()
    graph.replay()
    assert total.tolist() == [10] * 4
    assert doubled.tolist() == [20] * 4
    assert leaf.grad.tolist() == [10] * 4
    graph.replay()
    assert doubled.tolist() == [40] * 4
    assert leaf.grad.tolist() == [30] * 4


def test_numbers_of_the_host_are_baked_in_and_draws_are_not():
    total, step = torch.zeros(()), [1]

    def call():
        step[0] += 1
        total.add_(step[0])
        return torch.rand(3)

    graph, drawn = captured(call)
    first = drawn.clone()
    graph.replay()
    assert (total.item(), step[0]) == (4, 2)
    assert not torch.equal(first, drawn)


@pytest.mark.parametrize("read", [float, bool, torch.Tensor.nonzero], ids=lambda r: r.__name__)
def test_what_waits_is_refused(read):
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        captured(lambda: read(torch.ones(())))
    debug = stand_ins._SyncDebug()
    debug("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
            read(torch.ones(()))
    finally:
        debug("default")
    read(torch.ones(()))
