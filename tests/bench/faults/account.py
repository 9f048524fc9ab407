"""Where every promised frame is at the end: the ledger held against catalogue, store and spool."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import PurePosixPath

import sqlalchemy as sa

from bench.faults.site import Device
from bench.report import Row
from edgecase_agent.spool import Damaged, Put, Spool
from edgecase_cloud.catalogue import Delivery, Frame
from edgecase_cloud.services import Services
from edgecase_cloud.store import StoreError

ALL = 10**9


@dataclass(frozen=True)
class Account:
    """Frames by id that were promised and are nowhere, are there twice, or have other bytes; devices whose accounts do not close."""

    frames: int
    lost: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    unbalanced: tuple[str, ...] = ()
    given_up: int = 0  # counted and reported: evicted where there was no room, or lost on a disk that was damaged

    @property
    def faults(self) -> int:
        return len(self.lost) + len(self.duplicated) + len(self.wrong) + len(self.unbalanced)

    def __str__(self) -> str:
        balance = "balance holds" if not self.unbalanced else "; ".join(self.unbalanced)
        given_up = f", {self.given_up:,} given up and counted" if self.given_up else ""
        return (
            f"of {self.frames:,}: {len(self.lost)} lost, {len(self.duplicated)} duplicated, {len(self.wrong)} wrong bytes, "
            f"{balance}{given_up}"
        )

    def row(self, name: str) -> Row:
        """For the report: everything that must not be."""
        return Row(name, self.faults, str(self), bar=0, at_most=True)


def delivered(devices: Sequence[Device], within_s: float) -> None:
    """Let the uplinks work until nothing waits in any spool."""
    for device in devices:
        device.until(lambda device=device: device.balance().spooled == 0, within_s, "its spool to be empty")


def account(parts: Services, devices: Sequence[Device], *, damaged: bool = False, out_of_room: bool = False) -> Account:
    """Nothing of the devices runs any more. A frame that its spool has let go of is accounted for only where there was a reason.

    `out_of_room`: it may have been evicted; `damaged`: it may be counted as lost on the device's own disk. A cloud that declines or
    rejects frames of the bench is at fault.
    """
    reasons = {kind for kind, given in (("evicted", out_of_room), ("lost_local", damaged)) if given}
    lost: list[str] = []
    duplicated: list[str] = []
    wrong: list[str] = []
    unbalanced: list[str] = []
    frames = given_up = 0
    for device in devices:
        kept = {promise.frame_id: promise.sha256 for promise in device.promised() if promise.outcome == Put.KEPT}
        frames += len(kept)
        rows = _rows(parts, device.name)
        arrived = {row.id: row for row in rows if row.delivery is Delivery.ACKNOWLEDGED}
        stored = _objects(parts, device.name)
        by_id = Counter(PurePosixPath(key).stem for key in stored)
        by_bytes = Counter(row.sha256 for row in arrived.values())
        duplicated += [frame_id for frame_id, count in by_id.items() if count > 1]
        duplicated += [digest for digest, count in by_bytes.items() if count > 1]
        lost += [row.id for row in arrived.values() if row.key not in stored]
        wrong += [
            row.id
            for row in arrived.values()
            if stored.get(row.key, row.sha256) != row.sha256 or kept.get(row.id, row.sha256) != row.sha256
        ]
        waiting, spoiled, ended = _in_spool(device)
        wrong += spoiled
        let_go = {frame_id for frame_id, kind in ended.items() if kind in reasons}
        given_up += len(let_go & kept.keys() - arrived.keys())
        lost += [
            frame_id
            for frame_id in kept
            if frame_id not in arrived and frame_id not in waiting and frame_id not in let_go
        ]
        balance = device.balance()
        if not balance.holds:
            unbalanced.append(f"{device.name}: {balance}")
        elif balance.acknowledged + balance.spooled < len(arrived.keys() & kept.keys()) and not damaged:
            unbalanced.append(
                f"{device.name} knows of {balance.acknowledged} acknowledged frames, the catalogue of {len(arrived)}"
            )
        elif balance.kept < len(kept):
            unbalanced.append(f"{device.name} counts {balance.kept} kept frames and promised {len(kept)}")
    return Account(frames, tuple(lost), tuple(duplicated), tuple(wrong), tuple(unbalanced), given_up)


def _objects(parts: Services, device: str) -> dict[str, str]:
    """The sha256 of every object of a device that can be read, by key."""
    found = {}
    for key in parts.store.keys(f"frames/{device}/"):
        with contextlib.suppress(StoreError):  # an entry without bytes is no object
            found[key] = hashlib.sha256(parts.store.get(key)).hexdigest()
    return found


def _rows(parts: Services, device: str) -> Sequence[Frame]:
    with parts.catalogue.session() as session:
        return session.scalars(sa.select(Frame).where(Frame.device_id == device)).all()


def _in_spool(device: Device) -> tuple[set[str], list[str], dict[str, str]]:
    """Frames that wait with their bytes right, those whose bytes are not, and what is reported of others."""
    waiting: set[str] = set()
    spoiled: list[str] = []
    with Spool(device.spool, device.load.quota_bytes, ballast_bytes=0) as spool:
        for entry in spool.due(ALL, inf):
            try:
                spool.open(entry).close()
                spool.meta(entry)
                waiting.add(entry.frame_id)
            except Damaged:
                spoiled.append(entry.frame_id)
        ended = {event.frame_id: event.kind for event in spool.events(ALL)}
    return waiting, spoiled, ended
