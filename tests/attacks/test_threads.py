"""One model, several threads: figures are right, and model and process are as they were."""

import copy
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import small
import torch

from fastait import adversarial_interpolation, evaluate_robustness, masking_signs
from fastait.attacks import frozen, pgd
from fastait.runtime.precision import full_precision

BUDGETS = (1, 2, 4, 8)


def state(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [(p.data_ptr(), p.stride()) for p in model.parameters()],
        [dict(m.__dict__).keys() for m in model.modules()],
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


def seeded():
    return torch.Generator().manual_seed(2)


def test_threads_get_the_figures_that_they_would_alone():
    model, (x, y) = small.new(), small.images()

    def figures(budget):
        return evaluate_robustness(model.train(), x, y, ["pgd20"], epsilon=budget / 255).accuracy()["pgd20"]

    alone = [figures(budget) for budget in BUDGETS]
    assert alone == sorted(alone, reverse=True)
    assert alone[0] > alone[-1]
    statistics, before = [b.clone() for b in model.buffers()], state(model)
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(figures, BUDGETS)) == alone
        assert state(model) == before
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), statistics, strict=True))


def test_attacks_are_not_disturbed_by_a_thread_that_trains():
    model, (x, y) = small.new().train(), small.images(8)
    expected = pgd(model, x, y, steps=30, generator=seeded())
    interpolated = adversarial_interpolation(model, x, y, generator=seeded(), steps=5)[0]
    statistics, done = [b.clone() for b in model.buffers()], threading.Event()

    def disturb():
        while not done.is_set():
            model.eval()
            time.sleep(1e-4)
            model.train()

    other = threading.Thread(target=disturb)
    other.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(pgd, model, x, y, steps=30, generator=seeded()) for _ in range(6)]
            moved = [pool.submit(adversarial_interpolation, model, x, y, generator=seeded(), steps=5) for _ in range(6)]
            signs = pool.submit(masking_signs, model, x, y)
    finally:
        done.set()
        other.join()
    assert all(torch.equal(f.result(), expected) for f in found)
    assert all(torch.equal(m.result()[0], interpolated) for m in moved)
    assert len(signs.result()) == 7
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), statistics, strict=True))
    assert all(m.training for m in model.modules())
    assert not any("train" in vars(m) for m in model.modules())


def test_what_another_thread_asks_for_is_done_afterwards():
    model = small.new()

    def ask():
        model.train()
        return model.training

    with ThreadPoolExecutor(1) as pool, frozen(model):
        assert pool.submit(ask).result() is False
        model.c.train()  # the attack's own thread is obeyed: a random defence may do so in a pass
        assert model.c.training
    assert all(m.training for m in model.modules())


def test_a_copy_made_meanwhile_is_a_model_like_any_other():
    model, file = small.new(), io.BytesIO()
    with frozen(model):
        copied = copy.deepcopy(model)
        torch.save(model, file)
    file.seek(0)
    for other in (copied, torch.load(file, weights_only=False)):
        assert other.train().training
        assert not other.eval().training
        assert not any("train" in vars(m) for m in other.modules())


def test_a_train_of_the_models_own_is_kept():
    class HalfFrozen(small.Classifier):
        def train(self, mode=True):
            super().train(mode)
            self.b.eval()
            return self

    model = small.new(HalfFrozen).train()
    calls = []
    model.c.train = calls.append
    with frozen(model):
        assert not model.training
    assert [m.training for m in (model, model.b, model.f)] == [True, False, True]
    model.c.train("mine")
    assert calls[-1] == "mine"


def test_exceptions_of_threads_leave_nothing_behind():
    class Broken(small.Classifier):
        def forward(self, x):
            raise RuntimeError("boom")

    model, (x, y) = small.new(Broken).train(), small.images(4)
    before = state(model)

    def attack(_):
        with pytest.raises(RuntimeError, match="boom"):
            evaluate_robustness(model, x, y)
        with pytest.raises(RuntimeError, match="boom"):
            pgd(model, x, y)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attack, range(8)))
    assert state(model) == before


def test_switches_last_until_the_last_thread_leaves():
    model, (x, _) = small.new(), small.images(2)
    before = state(model)
    precise, again = full_precision(x.device), full_precision(x.device)
    precise.__enter__()
    again.__enter__()
    precise.__exit__(None, None, None)
    assert not torch.backends.cudnn.allow_tf32
    again.__exit__(None, None, None)
    assert state(model) == before
