"""The order of a device's frames survives a clock at 1970 or a jump; a time that cannot be is put right and said to be."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from edgecase_cloud import clocks, review, review_queue
from edgecase_cloud.catalogue import Frame
from edgecase_cloud.ingest import Ingest
from edgecase_cloud.review_queue import Order, QueueFilter
from edgecase_cloud.reviewable import item_of
from edgecase_cloud.services import Services
from edgecase_cloud.store import ObjectStore
from edgecase_models import wire
from support.cloud import NOW, Shot, make_services, shot

EPOCH = datetime(1970, 1, 1, 0, 0, 30, tzinfo=UTC)


@pytest.fixture
def parts(tmp_path: Path) -> Services:
    return make_services(tmp_path, ObjectStore("http://127.0.0.1:9", "a", "b"), "cam-1", "cam-2")


def taken(mono_s: float, clock: datetime, **changed: object) -> Shot:
    """A frame that its device took `mono_s` after it booted, its clock showing `clock`."""
    return shot(monotonic_ns=int(mono_s * 1e9), captured_at=clock, **changed)


def offered(parts: Services, *frames: Shot, now: datetime = NOW) -> None:
    ingest = Ingest(parts)
    for frame in frames:
        (reply,) = ingest.handle(wire.up_topic(frame.offer.device, wire.Offer), wire.encode(frame.offer), now)
        assert isinstance(reply.message, wire.Grant)


def rows(parts: Services) -> dict[str, Frame]:
    with parts.catalogue.session() as session:
        return {row.id: row for row in session.scalars(sa.select(Frame))}


def times(parts: Services, *frames: Shot) -> list[datetime]:
    found = rows(parts)
    return [found[frame.id].taken_at for frame in frames]


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_right_clock_is_believed(parts: Services) -> None:
    frames = [taken(100 + n, at(n - 60)) for n in range(5)]
    offered(parts, *reversed(frames))
    assert times(parts, *frames) == [at(n - 60) for n in range(5)]
    assert not any(item_of(row, None).clock_wrong for row in rows(parts).values())


def test_a_clock_at_1970_is_put_right_by_the_arrival_and_said_to_be_wrong(parts: Services) -> None:
    first, second = taken(30, EPOCH), taken(40, EPOCH + timedelta(seconds=10))
    offered(parts, second)
    offered(parts, first, now=at(3))
    assert times(parts, first, second) == [at(-10), NOW], "ten seconds before the other, which had arrived by then"
    item = item_of(rows(parts)[first.id], None)
    assert item.clock_wrong
    assert (item.captured_at, item.taken_at) == (EPOCH, at(-10))


def test_a_clock_that_is_set_when_the_network_comes_dates_what_was_before(parts: Services) -> None:
    before, after = taken(30, EPOCH), taken(630, at(-3600))
    offered(parts, before, after)
    assert times(parts, before, after) == [at(-4200), at(-3600)], "what a later frame of the boot says"


def test_a_clock_in_the_future_is_not_believed_and_does_not_stand_before_all(parts: Services) -> None:
    ahead, right = taken(100, at(86_400)), taken(200, at(-5))
    offered(parts, ahead)
    assert times(parts, ahead) == [NOW]
    offered(parts, right)
    assert times(parts, ahead, right) == [at(-105), at(-5)]


def test_a_clock_that_is_set_back_leaves_the_order(parts: Services) -> None:
    frames = [taken(n, at(-3000 + n + (1000 if n < 5 else 0))) for n in range(10)]
    for frame in random.Random(1).sample(frames, len(frames)):
        offered(parts, frame)
    assert times(parts, *frames) == [at(-3000 + n) for n in range(10)]


def test_a_clock_that_is_set_forward_and_a_sleep_change_nothing(parts: Services) -> None:
    frames = [taken(n, at(-3000 + n + (1000 if n >= 5 else 0))) for n in range(10)]
    offered(parts, *reversed(frames))
    assert times(parts, *frames) == [frame.offer.captured_at for frame in frames]


def test_whatever_a_clock_does_a_boots_frames_keep_their_order(parts: Services) -> None:
    chance = random.Random(7)
    for boot in range(6):
        jump_s, frames = 0.0, []
        for n in range(12):
            jump_s += chance.choice([0, 0, 0, -4000, 900, -1.78e9 if chance.random() < 0.3 else 0])
            moment = max(EPOCH, at(min(-100 + n + jump_s, 1e8)))
            frames.append(taken(50 + n, moment, boot_id=f"boot-{boot}"))
        for frame in chance.sample(frames, len(frames)):
            offered(parts, frame)
        told = times(parts, *frames)
        assert told == sorted(told)
        assert max(told) <= NOW + clocks.AHEAD


def test_other_boots_and_other_devices_are_left_alone(parts: Services) -> None:
    other = taken(100, at(-10), boot_id="boot-2")
    stranger = taken(100, at(-10), device="cam-2")
    offered(parts, other, stranger, taken(200, at(-5000)))
    assert times(parts, other, stranger) == [at(-10), at(-10)]


def test_a_recordings_own_time_stands_and_is_no_clock(parts: Services) -> None:
    old, newer = (
        taken(100, datetime(2019, 5, 1, tzinfo=UTC), recorded=True),
        taken(200, datetime(2018, 5, 1, tzinfo=UTC), recorded=True),
    )
    live = taken(300, at(-9))
    offered(parts, old, newer, live)
    assert times(parts, old, newer, live) == [old.offer.captured_at, newer.offer.captured_at, at(-9)]
    offered(parts, future := taken(400, at(1e6), recorded=True))
    assert times(parts, future) == [NOW]


def test_the_queue_and_the_strip_go_by_it(parts: Services) -> None:
    pick = taken(100, at(-3000))
    before = taken(98.5, at(500), context_of=pick.id, reasons=[wire.Reason("context", 3498.5, 0)])
    after = taken(101, EPOCH, context_of=pick.id, reasons=[wire.Reason("context", -1.7e9, 0)])
    offered(parts, pick, after, before)
    with parts.catalogue.session.begin() as session:
        session.execute(sa.update(Frame).values(delivery="acknowledged", acknowledged_at=NOW))
    with parts.catalogue.session() as session:
        newest_first = review_queue.queue(session, QueueFilter(review=None, order=Order.TIME), limit=9)
        assert [item.id for item in newest_first.items] == [after.id, pick.id, before.id]
        strip = review.frame_detail(session, pick.id).strip
    assert [(still.id, still.after_s) for still in strip] == [(before.id, -1.5), (pick.id, 0.0), (after.id, 1.0)]
