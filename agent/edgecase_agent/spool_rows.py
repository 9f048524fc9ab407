"""The rows of the spool: one allowed move at a time, and the accounts kept with it. A checksum tells whether a row is whole."""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from edgecase_agent.frames import FrameMeta
from edgecase_agent.spool_files import Described
from edgecase_agent.spool_schema import LIVE, WAITING
from edgecase_models import wire

_EVENTS_KEPT: Final = 10_000


class RowDamaged(Exception):
    """A row is not what was written: the database is to be built anew from the frames' files."""


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
LIVE_STATES: Final = tuple(state for state in State if MOVES[state])
ENDS: Final = tuple(state for state in State if not MOVES[state])
# Their files stay, to be looked at, until the room is needed.
SET_ASIDE: Final = (State.REJECTED, State.LOST_LOCAL)


class Facts(NamedTuple):
    """A row without its pacing. `picked_by` names the trigger; `parts_json` tells what parts of the picture the store has."""

    id: str
    sha256: str
    size_bytes: int
    priority: int
    score: float
    picked_by: str
    state: str
    on_disk: int = 1
    was_offered: int = 0
    was_uploaded: int = 0
    grant_json: bytes | None = None
    parts_json: bytes | None = None

    @property
    def checksum(self) -> int:
        """Of all of it, whatever type a flipped bit gave a value."""
        return zlib.crc32(repr(tuple(self)).encode())


_COLUMNS: Final = ", ".join(Facts._fields)
_PLACES: Final = ", ".join("?" * (len(Facts._fields) + 1))
_INSERT: Final = f"INSERT INTO frames ({_COLUMNS}, checksum) VALUES ({_PLACES})"  # noqa: S608
_UPDATE: Final = f"UPDATE frames SET ({_COLUMNS}, checksum) = ({_PLACES}) WHERE id = ?"  # noqa: S608
ROWS: Final = f"SELECT {_COLUMNS}, checksum FROM frames"  # noqa: S608
ENTRIES: Final = f"SELECT {_COLUMNS}, checksum, attempts FROM frames"  # noqa: S608


@dataclass(frozen=True)
class Entry:
    """A frame in the spool that has not come to an end. `parts`: those that the store has, where it goes in parts."""

    frame_id: str
    sha256: str
    size_bytes: int
    priority: int
    score: float
    state: State
    attempts: int
    grant: wire.Grant | None
    parts: wire.PartsDone | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a frame and that a person may want to see."""

    at: str
    kind: str
    frame_id: str
    reason: str


# ---- whole rows ----------------------------------------------------------------------------------------------------


def facts_of(row: tuple[Any, ...]) -> Facts:
    """A row of `ROWS`, found whole, or `RowDamaged`."""
    facts = Facts(*row[: len(Facts._fields)])
    if facts.checksum != row[len(Facts._fields)]:
        raise RowDamaged(f"the row of frame {str(facts.id)[:40]}")
    return facts


def find(db: sqlite3.Connection, frame_id: str) -> Facts | None:
    row = db.execute(f"{ROWS} WHERE id = ?", (frame_id,)).fetchone()
    return None if row is None else facts_of(row)


def every(db: sqlite3.Connection) -> list[Facts]:
    return [facts_of(row) for row in db.execute(ROWS)]


def insert(db: sqlite3.Connection, facts: Facts) -> None:
    db.execute(_INSERT, (*facts, facts.checksum))


def update(db: sqlite3.Connection, facts: Facts) -> None:
    db.execute(_UPDATE, (*facts, facts.checksum, facts.id))


def of_file(described: Described, state: State = State.SPOOLED) -> Facts:
    """The row of a frame that only its file tells of."""
    meta = described.meta
    return Facts(
        meta.frame_id,
        described.sha256,
        described.size_bytes,
        meta.priority,
        meta.score,
        picked_by(meta),
        state.value,
    )


def picked_by(meta: FrameMeta) -> str:
    """The trigger that picked a frame; none for one that only went beside a pick."""
    beside = meta.context_of is not msgspec.UNSET
    return "" if beside or not meta.reasons else meta.reasons[0].strategy


def entry_of(row: tuple[Any, ...]) -> Entry:
    """A row of `ENTRIES`."""
    facts = facts_of(row)
    grant = None if facts.grant_json is None else msgspec.json.decode(facts.grant_json, type=wire.Grant)
    parts = None if facts.parts_json is None else msgspec.json.decode(facts.parts_json, type=wire.PartsDone)
    return Entry(
        facts.id,
        facts.sha256,
        facts.size_bytes,
        facts.priority,
        facts.score,
        State(facts.state),
        row[-1],
        grant,
        parts,
    )


# ---- moves ---------------------------------------------------------------------------------------------------------


def move(
    db: sqlite3.Connection,
    frame_id: str,
    to: State,
    reason: str = "",
    *,
    grant: wire.Grant | None = None,
    on_disk: bool = True,
) -> bool:
    """Make one allowed move and keep the accounts; inside a transaction."""
    old = find(db, frame_id)
    if old is None or to not in MOVES[State(old.state)]:
        return False
    kept_grant = old.grant_json if to is State.STORED else None  # it names the key
    stays = on_disk and (to not in ENDS or to in SET_ASIDE)
    new = old._replace(
        state=str(to),
        grant_json=kept_grant if grant is None else msgspec.json.encode(grant),
        parts_json=old.parts_json if grant is None or _goes_on(old, grant) else None,
        on_disk=int(stays),
        was_offered=int(old.was_offered or to is State.OFFERED),
        was_uploaded=int(old.was_uploaded or to in {State.STORED, State.ACKNOWLEDGED}),
    )
    update(db, new)
    counts = {"offered": new.was_offered - old.was_offered, "uploaded": new.was_uploaded - old.was_uploaded}
    if to in ENDS:
        counts[to] = 1
        if to is not State.ACKNOWLEDGED:
            note(db, to, frame_id, reason)
    if not stays:
        counts["bytes"] = -old.size_bytes
    add(db, counts)
    return True


def part_stored(db: sqlite3.Connection, frame_id: str, done: wire.PartsDone) -> bool:
    """The store has the first parts of a granted picture."""
    old = find(db, frame_id)
    if old is None or old.state != State.GRANTED:
        return False
    update(db, old._replace(parts_json=msgspec.json.encode(done)))
    return True


def _goes_on(old: Facts, grant: wire.Grant) -> bool:
    """Whether a new grant is for the upload of which the store has parts already."""
    if old.parts_json is None or grant.parts is msgspec.UNSET:
        return False
    done = msgspec.json.decode(old.parts_json, type=wire.PartsDone)
    return (done.upload_id, done.part_bytes) == (grant.parts.upload_id, grant.parts.part_bytes)


# ---- who makes room ------------------------------------------------------------------------------------------------


def least_valuable(
    db: sqlite3.Connection, need_bytes: int, worth: FrameMeta, keep: int
) -> tuple[list[tuple[str, State]], int]:
    """What was set aside, then waiting frames, until `need_bytes` are reached: ids with their states, and the bytes.

    A waiting frame makes room for one that is worth more, the least valuable first, unless fewer than `keep` of its trigger would be
    left. A frame whose trigger has fewer than that is worth more than any frame of a trigger that has more.
    """
    victims: list[tuple[str, State]] = []
    freed_bytes = 0
    set_aside = "SELECT id, size_bytes, state FROM frames WHERE state IN ('rejected', 'lost_local') AND on_disk = 1"
    for frame_id, size_bytes, state in db.execute(set_aside):
        if freed_bytes >= need_bytes:
            return victims, freed_bytes
        victims.append((frame_id, State(state)))
        freed_bytes += size_bytes
    mine = picked_by(worth)
    rare = bool(mine) and _count(db, mine, keep) < keep
    gone: Counter[str] = Counter()
    waiting = f"SELECT id, size_bytes, state, picked_by, priority, score FROM frames WHERE {WAITING}"  # noqa: S608
    values: tuple[float, ...] = ()
    if not rare:
        waiting, values = f"{waiting} AND (priority, score) < (?, ?)", (worth.priority, worth.score)
    for frame_id, size_bytes, state, its, priority, score in db.execute(
        f"{waiting} ORDER BY priority, score, id", values
    ):
        if freed_bytes >= need_bytes:
            break
        same = bool(its) and its == mine
        if its and not same and _count(db, its, keep + gone[its] + 1) <= keep + gone[its]:
            continue  # as few as there may be are left of it
        if same and (
            (priority, score) >= (worth.priority, worth.score) or not _room_among_its_own(db, its, keep, gone)
        ):
            continue
        gone[its] += 1
        victims.append((frame_id, State(state)))
        freed_bytes += size_bytes
    return victims, freed_bytes


def _room_among_its_own(db: sqlite3.Connection, trigger: str, keep: int, gone: Counter[str]) -> bool:
    """The frame that comes counts as one of its trigger: one for one they may always change places."""
    return gone[trigger] == 0 or _count(db, trigger, keep + gone[trigger]) >= keep + gone[trigger]


def _count(db: sqlite3.Connection, trigger: str, most: int) -> int:
    """Of one trigger, what has not come to an end, counted no further than `most`."""
    query = f"SELECT count(*) FROM (SELECT 1 FROM frames WHERE picked_by = ? AND {LIVE} LIMIT ?)"  # noqa: S608
    return int(db.execute(query, (trigger, most)).fetchone()[0])


# ---- accounts and events -------------------------------------------------------------------------------------------


def count_checksum(name: str, value: int) -> int:
    """Of a counter; a function of the database too."""
    return zlib.crc32(f"{name} {value}".encode(errors="surrogateescape"))


def add(db: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count:
            db.execute(
                "INSERT INTO counters VALUES (?, ?, count_checksum(?, ?)) ON CONFLICT (name) DO UPDATE SET "
                "value = value + excluded.value, checksum = count_checksum(excluded.name, value + excluded.value)",
                (str(name), count, str(name), count),
            )


def counters(db: sqlite3.Connection) -> tuple[dict[str, int], list[str]]:
    """The counters that are whole, and the names of those that are not."""
    found = db.execute("SELECT name, value, checksum FROM counters").fetchall()
    whole = {name: value for name, value, checksum in found if count_checksum(name, value) == checksum}
    return whole, [name for name, _, _ in found if name not in whole]


def note(db: sqlite3.Connection, kind: str, frame_id: str, reason: str) -> None:
    cursor = db.execute(
        "INSERT INTO events (at, kind, frame_id, reason) VALUES (?, ?, ?, ?)",
        (wire.now().isoformat(), str(kind), frame_id, reason),
    )
    db.execute("DELETE FROM events WHERE id <= ?", ((cursor.lastrowid or 0) - _EVENTS_KEPT,))


def balance(db: sqlite3.Connection, owed: Mapping[str, int]) -> wire.Balance:
    query = f"SELECT name, value FROM counters UNION ALL SELECT 'spooled', count(*) FROM frames WHERE {LIVE}"  # noqa: S608
    counts = dict(db.execute(query))
    known = {name: counts.get(name, 0) + owed.get(name, 0) for name in wire.Balance.__struct_fields__}
    return wire.Balance(**known)


def events(db: sqlite3.Connection, limit: int) -> list[Event]:
    rows = db.execute("SELECT at, kind, frame_id, reason FROM events ORDER BY id DESC LIMIT ?", (limit,))
    return [Event(*row) for row in rows]
