"""How long pictures are kept: by the catalogue, which says so in each row, and by the store's own rule, which needs nobody."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
import structlog

from edgecase_cloud.catalogue import Delivery, Frame, Look, Standing
from edgecase_cloud.reviewable import ARRIVED
from edgecase_cloud.services import Services

PREFIX: Final = "frames/"
AT_ONCE: Final = 200

log = structlog.get_logger()


def apply(parts: Services) -> None:
    """Give the store the rule of the settings, or take it away. Raises `StoreError`.

    The store waits a day longer than the catalogue, so that no row ever says that a picture is there which the store has removed.
    What it finds then are objects of frames that were never acknowledged, and what was left by a kill.
    """
    days = parts.settings.retention_days
    wanted = None if days is None else days + 1
    if parts.store.expires_after() != wanted:
        parts.store.expire_after(PREFIX, wanted)
        log.info("retention set", days=days)


def expire(parts: Services, now: datetime, at_most: int = AT_ONCE) -> int:
    """Let go of the pictures that were kept long enough since their ack, by this side's clock and no device's; how many.

    The row stays, with what was answered; thumbnail, fingerprint, features and position go with the picture. Dataset versions keep
    their copies: who is to be forgotten is forgotten by `forgetting`. Raises `StoreError`.
    """
    days = parts.settings.retention_days
    if days is None:
        return 0
    with parts.catalogue.writing.begin() as session:
        old = sa.select(Frame.id, Frame.key).where(ARRIVED, Frame.acknowledged_at < now - timedelta(days=days))
        rows = session.execute(old.order_by(Frame.acknowledged_at).limit(at_most)).all()
        ids = [row.id for row in rows]
        session.execute(sa.delete(Standing).where(Standing.frame_id.in_(ids) | Standing.repeats.in_(ids)))
        session.execute(sa.update(Look).where(Look.frame_id.in_(ids)).values(fingerprint=b"", features=b""))
        said = {"delivery": Delivery.EXPIRED, "delivery_reason": f"kept for {days} days"}
        session.execute(sa.update(Frame).where(Frame.id.in_(ids)).values(**said, thumbnail_jpeg=b"", position=None))
    parts.store.delete([row.key for row in rows])
    if rows:
        log.info("frames expired", frames=len(rows), days=days)
    return len(rows)
