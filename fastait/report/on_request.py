"""The paper's figures 2, 3 and 4 for the runs of a page: what needs the networks, the images and time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image

from fastait.report.gaps import Gap
from fastait.report.pictures import png
from fastait.report.run_files import Run
from fastait.runtime.errors import FastaitError, first_line

if TYPE_CHECKING:
    from torch import nn

    from fastait.data import Dataset


@dataclass(frozen=True)
class Drawing:
    """A figure: what it is of, and the address that holds the picture."""

    title: str
    address: str


def drawings(runs: Sequence[Run], note: Callable[[str], None]) -> tuple[list[Drawing], list[Gap]]:
    """The figures of runs that were trained on the same images, and what could not be drawn.

    Args:
        runs: finished ones.
        note: called with a line before each figure.
    """
    from fastait.reproduction.figures import FIGURES

    found: list[Drawing] = []
    models, dataset, gaps = _loaded(runs)
    if dataset is None or not models:
        return found, gaps
    several = dict(models)
    for name, groups in (
        ("figure2", [several]),
        ("figure3", [several]),
        ("figure4", [{run: model} for run, model in models.items()]),
    ):
        for group in groups:
            note(f"{name} of {', '.join(group)}: drawing")
            try:
                found.append(_draw(name, group, dataset, runs))
            except FastaitError as error:
                gaps.append(Gap(", ".join(group), f"{name} ({FIGURES[name].title}): {first_line(error)}"))
    return found, gaps


def _draw(name: str, models: "dict[str, nn.Module]", dataset: "Dataset", runs: Sequence[Run]) -> Drawing:
    from fastait.reproduction.figures import FIGURES
    from fastait.runtime.precision import current, resolve_device

    config = next(run.config for run in runs if run.name in models)
    assert config is not None
    figure = FIGURES[name]
    with TemporaryDirectory() as folder, current(resolve_device("auto")):
        path, *_ = figure.draw(models, dataset, Path(folder), config.epsilon, config.seed, lambda: None)
        with Image.open(path) as picture:
            address = png(picture.convert("RGB"))
    return Drawing(f"{figure.title}: {', '.join(models)}", address)


def _loaded(runs: Sequence[Run]) -> "tuple[dict[str, nn.Module], Dataset | None, list[Gap]]":
    from fastait.config import parquet_settings
    from fastait.data import load_dataset
    from fastait.evaluation.model_files import load_model
    from fastait.runtime.precision import resolve_device

    models, gaps = {}, []
    dataset = None
    for run in runs:
        config = run.config
        assert config is not None
        try:
            if dataset is None:
                dataset = load_dataset(
                    config.dataset,
                    config.data_dir,
                    config.image_size,
                    skip_bad=config.skip_bad_images,
                    needs_train=False,
                    cache_dir=config.cache_dir,
                    **parquet_settings(config),
                )
            if run.classes != dataset.classes:
                raise FastaitError("the classes of its images are not those that it was trained on")
            models[run.name] = load_model(run.path)[0].to(resolve_device("auto"))
        except FastaitError as error:
            gaps.append(Gap(run.name, f"no figures: {first_line(error)}"))
    return models, dataset, gaps
