"""The circle at a glance: what the devices report, how far the frames came, and the newest of everything made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud import review_queue, twins
from edgecase_cloud.catalogue import Bundle, Dataset, Delivery, Device, Job, JobState, Review
from edgecase_cloud.devices import Standing, standing
from edgecase_models import wire

ENDED: Final = ("acknowledged", "declined", "rejected", "evicted", "lost_local")
BALANCE: Final = (
    "kept",
    "offered",
    "uploaded",
    "acknowledged",
    "spooled",
    "evicted",
    "rejected",
    "declined",
    "lost_local",
)


@dataclass(frozen=True)
class DeviceView:
    """A device as its last status describes it; what it never reported is zero or empty.

    `shared_at`: when two devices were last seen to share its identity; None where that was not lately.
    """

    id: str
    added_at: datetime
    standing: Standing
    certificate_expires_at: datetime | None
    online: bool
    last_seen_at: datetime | None
    running_digest: str
    running_release: int | None
    frames_per_s: float
    frames_seen: int
    bytes_sent: int
    jpeg_bytes_seen: int
    spool_bytes: int
    update: str
    agent_version: str
    balance: dict[str, int]
    waits_for: str
    last_event: str
    shared_at: datetime | None = None

    @property
    def balance_holds(self) -> bool:
        """True when every frame the device kept is accounted for: acknowledged, ended otherwise, or in its spool."""
        return self.balance["kept"] == self.balance["spooled"] + sum(self.balance[k] for k in ENDED)


@dataclass(frozen=True)
class Summary:
    """Counts of the whole fleet. `frames` sums the devices' balances; `arrived` counts the catalogue's own rows."""

    frames: dict[str, int]
    review: dict[str, int]
    labelled: int
    bytes: dict[str, int]
    devices: tuple[DeviceView, ...]
    dataset: Dataset | None
    job: Job | None
    release: Bundle | None


def summary(session: Session) -> Summary:
    """The circle at this moment."""
    devices = device_views(session)
    counts = review_queue.counts(session)
    frames = {name: sum(d.balance[name] for d in devices) for name in BALANCE}
    frames["seen"] = sum(d.frames_seen for d in devices)
    frames["arrived"] = sum(counts.delivery.get(state, 0) for state in (Delivery.ACKNOWLEDGED, Delivery.EXPIRED))
    return Summary(
        frames=frames,
        review={state.value: counts.review.get(state, 0) for state in Review},
        labelled=counts.labelled,
        bytes={"sent": sum(d.bytes_sent for d in devices), "all_frames": sum(d.jpeg_bytes_seen for d in devices)},
        devices=devices,
        dataset=session.scalar(
            sa.select(Dataset).where(Dataset.kind == "labelled").order_by(Dataset.created_at.desc()).limit(1)
        ),
        job=current_job(session),
        release=session.scalar(
            sa.select(Bundle).where(Bundle.release.is_not(None)).order_by(Bundle.release.desc()).limit(1)
        ),
    )


def current_job(session: Session) -> Job | None:
    """The job that runs, else the one that waits, else the newest."""
    urgency = sa.case({JobState.RUNNING.value: 0, JobState.QUEUED.value: 1}, value=Job.state, else_=2)
    return session.scalar(sa.select(Job).order_by(urgency, Job.id.desc()).limit(1))


def device_views(session: Session) -> tuple[DeviceView, ...]:
    """Every device, by id."""
    releases = {row.digest: row.release for row in session.execute(sa.select(Bundle.digest, Bundle.release))}
    return tuple(_view(row, releases) for row in session.scalars(sa.select(Device).order_by(Device.id)))


def runners(devices: Sequence[DeviceView], digest: str) -> tuple[str, ...]:
    """The devices that run a model."""
    return tuple(d.id for d in devices if d.running_digest == digest)


def _view(row: Device, releases: dict[str, int | None]) -> DeviceView:
    status = row.status or {}
    balance = status.get("balance") or {}

    def whole(name: str) -> int:
        return int(status.get(name) or 0)

    digest = row.running_digest or str(status.get("running_digest") or "")
    return DeviceView(
        id=row.id,
        added_at=row.added_at,
        standing=standing(row, datetime.now(UTC)),
        certificate_expires_at=row.certificate_expires_at,
        online=row.online,
        last_seen_at=row.last_seen_at,
        running_digest=digest,
        running_release=releases.get(digest),
        frames_per_s=float(status.get("frames_per_s") or 0.0),
        frames_seen=whole("frames_seen"),
        bytes_sent=whole("bytes_sent"),
        jpeg_bytes_seen=whole("jpeg_bytes_seen"),
        spool_bytes=whole("spool_bytes"),
        update=str(status.get("update") or ""),
        agent_version=str(status.get("agent_version") or ""),
        balance={name: int(balance.get(name) or 0) for name in BALANCE},
        waits_for=str(status.get("waits_for") or ""),
        last_event=str(status.get("last_event") or ""),
        shared_at=row.shared_at if twins.is_flagged(row.shared_at, wire.now()) else None,
    )
