"""Networks from files: our runs, RobustBench-style state dicts, the authors' checkpoints."""

import json
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastait.checkpoints.architectures import COUNTER, architecture
from fastait.checkpoints.checkpoint import FORMAT, FORMAT_WITHOUT_CHECKSUM
from fastait.checkpoints.classes import LENGTH, shown
from fastait.checkpoints.folder import RunFolder
from fastait.checkpoints.pickled import Unsafe, unpickled
from fastait.checkpoints.weights import (
    LARGEST,
    About,
    Named,
    OtherNetwork,
    blank,
    class_names,
    classes_guessed,
    filled,
    read_weights,
    stated_normalization,
    stated_size,
)
from fastait.config import BESIDE, CLASSES, NORMALIZATION
from fastait.evaluation.containers import Found, find, largest, tables
from fastait.evaluation.normalization import (
    CIFAR_10,
    ZERO_ONE,
    Normalization,
    Normalized,
    buffers,
    forced,
    inside,
)
from fastait.models import GowalWideResNet, WideResNet
from fastait.models.apart import apart
from fastait.models.names import FORMS, LIBRARIES, parse
from fastait.runtime.errors import InputError, quoted
from fastait.runtime.files import json_of

IMAGE_SIZE = 32
"""What a network is made for, where neither its file nor a user says."""


@dataclass(frozen=True)
class Loaded:
    """A network from a file.

    Attributes:
        path: of the file.
        name: of the network, as ``--model`` has it.
        named_by: what says so.
        network: on images in [0, 1], in eval mode.
        num_classes: how many it tells apart.
        image_size: height and width of the images that it was trained on, None if unknown.
        config: of its run, empty if it lies in no run folder.
        classes: the names of its outputs, None if unknown.
        normalizations: those that it may have been trained with; one where the file decides.
        why: what decides.
        notes: what else a user should know, a line each.
    """

    path: Path
    name: str
    named_by: str
    network: nn.Module
    num_classes: int
    image_size: int | None
    config: dict[str, Any]
    classes: tuple[str, ...] | None
    normalizations: tuple[Normalization, ...]
    why: str
    notes: tuple[str, ...]

    def normalized(self, normalization: Normalization) -> nn.Module:
        """The network on images in [0, 1], which it normalises so."""
        if normalization.like(inside(self.network)):
            return self.network
        return Normalized(self.network, normalization).eval()


def load_model(
    path: str | os.PathLike[str],
    inputs: str = "auto",
    *,
    model: str | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """A network and what its run folder says of how it was trained.

    Args:
        path: a run folder, or a file: safetensors, or dictionaries of tensors saved by torch, with a network's weights
            within whatever containers (``state_dict``, ``net``, ``model_ema``) and behind whatever prefixes
            (``module.``, ``_orig_mod.``, ``model.``); of several, averaged weights are taken before plain ones.
        inputs: what the network takes after normalisation: ``minus-one-one``, as our wide ResNets and the authors' do;
            ``zero-one``, as RobustBench's plain networks; or ``auto``, what the file says. Where it says nothing, what
            the network does by itself is assumed, with a warning if others are usual; ``fastait.eval`` measures it.
        model: the network's name, as ``--model`` has it. Needed where neither the file nor its weights' names and
            shapes say which it is, and where it is a function of the caller's own: that is called only if it is named
            here.
        image_size: height and width of the images that a network is made for which takes one size only, where the file
            does not say. [default: 32]
        mean, std: of another normalisation, in units of images in [0, 1], one number or three each.

    Returns:
        (network in eval mode, on images in [0, 1], contiguous; the run's config, with the names of its classes under
        ``classes`` where they are known; empty for a file that says nothing and lies in no run folder).

    Raises:
        InputError: there is no such file, what it holds is not such a network or does not show which it is, or it is
            damaged; the message says what differs.
    """
    chosen = forced(inputs, mean, std)
    loaded = read_model(path, model, image_size)
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
    with apart(None):
        return loaded.normalized(chosen), config


def read_model(path: str | os.PathLike[str], asked: str | None = None, image_size: int | None = None) -> Loaded:
    """What lies at ``path``.

    Args:
        path, image_size: as for ``load_model``.
        asked: the ``--model`` that a user gives.

    Raises:
        OtherNetwork: it is not the one that is asked for.
        InputError: as for ``load_model``.
    """
    if asked is not None:
        parse(asked)
    if image_size is not None:
        try:
            image_size = stated_size(index(image_size))
        except (TypeError, ValueError):
            raise InputError(
                f"image_size must be a whole number from 1 to {LARGEST}, got {quoted(image_size, 40)}"
            ) from None
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
    formats = (FORMAT, FORMAT_WITHOUT_CHECKSUM)
    checkpoint: Any = content if isinstance(content, dict) and content.get("format") in formats else {}
    if os.path.isfile(folder.config_file) and folder.wrote(path):
        config = _config(folder.config_file.read_bytes, folder.config_file)
    elif checkpoint:  # it was taken out of its folder
        kept = {key: checkpoint[key] for key in BESIDE if key in checkpoint}
        config = _config(lambda: json.dumps({**checkpoint["config"], **kept}), path)
    about = _with_config(about, config)
    read = _network(content, about, asked, about.image_size or image_size or IMAGE_SIZE, path)
    made = read.made
    if about.classes is not None and len(about.classes) != made.num_classes:
        raise InputError(
            f"{path} names {len(about.classes)} classes ({shown(about.classes)}), its network tells "
            f"{made.num_classes} apart"
        )
    normalizations, why = _normalizations(read, about, bool(config or checkpoint))
    return Loaded(
        path,
        made.name,
        read.why,
        made.network,
        made.num_classes,
        about.image_size,
        config,
        about.classes,
        normalizations,
        why,
        read.notes,
    )


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.fsdecode(path)).expanduser()
    except TypeError:
        raise InputError(f"a path of a run or of weights is needed, got {type(path).__name__}") from None
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path!r}: {error}") from None


def _config(read: Callable[[], bytes | str], path: Path) -> dict[str, Any]:
    """A run's settings, which ``read`` reads from ``path``; nothing of another program's ``config.json``."""
    try:
        config = dict(json_of(read()))
        if not {"recipe", "method", "dataset"} <= config.keys():
            return {}
        if CLASSES in config:
            class_names(config[CLASSES])
        if config.get(NORMALIZATION) is not None:
            mean, std = config[NORMALIZATION]
            stated_normalization({"mean": mean, "std": std})
        for key in ("model", "dataset", "data_dir", "cache_dir"):
            if not isinstance(config.get(key) or "", str):
                raise TypeError(f"{key} must be a text")
        if "image_size" in config:
            stated_size(config["image_size"])
        if "model" in config:
            parse(config["model"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    return config


def _unpickled(path: Path) -> Any:
    try:
        return unpickled(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except Unsafe as error:
        raise InputError(f"{path} is no file of weights that can be loaded safely: {error}") from None


def _with_config(about: About, config: dict[str, Any]) -> About:
    """What a file says, or else its run's settings."""
    network = about.network or config.get("model")
    if network is None and {"depth", "widen_factor"} <= config.keys():  # as version 0.1 wrote it
        network = f"wrn-{config['depth']}-{config['widen_factor']}"
    return About(
        network,
        about.classes or (tuple(config[CLASSES]) if CLASSES in config else None),
        about.normalization or config.get(NORMALIZATION),
        about.image_size or config.get("image_size"),
    )


@dataclass(frozen=True)
class _Read:
    """A network of a file's weights.

    Attributes:
        made: the network.
        why: it is this one.
        found: where it was.
        own: the names of its own weights.
        completed: whether numbers that it normalises by are not the file's.
        notes: a line each.
    """

    made: Named
    why: str
    found: Found
    own: Collection[str]
    completed: bool
    notes: tuple[str, ...]


def _network(content: Any, about: About, asked: str | None, image_size: int, path: Path) -> _Read:
    """The network of a file: the one that the file names, or else that is asked for, or else that its weights show."""
    found = None
    try:
        dictionaries = tables(content)
        name, why = _named(about.network, asked)
        if name is None:
            found = find(dictionaries, None)
            name, why = _read_off(found.state), "its weights show it"
        classes = classes_guessed(largest(dictionaries)) if about.classes is None else max(2, len(about.classes))
        made = blank(name, classes, image_size=image_size, allow_own=name == asked)
        own = made.network.state_dict()
        if found is None:
            found = find(dictionaries, own.keys())
        state, notes = found.own(own.keys())
        completed = _complete(state, own, made.network)
        made = filled(made, state)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None
    return _Read(made, why, found, own.keys(), completed, found.notes + notes)


def _named(said: str | None, asked: str | None) -> tuple[str | None, str]:
    """A network's name and what says so, if something does."""
    if said is None or asked == said:
        return asked, "as asked for"
    if asked is None:
        return said, "its file says so"
    if (parse(said).kind, parse(asked).kind) == ("own", "own"):  # which may have been moved
        return asked, f"as asked for, where its file says {said}"
    raise OtherNetwork(f"its file says that its network is {said}, not --model {asked}")


def _read_off(state: dict[str, Tensor]) -> str:
    """The name of the network that weights show."""
    found = architecture(state)
    if found is None:
        has = ", ".join(name[:LENGTH] for name in sorted(state)[:3])
        raise InputError(
            f"its weights show no network that has a name here (it has {has}, ...); say which it is by --model NAME, "
            f"or model= in Python: {FORMS}"
        )
    if not found.names:
        raise InputError(
            f"its weights are those of a {found.title}, which has no name here; --model package.module:function names "
            "one of your own"
        )
    if len(found.names) > 1:
        raise InputError(
            f"its weights have the names of several networks; say which it is by --model {' or '.join(found.names)}, "
            "or model= in Python"
        )
    return found.names[0]


def _complete(state: dict[str, Tensor], own: dict[str, Tensor], network: nn.Module) -> bool:
    """Add what files of others may lack; whether numbers that images are normalised by were among it."""
    for name in own.keys() - state.keys():
        if name.endswith(COUNTER) and name.replace(COUNTER, "running_var") in state:
            state[name] = torch.zeros((), dtype=torch.int64, device="cpu")
    if not isinstance(network, GowalWideResNet) or state.keys() & {"mean", "std"}:
        return False
    for name, values in (("mean", CIFAR_10.mean), ("std", CIFAR_10.std)):
        state[name] = torch.tensor(values, dtype=torch.float32, device="cpu")[:, None, None]
    return True


def _normalizations(read: _Read, about: About, ours: bool) -> tuple[tuple[Normalization, ...], str]:
    """Those that the network may have been trained with, and what says so."""
    network, kind = read.made.network, parse(read.made.name).kind
    by_itself = inside(network)
    if about.normalization is not None:
        return (Normalization.of(*about.normalization),), "its file says so"
    if ours:
        return (by_itself,), "it is of a run of fastait"
    if isinstance(network, GowalWideResNet):
        return (by_itself,), "the file does not say" if read.completed else "the file holds mean and std"
    prefix = read.found.prefix
    said = {
        pair: one
        for pair, one in buffers(read.found.beside).items()
        if pair.partition(" and ")[0].removeprefix(prefix) not in read.own
    }
    different: list[Normalization] = []
    for normalization in said.values():
        if not any(normalization.like(other) for other in different):
            different.append(normalization)
    if different:
        return tuple(different), f"the file holds {', '.join(said)}"
    if any(name.startswith("sub_block1.") for name in read.found.state):
        return (ZERO_ONE,), "the file holds sub_block1, as RobustBench's plain WideResNet does"
    if kind == "own":
        return (by_itself,), "it is what a function of your own takes"
    if kind in LIBRARIES:
        return (by_itself,), f"{kind} says so"
    return (by_itself, ZERO_ONE if isinstance(network, WideResNet) else CIFAR_10), "the file does not say"
