"""Fixtures of tests of networks from files."""

import sys
from pathlib import Path

import pytest
from files_of_others import OWN

from fastait.evaluation import entrants


@pytest.fixture
def few_images(monkeypatch):
    """Few images show how networks normalise."""
    monkeypatch.setattr(entrants, "PROBED", 60)


@pytest.fixture
def own(monkeypatch):
    """A module of somebody's own in the current folder, under a name of its own, and one of its networks' weights."""
    name = f"own_nets_{len(sys.modules)}"
    Path(f"{name}.py").write_text(OWN)
    yield f"{name}:Net"
    sys.modules.pop(name, None)
