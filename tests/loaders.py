"""The loaders that tests try."""

import importlib.util

import pytest

HAS_DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
needs_dali = pytest.mark.skipif(not HAS_DALI, reason="DALI is not installed")

LOADERS = [
    pytest.param({"dali": False, "workers": None}, id="resident"),
    pytest.param({"dali": False, "workers": 0}, id="torch"),
    pytest.param({"dali": False, "workers": 2}, id="torch, 2 workers"),
    pytest.param({"dali": True, "workers": None}, id="dali", marks=needs_dali),
]
