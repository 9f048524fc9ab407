"""Pictures are kept for as long as was said, by both clocks of this side; rows say so, and no device's clock has a say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from edgecase_cloud import reconcile, retention, review_queue, settings
from edgecase_cloud.catalogue import Annotation, Delivery, Event, Look, Review
from edgecase_cloud.services import Services
from edgecase_cloud.store import ObjectStore
from edgecase_cloud.upkeep import Upkeep
from edgecase_models import wire
from support import circle
from support.cloud import NOW, Shot, Told, shot

DAY = timedelta(days=1)


def keeping(own: Services, days: int | None) -> Services:
    return Services(settings.load(own.settings.data, retention_days=days), own.catalogue, own.store)


@pytest.fixture
def tell(own: Services) -> Told:
    return Told(keeping(own, 30))


def picture(shade: int = 90, **changed: object) -> Shot:
    return shot(content=circle.plain_jpeg(shade), thumbnail_jpeg=circle.plain_jpeg(shade), **changed)


def test_the_store_gets_a_rule_of_its_own_a_day_behind_and_loses_it_again(own: Services) -> None:
    store = own.store
    foreign = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    store._client.put_bucket_lifecycle_configuration(Bucket=store.bucket, LifecycleConfiguration={"Rules": [foreign]})
    assert store.expires_after() is None
    for days, rule in ((30, 31), (30, 31), (7, 8), (None, None)):
        retention.apply(keeping(own, days))
        assert store.expires_after() == rule
        assert "theirs" in {each["ID"] for each in store._rules()}, "other rules stay"
    store.expire_after("frames/", 5)
    (mine,) = [each for each in store._rules() if each["ID"] != "theirs"]
    assert (mine["Filter"], mine["Status"]) == ({"Prefix": "frames/"}, "Enabled")


def test_a_store_without_rules_has_none(own: Services) -> None:
    retention.apply(keeping(own, None))
    assert own.store.expires_after() is None


def test_a_picture_goes_when_its_time_is_over_and_its_row_says_so(tell: Told) -> None:
    frame = picture(position=wire.Position(latitude_deg=48.1, longitude_deg=11.6, decimals=1))
    tell.deliver(frame)
    key = tell.row(frame).key
    assert tell.row(frame).position is not None
    assert retention.expire(tell.parts, NOW + 30 * DAY) == 0
    assert retention.expire(tell.parts, NOW + 30 * DAY + timedelta(seconds=1)) == 1
    row = tell.row(frame)
    assert (row.delivery, row.delivery_reason) == (Delivery.EXPIRED, "kept for 30 days")
    assert (row.thumbnail_jpeg, row.position) == (b"", None)
    assert tell.parts.store.head(key) is None
    with tell.parts.catalogue.session() as session:
        look = session.scalars(sa.select(Look)).one()
        assert (look.fingerprint, look.features) == (b"", b"")
        assert review_queue.queue(session, review_queue.QueueFilter(review=None), limit=9).total == 0
    assert retention.expire(tell.parts, NOW + 60 * DAY) == 0
    found = reconcile.reconcile(tell.parts)
    assert (found.lost, found.unknown, found.leftover, found.objects) == ((), (), (), 0)


def test_a_device_that_asks_after_an_expired_frame_may_let_it_go(tell: Told) -> None:
    frame = picture()
    ack = tell.deliver(frame)
    retention.expire(tell.parts, NOW + 31 * DAY)
    assert tell(frame.offer, now=NOW + 31 * DAY) == ack
    assert tell.row(frame).delivery is Delivery.EXPIRED


def test_what_was_answered_stays_when_the_picture_goes(tell: Told) -> None:
    frame = picture()
    tell.deliver(frame)
    with tell.parts.catalogue.session.begin() as session:
        session.add(
            Annotation(frame_id=frame.id, revision=1, verdict=Review.ACCEPTED, boxes=[], author="a", created_at=NOW)
        )
    retention.expire(tell.parts, NOW + 31 * DAY)
    with tell.parts.catalogue.session() as session:
        assert session.scalars(sa.select(Annotation.frame_id)).all() == [frame.id]


@pytest.mark.parametrize("clock", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC), NOW - 365 * DAY])
def test_no_frame_goes_for_what_its_devices_clock_says(tell: Told, clock: datetime) -> None:
    frame = picture(captured_at=clock)
    tell.deliver(frame)
    assert retention.expire(tell.parts, NOW + 29 * DAY) == 0
    assert tell.parts.store.head(tell.row(frame).key) is not None


def test_what_has_not_been_acknowledged_is_not_let_go_of(tell: Told) -> None:
    frame = picture()
    tell.put(frame, tell.granted(frame))
    assert retention.expire(tell.parts, NOW + 999 * DAY) == 0
    assert tell.row(frame).delivery is Delivery.GRANTED


def test_without_the_setting_everything_is_kept(own: Services) -> None:
    tell = Told(own)
    tell.deliver(picture())
    assert retention.expire(own, NOW + 9999 * DAY) == 0


def test_many_go_a_helping_at_a_time_the_oldest_first(tell: Told) -> None:
    frames = [picture(20 * n) for n in range(1, 6)]
    for n, each in enumerate(frames):
        tell.deliver(each, now=NOW + n * DAY)
    late = NOW + 60 * DAY
    assert [retention.expire(tell.parts, late, at_most=2) for _ in range(4)] == [2, 2, 1, 0]
    assert {tell.row(each).delivery for each in frames} == {Delivery.EXPIRED}


def test_a_kill_between_row_and_object_leaves_nothing_that_dangles_unseen(tell: Told) -> None:
    """The row goes first; the object that is left is told, and removed by a repair or by the store's own rule."""
    frame = picture()
    tell.deliver(frame)
    away = Services(tell.parts.settings, tell.parts.catalogue, ObjectStore("http://127.0.0.1:9", "a", "b", attempts=1))
    with pytest.raises(RuntimeError, match="did not answer"):
        retention.expire(away, NOW + 31 * DAY)
    key = tell.row(frame).key
    found = reconcile.reconcile(tell.parts)
    assert (found.lost, found.unknown, found.leftover) == ((), (), (key,))
    assert reconcile.repair(tell.parts, found, NOW).removed == [key]
    assert tell.parts.store.head(key) is None


def test_the_background_does_all_of_it(tell: Told) -> None:
    old = picture()
    tell.deliver(old, now=wire.now() - 31 * DAY)
    tell.deliver(new := picture(200), now=wire.now())
    Upkeep(tell.parts).step()
    assert tell.parts.store.expires_after() == 31
    assert tell.row(old).delivery is Delivery.EXPIRED
    assert tell.row(new).problem is not None, "and it was looked at"
    with tell.parts.catalogue.session() as session:
        assert session.scalars(sa.select(Event.kind)).all() == []
