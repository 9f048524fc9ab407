"""Frames waiting to be sent. What `put` called kept survives a power cut, and every frame is accounted for."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from edgecase_agent import durable, spool_files, spool_mend
from edgecase_agent import spool_rows as rows
from edgecase_agent.frames import FrameMeta
from edgecase_agent.spool_files import Damaged, Stretch
from edgecase_agent.spool_mend import Sweep
from edgecase_agent.spool_open import (
    DATABASE_FAULTS,
    SpoolError,
    code,
    connect,
    only_writer,
    opening,
    plain,
    tells_of_damage,
)
from edgecase_agent.spool_rows import ENDS, MOVES, SET_ASIDE, Entry, Event, State
from edgecase_agent.spool_schema import WAITING
from edgecase_models import wire

__all__ = ["MOVES", "Damaged", "Entry", "Event", "Look", "Put", "PutResult", "Spool", "SpoolError", "State", "Sweep"]

MAX_FRAME_BYTES: Final = 64_000_000
KEEP_PER_TRIGGER: Final = 10
_ENDED_LEFT: Final = 16


class DiskFull(Exception):
    """The disk is full and nothing was changed: go on later, when somebody has made room."""


class Put(StrEnum):
    """What became of a frame given to `put`."""

    KEPT = "kept"
    EVICTED = "evicted"  # it was worth less than everything it would have displaced
    DISK_FULL = "disk_full"  # the disk took nothing, even after room was made


@dataclass(frozen=True)
class PutResult:
    """The outcome, why, and whose room was taken. Unless it is KEPT, the frame is counted as evicted."""

    outcome: Put
    reason: str = ""
    displaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """The spool as seen from outside: nothing is opened for writing and nothing is repaired."""

    balance: wire.Balance
    bytes_on_disk: int
    bytes_sent: int
    events: tuple[Event, ...]


class Spool:
    """A folder with `spool.db`, `frames/<frame id>.jpg` and `aside/`, shared by the process that puts and the one that sends.

    Order of a put: write `.part`, fsync, rename, fsync the folder, insert the row (WAL, synchronous=FULL). So a row always has its
    whole file. At an end the row is written first and the file removed after; a start removes what a kill left between the two. The row
    itself goes once that removal is synced: a power cut may bring a file back, and without its row it would count as another frame.
    How far a frame is on its way is not synced: what a power cut forgets of that, the cloud is asked again.
    A file tells of itself what its row does, and each has a checksum: a damaged row, or a database that is gone, costs no frame. Whoever
    finds such damage ends with `durable.StorageFailed`, and the next start builds the database anew (`spool_mend`).

    Room is made by the quota and the floor of free disk, never by age: the frames of lowest (priority, score) go first, but the last
    `keep_per_trigger` of each trigger stay. Each that goes is an event and is counted.
    Only `putting=True` may call `put`, and one process at a time. Methods may be called from several threads.
    """

    def __init__(
        self,
        folder: Path,
        quota_bytes: int,
        min_free_bytes: int = 0,
        *,
        putting: bool = False,
        keep_per_trigger: int = KEEP_PER_TRIGGER,
        ballast_bytes: int = 8 << 20,
    ) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"
        self._keep_per_trigger = keep_per_trigger
        self._quota_bytes = quota_bytes
        self._min_free_bytes = min_free_bytes
        self._ballast_bytes = ballast_bytes
        self._lock = threading.RLock()
        self._owed: dict[str, int] = {}  # counts that the next transaction writes
        self._ended: list[str] = []  # rows of frames whose file is removed: they go many at a time
        try:
            for inner in (spool_mend.FRAMES, spool_mend.ASIDE):
                (folder / inner).mkdir(parents=True, exist_ok=True)
            durable.sync_folder(folder.parent)
            durable.sync_folder(folder)
        except OSError as error:
            raise SpoolError(
                f"spool {folder}: cannot be made ({error.strerror}); choose another data folder"
            ) from error
        self._writer = only_writer(folder) if putting else None
        with opening(folder):
            self._connection = self._opened()
            self.swept = Sweep()
            if putting:
                try:
                    self.swept = self._swept()
                except durable.StorageFailed:
                    if spool_mend.wants_rebuilding(folder) is None:
                        raise
                    self._connection.close()
                    self._connection = self._opened()
                    self.swept = self._swept()
        self._lay_ballast()

    def close(self) -> None:
        """Write what is owed and let go of the files."""
        with self._lock:
            with suppress(DiskFull):
                self.flush()
            self._connection.close()
            if self._writer is not None:
                os.close(self._writer)
                self._writer = None

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the side that puts ------------------------------------------------------------------------------------

    def put(self, jpeg: bytes, meta: FrameMeta) -> PutResult:
        """Keep a frame: when this returns KEPT, it survives a power cut.

        Where the quota or the floor of free disk is reached, the frames of lowest (priority, score) make room, the new one among
        them. Putting the same id twice keeps the first. Raises `SpoolError` for what is no frame, `durable.StorageFailed` where the
        disk does not confirm a write.
        """
        _check(jpeg, meta)
        with self._reading():
            if self._known(meta.frame_id):
                return PutResult(Put.KEPT, "it was kept before")
            displaced: tuple[str, ...] = ()
            try:
                room = self._make_room(len(jpeg), meta)
                if isinstance(room, str):
                    self._count_evicted(meta.frame_id, room)
                    return PutResult(Put.EVICTED, room)
                displaced = room
                self._write(jpeg, meta)
            except DiskFull:
                displaced += self._free_disk(len(jpeg), meta)
                try:
                    self._write(jpeg, meta)
                except DiskFull:
                    reason = f"the disk of {self._folder} is full"
                    self._count_evicted(meta.frame_id, reason)
                    return PutResult(Put.DISK_FULL, reason, displaced)
            return PutResult(Put.KEPT, displaced=displaced)

    def _write(self, jpeg: bytes, meta: FrameMeta) -> None:
        path = spool_mend.frame_file(self._folder, meta.frame_id)
        part = path.with_suffix(".jpg.part")
        described, content = spool_files.pack(jpeg, meta)
        try:
            durable.write_synced(part, content)
            durable.publish(part, path)
            with self._transaction() as db:
                rows.insert(db, rows.of_file(described))
                rows.add(db, {"kept": 1, "bytes": len(jpeg)})
        except (OSError, DiskFull) as error:
            part.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(error, OSError) and durable.is_full(error):
                raise DiskFull from error
            raise

    def _make_room(self, size_bytes: int, meta: FrameMeta) -> tuple[str, ...] | str:
        """Evict what is worth less until the frame fits; the ids that went, or why the new frame must go itself."""
        over_quota = self._counter("bytes") + size_bytes - self._quota_bytes
        # Below the floor the spool stops growing; it is not emptied for what other programs have written.
        floor_bytes = self._min_free_bytes
        under_floor = (
            size_bytes if floor_bytes and shutil.disk_usage(self._folder).free - size_bytes < floor_bytes else 0
        )
        if over_quota <= 0 and under_floor <= 0:
            return ()
        limit = "the quota" if over_quota > 0 else "the floor of free disk"
        gone = self._evict(max(over_quota, under_floor), meta, f"{limit} was reached")
        return f"{limit} was reached and every other frame is worth more" if gone is None else gone

    def _evict(self, need_bytes: int, worth: FrameMeta, reason: str, *, some: bool = False) -> tuple[str, ...] | None:
        """Remove the least valuable files until `need_bytes` are free; None, and nothing removed, where that cannot be.

        With `some`, as much as there is. The row is written before the file goes, so that a kill between the two counts right; on a
        disk too full for that the file goes first, since SQLite cannot even delete.
        """
        victims: list[tuple[str, State]] = []
        unlinked = False
        for _ in range(2):
            try:
                with self._transaction() as db:
                    victims, freed_bytes = rows.least_valuable(db, need_bytes, worth, self._keep_per_trigger)
                    if freed_bytes < need_bytes and not some:
                        return None
                    self._end_victims(db, victims, reason)
                break
            except DiskFull:
                if unlinked:
                    raise
                unlinked = True
                self._unlink(frame_id for frame_id, _ in victims)
        self._unlink(frame_id for frame_id, _ in victims)
        return tuple(frame_id for frame_id, _ in victims)

    def _end_victims(self, db: sqlite3.Connection, victims: list[tuple[str, State]], reason: str) -> None:
        for frame_id, state in victims:
            if state in SET_ASIDE:
                facts = rows.find(db, frame_id)
                assert facts is not None, "it was found in this transaction"
                rows.add(db, {"bytes": -facts.size_bytes})
                rows.update(db, facts._replace(on_disk=0))
                rows.note(db, "set_aside_removed", frame_id, reason)
            else:
                rows.move(db, frame_id, State.EVICTED, reason)
                self._ended.append(frame_id)

    def _free_disk(self, size_bytes: int, meta: FrameMeta) -> tuple[str, ...]:
        """The disk is full although quota and floor allowed the frame: give up the ballast, then what is worth less."""
        self._ballast.unlink(missing_ok=True)
        with suppress(DiskFull):
            return self._evict(size_bytes, meta, "the disk is full", some=True) or ()
        return ()

    def _count_evicted(self, frame_id: str, reason: str) -> None:
        try:
            with self._transaction() as db:
                rows.add(db, {"kept": 1, "evicted": 1})
                rows.note(db, State.EVICTED, frame_id, reason)
        except DiskFull:
            self._owe({"kept": 1, "evicted": 1})

    def _swept(self) -> Sweep:
        """Put right what a kill or a power cut left; what is left to do on a full disk waits for the next start."""
        try:
            with self._transaction() as db:
                swept = spool_mend.sweep(db, self._folder)
                ended = [facts.id for facts in rows.every(db) if facts.state in ENDS and facts.state not in SET_ASIDE]
            self._ended = ended
            self.flush()
        except DiskFull:
            return Sweep()
        return swept

    # ---- the side that sends -----------------------------------------------------------------------------------

    def due(self, limit: int, now_s: float, skip: Collection[str] = ()) -> list[Entry]:
        """Up to `limit` frames to work on now: those on their way first, then by worth; none of `skip`.

        `now_s` is on the clock of `failed`.
        """
        begun = f"{rows.ENTRIES} WHERE state IN ('granted', 'stored') AND next_at_s <= ? LIMIT ?"
        waiting = (
            f"{rows.ENTRIES} WHERE {WAITING} AND next_at_s <= ? ORDER BY priority DESC, score DESC, id DESC LIMIT ?"
        )
        limits = (now_s, limit + len(skip))
        with self._reading() as db:
            found = [row for query in (begun, waiting) for row in db.execute(query, limits)]
            return [rows.entry_of(row) for row in found if row[0] not in skip][:limit]

    def entry(self, frame_id: str) -> Entry | None:
        """The frame as it stands, or None where it has come to an end."""
        with self._reading() as db:
            row = db.execute(f"{rows.ENTRIES} WHERE id = ?", (frame_id,)).fetchone()
            entry = None if row is None else rows.entry_of(row)
        return None if entry is None or entry.state in ENDS else entry

    def wake_all(self) -> None:
        """Let every frame be due again: after a restart, whose clock begins anew."""
        with self._reading() as db:
            if db.execute("SELECT 1 FROM frames WHERE next_at_s > 0 LIMIT 1").fetchone() is not None:
                with self._transaction():
                    db.execute("UPDATE frames SET next_at_s = 0 WHERE next_at_s > 0")

    def meta(self, entry: Entry) -> FrameMeta:
        """What was said of the frame when it was put, or `Damaged`."""
        described = spool_files.describe(spool_mend.frame_file(self._folder, entry.frame_id))
        if (described.sha256, described.size_bytes) != (entry.sha256, entry.size_bytes):
            raise Damaged(f"frame {entry.frame_id}: its file and its row tell of different pictures")
        return described.meta

    def open(self, entry: Entry, start: int = 0, length: int | None = None) -> Stretch:
        """The picture, or a stretch of it, after the sha256 of the whole was found right; `Damaged` otherwise.

        The open file stays readable when the frame is evicted meanwhile.
        """
        path = spool_mend.frame_file(self._folder, entry.frame_id)
        length = entry.size_bytes - start if length is None else length
        return spool_files.open_checked(path, entry.sha256, entry.size_bytes, start, length)

    def offered(self, frame_id: str) -> bool:
        """The frame was offered. Like all moves: False, and nothing changed, where it is not allowed or the frame is gone; `DiskFull`
        where it cannot be written down.
        """
        return self._moved(frame_id, State.OFFERED)

    def granted(self, frame_id: str, grant: wire.Grant) -> bool:
        """The cloud wants the pixels; the grant outlives a restart."""
        return self._moved(frame_id, State.GRANTED, grant=grant)

    def part_stored(self, frame_id: str, done: wire.PartsDone) -> bool:
        """The store took the first parts of a granted picture: a restart goes on from there."""
        with self._transaction() as db:
            return rows.part_stored(db, frame_id, done)

    def stored(self, frame_id: str) -> bool:
        """The store took the pixels: not a receipt yet."""
        return self._moved(frame_id, State.STORED)

    def acknowledged(self, frame_id: str) -> bool:
        """The cloud has checked and committed the frame: the spool lets go of it."""
        return self._moved(frame_id, State.ACKNOWLEDGED)

    def declined(self, frame_id: str, reason: str) -> bool:
        """The cloud does not want the pixels: the spool lets go of them."""
        return self._moved(frame_id, State.DECLINED, reason)

    def rejected(self, frame_id: str, reason: str) -> bool:
        """The cloud can never take the frame: its file is set aside until the room is needed."""
        return self._moved(frame_id, State.REJECTED, reason)

    def lost(self, frame_id: str, reason: str) -> bool:
        """The frame was found damaged: what is left of its file is set aside until the room is needed."""
        return self._moved(frame_id, State.LOST_LOCAL, reason)

    def failed(self, frame_id: str, retry_at_s: float) -> None:
        """An attempt came to nothing: the frame stays where it is and is not due before `retry_at_s`."""
        with self._transaction() as db:
            db.execute("UPDATE frames SET attempts = attempts + 1, next_at_s = ? WHERE id = ?", (retry_at_s, frame_id))

    def sent(self, size_bytes: int) -> None:
        """Count bytes that went over the network; durable with the next end of a frame or `flush`."""
        self._owe({"bytes_sent": size_bytes})

    def flush(self) -> None:
        """Make what is owed durable."""
        with self._lock:
            if self._owed or self._ended:
                with self._transaction(at_most_left=0):
                    pass

    # ---- the accounts ------------------------------------------------------------------------------------------

    def balance(self) -> wire.Balance:
        """Where every frame that was kept is, in one consistent view."""
        with self._reading() as db:
            return rows.balance(db, self._owed)

    @property
    def bytes_sent(self) -> int:
        """Bytes of messages and pictures that went over the network in the life of this spool."""
        with self._reading():
            return self._counter("bytes_sent") + self._owed.get("bytes_sent", 0)

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the files that count against the quota."""
        with self._reading():
            return self._counter("bytes")

    def events(self, limit: int = 20) -> list[Event]:
        """The newest events, newest first."""
        with self._reading() as db:
            return rows.events(db, limit)

    @staticmethod
    def look(folder: Path) -> Look:
        """The accounts of a spool that other processes are using; zeroes where there is none yet."""
        path = folder / spool_mend.DATABASE
        if not path.exists():
            return Look(wire.Balance(), 0, 0, ())
        try:
            with closing(plain(path)) as connection:
                connection.execute("BEGIN")
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'counters'").fetchone() is None:
                    return Look(wire.Balance(), 0, 0, ())  # it is being made
                counters = dict(connection.execute("SELECT name, value FROM counters"))
                return Look(
                    rows.balance(connection, {}),
                    counters.get("bytes", 0),
                    counters.get("bytes_sent", 0),
                    tuple(rows.events(connection, 20)),
                )
        except DATABASE_FAULTS as error:
            raise SpoolError(f"spool {path}: cannot be read ({error})") from error

    # ---- inside ------------------------------------------------------------------------------------------------

    def _moved(self, frame_id: str, to: State, reason: str = "", *, grant: wire.Grant | None = None) -> bool:
        with self._reading():
            if not self._known(frame_id):  # a late answer costs no transaction
                return False
            goes = to in ENDS and to not in SET_ASIDE
            # On a full disk the ballast makes room, then the file itself where it is not needed any more.
            room = [lambda: self._ballast.unlink(missing_ok=True), lambda: self._unlink((frame_id,) if goes else ())]
            while True:
                try:
                    with self._transaction(synced=to in ENDS) as db:
                        moved = rows.move(db, frame_id, to, reason, grant=grant)
                        if moved and goes:
                            self._ended.append(frame_id)
                    break
                except DiskFull:
                    if not room:
                        raise
                    room.pop(0)()
            if moved and goes:
                self._unlink((frame_id,))
            elif moved and to in SET_ASIDE:
                spool_mend.set_aside(self._folder, frame_id)
            return moved

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The database, to be read; `StorageFailed` where it cannot be."""
        with self._lock:
            try:
                yield self._connection
            except DATABASE_FAULTS as error:
                raise self._failed(error) from error

    @contextmanager
    def _transaction(self, *, synced: bool = True, at_most_left: int = _ENDED_LEFT) -> Iterator[sqlite3.Connection]:
        """One durable transaction, which also writes what is owed; `DiskFull` or `StorageFailed` where it cannot be.

        Where rows of more than `at_most_left` ended frames wait to go, they go.

        One that is not `synced` outlives the process at once, and a power cut with the next that is. Order is kept: no later one survives
        without it (WAL with synchronous=NORMAL).
        """
        with self._lock:
            db = self._connection
            owed, ended, waiting = self._owed, self._removed(at_most_left), len(self._ended)
            try:
                db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                db.execute("BEGIN IMMEDIATE")
                self._check_in_place()
                rows.add(db, owed)
                for frame_id in ended:
                    db.execute("DELETE FROM frames WHERE id = ?", (frame_id,))
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                del self._ended[waiting:]
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                if isinstance(error, DATABASE_FAULTS):
                    raise self._failed(error) from error
                raise
            self._owed = {}
            del self._ended[: len(ended)]

    def _removed(self, at_most_left: int) -> tuple[str, ...]:
        """The ended frames whose rows go now, where there are more than that: the disk has the removal of their files."""
        if len(self._ended) <= at_most_left:
            return ()
        try:
            durable.sync_folder(self._folder / spool_mend.FRAMES)
        except OSError:  # a full disk: later
            return ()
        return tuple(self._ended)

    def _opened(self) -> sqlite3.Connection:
        path = self._folder / spool_mend.DATABASE
        try:
            try:
                spool_mend.finish(self._folder)
                if reason := spool_mend.wants_rebuilding(self._folder):
                    spool_mend.rebuild(self._folder, reason)
                connection = connect(path)
            except DATABASE_FAULTS as error:
                if tells_of_damage(error):
                    spool_mend.rebuild(self._folder, "the spool's database was damaged")
                elif shutil.disk_usage(self._folder).free < self._ballast_bytes and self._ballast.exists():
                    self._ballast.unlink()
                else:
                    raise
                connection = connect(path)
        except DATABASE_FAULTS as error:
            raise SpoolError(f"spool {path}: cannot be opened ({error}); free disk or check its owner") from error
        self._inode = path.stat().st_ino
        return connection

    def _check_in_place(self) -> None:
        """What is written to a database that was deleted, or put aside by another process, would be lost."""
        try:
            if (self._folder / spool_mend.DATABASE).stat().st_ino == self._inode:
                return
        except FileNotFoundError:
            pass
        raise durable.StorageFailed(
            f"spool {self._folder}: its database was taken away; it is opened anew at the next start"
        )

    def _failed(self, error: Exception) -> Exception:
        if tells_of_damage(error):
            spool_mend.mark_damaged(self._folder)
            return durable.StorageFailed(
                f"spool {self._folder}: damaged ({error}); the next start builds it anew from its files"
            )
        if code(error) == sqlite3.SQLITE_FULL:
            return DiskFull()
        return durable.StorageFailed(f"spool {self._folder}: the database cannot be written ({error}); check the disk")

    def _lay_ballast(self) -> None:
        """A file to give up when the disk is full, so that the database can be written while room is made."""
        if self._ballast_bytes == 0 or self._ballast.exists():
            return
        if shutil.disk_usage(self._folder).free < 4 * self._ballast_bytes + self._min_free_bytes:
            return
        with suppress(OSError), self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self._ballast_bytes)

    def _unlink(self, frame_ids: Iterable[str]) -> None:
        spool_mend.remove_files(self._folder, frame_ids)

    def _known(self, frame_id: str) -> bool:
        return self._connection.execute("SELECT 1 FROM frames WHERE id = ?", (frame_id,)).fetchone() is not None

    def _counter(self, name: str) -> int:
        row = self._connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def _owe(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            for name, count in counts.items():
                self._owed[name] = self._owed.get(name, 0) + count


def _check(jpeg: bytes, meta: FrameMeta) -> None:
    if not 0 < len(jpeg) <= MAX_FRAME_BYTES:
        raise SpoolError(f"frame {meta.frame_id}: a picture of {len(jpeg)} bytes is none that can be sent")
    if not math.isfinite(meta.score):
        raise SpoolError(f"frame {meta.frame_id}: its score is {meta.score}")
    if len(meta.frame_id) != 32 or not set(meta.frame_id) <= set("0123456789abcdef"):
        raise SpoolError(f"frame id {meta.frame_id[:80]!r} is not 32 hexadecimal digits")
