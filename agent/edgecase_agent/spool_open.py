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

from edgecase_agent.spool_rows import RowDamaged, count_checksum
from edgecase_agent.spool_schema import migrate

_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    }
)
DATABASE_FAULTS: Final = (sqlite3.DatabaseError, RowDamaged, UnicodeDecodeError)
"""What reading a damaged file may raise; the last where SQLite's own message quotes what it cannot read."""
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


def plain(path: Path) -> sqlite3.Connection:
    """To look at. A text that a flipped bit made unreadable is read all the same, for its checksum to tell."""
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """To work with: every commit is synced, or `SpoolError`."""
    connection = plain(path)
    connection.create_function("count_checksum", 2, count_checksum, deterministic=True)
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


def code(error: Exception) -> int:
    """SQLite's primary result code; 0 for another error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def tells_of_damage(error: Exception) -> bool:
    """Whether the file is not what was written: also where its schema no longer knows a column of ours."""
    return isinstance(error, RowDamaged | UnicodeDecodeError) or code(error) in _DAMAGE
