"""The tables of the spool, and how an older one becomes the newest."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite_utils

WAITING: Final = "state IN ('spooled', 'offered')"  # word for word in a query, so that the partial index serves it
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


def frames_counters_events(db: sqlite_utils.Database) -> None:
    """Frames by id with what changes; their descriptions apart, so that a change of state rewrites few bytes."""
    db.table("frames").create(
        {
            "id": str,
            "sha256": str,
            "size_bytes": int,
            "priority": int,
            "score": float,
            "state": str,
            "on_disk": int,
            "was_offered": int,
            "was_uploaded": int,
            "attempts": int,
            "next_at_s": float,
            "grant_json": bytes,
            "reason": str,
        },
        pk="id",
        not_null={"id", "sha256", "size_bytes", "priority", "score", "state", "on_disk", "attempts", "next_at_s"},
        defaults={"on_disk": 1, "was_offered": 0, "was_uploaded": 0, "attempts": 0, "next_at_s": 0.0, "reason": ""},
        strict=True,
    )
    db.table("frames").create_index(["state"], index_name="frames_by_state")
    db.execute(f"CREATE INDEX frames_waiting ON frames (priority, score, id) WHERE {WAITING}")
    db.table("descriptions").create(
        {"id": str, "meta_json": bytes, "checksum": int}, pk="id", not_null={"id", "meta_json", "checksum"}, strict=True
    )
    db.table("counters").create({"name": str, "value": int}, pk="name", not_null={"value"}, strict=True)
    db.table("events").create({"id": int, "at": str, "kind": str, "frame_id": str, "reason": str}, pk="id", strict=True)


_STEPS: Final = (frames_counters_events,)
