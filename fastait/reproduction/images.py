"""The data sets that networks are trained and measured on, each loaded once."""

from collections.abc import Callable
from dataclasses import replace

from fastait.config import PARQUET_SETTINGS, TrainConfig, parquet_settings
from fastait.data import Dataset, load_dataset

_OF_IMAGES = ("dataset", "data_dir", "image_size", "skip_bad_images", "cache_dir", *PARQUET_SETTINGS)


class Datasets:
    """Those that were asked for.

    Args:
        note: called with a line for the user.
    """

    def __init__(self, note: Callable[[str], None] = lambda text: None):
        self._note = note
        self._loaded: dict[TrainConfig, Dataset] = {}

    def of(self, config: TrainConfig) -> Dataset:
        """The images that a run of these settings is trained and measured on.

        Raises:
            InputError: as ``load_dataset``.
        """
        key = images_of(config)
        if key not in self._loaded:
            self._loaded[key] = load_dataset(
                config.dataset,
                config.data_dir,
                config.image_size,
                skip_bad=config.skip_bad_images,
                cache_dir=config.cache_dir,
                note=self._note,
                **parquet_settings(config),
            )
        return self._loaded[key]


def images_of(config: TrainConfig) -> TrainConfig:
    """The settings that say which images, with the usual ones for all others."""
    return replace(TrainConfig(), **{name: getattr(config, name) for name in _OF_IMAGES})
