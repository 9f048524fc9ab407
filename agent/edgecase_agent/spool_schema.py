"""The tables of the spool, and how an older one becomes the newest."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite_utils

# Word for word in a query, so that the partial index serves it.
WAITING: Final = "state IN ('spooled', 'offered')"
LIVE: Final = "state IN ('spooled', 'offered', 'granted', 'stored')"
_SET: Final = "edgecase-spool"


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database up to date; each step is whole or not at all."""
    if _applied(connection) >= {step.__name__ for step in _STEPS}:
        return
    import sqlite_utils  # only where there is something to do: 20 MB that the device's loops need not carry
    from sqlite_utils.migrations import Migrations

    migrations = Migrations(_SET)
    for step in _STEPS:
        migrations()(step)
    migrations.apply(sqlite_utils.Database(connection))


def _applied(connection: sqlite3.Connection) -> set[str]:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if known is None:
        return set()
    rows = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ?", (_SET,))
    return {name for (name,) in rows}


def index_accounts_events(db: sqlite_utils.Database) -> None:
    """An index of the frames' files with how far each has come; each row has a checksum over its facts.

    Pacing (`attempts`, `next_at_s`) is no fact: a wrong one delays a frame until the next start at most.
    """
    db.table("frames").create(
        {
            "id": str,
            "sha256": str,
            "size_bytes": int,
            "priority": int,
            "score": float,
            "picked_by": str,
            "state": str,
            "on_disk": int,
            "was_offered": int,
            "was_uploaded": int,
            "grant_json": bytes,
            "parts_json": bytes,
            "checksum": int,
            "attempts": int,
            "next_at_s": float,
        },
        pk="id",
        not_null={"id", "sha256", "size_bytes", "priority", "score", "state", "checksum", "attempts", "next_at_s"},
        defaults={"attempts": 0, "next_at_s": 0.0},
        strict=True,
    )
    db.table("frames").create_index(["state"], index_name="frames_by_state")
    db.execute(f"CREATE INDEX frames_waiting ON frames (priority, score, id) WHERE {WAITING}")
    db.execute(f"CREATE INDEX frames_picked_by ON frames (picked_by) WHERE {LIVE}")
    db.table("counters").create(
        {"name": str, "value": int, "checksum": int}, pk="name", not_null={"value", "checksum"}, strict=True
    )
    db.table("events").create({"id": int, "at": str, "kind": str, "frame_id": str, "reason": str}, pk="id", strict=True)


_STEPS: Final = (index_accounts_events,)
