"""Square attack for Linf (Andriushchenko et al., 2020, arXiv 1912.00049) as standard AutoAttack runs it.

A random search by scores alone. Every pixel of a channel is at one of the two ends of its range, x - epsilon or
x + epsilon clipped to [0, 1]: stripes at first; then a query sets one square of an image, each of its channels to one
end, and keeps that if the margin falls. This is the paper's algorithm: adding -2 epsilon or 2 epsilon to what lies in
the ball and projecting it back gives an end.

Taken from AutoAttack: p = 0.8 at first and its halvings rescaled from 10,000 queries to those that are made; the
stripes' query is counted on top of them; a query that sets pixels to what they are is spent, not drawn anew as by the
authors' first code. Taken from the paper where AutoAttack's code differs: each image has squares of its own, and they
reach the last row and the last column.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastait.attacks.addressed import Addressed
from fastait.attacks.attacked import Attacked
from fastait.attacks.gradient import projected
from fastait.attacks.trajectory import Judge
from fastait.attacks.verdict import NOT_FINITE, RIGHT, verdict

QUERIES = 5000

P_INIT = 0.8
"""Share of the pixels that the first squares cover."""

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 queries, those after which the share is half of what it was."""

AHEAD = 64
"""Queries of an image that are drawn together."""

TRIES = 2
"""Queries of an image that one pass answers at most."""


class _Standing(NamedTuple):
    """The images not fooled so far, their best and what they try next. Yes and no are uint8, fast where bool is not.

    Attributes:
        rows: int64 [b], their places in the batch.
        labels: int64 [b].
        low: float [b, C, H, W], contiguous, the lower ends of their pixels' ranges.
        high: the upper ends.
        raised: uint8 [b, C, H, W], which pixels of the best are at the upper end.
        margins: [b], of the best.
        query: int64 [b], the number of the query in hand.
        first: int64 [b], the number of the first query in ``squares``.
        squares: uint8 [b, AHEAD, H + W + C]: which rows, which columns, which channels at the upper end.
    """

    rows: Tensor
    labels: Tensor
    low: Tensor
    high: Tensor
    raised: Tensor
    margins: Tensor
    query: Tensor
    first: Tensor
    squares: Tensor

    def images(self, raised: Tensor) -> Tensor:
        """The images with these pixels at the upper end."""
        return torch.maximum(self.low, self.high * raised)  # no low is below zero; faster than torch.where


@torch.no_grad()
def square(
    scores: Judge,
    judge: Judge | None,
    x: Tensor,
    y: Tensor,
    draws: Addressed,
    *,
    epsilon: float,
    queries: int = QUERIES,
    tick: Callable[[int], None] | None = None,
) -> tuple[Attacked, Tensor]:
    """Search each image's ball for one that fools the judge; an image leaves the batch when that is found.

    A query that would change nothing costs no pass, unless the one before it cost none. So an image takes part in fewer
    passes than it makes queries, and comes to the query after next while others come to the next. What becomes of an
    image depends on its own numbers and the model, not on the others in the batch.

    Args:
        scores: what is searched by: the judge, or a faster form of it.
        judge: the model whose predictions count, asked about the images that fool ``scores``; where it disagrees the
            search goes on. None where ``scores`` is the judge.
        x: float [B, C, H, W] in [0, 1], in any layout; images that the judge gets right.
        y: int64 [B], the true classes.
        draws: the images' numbers; counter 0 has the stripes', counter n query n's.
        epsilon: radius of the ball, in [0, 1].
        queries: squares tried on each image, from 1 to 2^32 - AHEAD.
        tick: called after each pass with the number of images that stand; may raise to stop.

    Returns:
        (the images, those that withstand with the lowest margin found; int64 [B], the queries made of each, the
        stripes' included, up to the one that fooled the judge).

    Raises:
        ValueError: there are fewer than two classes.
    """
    images, used = x.clone(), torch.zeros_like(y)
    verdicts = torch.full_like(y, RIGHT, dtype=torch.int8)
    sides = torch.tensor([side(query, queries, *x.shape[2:]) for query in range(1, queries + 1)], device=x.device)
    standing, passes, stand = _striped(x, y, draws, epsilon), 0, len(x)
    changed = torch.zeros_like(standing.raised)
    while len(standing.rows):
        scored = torch.empty_like(x[: len(standing.rows)]).copy_(standing.images(standing.raised ^ changed))
        logits = scores(scored)
        now = verdict(logits, standing.labels)
        margins = margin(logits, standing.labels).masked_fill(now == NOT_FINITE, torch.inf)
        falls = margins < standing.margins
        standing = standing._replace(
            raised=standing.raised ^ (changed & falls.to(torch.uint8)[:, None, None, None]),
            margins=torch.where(falls, margins, standing.margins),
        )
        ended = standing.query == queries
        if bool((ended | (now != RIGHT)).any()):
            if judge is not None:
                now = _judged(judge, scored, standing.labels, now)
            fooled = now != RIGHT
            ended |= fooled
            stand -= int(fooled.sum())
            best, rows = standing.images(standing.raised), standing.rows[ended]
            images[rows] = torch.where(fooled[:, None, None, None], scored, best)[ended]
            verdicts[rows], used[rows] = now[ended], standing.query[ended] + 1
            standing = _Standing(*(t[~ended] for t in standing))
        if tick is not None:
            tick(stand)
        standing = standing._replace(query=standing.query + 1)
        if passes % (AHEAD // TRIES) == 0:
            standing = _drawn(standing, draws, sides)
        standing, changed = _proposed(standing, queries)
        passes += 1
    return Attacked(images, verdicts, None), used


def side(query: int, queries: int, height: int, width: int) -> int:
    """Pixels along a side of the square of ``query``, 1 to ``queries``: it covers the share p of the image."""
    of_10_000 = (query - 1) * 10_000 // queries
    p = P_INIT / 2 ** sum(of_10_000 > after for after in HALVINGS)
    return min(max(round(math.sqrt(p * height * width)), 1), height, width)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """[B]: the true class's logit less the largest other one, at least in fp32; below zero the image is fooled."""
    if logits.shape[1] < 2:
        raise ValueError(f"square needs at least two classes, got {logits.shape[1]}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    true = logits.gather(1, y[:, None])
    return (true - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1, keepdim=True))[:, 0]


def _judged(judge: Judge, images: Tensor, labels: Tensor, now: Tensor) -> Tensor:
    """The verdicts ``now`` with the judge's where they say that an image is fooled."""
    suspects = torch.nonzero(now != RIGHT).flatten()
    if len(suspects):
        now = now.index_copy(0, suspects, verdict(judge(images[suspects]), labels[suspects]))
    return now


def _striped(x: Tensor, y: Tensor, draws: Addressed, epsilon: float) -> _Standing:
    """Before query 0, vertical stripes one pixel wide, each channel of each at one end."""
    rows, none = torch.arange(len(x), device=x.device), torch.zeros_like(y)
    channels, width = x.shape[1], x.shape[3]
    ends = draws.uniform(rows, none, 1, channels * width).view(-1, channels, 1, width) < 0.5
    low, high = (projected(torch.full_like(x, end), x, epsilon).contiguous() for end in (0.0, 1.0))
    return _Standing(
        rows=rows,
        labels=y,
        low=low,
        high=high,
        raised=ends.to(torch.uint8).expand(x.shape).contiguous(),
        margins=torch.full_like(y, torch.inf, dtype=torch.float32),
        query=none,
        first=none,
        squares=torch.empty(len(x), 0, 0, dtype=torch.uint8, device=x.device),
    )


def _drawn(standing: _Standing, draws: Addressed, sides: Tensor) -> _Standing:
    """With the squares of the next ``AHEAD`` queries of each image; those after the last query are never tried."""
    height, width = standing.raised.shape[2:]
    numbers = draws.uniform(standing.rows, standing.query, AHEAD, 2 + standing.raised.shape[1])
    query = standing.query[:, None] + torch.arange(AHEAD, device=sides.device)
    across = sides[(query - 1).clamp(max=len(sides) - 1)][..., None]
    top = (numbers[..., :1] * (height - across + 1)).long()
    left = (numbers[..., 1:2] * (width - across + 1)).long()
    y, x = torch.arange(height, device=sides.device), torch.arange(width, device=sides.device)
    within = (y >= top) & (y < top + across), (x >= left) & (x < left + across)
    squares = torch.cat([*within, numbers[..., 2:] < 0.5], dim=-1).to(torch.uint8)
    return standing._replace(first=standing.query, squares=squares)


def _proposed(standing: _Standing, queries: int) -> tuple[_Standing, Tensor]:
    """Each image's query in hand or, where that would change nothing, the next; and the pixels that change ends."""
    channels, height, width = standing.raised.shape[1:]
    image, tries = (torch.arange(count, device=standing.rows.device) for count in (len(standing.rows), TRIES))
    squares = standing.squares[image[:, None], (standing.query - standing.first)[:, None] + tries]
    y, x, ends = squares.split((height, width, channels), dim=2)
    within = y[:, :, None, :, None] & x[:, :, None, None, :]
    now, later = ((standing.raised[:, None] ^ ends[:, :, :, None, None]) & within).unbind(1)
    idle = (now.flatten(1).amax(dim=1) == 0) & (standing.query < queries)
    return standing._replace(query=standing.query + idle), now | (later & idle.to(torch.uint8)[:, None, None, None])
