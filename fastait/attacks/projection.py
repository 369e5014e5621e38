"""The nearest image, in Linf, where a linear function of it is zero (Croce & Hein, 2020, arXiv 1907.02044, section 2).

For an image p, gradient w and value r it is min |d|_inf with r + <w, d> = 0 and p + d in [0, 1]. Moves of at most t
gain sum_i |w_i| min(t, room_i), where room_i is pixel i's way to the side of the box that it is sent to: concave,
piecewise linear and rising in t. Newton's method finds where it gains |r|: pixels that are out of room are taken out,
and the others share what is left, until no more run out. That is the answer in closed form, with no sorting.
"""

import torch
from torch import Tensor

ROUNDS = 32
"""Newton's steps at most. Each makes what is left times the weight of the pixels with room at most a quarter."""


def move_to_plane(images: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
    """The smallest d with images + d in [0, 1] where ``value`` + <``gradient``, d> is zero.

    Each pixel moves by the same size, or by all of its room if that is less; one of zero gradient does not move. Where
    the box does not reach the plane each pixel goes to the side that is nearest to it.

    Args:
        images: float [b, ...] in [0, 1].
        gradient: like ``images``, finite.
        value: float [b], finite.

    Returns:
        Like ``images``.
    """
    each = tuple(range(1, images.dim()))
    shape = (-1, *(1 for _ in each))
    way = -gradient.sign() * value.sign().view(shape)
    weight = gradient.abs()
    room = torch.where(way > 0, 1 - images, images)
    most = weight * room
    needed = value.abs()
    size = torch.zeros_like(needed)
    for _ in range(ROUNDS):
        free = room > size.view(shape)
        left = needed - torch.where(free, 0, most).sum(each)
        slope = torch.where(free, weight, 0).sum(each)
        new = torch.where(slope > 0, left / slope, size).maximum(size)
        done = new == size
        size = new
        if size.device.type == "cpu" and bool(done.all()):  # elsewhere the question would wait for the device
            break
    return way * room.minimum(size.view(shape))
