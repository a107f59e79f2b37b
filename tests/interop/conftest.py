"""Tests of minutes run only when they are asked for: `pytest -m slow`."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "slow: takes minutes; runs with -m slow only")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is slow, unless it is asked for."""
    if item.get_closest_marker("slow") and "slow" not in item.config.option.markexpr:
        pytest.skip("takes minutes; runs with -m slow")
