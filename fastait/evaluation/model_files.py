"""Networks from files: our runs, RobustBench-style state dicts, the authors' checkpoints."""

import io
import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastait.checkpoints.classes import LENGTH, shown
from fastait.checkpoints.folder import CHECKPOINT_FORMAT, RunFolder
from fastait.checkpoints.weights import About, class_names, read_weights, wide_resnet
from fastait.config import BESIDE, CLASSES
from fastait.evaluation.normalization import (
    MINUS_ONE_ONE,
    ZERO_ONE,
    Normalization,
    Normalized,
    buffers,
    forced,
)
from fastait.models import WideResNet
from fastait.runtime.errors import InputError, one_line, words
from fastait.runtime.files import write_whole

STEM = "block1.layer.0.conv1.weight"
"""A wide ResNet is where this is, under whatever prefix."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DataParallel, averaging, torch.compile and sharding put in, before or within a network's own."""

AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|avg|shadow|polyak)(?=$|[._\d])", re.IGNORECASE)
UNAVERAGED = re.compile(r"(^|[._])(unaveraged|non_ema|no_ema|raw|online)(?=$|[._])", re.IGNORECASE)
"""What a file's parts are called that hold the mean of a training's weights, and that do not where others do."""

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""Of several networks that are no averages, which is meant: RobustBench's key, common ones, the authors'."""

DEPTH = 4
"""How many dictionaries may lie within one another."""

ELSEWHERE = "a network of another architecture can be evaluated from Python: fastait.evaluate_robustness(model, x, y)"

NUMPY_SCALARS: list[Any] = [
    np.dtype,
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
]
"""What an accuracy beside the weights may have been saved as, by numpy 1 or 2."""

_SAFE_GLOBALS = threading.Lock()
"""torch keeps one list of them for all threads."""


@dataclass(frozen=True)
class Loaded:
    """A network from a file.

    Attributes:
        path: of the file.
        network: in eval mode, as if it took images in [-1, 1].
        config: of its run, empty if it lies in no run folder.
        classes: the names of its outputs, None if unknown.
        normalizations: those that it may have been trained with; one where the file decides.
        why: what decides.
        notes: what else a user should know, a line each.
    """

    path: Path
    network: WideResNet
    config: dict[str, Any]
    classes: tuple[str, ...] | None
    normalizations: tuple[Normalization, ...]
    why: str
    notes: tuple[str, ...]

    def normalized(self, normalization: Normalization) -> nn.Module:
        """The network on images in [0, 1], which it normalises so."""
        if normalization.like(MINUS_ONE_ONE):
            return self.network
        return Normalized(self.network, normalization).eval()


def load_model(
    path: str | os.PathLike[str],
    inputs: str = "auto",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """A network and what its run folder says of how it was trained.

    Args:
        path: a run folder, or a file: safetensors, or dictionaries of tensors saved by torch. The network is where the
            names of a wide ResNet are, within whatever containers (``state_dict``, ``net``, ``model_ema``) and behind
            whatever prefixes (``module.``, ``_orig_mod.``, ``model.``); of several, averaged weights are taken before
            plain ones. The architecture is read off the weights.
        inputs: what the network takes after normalisation: ``minus-one-one``, as ours and the authors' do;
            ``zero-one``, as RobustBench's plain ``WideResNet``; or ``auto``, what the file says. A file that says
            nothing is taken to be ``minus-one-one``, with a warning; ``fastait.eval`` measures it.
        mean, std: of another normalisation, in units of images in [0, 1], one number or three each.

    Returns:
        (network in eval mode, on images in [0, 1], contiguous; the run's config, with the names of its classes under
        ``classes`` where they are known; empty for a file that says nothing and lies in no run folder).

    Raises:
        InputError: there is no such file, it holds no wide ResNet, or it is damaged; the message says what differs.
    """
    chosen = forced(inputs, mean, std)
    loaded = read_model(path)
    for note in loaded.notes:
        warnings.warn(f"{loaded.path}: {note}", stacklevel=2)
    if chosen is None:
        chosen = loaded.normalizations[0]
        if len(loaded.normalizations) > 1:
            warnings.warn(
                f"{loaded.path} does not say how its network normalises images; {chosen} is assumed. Give inputs, or "
                "mean and std; fastait.eval measures which is right",
                stacklevel=2,
            )
    config = loaded.config if loaded.classes is None else {**loaded.config, CLASSES: list(loaded.classes)}
    return loaded.normalized(chosen), config


def read_model(path: str | os.PathLike[str]) -> Loaded:
    """What lies at ``path``; see ``load_model``."""
    path = _expanded(path)
    is_folder = os.path.isdir(path)  # which is False, no exception, for a path that cannot be
    folder = RunFolder(path if is_folder else path.parent)
    if is_folder:
        path = folder.weights_file
        if not os.path.isfile(path):
            raise InputError(f"{folder.path} is no finished run: it has no {path.name}")
    config: dict[str, Any] = {}
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such run folder or file of weights")
    content, about = read_weights(path) if path.suffix == ".safetensors" else (_unpickled(path), About())
    checkpoint: Any = content if isinstance(content, dict) and content.get("format") == CHECKPOINT_FORMAT else {}
    if os.path.isfile(folder.config_file) and (
        path in (folder.weights_file, folder.best_weights_file, folder.checkpoint_file)
    ):
        config = _config(folder.config_file.read_bytes, folder.config_file)
    elif checkpoint:  # it was taken out of its folder
        kept = {key: checkpoint[key] for key in BESIDE if key in checkpoint}
        config = _config(lambda: json.dumps({**checkpoint["config"], **kept}), path)
    found = _find(content, path)
    network = _wide_resnet(found.state, path)
    classes = about.classes or (tuple(config[CLASSES]) if CLASSES in config else None)
    if classes is not None and len(classes) != network.num_classes:
        raise InputError(
            f"{path} names {len(classes)} classes ({shown(classes)}), its network tells {network.num_classes} apart"
        )
    normalizations, why = _normalizations(found, about, bool(config or checkpoint))
    return Loaded(path, network, config, classes, normalizations, why, found.notes)


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.fsdecode(path)).expanduser()
    except TypeError:
        raise InputError(f"a path of a run or of weights is needed, got {type(path).__name__}") from None
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path!r}: {error}") from None


def check_robustbench(model: nn.Module, whose: str = "the model") -> None:
    """Raise an InputError unless ``export_robustbench`` takes ``model``."""
    if isinstance(model, Normalized):
        raise InputError(
            "--export robustbench is for networks on [-1, 1], which Hendrycks2019UsingNet maps images to; "
            f"{model.normalization} is assumed of {whose}"
        )
    if not isinstance(model, WideResNet):
        raise InputError(f"--export robustbench is for fastait's WideResNet, not {type(model).__name__}")


def export_robustbench(model: nn.Module, path: Path) -> None:
    """Write a file for RobustBench: a flat state dict for its ``Hendrycks2019UsingNet``.

    That class is its ``WideResNet`` on images in [0, 1] with 2x - 1 inside, which ours is.

    Raises:
        InputError: the model is no ``WideResNet``.
        RunError: the file cannot be written.
    """
    check_robustbench(model)
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, buffer)
    write_whole(path, buffer.getbuffer())


def _config(read: Callable[[], bytes | str], path: Path) -> dict[str, Any]:
    """A run's settings, which ``read`` reads from ``path``; nothing of another program's ``config.json``."""
    try:
        config = dict(json.loads(read()))
        if not {"recipe", "method", "dataset"} <= config.keys():
            return {}
        if CLASSES in config:
            class_names(config[CLASSES])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    return config


def _unpickled(path: Path) -> Any:
    try:
        with _SAFE_GLOBALS, torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    # torch raises RuntimeError, UnpicklingError, EOFError, KeyError and others on files that it did not write.
    except Exception as error:
        why = (
            "it holds more than tensors and numbers; a whole model's state_dict() can be saved instead"
            if "weights_only" in str(error)
            else type(error).__name__
        )
        raise InputError(f"{path} is no file of weights that can be loaded safely: {why}") from None


@dataclass(frozen=True)
class _Found:
    """A network in a file.

    Attributes:
        state: its tensors, by the network's own names.
        beside: the tensors that lie in the same dictionary.
        notes: what was chosen among what.
    """

    state: dict[str, Tensor]
    beside: dict[str, Tensor]
    notes: tuple[str, ...]


def _find(content: Any, path: Path) -> _Found:
    """The network in ``content``, or what could be meant to be one."""
    tables = {key: _cleaned(table, path) for key, table in _tables(content).items()}
    if not tables:
        raise InputError(f"{path} holds no state dict, bare or under {', '.join(CONTAINERS)}")
    places = [
        (key, name.removesuffix(STEM))
        for key, table in tables.items()
        for name in table
        if name == STEM or name.endswith("." + STEM)
    ]
    if not places:
        largest = max(tables.values(), key=lambda table: sum(t.numel() for t in table.values()))
        return _Found(largest, {}, ())
    places.sort(
        key=lambda place: _rank(place[0], place[1], tables[place[0]])
    )  # stable: the file's order, if all is equal
    key, prefix = places[0]
    notes = []
    if len(places) > 1:
        names = [_called(*place) for place in places]
        kind = "averaged weights are" if _rank(key, prefix, tables[key])[0] == 0 else "one is"
        notes.append(f"it holds {len(names)} networks ({', '.join(names)}); {kind} taken, {names[0]}")
    beside = tables[key]
    state = {name.removeprefix(prefix): tensor for name, tensor in beside.items() if name.startswith(prefix)}
    used = {part for pair in buffers(beside) for part in pair.split(" and ")}
    others = [
        name
        for name in beside
        if not name.startswith(tuple(place for k, place in places if k == key)) and not _bookkeeping(name, used)
    ]
    if others:
        notes.append(f"tensors beside its network are passed over ({shown(others)})")
    state = {name: tensor for name, tensor in state.items() if not _bookkeeping(prefix + name, used)}
    return _Found(state, beside, tuple(notes))


def _tables(content: Any) -> dict[str, dict[str, Tensor]]:
    """The dictionaries of tensors in ``content``, by their keys with dots between."""
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
    return found


def _cleaned(table: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``table`` with names without what wrappers put into them."""
    cleaned: dict[str, Tensor] = {}
    for name, tensor in table.items():
        own = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if own in cleaned:
            raise InputError(f"{path} holds {shown([own])} twice, behind different prefixes; save one network alone")
        cleaned[own] = tensor
    return cleaned


def _rank(key: str, prefix: str, table: dict[str, Tensor]) -> tuple[int, int, int]:
    """Averaged weights first, as their authors report them; then the usual container, then the outermost network."""
    name = _called(key, prefix)
    averaged = 1
    if UNAVERAGED.search(name):
        averaged = 2
    elif AVERAGED.search(name) or f"{prefix}n_averaged" in table:
        averaged = 0
    first = name.partition(".")[0]
    usual = CONTAINERS.index(first) if first in CONTAINERS else len(CONTAINERS)
    return averaged, usual, name.count(".")


def _called(key: str, prefix: str) -> str:
    return ".".join(part for part in (key, prefix.rstrip(".")) if part) or "the outermost"


def _bookkeeping(name: str, used: set[str]) -> bool:
    """Whether a tensor is none of a network's: a normalisation, or a counter of those who average weights."""
    return name in used or name.rpartition(".")[2] in ("n_averaged", "initted", "step")


def _normalizations(found: _Found, about: About, ours: bool) -> tuple[tuple[Normalization, ...], str]:
    """Those that the network may have been trained with, and what says so."""
    if about.normalization is not None:
        return (Normalization.of(*about.normalization),), "its file says so"
    if ours:
        return (MINUS_ONE_ONE,), "it is of a run of fastait"
    said = buffers(found.beside)
    different: list[Normalization] = []
    for normalization in said.values():
        if not any(normalization.like(other) for other in different):
            different.append(normalization)
    if different:
        return tuple(different), f"the file holds {', '.join(said)}"
    if any(name.startswith("sub_block1.") for name in found.state):
        return (ZERO_ONE,), "the file holds sub_block1, as RobustBench's plain WideResNet does"
    return (MINUS_ONE_ONE, ZERO_ONE), "the file does not say"


def _wide_resnet(state: dict[str, Tensor], path: Path) -> WideResNet:
    # RobustBench's class keeps a second copy of its first block, which no image passes through.
    state = {name: value for name, value in state.items() if not name.startswith("sub_block1.")}
    blocks = {name.split(".")[2] for name in state if name.startswith("block1.layer.") and name.count(".") > 2}
    try:
        width, (classes, _) = len(state[STEM]) // 16, state["fc.weight"].shape
        with torch.device("meta"):
            own = WideResNet(6 * len(blocks) + 4, width, classes).state_dict()
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else words(error)
        has = ", ".join(name[:LENGTH] for name in sorted(state)[:3])
        raise InputError(f"{path} is no wide ResNet: {why}; it has {has}, ...; {ELSEWHERE}") from None
    for name, value in own.items():
        if name.endswith("num_batches_tracked") and name not in state:  # older files have none
            state[name] = torch.zeros_like(value, device="cpu")
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} ({_shape(state[name])}, needed {_shape(own[name])})"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    kinds = sorted(
        name
        for name in own.keys() & state.keys()
        if own[name].is_floating_point() != state[name].is_floating_point() or state[name].layout != torch.strided
    )
    found = [
        f"{what} {', '.join(name[:LENGTH] for name in names[:3])}{' and others' if len(names) > 3 else ''}"
        for what, names in (
            ("without", missing),
            ("with", extra),
            ("with other shapes of", shapes),
            ("with other numbers than fp32 in", kinds),
        )
        if names
    ]
    if found:
        raise InputError(f"{path} is no wide ResNet of our kind: {'; '.join(found)}; {ELSEWHERE}")
    try:
        weights = {
            name: value.detach().to(torch.float32 if value.is_floating_point() else torch.int64).contiguous()
            for name, value in state.items()
        }
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: its weights cannot be used: {words(error, 200)}") from None
    return wide_resnet(6 * len(blocks) + 4, width, weights)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
