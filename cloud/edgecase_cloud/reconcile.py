"""The catalogue held against the store: objects that no row knows, acknowledged rows whose object is gone, and what can be put right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud import clocks, dataset_files, datasets, durable
from edgecase_cloud.catalogue import ADOPTED, Delivery, Device, Event, Forgotten, Frame, Review
from edgecase_cloud.dataset_files import DatasetFolder
from edgecase_cloud.decoding import decoder
from edgecase_cloud.forgetting import FRAME_ID
from edgecase_cloud.ingest import EXTENSIONS, PARTS_WAIT
from edgecase_cloud.services import Services
from edgecase_cloud.store import NotFound

PREFIX: Final = "frames/"
STRATEGY: Final = "adopted"
"""Why a frame is here that is known by its object alone."""
_DELETED_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class Reconciliation:
    """What does not match. `lost` is the one that must be empty: an acknowledged frame without its object.

    `unknown`: objects without a row, as after the catalogue was restored from a backup; a device that offers the frame
    again mends it, `repair` takes in what no device has any more. `waiting`: the object is there and the device's word is still to come.
    `leftover`: objects whose removal was decided: their frames are forgotten or expired.
    """

    objects: int
    acknowledged: int
    lost: tuple[str, ...]
    unknown: tuple[str, ...]
    waiting: tuple[str, ...]
    leftover: tuple[str, ...] = ()

    def as_json(self) -> Mapping[str, Any]:
        """For a script."""
        return vars(self)


@dataclass
class Repaired:
    """What was put right, by frame id, and why the rest was not. `removed` are keys; so are `abandoned`, of uploads in parts that nobody
    has gone on with for long.
    """

    acknowledged: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> Mapping[str, Any]:
        """For a script."""
        return vars(self)


def reconcile(parts: Services) -> Reconciliation:
    """Read every key and every row. Raises `Unreachable` or `Refused` where the store cannot be read.

    Keys are read before rows, and a row stands before its object does: what arrives meanwhile is never called unknown.
    """
    keys = set(parts.store.keys(PREFIX))
    with parts.catalogue.session() as session:
        rows = session.execute(sa.select(Frame.id, Frame.key, Frame.delivery)).all()
        forgotten = set(session.scalars(sa.select(Forgotten.frame_id)))
    suspects = [row for row in rows if row.delivery is Delivery.ACKNOWLEDGED and row.key not in keys]
    rowless = keys - {row.key for row in rows}
    decided = {key for key in rowless if _frame_id_of(key) in forgotten}
    decided |= {
        row.key for row in rows if row.key in keys and (row.delivery is Delivery.EXPIRED or row.id in forgotten)
    }
    return Reconciliation(
        objects=len(keys),
        acknowledged=sum(row.delivery is Delivery.ACKNOWLEDGED for row in rows),
        lost=tuple(sorted(row.id for row in suspects if parts.store.head(row.key) is None)),
        unknown=tuple(sorted(rowless - decided)),
        waiting=tuple(sorted(row.id for row in rows if row.delivery is Delivery.GRANTED and row.key in keys)),
        leftover=tuple(sorted(decided)),
    )


def repair(parts: Services, found: Reconciliation, now: datetime) -> Repaired:
    """Put right what can be. Nothing is removed but what was decided to go, and uploads
    in parts that nobody goes on with. Raises `StoreError`; may be called again at any time.

    A waiting frame whose object is what was offered is acknowledged; its device hears of it when it asks. A lost one is restored where a
    dataset version holds the same bytes. An unknown object becomes a frame of its device: what the model saw in it is not known until the
    device offers it again, but a person can label it.
    """
    done = Repaired()
    durable.sync_filesystem(parts.settings.data)()  # a row says that a frame is here when the disk has it
    for frame_id in found.waiting:
        _acknowledge(parts, frame_id, now, done)
    copies = _copies(parts) if found.lost else {}
    for frame_id in found.lost:
        _restore(parts, frame_id, copies, done)
    for key in found.unknown:
        _adopt(parts, key, now, done)
    for start in range(0, len(found.leftover), _DELETED_AT_ONCE):
        parts.store.delete(found.leftover[start : start + _DELETED_AT_ONCE])
    done.removed += found.leftover
    done.abandoned += parts.store.give_up_parts(PREFIX, now - PARTS_WAIT)
    changed = {name: len(value) for name, value in done.as_json().items() if value}
    if changed.keys() - {"left"}:
        with parts.catalogue.writing.begin() as session:
            session.add(Event(at=now, kind="repaired", subject="store", detail=changed))
    return done


def _acknowledge(parts: Services, frame_id: str, now: datetime, done: Repaired) -> None:
    with parts.catalogue.session() as session:
        row = session.get_one(Frame, frame_id)
    if parts.store.head(row.key) is None or not parts.store.holds(row.key, row.size_bytes, row.sha256):
        done.left[frame_id] = "the object is not what was offered, or cannot be read; its device's next word decides"
        return
    with parts.catalogue.writing.begin() as session:
        row = session.get_one(Frame, frame_id)
        if row.delivery is Delivery.GRANTED:
            row.delivery, row.acknowledged_at = Delivery.ACKNOWLEDGED, now
            done.acknowledged.append(frame_id)


def _restore(parts: Services, frame_id: str, copies: Mapping[str, Iterable[Any]], done: Repaired) -> None:
    with parts.catalogue.session() as session:
        row = session.get_one(Frame, frame_id)
    for path in copies.get(row.sha256, ()):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == row.sha256:
            parts.store.put(row.key, content, media_type=row.media_type)
            with parts.catalogue.writing.begin() as session:
                session.execute(sa.update(Frame).where(Frame.id == frame_id).values(problem=None))
            done.restored.append(frame_id)
            return
    done.left[frame_id] = "no dataset version holds a copy; restore the object from a backup of the store"


def _copies(parts: Services) -> dict[str, list[Any]]:
    """Where dataset versions keep which bytes."""
    found: dict[str, list[Any]] = {}
    for path in datasets.root(parts.settings.data).glob("[0-9a-f]*"):
        if (path / dataset_files.MANIFEST).is_file():
            for picture in DatasetFolder.read(path).pictures:
                found.setdefault(picture.sha256, []).append(path / picture.image)
    return found


def _adopt(parts: Services, key: str, now: datetime, done: Repaired) -> None:
    """A row for an object that has none, from its key, its bytes and the time in its frame id."""
    _, device, *_ = key.split("/")
    frame_id = _frame_id_of(key)
    with parts.catalogue.session() as session:
        known = session.get(Device, device) is not None
        taken = frame_id is not None and session.get(Frame, frame_id) is not None
    if frame_id is None or taken or not known:
        done.left[key] = (
            "its name is no frame's"
            if frame_id is None
            else "its frame has another key"
            if taken
            else f"there is no device {device}"
        )
        return
    try:
        content = parts.store.get(key)
    except NotFound:
        return
    seen = decoder().picture(content)
    made_at = _made_at(frame_id, now)
    row = Frame(
        id=frame_id,
        device_id=device,
        camera="",
        frame_index=0,
        captured_at=made_at,
        recorded=True,  # the time is the id's: it has no place in the order of a boot
        offered_at=now,
        acknowledged_at=now,
        delivery=Delivery.ACKNOWLEDGED,
        key=key,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        width_px=seen.width_px or 1,
        height_px=seen.height_px or 1,
        media_type=next(iter(EXTENSIONS)),
        model_digest=ADOPTED,
        score=0.0,
        reasons=[{"strategy": STRATEGY, "score": 0.0, "threshold": 0.0, "propensity": 1.0}],
        review=Review.OPEN,
        boxes=[],
        problem=seen.problem,
    )
    with parts.catalogue.writing.begin() as session:
        if session.get(Frame, frame_id) is None and session.get(Forgotten, frame_id) is None:
            session.add(row)
            _place(session, row)
            done.adopted.append(frame_id)


def _place(session: Session, row: Frame) -> None:
    with session.no_autoflush:
        clocks.place(session, row)


def _frame_id_of(key: str) -> str | None:
    name = key.rpartition("/")[2].partition(".")[0]
    return name if FRAME_ID.fullmatch(name) and key.count("/") == 3 else None


def _made_at(frame_id: str, now: datetime) -> datetime:
    """The time in a UUID of version 7; now, where it is none."""
    if frame_id[12] != "7":
        return now
    made_at = datetime.fromtimestamp(int(frame_id[:12], 16) / 1000, UTC) if int(frame_id[:12], 16) < 2**42 else now
    return min(made_at, now)
