"""Opening the spool: one process at a time, one that puts, and a database that syncs every commit."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgecase_agent.spool_schema import migrate

_PREDECESSOR_ENDS_WITHIN_S: Final = 5.0


class SpoolError(RuntimeError):
    """The spool cannot be opened or was given something that is no frame; the message says what to do."""


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Two processes that start together open one after the other."""
    descriptor = os.open(folder / "open.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def only_writer(folder: Path) -> int:
    descriptor = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at_s = time.monotonic() + _PREDECESSOR_ENDS_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_at_s:
                os.close(descriptor)
                raise SpoolError(
                    f"spool {folder}: another agent is using it; stop that one or give this one its own data"
                ) from None
            time.sleep(0.05)
        else:
            return descriptor


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        connection.execute("PRAGMA synchronous = FULL")
        synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
        _check_durable(path, mode, synchronous)
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_durable(path: Path, mode: str, synchronous: int) -> None:
    if (mode, synchronous) != ("wal", 2):
        raise SpoolError(
            f"spool {path}: this disk allows journal_mode={mode}, synchronous={synchronous} only; use a local disk"
        )


def code(error: sqlite3.DatabaseError) -> int:
    """The primary result code; 0 for an error of the module itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
