"""torch.compile of the network's passes: the same step, nothing compiled twice, small last batches left alone."""

import copy

import pytest
import torch
from step_inputs import batch, make_step
from tolerances import SIGN_FLIPS_FP32

from fastait.training.compiled import Compiled


def test_shares_everything_with_the_model(network):
    compiled = Compiled(network)
    assert list(compiled.parameters()) == list(network.parameters())
    compiled.eval()
    assert not network.training


@pytest.mark.parametrize("method", ["adv-interp", "madry", "manifold-mixup"])
def test_step_compiled_by_inductor_is_the_step(network, method):
    """Epochs with a smaller last batch; the weights after them, no graph break, and nothing compiled but when it is
    first made: at the first step, and where another layer is mixed.
    """
    models = [copy.deepcopy(network).to(memory_format=torch.channels_last).double() for _ in range(2)]
    eager = make_step(models[0], method, steps=2)
    compiled = make_step(models[1], method, steps=2, batch_size=8, compile=True)
    seen = set()
    torch._dynamo.utils.counters.clear()
    for number in (0, 1, 2, 3, 4, 6):
        images, y = batch(number, size=5 if number % 2 else 8, image=8)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for step in (eager, compiled):
            step(images, y, number)
        first = len(y) == 8 and tuple(compiled.layers) not in seen
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > before) == first
        seen |= {tuple(compiled.layers)} if first else set()
    assert len(seen) == (3 if "manifold" in method else 1)
    assert not torch._dynamo.utils.counters["graph_break"]
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_attack_s_signs_are_those_of_eager(network):
    """In fp32: what the update is given differs in tiny gradients' signs alone."""
    seen = []
    for compile_ in (False, True):
        model = copy.deepcopy(network).to(memory_format=torch.channels_last)
        step = make_step(model, batch_size=16, compile=compile_)
        (move,) = step.move_images
        step.move_images = [lambda *args, move=move: seen.append(move(*args)) or seen[-1]]
        step(*batch(0, size=16), 0)
    assert ((seen[0].images - seen[1].images).abs() > 1e-6).double().mean() <= SIGN_FLIPS_FP32
