"""The models that an evaluation is given, and what they are called."""

from collections import Counter
from pathlib import Path

from fastait.checkpoints.weights import OtherNetwork
from fastait.evaluation.model_files import Loaded, read_model
from fastait.runtime.errors import InputError


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


def names_of(paths: tuple[Path, ...]) -> list[str]:
    """What models are called: the last part of the path, as many parts as tell them apart."""
    absolute = [path.absolute() for path in paths]
    for parts in range(1, max(len(path.parts) for path in absolute) + 1):
        names = ["-".join(path.parts[-parts:]) for path in absolute]
        if max(Counter(names).values()) == 1:
            return names
    raise InputError(f"a model is given twice: {', '.join(map(str, paths))}")
