"""When a frame was taken: as its device's clock said, where that can be, and in the order of its boot, whatever that clock did."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud.catalogue import Frame

EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""No agent existed before: a camera's clock that says so was never set."""
AHEAD: Final = timedelta(minutes=5)
"""A clock this far ahead of the arrival of its frame is wrong."""
TOLERANCE: Final = timedelta(milliseconds=100)  # the two clocks of a frame are not read at the same instant
_MOVED_AT_MOST: Final = 1000
_frames = Frame.__table__.c
_SAME_BOOT: Final = sa.select(_frames.id, _frames.monotonic_ns, _frames.taken_at).where(
    _frames.device_id == sa.bindparam("device"),
    _frames.boot_id == sa.bindparam("boot"),
    ~_frames.recorded,
    _frames.id != sa.bindparam("frame"),
)
_MONOTONIC_NS: Final[sa.BindParameter[int]] = sa.bindparam("monotonic_ns")
_LATER: Final = _SAME_BOOT.where(_frames.monotonic_ns >= _MONOTONIC_NS).order_by(_frames.monotonic_ns).limit(1)
_EARLIER: Final = (
    _SAME_BOOT.where(_frames.monotonic_ns < _MONOTONIC_NS)
    .order_by(_frames.monotonic_ns.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)


def place(session: Session, row: Frame) -> None:
    """Give a new row its `taken_at`, and correct earlier frames of its boot that its clock shows to have been ahead.

    The wall clock less the monotonic one is when the boot began. A clock that is set forward, or a sleep, lets it grow from frame to frame;
    only a clock that is set back lets it fall. So a frame takes the least of what its own clock and those of all later frames of its boot
    say. A clock that says what cannot be says nothing: the arrival stands in for it, which no frame is later than. For recordings the
    time is the recording's own, and their frames have no part in this.
    """
    possible = row.captured_at <= row.offered_at + AHEAD and (row.recorded or row.captured_at >= EARLIEST)
    row.taken_at = row.captured_at if possible else row.offered_at
    if row.recorded or not row.boot_id:
        return
    since_boot = _since_boot(row.monotonic_ns)
    began_at = row.taken_at - since_boot
    ids = {"device": row.device_id, "boot": row.boot_id, "frame": row.id, "monotonic_ns": row.monotonic_ns}
    following = session.execute(_LATER, ids).first()
    if following is not None:
        told = following.taken_at - _since_boot(following.monotonic_ns)
        if told + TOLERANCE < began_at:
            began_at = told
            row.taken_at = began_at + since_boot
    for at_most in (1, _MOVED_AT_MOST):  # hardly ever more than the one is looked at
        ahead = _ahead(session.execute(_EARLIER, {**ids, "at_most": at_most}).all(), began_at)
        if len(ahead) < at_most:
            break
    if ahead:
        session.execute(sa.update(Frame), ahead)


def _ahead(earlier: Iterable[Any], began_at: datetime) -> list[dict[str, Any]]:
    """What to write into those frames, the latest first, whose clock was ahead of this beginning of their boot."""
    found = []
    for frame in earlier:
        ran = _since_boot(frame.monotonic_ns)
        if frame.taken_at - ran <= began_at + TOLERANCE:
            break
        found.append({"id": frame.id, "taken_at": began_at + ran})
    return found


def is_wrong(captured_at: datetime, taken_at: datetime) -> bool:
    """Whether the device's clock was not believed."""
    return abs(captured_at - taken_at) > timedelta(seconds=1)


def _since_boot(monotonic_ns: int) -> timedelta:
    return timedelta(microseconds=monotonic_ns // 1000)
