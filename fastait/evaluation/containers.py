"""Where in a file of others a network's weights are: in which dictionary, behind which prefix."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastait.checkpoints.architectures import COUNTER, STEMS
from fastait.checkpoints.classes import shown
from fastait.evaluation.normalization import buffers
from fastait.runtime.errors import InputError, one_line

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DataParallel, averaging, torch.compile and sharding put in, before or within a network's own."""

AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|avg|shadow|polyak)(?=$|[._\d])", re.IGNORECASE)
UNAVERAGED = re.compile(r"(^|[._])(unaveraged|non_ema|no_ema|raw|online)(?=$|[._])", re.IGNORECASE)
"""What a file's parts are called that hold the mean of a training's weights, and that do not where others do."""

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""Of several networks that are no averages, which is meant: RobustBench's key, common ones, the authors'."""

DEPTH = 4
"""How many dictionaries may lie within one another."""


@dataclass(frozen=True)
class Found:
    """A network in a file.

    Attributes:
        state: its tensors, by the network's own names, and what else lies behind its prefix.
        prefix: of its names in the file.
        beside: the tensors that lie in the same dictionary, itself included.
        others: the prefixes of other networks there.
        notes: what was chosen among what.
    """

    state: dict[str, Tensor]
    prefix: str
    beside: dict[str, Tensor]
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def own(self, names: Collection[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """(the tensors of a network that has ``names``, without what is surely none of its weights; notes)."""
        used = {part for pair in buffers(self.beside) for part in pair.split(" and ")}

        def passed_over(name: str) -> bool:
            own = name.removeprefix(self.prefix)
            # RobustBench's plain WideResNet keeps a second copy of its first block, which no image passes through.
            return own not in names and (_bookkeeping(name, used) or own.startswith("sub_block1."))

        foreign = [
            name
            for name in self.beside
            if not name.startswith((self.prefix, *self.others)) and not _bookkeeping(name, used)
        ]
        said = (f"tensors beside its network are passed over ({shown(foreign)})",) if foreign else ()
        own = {name: value for name, value in self.state.items() if not passed_over(self.prefix + name)}
        return own, said


def tables(content: Any) -> dict[str, dict[str, Tensor]]:
    """The dictionaries of tensors in what a file held, by their keys with dots between.

    Raises:
        InputError: there is none.
    """
    found: dict[str, dict[str, Tensor]] = {}
    seen: set[int] = set()  # a file may hold a dictionary within itself

    def walk(value: Any, key: str, depth: int) -> None:
        if not isinstance(value, dict) or id(value) in seen or depth > DEPTH:
            return
        seen.add(id(value))
        named = {one_line(name): item for name, item in value.items() if isinstance(name, str)}
        tensors = {name: item for name, item in named.items() if isinstance(item, Tensor)}
        if tensors:
            found[key] = tensors
        for name, item in named.items():
            walk(item, f"{key}.{name}" if key else name, depth + 1)

    walk(content, "", 0)
    if not found:
        raise InputError(f"it holds no state dict, bare or under {', '.join(CONTAINERS)}")
    return found


def largest(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The dictionary that holds most."""
    return max(found.values(), key=lambda table: sum(tensor.numel() for tensor in table.values()))


def find(found: dict[str, dict[str, Tensor]], names: Collection[str] | None) -> Found:
    """The network in a file's dictionaries of tensors, or what could be meant to be one.

    Args:
        found: by ``tables``.
        names: of the network's own tensors; where an architecture of this package shows if None.

    Raises:
        InputError: a name stands twice.
    """
    within = {part for name in names or () for part in name.split(".")}
    wrappers = {part for part in WRAPPERS if part not in within}
    cleaned = {key: _cleaned(table, wrappers) for key, table in found.items()}
    stems = STEMS if names is None else (_deepest(names),)
    places = list(
        dict.fromkeys(
            (key, name.removesuffix(stem))
            for key, table in cleaned.items()
            for name in table
            for stem in stems
            if name == stem or name.endswith("." + stem)
        )
    )
    if not places:
        table = largest(cleaned)
        return Found(table, "", table)
    missing = {
        (key, prefix): sum(prefix + name not in cleaned[key] for name in names or () if not name.endswith(COUNTER))
        for key, prefix in places
    }
    places = [place for place in places if missing[place] == min(missing.values())]
    places.sort(
        key=lambda place: _rank(place[0], place[1], cleaned[place[0]])
    )  # stable: the file's order, if all is equal
    key, prefix = places[0]
    notes: tuple[str, ...] = ()
    if len(places) > 1:
        called = [_called(*place) for place in places]
        kind = "averaged weights are" if _averaged(key, prefix, cleaned[key]) == 0 else "one is"
        notes = (f"it holds {len(called)} networks ({', '.join(called)}); {kind} taken, {called[0]}",)
    beside = cleaned[key]
    state = {name.removeprefix(prefix): tensor for name, tensor in beside.items() if name.startswith(prefix)}
    return Found(state, prefix, beside, tuple(place for k, place in places[1:] if k == key), notes)


def _deepest(names: Collection[str]) -> str:
    """A name that a network is known by wherever it is: that with the most parts."""
    return max((name for name in names if not name.endswith(COUNTER)), key=lambda name: name.count("."), default="")


def _cleaned(table: dict[str, Tensor], wrappers: Collection[str]) -> dict[str, Tensor]:
    """``table`` with names without what wrappers put into them."""
    cleaned: dict[str, Tensor] = {}
    for name, tensor in table.items():
        own = ".".join(part for part in name.split(".") if part not in wrappers)
        if own in cleaned:
            raise InputError(f"it holds {shown([own])} twice, behind different prefixes; save one network alone")
        cleaned[own] = tensor
    return cleaned


def _rank(key: str, prefix: str, table: dict[str, Tensor]) -> tuple[int, int, int]:
    """Averaged weights first, as their authors report them; then the usual container, then the outermost network."""
    called = _called(key, prefix)
    first = called.partition(".")[0]
    usual = CONTAINERS.index(first) if first in CONTAINERS else len(CONTAINERS)
    return _averaged(key, prefix, table), usual, called.count(".")


def _averaged(key: str, prefix: str, table: dict[str, Tensor]) -> int:
    """0 of averaged weights, 2 of those that a file says are not, 1 of others."""
    called = _called(key, prefix)
    if UNAVERAGED.search(called):
        return 2
    return 0 if AVERAGED.search(called) or f"{prefix}n_averaged" in table else 1


def _called(key: str, prefix: str) -> str:
    return ".".join(part for part in (key, prefix.rstrip(".")) if part) or "the outermost"


def _bookkeeping(name: str, used: Collection[str]) -> bool:
    """Whether a tensor is none of a network's: a normalisation, or a counter of those who average weights."""
    return name in used or name.rpartition(".")[2] in ("n_averaged", "initted", "step")
