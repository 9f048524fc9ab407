"""Pictures that arrived, looked at once each: whether they are what was announced, and can be decoded at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
import structlog

from edgecase_cloud.catalogue import LAST, Catalogue, Event, Frame, Standing
from edgecase_cloud.decoding import Decoder
from edgecase_cloud.reviewable import ARRIVED
from edgecase_cloud.services import Services
from edgecase_cloud.store import NotFound, ObjectStore
from edgecase_models import wire

AT_ONCE: Final = 16
_UNSEEN: Final = (ARRIVED, Frame.problem.is_(None))

log = structlog.get_logger()


def look_at_pictures(
    parts: Services, pictures: Decoder, at_most: int = AT_ONCE, resting: set[str] | None = None
) -> int:
    """Decode frames that nobody has decoded yet, in another process, and note what stands in the way; how many.

    A frame was acknowledged because its object is what was offered. That nothing can be made of it is no reason to lose it: it is
    shown with the reason, behind all others, and put into no batch and no dataset. Raises `StoreError` where the store does not give
    one. That one is put into `resting`, which the caller keeps, and waits until all others were looked at.
    """
    resting = set() if resting is None else resting
    unseen = sa.select(Frame.id, Frame.device_id, Frame.key, Frame.sha256, Frame.width_px, Frame.height_px)
    with parts.catalogue.session() as session:
        rows = session.execute(unseen.where(*_UNSEEN, Frame.id.not_in(resting)).limit(at_most)).all()
    if not rows:
        resting.clear()
    found: list[tuple[Any, str, bool]] = []
    try:
        for row in rows:
            resting.add(row.id)
            found.append((row, *_looked_at(parts.store, pictures, row)))
            resting.discard(row.id)
    finally:  # where the store goes away, what was seen before is not looked at again
        if found:
            _note(parts.catalogue, found)
    return len(found)


def _looked_at(store: ObjectStore, pictures: Decoder, row: Any) -> tuple[str, bool]:
    """What stands in the way of a picture, if anything, and whether it broke the decoder."""
    try:
        return _problem(pictures, store.get(row.key), row)
    except NotFound:
        return "its object is not in the store", False


def _note(catalogue: Catalogue, found: Sequence[tuple[Any, str, bool]]) -> None:
    usable = [row.id for row, problem, _ in found if not problem]
    with catalogue.writing.begin() as session:
        session.execute(sa.update(Frame).where(Frame.id.in_(usable), *_UNSEEN).values(problem=""))
        for row, problem, broke in found:
            if not problem:
                continue
            session.execute(sa.update(Frame).where(Frame.id == row.id, *_UNSEEN).values(problem=problem, place=LAST))
            session.execute(sa.delete(Standing).where(Standing.frame_id == row.id))
            if broke:
                detail = {"device": row.device_id, "reason": problem}
                session.add(Event(at=wire.now(), kind="broken picture", subject=row.id, detail=detail))
            log.warning("picture cannot be used", frame_id=row.id, device=row.device_id, reason=problem)


def _problem(pictures: Decoder, content: bytes, row: Any) -> tuple[str, bool]:
    if hashlib.sha256(content).hexdigest() != row.sha256:
        return "the bytes in the object store are not those that the device announced", False
    seen = pictures.picture(content)
    if seen.problem:
        return seen.problem, seen.broke
    if (seen.width_px, seen.height_px) != (row.width_px, row.height_px):
        announced = f"{row.width_px} × {row.height_px}"
        return f"the picture is {seen.width_px} × {seen.height_px} pixels, announced were {announced}", False
    return "", False
