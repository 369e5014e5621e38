"""Tables that are made in seconds, and what is done for them."""

import dataclasses

import pytest

from fastait.evaluation.journal import FileJournal
from fastait.reproduction import measure, systems, tables


@pytest.fixture
def tiny(monkeypatch):
    """One epoch on 8x8 pixels, eight test images."""
    published = systems.recipe

    def recipe(name, **settings):
        return published(name, **{**settings, "epochs": 1, "milestones": ()})

    few = {"spsa": "spsa-4x1", "local-search": "local-search-1"}
    small = dataclasses.replace(systems.SCALES["small"], images=8, black_box_images=2, attacks=few)
    monkeypatch.setattr(systems, "recipe", recipe)
    monkeypatch.setattr(systems, "SMALL_IMAGES", 8)
    monkeypatch.setattr(systems, "GLANCE", 10)
    monkeypatch.setitem(systems.SCALES, "small", small)


@pytest.fixture
def work(monkeypatch):
    """What is done: the methods that are begun, and the batches that are measured, by (model, epsilon, attacks)."""
    begun, measured = [], []
    train, put = measure.run_training, FileJournal.put
    monkeypatch.setattr(measure, "run_training", lambda config, **o: begun.append(config.method) or train(config, **o))
    monkeypatch.setattr(FileJournal, "put", lambda self, *unit: measured.append(repr(unit)) or put(self, *unit))
    return begun, measured


@pytest.fixture
def short_table(monkeypatch):
    """table1 of two networks: clean images, FGSM and PGD20."""
    table = tables.TABLES["table1"]
    (block,) = table.blocks
    few = dataclasses.replace(
        block, rows=block.rows[:2], columns=block.columns[:3], figures=tuple(line[:3] for line in block.figures[:2])
    )
    monkeypatch.setitem(tables.TABLES, "table1", dataclasses.replace(table, blocks=(few,)))
