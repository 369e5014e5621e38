"""Black boxes score images laid out as those that they attack: convolutions are fastest on channels-last."""

import pytest
import torch
from torch import nn

from fastait.attacks import local_search, spsa


class Seen(nn.Module):
    """A classifier that is never fooled, and the layouts of the images that it was given several of."""

    def __init__(self):
        super().__init__()
        self.contiguous, self.channels_last = [], []

    def forward(self, x):
        if len(x) > 1:
            self.contiguous.append(x.is_contiguous())
            self.channels_last.append(x.is_contiguous(memory_format=torch.channels_last))
        return torch.stack([torch.ones(len(x)), -x.mean(dim=(1, 2, 3))], dim=1)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("attack", [spsa, local_search])
def test_images_are_scored_in_the_layout_of_those_attacked(attack, channels_last):
    model = Seen().eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.rand(1, 3, 8, 6).contiguous(memory_format=layout)
    options = {"rounds": 2} if attack is local_search else {"directions": 3, "steps": 2}
    attack(
        model, x, torch.zeros(1, dtype=torch.int64), at_a_time=4, generator=torch.Generator().manual_seed(0), **options
    )
    assert len(model.contiguous) >= 2
    assert all(model.channels_last if channels_last else model.contiguous)
