"""Frames that are forgotten: objects, rows, labels and copies, wherever this cloud has put them, with an audit row of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud import dataset_files, datasets, durable
from edgecase_cloud.catalogue import (
    Annotation,
    Bundle,
    Dataset,
    Delivery,
    Device,
    Event,
    Forgetting,
    Forgotten,
    Frame,
    Look,
    Standing,
)
from edgecase_cloud.dataset_files import DatasetFolder
from edgecase_cloud.errors import Unusable
from edgecase_cloud.services import Services
from edgecase_cloud.store import PART_BYTES

AT_ONCE: Final = 200
FRAME_ID: Final = re.compile(r"[0-9a-f]{32}")
REASON: Final = "it is to be forgotten"
OF_MODELS: Final = (
    "The models that are named learnt from datasets that held forgotten frames. A model does not unlearn by this: train anew without "
    "them and release the successor."
)


class ForgetError(Unusable):
    """The order cannot be carried out as it is given; the message says what it must say."""


@dataclass(frozen=True)
class Scope:
    """Which frames: of a device, of a stretch of time (from, up to but not including), or one. Several fields narrow it."""

    device: str = ""
    taken_from: datetime | None = None
    taken_to: datetime | None = None
    frame_id: str = ""

    def __post_init__(self) -> None:
        if not (self.device or self.frame_id or self.taken_from):
            raise ForgetError("say which frames: --device, --time FROM..TO or --frame")
        if (self.taken_from is None) is not (self.taken_to is None):
            raise ForgetError("a stretch of time has a beginning and an end")
        if self.taken_from is not None and self.taken_to is not None and self.taken_from >= self.taken_to:
            raise ForgetError(f"{self.taken_from.isoformat()} is not before {self.taken_to.isoformat()}")
        if self.frame_id and not FRAME_ID.fullmatch(self.frame_id):
            raise ForgetError(f"{self.frame_id!r} is no frame id: it has 32 characters of 0-9 and a-f")

    def frames(self) -> list[sa.ColumnElement[bool]]:
        """What a row must be, to be meant. A time is the frame's own, as it is shown."""
        found: list[sa.ColumnElement[bool]] = []
        if self.device:
            found.append(Frame.device_id == self.device)
        if self.taken_from is not None and self.taken_to is not None:
            found += [Frame.taken_at >= self.taken_from, Frame.taken_at < self.taken_to]
        if self.frame_id:
            found.append(Frame.id == self.frame_id)
        return found


@dataclass(frozen=True)
class Extent:
    """How much it is: frames, those of them with a picture here, those with an answer, the bytes, and the datasets that hold some."""

    frames: int
    pictures: int
    labelled: int
    size_bytes: int
    datasets: tuple[str, ...]


def extent(parts: Services, scope: Scope) -> Extent:
    """What an order would remove; nothing is changed. Raises `ForgetError` where the device is not known."""
    with parts.catalogue.session() as session:
        if scope.device and session.get(Device, scope.device) is None:
            raise ForgetError(f"there is no device {scope.device}")
        arrived = Frame.delivery == Delivery.ACKNOWLEDGED
        counted = sa.select(
            sa.func.count(),
            sa.func.count(sa.case((arrived, 1))),
            sa.func.count(sa.case((Frame.revision > 0, 1))),
            sa.func.coalesce(sa.func.sum(sa.case((arrived, Frame.size_bytes), else_=0)), 0),
        ).where(*scope.frames())
        frames, pictures, labelled, size_bytes = session.execute(counted).one()
        digests = set(session.scalars(sa.select(Frame.sha256).where(*scope.frames())))
    holding = tuple(folder.path.name for folder in _holding(datasets.root(parts.settings.data), digests))
    return Extent(frames, pictures, labelled, size_bytes, holding)


def order(parts: Services, scope: Scope, now: datetime) -> int:
    """Write the order down; its number. From here on no page, no batch and no dataset has these frames, and offers of them are declined.

    An order for a stretch of time also holds for frames that arrive later. One for a device holds for those that are known: it may go on.
    """
    with parts.catalogue.writing.begin() as session:
        made = Forgetting(at=now, **asdict(scope), detail={"datasets": [], "models": [], "frames": 0})
        session.add(made)
        session.flush()
        forgotten = sa.select(Forgotten.frame_id)
        meant = sa.select(Frame.id, sa.literal(made.id)).where(*scope.frames(), Frame.id.not_in(forgotten))
        session.execute(sa.insert(Forgotten).from_select(["frame_id", "forgetting_id"], meant))
        if scope.frame_id and session.get(Forgotten, scope.frame_id) is None:
            session.add(Forgotten(frame_id=scope.frame_id, forgetting_id=made.id))  # it has not been offered yet
        mine = sa.select(Forgotten.frame_id).where(Forgotten.forgetting_id == made.id)
        # No move of `DELIVERY_MOVES`: for the moment until it is gone, it is as if it had never been wanted.
        hidden = {"delivery": Delivery.DECLINED, "delivery_reason": REASON, "thumbnail_jpeg": b""}
        session.execute(sa.update(Frame).where(Frame.id.in_(mine)).values(**hidden))
        return made.id


def carry_out(parts: Services, clock: Callable[[], datetime]) -> list[Event]:
    """Carry out every order that is not done, also what a kill left half-done; the audit rows. Raises `StoreError` to be tried again.

    Copies go first, rows last: what still has a row is found again, and what is done twice comes to the same.
    """
    if not _waiting(parts):
        return []
    with durable.exclusive(parts.settings.path("forget.lock")):
        dataset_files.sweep(datasets.root(parts.settings.data))
        return [_carried_out(parts, number, clock) for number in _waiting(parts)]


def _waiting(parts: Services) -> Sequence[int]:
    with parts.catalogue.session() as session:
        return session.scalars(
            sa.select(Forgetting.id).where(Forgetting.done_at.is_(None)).order_by(Forgetting.id)
        ).all()


def _carried_out(parts: Services, number: int, clock: Callable[[], datetime]) -> Event:
    with parts.catalogue.session() as session:
        meant = sa.select(Frame.id, Frame.sha256).join(Forgotten, Forgotten.frame_id == Frame.id)
        rows = session.execute(meant.where(Forgotten.forgetting_id == number)).all()
    digests = {row.sha256 for row in rows}
    root = datasets.root(parts.settings.data)
    with dataset_files.nothing_written(root):  # what is built from now on has none of these frames
        held = list(_holding(root, digests))
    names = {row.id for row in rows}
    for folder in held:
        names |= {Path(picture.image).stem for picture in folder.pictures if picture.sha256 in digests}
        _replace(parts, number, folder, digests)
    _remove_from_runs(parts, names)
    for folder in held:
        gone = folder.path.rename(
            root / f".{folder.path.name}.part"
        )  # the next sweep finishes what a kill leaves of it
        shutil.rmtree(gone, ignore_errors=True)
    while _remove_rows(parts, number):
        pass
    with parts.catalogue.writing.begin() as session:
        row = session.get_one(Forgetting, number)
        row.done_at = clock()
        scope = {"device": row.device, "frame_id": row.frame_id, "from": _iso(row.taken_from), "to": _iso(row.taken_to)}
        detail = {key: value for key, value in {**scope, **row.detail}.items() if value}
        if row.detail["datasets"]:
            detail["note"] = OF_MODELS
        audit = Event(at=row.done_at, kind="forgotten", subject=row.device or row.frame_id or "time", detail=detail)
        session.add(audit)
    return audit


def _holding(root: Path, digests: AbstractSet[str]) -> Iterator[DatasetFolder]:
    """The versions that hold pictures with these sha256, whether the catalogue has a row of them or not yet."""
    for path in sorted(root.glob("[0-9a-f]*")):
        folder = DatasetFolder.read(path)
        if any(picture.sha256 in digests for picture in folder.pictures):
            yield folder


def _replace(parts: Services, number: int, folder: DatasetFolder, digests: AbstractSet[str]) -> None:
    """Put a version without these pictures in the place of one with them. A version is what its id says, so it gets another id."""
    name = folder.path.name
    left = dataset_files.without(folder, digests)
    with parts.catalogue.writing.begin() as session:
        row = session.get(Dataset, name)
        models = session.scalars(sa.select(Bundle).where(Bundle.dataset_id == name)).all()
        _note(
            session,
            number,
            datasets=[{"id": name, "name": row.name, "now": left.path.name if left else None}] if row else [],
            models=[{"digest": each.digest, "release": each.release, "dataset": name} for each in models],
        )
        if row is None:  # not recorded yet, or replaced before a kill
            return
        if left is not None and session.get(Dataset, left.path.name) is None:
            session.add(
                Dataset(
                    id=left.path.name,
                    name=row.name,
                    kind=row.kind,
                    created_at=row.created_at,
                    path=f"datasets/{left.path.name}",
                    pictures=len(left.pictures),
                    boxes=sum(each.boxes for each in left.pictures),
                    summary=left.summary() | {"without_forgotten_of": name},
                )
            )
        session.execute(sa.update(Bundle).where(Bundle.dataset_id == name).values(dataset_id=None))
        session.delete(row)


def _remove_from_runs(parts: Services, names: AbstractSet[str]) -> None:
    """The second names that trainings gave to pictures: a part of the mix, a dash, and the picture's own."""
    for path in parts.settings.path("runs").glob("*/mix/*/*/*"):
        if path.stem.partition("-")[2] in names:
            path.unlink(missing_ok=True)


def _remove_rows(parts: Services, number: int) -> int:
    """One helping of frames, objects first; how many."""
    with parts.catalogue.session() as session:
        meant = sa.select(Frame.id, Frame.key, Frame.size_bytes).join(Forgotten, Forgotten.frame_id == Frame.id)
        rows = session.execute(meant.where(Forgotten.forgetting_id == number).limit(AT_ONCE)).all()
    ids = [row.id for row in rows]
    for row in rows:
        if row.size_bytes > PART_BYTES:
            parts.store.give_up_parts(row.key)
    parts.store.delete([row.key for row in rows if row.key])
    with parts.catalogue.writing.begin() as session:
        session.execute(sa.delete(Standing).where(Standing.frame_id.in_(ids) | Standing.repeats.in_(ids)))
        session.execute(sa.delete(Look).where(Look.frame_id.in_(ids)))
        session.execute(sa.delete(Annotation).where(Annotation.frame_id.in_(ids)))
        session.execute(sa.update(Frame).where(Frame.context_of.in_(ids)).values(context_of=None))
        session.execute(sa.delete(Frame).where(Frame.id.in_(ids)))
        _note(session, number, frames=len(ids))
    return len(ids)


def _note(session: Session, number: int, **found: Any) -> None:
    """Add to what the audit row will say."""
    row = session.get_one(Forgetting, number)
    row.detail = {**row.detail, **{key: row.detail[key] + value for key, value in found.items()}}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
