"""What is known of each image of a set while it is evaluated."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fastait.runtime.processes import Ranks


class Known:
    """A number per column and image, or none yet.

    Args:
        names: of the columns.
        own: int64 [n] on the CPU, ascending: the places of the images that fall to this process.
        images: how many there are in all.
    """

    def __init__(self, names: Sequence[str], own: Tensor, images: int):
        self.own = own
        self._is_own = torch.zeros(images, dtype=torch.bool, device="cpu")
        self._is_own[own] = True
        self._numbers = {name: torch.zeros(images, dtype=torch.int64, device="cpu") for name in names}
        self._has = {name: torch.zeros_like(self._is_own) for name in names}

    def add(self, places: Sequence[int], found: Mapping[str, Sequence[int]]) -> None:
        """Take up what was found at ``places``; what is of no column or of another process's images is passed over."""
        at = torch.tensor(places, dtype=torch.int64, device="cpu")
        if not len(at) or int(at.max()) >= len(self._is_own):
            return
        mine = self._is_own[at]
        for name in found.keys() & self._numbers.keys():
            self._numbers[name][at[mine]] = torch.tensor(found[name], dtype=torch.int64, device="cpu")[mine]
            self._has[name][at[mine]] = True

    def fill(self, names: Iterable[str], number: int) -> None:
        """Take ``number`` for what this process does not know of these columns, without knowing it."""
        for name in names:
            self._numbers[name][self.own[~self._has[name][self.own]]] = number

    def forget(self, name: str, these: Tensor) -> None:
        """Know nothing of a column any more at ``these``, bool [images]."""
        self._has[name] &= ~these

    def of(self, name: str) -> Tensor:
        """int64 [images]: the numbers of a column; 0, or what it was filled with, where there is none yet."""
        return self._numbers[name]

    def has(self, name: str) -> Tensor:
        """bool [images]: where a column has one."""
        return self._has[name]

    def count_other(self, name: str, number: int) -> int:
        """Of how many of this process's images another number than ``number`` is known."""
        return int((self._has[name][self.own] & (self._numbers[name][self.own] != number)).sum())

    def lacking(self, names: Sequence[str]) -> list[tuple[list[str], Tensor]]:
        """(which of ``names`` are not known, the places of the images of which just these are not, int64 [n])."""
        has = torch.stack([self._has[name][self.own] for name in names])
        found = []
        for pattern in sorted(set(map(tuple, has.T.tolist()))):
            if not all(pattern):
                these = (has == torch.tensor(pattern, device="cpu")[:, None]).all(dim=0)
                unknown = [name for name, known in zip(names, pattern, strict=True) if not known]
                found.append((unknown, self.own[these]))
        return found

    def merged(self, name: str, ranks: Ranks) -> Tensor:
        """int64 [images]: a column of all processes, for all of them to call once it is known."""
        return ranks.merge(self._numbers[name])
