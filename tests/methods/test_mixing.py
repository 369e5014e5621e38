"""Which networks the methods that mix can mix in, and what is said of the others."""

import pytest
import torch
from torch import nn

from fastait.methods import METHODS
from fastait.methods.mixing import check_mixing
from fastait.models import make
from fastait.runtime.errors import InputError

IMAGES = torch.zeros(2, 3, 8, 8)

INSIDE = [name for name in METHODS if "manifold" in name]


class Own(nn.Module):
    """Somebody's own network, with Dropout and BN, whose class says where it may be mixed."""

    def __init__(self, mixing_places=("first", "second"), calls=1):
        super().__init__()
        self.mixing_places = mixing_places
        self.calls = calls
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.second = nn.Identity()
        self.fc = nn.Linear(4 * 36, 10)

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.calls):
            x = self.second(x)
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("method", INSIDE)
@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-10-1-silu", "resnet-18", "preact-resnet-18"])
def test_ours_can_be_mixed(name, method):
    check_mixing(make(name, 10, generator_seed=0), name, method, IMAGES)


def test_a_network_of_ones_own_is_left_alone():
    model = Own().train()
    model.first[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_mixing(model, "mine:Own", "manifold-mixup", IMAGES)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.first] == [True, False, True]
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(INSIDE)))
def test_who_mixes_at_the_input_alone_takes_any_network(method):
    check_mixing(nn.Linear(1, 1), "mine:linear", method, IMAGES)


@pytest.mark.parametrize("method", INSIDE)
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(1, 1), "mixes at the outputs of 2 blocks of a network, and mine:net does not say of which"),
        (Own(("first",)), "its class needs mixing_places, names of its submodules"),
        (Own(("first", "third")), "mine:net has no submodule 'third', which its mixing_places name"),
        (Own("first"), "mine:net has no submodule 'f'"),
        (Own(calls=0), "mine:net cannot be mixed at second: second is not called in a pass"),
        (Own(calls=2), "mine:net cannot be mixed at second: second is called more than once"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_one_line_for_the_others(model, said, method):
    with pytest.raises(InputError, match=said) as caught:
        check_mixing(model, "mine:net", method, IMAGES)
    assert "\n" not in str(caught.value)
