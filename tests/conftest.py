"""Tests that take more than ten seconds, and teach little that a quicker one does not, run where they are asked for."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("thorough" if config.getoption("--slow") else "quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        left_out = pytest.mark.skip(reason="slow; run with --slow")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(left_out)
