"""What is said above and below a table."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastait.config import TrainConfig
from fastait.reproduction.grids import Cell, Table
from fastait.reproduction.measured import Figure, count_of
from fastait.reproduction.systems import Choices
from fastait.reproduction.worker import Crew
from fastait.runtime.report import epsilon_text


def heading(table: Table, crew: Crew, found: Mapping[Cell, Figure]) -> list[str]:
    """What stands above a table of the paper: what it is and how its figures came about."""
    choices = crew.choices
    systems = [system for system in table.systems(choices.scale) if not choices.lacks_images(system)]
    configs = [choices.config(system) for system in systems]
    small = ": not comparable with the paper's figures" if choices.scale.name == "small" else ""
    other = ": not the paper's network" if choices.model is not None and not small else ""
    here_on = f", here on {_listed(dict.fromkeys(c.dataset for c in configs))}" if small else ""
    return [
        f"{table.title}: {table.caption}{here_on}. Accuracy in %: ours{_several(choices)} (the paper's, the "
        "difference).",
        f"Scale {choices.scale.name}: {_networks(configs)}{small or other}.",
        *_how(systems, crew, found),
    ]


def sweep_heading(systems: list[str], crew: Crew, found: Mapping[Cell, Figure]) -> list[str]:
    """The same above a comparison of one's own."""
    networks = _networks(crew.choices.config(system) for system in systems)
    return [f"{networks}. Accuracy in %{_several(crew.choices)}.", *_how(systems, crew, found)]


def _several(choices: Choices) -> str:
    return f", mean ± standard error of {len(choices.seeds)} trainings" if len(choices.seeds) > 1 else ""


def _how(systems: list[str], crew: Crew, found: Mapping[Cell, Figure]) -> list[str]:
    choices, here = crew.choices, crew.benches[crew.choices.seed].environment
    images = _listed(dict.fromkeys(m.n for cell, m in found.items() if not cell.black_box))
    few = _listed(dict.fromkeys(m.n for cell, m in found.items() if cell.black_box))
    black_box = f"({few} for attacks without gradients) " if few and images else ""
    results = [result for system in systems for result in crew.results(system)]
    precision = _listed(dict.fromkeys(str(r.get("precision", "unknown")) for r in results))
    trained_on = _listed(
        dict.fromkeys(f"{r.get('device', 'unknown')} (torch {r.get('torch', 'unknown')})" for r in results)
    )
    budgets = _listed(epsilon_text(e) for e in dict.fromkeys(cell.epsilon for cell in found))
    seeds = f"seed{'s' * (len(choices.seeds) > 1)} {_listed(choices.seeds)}"
    measured = _listed(f"{device} (torch {torch})" for device, torch in crew.measured_on(found))
    if not found:
        return []
    return [
        f"{images or few} test images {black_box}with the classes in proportion, Linf {budgets}, steps of "
        f"{epsilon_text(choices.step_size)}, {seeds}; training {precision}, evaluation fp32; "
        f"weights of the {_listed(dict.fromkeys(_WEIGHTS[choices.weights(system)] for system in systems))}.",
        f"Trained on {trained_on}; measured on {measured}; fastait {here['fastait']}, Python {here['python']}.",
    ]


_WEIGHTS = {"last": "last epoch", "best": "best epoch", "ema": "average over all steps"}


def _networks(configs: Iterable[TrainConfig]) -> str:
    configs = list(configs)
    datasets = _listed(dict.fromkeys(c.dataset for c in configs))
    networks = _listed(dict.fromkeys(c.model for c in configs))
    return f"{datasets}, {networks}, {_listed(sorted({c.epochs for c in configs}))} epochs"


def missing(table: Table, crew: Crew, found: Mapping[Cell, Figure]) -> list[str]:
    """What figures are missing, and why."""
    said = []
    wanted = [cell for cell in table.cells(crew.choices.scale) if not crew.choices.lacks_images(cell.system)]
    if lacking := [cell for cell in wanted if cell not in found]:
        of = _listed(dict.fromkeys(cell.system for cell in lacking))
        said.append(f"{len(lacking)} of {len(wanted)} figures are missing, of {of}.")
    seeds = len(crew.choices.seeds)
    if fewer := [cell for cell in wanted if seeds > 1 and cell in found and count_of(found[cell]) < seeds]:
        of = _listed(dict.fromkeys(cell.system for cell in fewer))
        said.append(f"Of {of} some figures are of fewer than {seeds} trainings.")
    return said + [f"{item} failed: {why}." for item, why in crew.failed.items()]


def notes(table: Table, choices: Choices, found: Iterable[Cell]) -> list[str]:
    """What stands below a table."""
    systems = table.systems(choices.scale)
    notes = list(table.notes)
    if choices.scale.name == "small":
        notes.append(
            f"Budgets and steps are {choices.scale.budget:g} times the paper's, in training too: at 8/255 digits do "
            "not tell methods apart. What the paper sets for CIFAR100 and SVHN alone does not suit digits and is left "
            "out."
        )
    attacks = list(dict.fromkeys(cell.attack for cell in found if cell.black_box))
    if attacks:
        notes.append(f"Attacks without gradients are {_listed(attacks)} of fastait.eval.")
    if any(choices.needs_unlabeled(system) for system in systems):
        if choices.unlabeled_folder is None:
            notes.append("UAT is left out: it needs images without labels, --unlabeled DIR.")
        elif choices.unlabeled is None:
            notes.append(
                "UAT's images without labels are the training images; the paper's has others (--unlabeled DIR)."
            )
        else:
            notes.append(f"UAT's images without labels are those in {choices.unlabeled}.")
    return notes


def _listed(values: Iterable[Any]) -> str:
    """a, b and c."""
    texts = [str(value) for value in values]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1]))) if texts else ""
