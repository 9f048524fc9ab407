"""The rows of the spool: one allowed move at a time, and the accounts that are kept with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from edgecase_agent.frames import FrameMeta
from edgecase_agent.spool_schema import WAITING
from edgecase_models import wire

ENTRIES: Final = "SELECT id, sha256, size_bytes, priority, score, state, attempts, grant_json FROM frames"
_EVENTS_KEPT: Final = 10_000


class State(StrEnum):
    """How far a frame has come; the members without a move are its ends."""

    SPOOLED = "spooled"
    OFFERED = "offered"
    GRANTED = "granted"
    STORED = "stored"
    ACKNOWLEDGED = "acknowledged"
    DECLINED = "declined"
    REJECTED = "rejected"
    EVICTED = "evicted"
    LOST_LOCAL = "lost_local"


_S = State
# Whatever the cloud may answer late or twice is allowed; what is on its way (granted, stored) is never evicted.
MOVES: Final[Mapping[State, frozenset[State]]] = {
    _S.SPOOLED: frozenset({_S.OFFERED, _S.REJECTED, _S.EVICTED, _S.LOST_LOCAL}),
    _S.OFFERED: frozenset(
        {_S.OFFERED, _S.GRANTED, _S.ACKNOWLEDGED, _S.DECLINED, _S.REJECTED, _S.EVICTED, _S.LOST_LOCAL}
    ),
    _S.GRANTED: frozenset(
        {_S.OFFERED, _S.GRANTED, _S.STORED, _S.ACKNOWLEDGED, _S.DECLINED, _S.REJECTED, _S.LOST_LOCAL}
    ),
    _S.STORED: frozenset({_S.OFFERED, _S.GRANTED, _S.STORED, _S.ACKNOWLEDGED, _S.REJECTED, _S.LOST_LOCAL}),
    _S.ACKNOWLEDGED: frozenset(),
    _S.DECLINED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.EVICTED: frozenset(),
    _S.LOST_LOCAL: frozenset(),
}
LIVE: Final = tuple(state for state in State if MOVES[state])
ENDS: Final = tuple(state for state in State if not MOVES[state])
# Their files stay, to be looked at, until the room is needed.
SET_ASIDE: Final = (State.REJECTED, State.LOST_LOCAL)


@dataclass(frozen=True)
class Entry:
    """A frame in the spool that has not come to an end."""

    frame_id: str
    sha256: str
    size_bytes: int
    priority: int
    score: float
    state: State
    attempts: int
    grant: wire.Grant | None


@dataclass(frozen=True)
class Event:
    """Something that happened to a frame and that a person may want to see."""

    at: str
    kind: str
    frame_id: str
    reason: str


def move(
    db: sqlite3.Connection,
    frame_id: str,
    to: State,
    reason: str = "",
    *,
    grant: bytes | None = None,
    on_disk: bool = True,
) -> bool:
    """Make one allowed move and keep the accounts; inside a transaction."""
    row = db.execute(
        "SELECT state, size_bytes, was_offered, was_uploaded, grant_json FROM frames WHERE id = ?", (frame_id,)
    ).fetchone()
    if row is None or to not in MOVES[State(row[0])]:
        return False
    _, size_bytes, was_offered, was_uploaded, old_grant = row
    if to is State.STORED:
        grant = old_grant  # it names the key
    offered = was_offered or to is State.OFFERED
    uploaded = was_uploaded or to in {State.STORED, State.ACKNOWLEDGED}
    stays = on_disk and (to not in ENDS or to in SET_ASIDE)
    db.execute(
        "UPDATE frames SET state = ?, reason = ?, grant_json = ?, on_disk = ?, was_offered = ?, was_uploaded = ? WHERE id = ?",
        (to, reason, grant, int(stays), int(offered), int(uploaded), frame_id),
    )
    counts = {"offered": int(offered) - was_offered, "uploaded": int(uploaded) - was_uploaded}
    if to in ENDS:
        counts[to] = 1
        if to is not State.ACKNOWLEDGED:
            note(db, to, frame_id, reason)
    if not stays:
        counts["bytes"] = -size_bytes
    add(db, counts)
    return True


def least_valuable(db: sqlite3.Connection, need_bytes: int, worth: FrameMeta) -> tuple[list[tuple[str, State]], int]:
    """What was set aside, then the waiting frames worth less than `worth`, until `need_bytes` are reached."""
    victims: list[tuple[str, State]] = []
    freed_bytes = 0
    set_aside = "SELECT id, size_bytes, state FROM frames WHERE state IN ('rejected', 'lost_local') AND on_disk = 1"
    waiting = (
        f"SELECT id, size_bytes, state FROM frames WHERE {WAITING} AND (priority, score) < (?, ?) "  # noqa: S608
        "ORDER BY priority, score, id"
    )
    queries: tuple[tuple[str, tuple[float, ...]], ...] = ((set_aside, ()), (waiting, (worth.priority, worth.score)))
    for query, parameters in queries:
        for frame_id, size_bytes, state in db.execute(query, parameters):
            if freed_bytes >= need_bytes:
                return victims, freed_bytes
            victims.append((frame_id, State(state)))
            freed_bytes += size_bytes
    return victims, freed_bytes


def size_of(db: sqlite3.Connection, frame_id: str) -> int:
    return int(db.execute("SELECT size_bytes FROM frames WHERE id = ?", (frame_id,)).fetchone()[0])


def add(db: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count:
            db.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (str(name), count),
            )


def note(db: sqlite3.Connection, kind: str, frame_id: str, reason: str) -> None:
    cursor = db.execute(
        "INSERT INTO events (at, kind, frame_id, reason) VALUES (?, ?, ?, ?)",
        (wire.now().isoformat(), str(kind), frame_id, reason),
    )
    db.execute("DELETE FROM events WHERE id <= ?", ((cursor.lastrowid or 0) - _EVENTS_KEPT,))


def balance(db: sqlite3.Connection, owed: Mapping[str, int]) -> wire.Balance:
    live = ", ".join(f"'{state}'" for state in LIVE)
    query = f"SELECT name, value FROM counters UNION ALL SELECT 'spooled', count(*) FROM frames WHERE state IN ({live})"  # noqa: S608
    counts = dict(db.execute(query))
    known = {name: counts.get(name, 0) + owed.get(name, 0) for name in wire.Balance.__struct_fields__}
    return wire.Balance(**known)


def events(db: sqlite3.Connection, limit: int) -> list[Event]:
    rows = db.execute("SELECT at, kind, frame_id, reason FROM events ORDER BY id DESC LIMIT ?", (limit,))
    return [Event(*row) for row in rows]


def entry_of(row: tuple[str, str, int, int, float, str, int, bytes | None]) -> Entry:
    frame_id, sha256, size_bytes, priority, score, state, attempts, grant = row
    try:
        known = None if grant is None else msgspec.json.decode(grant, type=wire.Grant)
    except msgspec.MsgspecError:
        known = None  # it is offered again
    return Entry(frame_id, sha256, size_bytes, priority, score, State(state), attempts, known)
