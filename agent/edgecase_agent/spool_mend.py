"""Putting a spool right at its start: after a kill or a power cut, and where its database is gone or damaged.

The frames' files tell all that is needed to send them (`spool_files`): the database is an index that can be built anew, and the accounts.
What is decided here:

* A file that is whole and has no row becomes a frame that waits: a kill came between the file and its row, or the rows went with a torn
  write-ahead log, or the whole database is gone. It is counted as kept, since nobody counted it or the count is gone as well.
* A row without its whole file is `lost_local`, counted and told. So is a file that cannot be read as a frame; it is set aside.
* A database that cannot be read, or one damaged row in it, has it built anew; the old one stays beside it as `spool.db.damaged`. Counters
  that are whole go on, one that is damaged follows from the others, and what was kept and is nowhere is counted as lost. Without any
  counter to go on from, the accounts begin with what is there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecase_agent import durable
from edgecase_agent import spool_rows as rows
from edgecase_agent.spool_files import Damaged, describe
from edgecase_agent.spool_open import DATABASE_FAULTS, connect, plain
from edgecase_agent.spool_rows import ENDS, SET_ASIDE, Facts, RowDamaged, State

DATABASE: Final = "spool.db"
FRAMES: Final = "frames"
ASIDE: Final = "aside"
_MARK: Final = "rebuild"
_HEX: Final = frozenset("0123456789abcdef")
_ITS_FILES: Final = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")


@dataclass(frozen=True)
class Sweep:
    """What a start found: leftovers of a kill that were removed, frames without a row, and frames that were lost."""

    leftovers: int = 0
    found_again: int = 0
    lost: int = 0


def frame_file(folder: Path, frame_id: str) -> Path:
    """Where the file of a frame lies that is to be sent."""
    return folder / FRAMES / f"{frame_id}.jpg"


def aside_file(folder: Path, frame_id: str) -> Path:
    """Where it lies once it was set aside."""
    return folder / ASIDE / f"{frame_id}.jpg"


def remove_files(folder: Path, frame_ids: Iterable[str]) -> None:
    """Of frames that have come to an end, wherever they lie."""
    for frame_id in frame_ids:
        frame_file(folder, frame_id).unlink(missing_ok=True)
        aside_file(folder, frame_id).unlink(missing_ok=True)


def set_aside(folder: Path, frame_id: str) -> None:
    """Out of the way of what is to be sent; a start does it where a kill came before."""
    with suppress(FileNotFoundError):
        frame_file(folder, frame_id).replace(aside_file(folder, frame_id))


# ---- after a kill --------------------------------------------------------------------------------------------------


def sweep(db: sqlite3.Connection, folder: Path) -> Sweep:
    """Hold rows and files against each other, inside a transaction; rows of ends go with the next one. Raises `RowDamaged`."""
    files, leftovers = _frame_files(folder / FRAMES)
    aside, _ = _frame_files(folder / ASIDE)
    lost = 0
    if (
        found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    ) != "ok":  # a row that no index leads to is never sent
        raise RowDamaged(found)
    if broken := rows.counters(db)[1]:
        raise RowDamaged(f"the count of {broken[0]}")
    for facts in rows.every(db):
        path, put_aside = files.pop(facts.id, None), aside.pop(facts.id, None)
        state = State(facts.state)
        if state in SET_ASIDE:
            if path is not None:
                set_aside(folder, facts.id)
            elif put_aside is None and facts.on_disk:
                rows.update(db, facts._replace(on_disk=0))
        elif state in ENDS:
            remove_files(folder, (facts.id,))
        elif (fault := _fault(folder, facts, path, put_aside)) is not None:
            rows.move(db, facts.id, State.LOST_LOCAL, fault, on_disk=path is not None)
            set_aside(folder, facts.id)
            lost += 1
    found, unreadable = adopt(db, folder, files.values())
    rows.add(db, {"kept": found + unreadable + len(aside), State.LOST_LOCAL: unreadable + len(aside)})
    _take_aside(db, aside.values())
    _count_bytes(db)
    return Sweep(leftovers, found, lost + unreadable + len(aside))


def adopt(db: sqlite3.Connection, folder: Path, files: Collection[Path]) -> tuple[int, int]:
    """Give rows to files that have none, uncounted: how many wait now, and how many cannot be read and are set aside."""
    found = unreadable = 0
    for path in files:
        try:
            rows.insert(db, rows.of_file(describe(path)))
            found += 1
        except Damaged as error:
            _insert_lost(db, path, str(error))
            set_aside(folder, path.stem)
            unreadable += 1
    return found, unreadable


def _fault(folder: Path, facts: Facts, path: Path | None, put_aside: Path | None) -> str | None:
    """What is wrong with the file of a frame that is to be sent."""
    if path is None and put_aside is not None:  # its row is older than the move
        path = put_aside.replace(frame_file(folder, facts.id))
    if path is None:
        return "its file is missing"
    found_bytes = path.stat().st_size  # the content is looked at before it is sent
    return (
        None if found_bytes > facts.size_bytes else f"its file has {found_bytes} of more than {facts.size_bytes} bytes"
    )


def _frame_files(folder: Path) -> tuple[dict[str, Path], int]:
    """Files by frame id, and how many half-written ones were removed; what is not ours is left alone."""
    found, leftovers = {}, 0
    for path in folder.iterdir():
        if path.suffix == ".part":
            path.unlink(missing_ok=True)
            leftovers += 1
        elif path.suffix == ".jpg" and len(path.stem) == 32 and set(path.stem) <= _HEX:
            found[path.stem] = path
    return found, leftovers


def _take_aside(db: sqlite3.Connection, files: Iterable[Path]) -> None:
    for path in files:
        _insert_lost(db, path, "its row was gone")


def _insert_lost(db: sqlite3.Connection, path: Path, reason: str) -> None:
    try:
        facts = rows.of_file(describe(path), State.LOST_LOCAL)
    except Damaged:
        facts = Facts(path.stem, "", path.stat().st_size, 0, 0.0, "", State.LOST_LOCAL.value)
    rows.insert(db, facts)
    rows.note(db, State.LOST_LOCAL, path.stem, reason)


def _count_bytes(db: sqlite3.Connection) -> None:
    total = db.execute("SELECT coalesce(sum(size_bytes), 0) FROM frames WHERE on_disk = 1").fetchone()[0]
    counted = db.execute("SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'bytes'").fetchone()[0]
    rows.add(db, {"bytes": total - counted})


# ---- a database that is gone or damaged ----------------------------------------------------------------------------


def mark_damaged(folder: Path) -> None:
    """Have the next start build the database anew."""
    (folder / _MARK).touch()


def wants_rebuilding(folder: Path) -> str | None:
    """Why the database is to be built anew; None where it is not."""
    if (folder / _MARK).exists():
        return "the spool's database was damaged"
    if not (folder / DATABASE).exists() and any(_frame_files(folder / FRAMES)[0]):
        return "the spool's database was gone"
    return None


def rebuild(folder: Path, reason: str) -> None:
    """Build the database anew from the frames' files. A kill at any moment leaves the old one or the new one."""
    part = folder / f"{DATABASE}.part"
    for name in (part.name, f"{part.name}-wal", f"{part.name}-shm"):
        (folder / name).unlink(missing_ok=True)
    whole, broken = _salvaged(folder / DATABASE)
    with closing(connect(part)) as db:
        db.execute("BEGIN IMMEDIATE")
        found, unreadable = adopt(db, folder, _frame_files(folder / FRAMES)[0].values())
        aside = _frame_files(folder / ASIDE)[0].values()
        _take_aside(db, [path for path in aside if rows.find(db, path.stem) is None])
        known_lost = unreadable if whole else unreadable + len(aside)
        lost = _go_on(db, whole, broken, found, known_lost)
        _count_bytes(db)
        rows.note(db, "rebuilt", "", f"{reason}: {found} frames found again, {lost} lost")
        db.execute("COMMIT")
    part.replace(folder / f"{DATABASE}.new")
    durable.sync_folder(folder)
    finish(folder)


def finish(folder: Path) -> None:
    """Put a database that was built anew in the place of the old one; nothing where there is none."""
    new = folder / f"{DATABASE}.new"
    if not new.exists():
        return
    for name in _ITS_FILES:
        with suppress(FileNotFoundError):
            (folder / name).replace(folder / f"{name}.damaged")
    durable.publish(new, folder / DATABASE)
    (folder / _MARK).unlink(missing_ok=True)


def _salvaged(path: Path) -> tuple[dict[str, int], list[str]]:
    """The counters of a damaged database that are whole, and the names of those that are not."""
    if path.exists():
        with suppress(*DATABASE_FAULTS), closing(plain(path)) as db:
            return rows.counters(db)
    return {}, []


def _go_on(db: sqlite3.Connection, whole: dict[str, int], broken: list[str], found: int, lost: int) -> int:
    """Write the counters that the new database begins with; how many frames are lost."""
    ends = {str(end): whole.get(end, 0) for end in ENDS}
    ends[State.LOST_LOCAL] += lost
    accounted = found + sum(ends.values())
    missing = max(0, whole.get("kept", 0) - accounted)
    if missing and (unknown := [name for name in broken if name in ends]):
        ends[unknown[0]] += missing  # it follows from the others
    else:
        ends[State.LOST_LOCAL] += missing
        lost += missing
    acknowledged, kept = ends[State.ACKNOWLEDGED], accounted + missing
    ever = {name: max(acknowledged, min(whole.get(name, 0), kept - found)) for name in ("offered", "uploaded")}
    rows.add(db, {**ends, **ever, "kept": kept, "bytes_sent": whole.get("bytes_sent", 0)})
    return lost
