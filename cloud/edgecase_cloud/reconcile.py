"""The catalogue held against the store: objects that no row knows, and acknowledged rows whose object is gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from edgecase_cloud.catalogue import Delivery, Frame
from edgecase_cloud.services import Services

PREFIX = "frames/"


@dataclass(frozen=True)
class Reconciliation:
    """What does not match. `lost` is the one that must be empty: an acknowledged frame without its object.

    `unknown`: objects without a row, as after the catalogue was restored from a backup; a device that offers the frame
    again mends it. `waiting`: the object is there and the device's word is still to come.
    """

    objects: int
    acknowledged: int
    lost: tuple[str, ...]
    unknown: tuple[str, ...]
    waiting: tuple[str, ...]

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
    suspects = [row for row in rows if row.delivery is Delivery.ACKNOWLEDGED and row.key not in keys]
    return Reconciliation(
        objects=len(keys),
        acknowledged=sum(row.delivery is Delivery.ACKNOWLEDGED for row in rows),
        lost=tuple(sorted(row.id for row in suspects if parts.store.head(row.key) is None)),
        unknown=tuple(sorted(keys - {row.key for row in rows})),
        waiting=tuple(sorted(row.id for row in rows if row.delivery is Delivery.GRANTED and row.key in keys)),
    )
