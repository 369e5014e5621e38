"""The models that an evaluation is given, and what they are called."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastait.checkpoints.weights import OtherNetwork
from fastait.config import IN_PLACE
from fastait.evaluation.model_files import Loaded, read_model
from fastait.runtime.errors import InputError
from fastait.runtime.settings import as_path


def read_all(paths: list[Path], asked: str | None, image_size: int | None) -> list[Loaded]:
    """The models; ``--model`` is for those of them that do not say or show to be another network.

    Raises:
        InputError: one cannot be read, or none of them is the network that is asked for.
    """
    loaded, refused = [], []
    for path in paths:
        try:
            loaded.append(read_model(path, asked, image_size))
        except OtherNetwork as error:
            refused.append(error)
            try:
                loaded.append(read_model(path, None, image_size))
            except InputError:
                raise error from None
    if len(refused) == len(paths):
        raise refused[0]
    return loaded


def places_stated(config: Mapping[str, Any], whose: str, note: Callable[[str], None]) -> tuple[Path, Path | None]:
    """Where a run's images lie, and where they are kept decoded, as its settings say, which may be somebody else's.

    They decide what is read, which is said, and no folder is made because of them.

    Args:
        config: the settings, with a ``data_dir``.
        whose: they are, for a message.
        note: called with a line each.

    Raises:
        InputError: the images do not lie there.
    """
    data_dir = as_path("data_dir", config["data_dir"])
    if config["dataset"] not in IN_PLACE and not os.path.isdir(data_dir):
        raise InputError(f"{whose} was trained on images in {data_dir}, where there is no folder; --data-dir makes one")
    note(f"the images are those in {data_dir}, as {whose} says")
    cache_dir = as_path("cache_dir", config["cache_dir"]) if config.get("cache_dir") else None
    if cache_dir is not None and not os.path.isdir(cache_dir):
        note(f"{cache_dir}, where {whose} keeps decoded images, is not there, and is made by --cache-dir alone")
        cache_dir = None
    return data_dir, cache_dir


def names_of(paths: tuple[Path, ...]) -> list[str]:
    """What models are called: the last part of the path, as many parts as tell them apart."""
    absolute = [path.absolute() for path in paths]
    for parts in range(1, max(len(path.parts) for path in absolute) + 1):
        names = ["-".join(path.parts[-parts:]) for path in absolute]
        if max(Counter(names).values()) == 1:
            return names
    raise InputError(f"a model is given twice: {', '.join(map(str, paths))}")
