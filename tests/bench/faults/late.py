"""Messages that come twice, out of order, and three days late change nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from bench.faults.account import account, delivered
from bench.faults.site import Load, a_device, listen_in
from bench.report import Row
from edgecase_cloud.catalogue import Event, Frame
from edgecase_cloud.ingest import Ingest
from edgecase_cloud.services import Services
from edgecase_models import wire
from support.cloud import Cloud, CloudDevice
from support.wait import until

FRAMES = 200
LATE = timedelta(days=3)
SAID = (
    Frame.id, Frame.device_id, Frame.key, Frame.sha256, Frame.size_bytes, Frame.captured_at, Frame.offered_at, Frame.score, Frame.boxes,
    Frame.delivery, Frame.delivery_reason, Frame.acknowledged_at, Frame.review, Frame.revision,
)  # fmt: skip
"""Of a frame's row what messages decide; what other workers find out afterwards may still be on its way."""


def late(cloud: Cloud, folder: Path, scale: float, say: Callable[[str], None]) -> Iterator[Row]:
    """What a device said is said again by it, shuffled, three times over; then once more to an ingest three days later."""
    frames = max(10, round(FRAMES * scale))
    with a_device(cloud, "late-1", folder, load=Load(every_s=0.02)) as device:
        ear = listen_in(cloud, device.name)
        device.start()
        device.captured(frames)
        device.stop("writer")
        delivered([device], 120)
        device.stop()
        said = [message for message in ear.received if not message.topic.endswith("/status")]
        ear.leave()
        parts = cloud.services()
        before = _rows(parts, device.name)
        say(f"{len(said):,} messages are said again")
        chance = random.Random(frames)
        again = chance.sample(said * 3, 3 * len(said))
        speaker = CloudDevice(
            device.name, device.folder / "enrolment", cloud.endpoints.mqtt_host, cloud.endpoints.mqtt_port
        )
        for message in again:
            speaker.client.publish(message.topic, message.payload, qos=1)
        until(lambda: len(speaker.client.received) >= len(again), within_s=120, what="an answer to each")
        answers = speaker.everything()
        speaker.leave()
        ingest, now = Ingest(parts), wire.now()
        for message in chance.sample(said, len(said)):
            answers += [reply.message for reply in ingest.handle(message.topic, message.payload, now + LATE)]
        changed = sum(row != after for row, after in zip(before, _rows(parts, device.name), strict=True))
        incidents = _incidents(parts, device.name)
        result = account(parts, [device])
    yield result.row(f"{len(said):,} messages three times over, shuffled, and three days late")
    yield Row("late messages: rows that changed", changed, "", bar=0, at_most=True)
    others = [answer for answer in answers if not isinstance(answer, wire.Ack)]
    yield Row(
        "late messages: answers other than the ack, and incidents", len(others) + incidents, "", bar=0, at_most=True
    )


def _rows(parts: Services, device: str) -> list[tuple[object, ...]]:
    with parts.catalogue.session() as session:
        found = session.execute(sa.select(*SAID).where(Frame.device_id == device).order_by(Frame.id))
        return [tuple(row) for row in found]


def _incidents(parts: Services, device: str) -> int:
    with parts.catalogue.session() as session:
        events = session.scalars(
            sa.select(Event).where(Event.kind.in_(["incident", "dead letter", "forged topic"]))
        ).all()
    return sum(device in {event.subject, event.detail.get("device")} for event in events)
