"""The real servers that the tests of the agent run against."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.hub import Hub, running_hub
from support.store import Store, running_store

if TYPE_CHECKING:
    from support.broker import Broker


def _running_broker(folder: Path) -> Iterator[Broker]:
    if not (Path(sys.prefix) / "bin" / "nats-server").exists():
        pytest.skip("a broker is part of edgecase[cloud]")
    from support.broker import running_broker

    with running_broker(folder) as running:
        yield running


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all tests that do not stop it; give each test device names of its own."""
    yield from _running_broker(tmp_path_factory.mktemp("broker"))


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker to kill."""
    yield from _running_broker(tmp_path)


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one, for tests that ask nothing of the disk but sync a great deal."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="edgecase-test-") as folder:
        yield Path(folder)


@pytest.fixture
def store() -> Iterator[Store]:
    """A local HTTP store."""
    with running_store() as running:
        yield running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with a signed repository."""
    with running_hub(tmp_path / "hub") as running:
        yield running
