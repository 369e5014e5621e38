"""What the paper found where a run is one of its own."""

from functools import cache
from pathlib import Path

from fastait.config import PLACES, TrainConfig
from fastait.reproduction.systems import SCALES, SYSTEMS, Choices
from fastait.reproduction.tables import TABLES

SCALE = SCALES["paper"]

IGNORED = (*PLACES, "recipe", "seed", "amp", "eval_samples")
"""Settings in which a run may differ from the paper's and be one of it."""


def paper_system(config: TrainConfig, weights: str) -> str | None:
    """The network of the paper that is trained so.

    Args:
        config: of the run.
        weights: ``last`` or ``best``: which of the run's.
    """
    for name, system in SYSTEMS.items():
        if system.weights == weights and not system.session and _deciding(_config(name)) == _deciding(config):
            return name
    return None


@cache
def paper_figures(system: str) -> dict[tuple[str, float], tuple[float, str]]:
    """{(attack, epsilon to six digits): (accuracy in percent, the table that it stands in)} of a network's.

    Those on images made on another network, or with noise added to the input, are left out.
    """
    found: dict[tuple[str, float], tuple[float, str]] = {}
    for table in TABLES.values():
        for block in table.blocks:
            for row, figures in zip(block.rows, block.figures, strict=True):
                for column, figure in zip(block.columns, figures, strict=True):
                    cell = block.cell(row, column, SCALE)
                    if figure is None or cell is None or cell.system != system or cell.noisy or cell.surrogate:
                        continue
                    found.setdefault((cell.attack, round(cell.epsilon, 6)), (figure, table.title))
    return found


@cache
def _config(system: str) -> TrainConfig:
    return Choices(SCALE, Path("reproduction"), unlabeled=Path("unlabeled")).config(system)


def _deciding(config: TrainConfig) -> dict[str, object]:
    return {key: value for key, value in config.resolved().to_json().items() if key not in IGNORED}
