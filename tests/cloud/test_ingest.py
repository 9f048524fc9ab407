"""What ingest promises of one message: idempotent by frame id, nothing acknowledged unseen, nothing overwritten."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from edgecase_cloud import clocks, durable
from edgecase_cloud.catalogue import Delivery, Device, Frame, Look, ObjectClass, Review
from edgecase_cloud.decoder_process import Seen
from edgecase_cloud.decoding import Decoder
from edgecase_cloud.ingest import Ingest
from edgecase_cloud.services import Services
from edgecase_cloud.store import ObjectStore, PutGrant, Unreachable
from edgecase_models import wire
from edgecase_models.fingerprint import Fingerprint
from support import circle
from support.broker import free_port
from support.cloud import NOW, Told, make_services, shot
from support.s3 import LARGE, S3Server, in_parts, put

LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def tell(parts: Services) -> Told:
    return Told(parts)


# Offer, grant, stored, ack


def test_what_a_frame_looks_like_is_worked_out_when_it_is_offered(tell: Told) -> None:
    features = wire.features_of(np.array([1.0, -0.5], np.float32))
    seen, blind = shot(thumbnail_jpeg=circle.plain_jpeg(), features=features), shot()
    for frame in (seen, blind, seen):
        tell(frame.offer)
    with tell.parts.catalogue.session() as session:
        looks = {look.frame_id: look for look in session.scalars(sa.select(Look))}
    assert set(looks) == {seen.id, blind.id}
    assert Fingerprint.from_bytes(looks[seen.id].fingerprint).cells.mean() == pytest.approx(100, abs=15)
    assert (looks[seen.id].features, looks[seen.id].features_scale) == (features.codes, features.scale)
    assert (looks[blind.id].fingerprint, looks[blind.id].features) == (b"", b"")


class Poisoned(Decoder):
    """Its child breaks at every thumbnail, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def thumbnail(self, _: bytes) -> Seen:
        self.asked += 1
        return Seen(problem="it takes more than 1 s of computing to decode", broke=True)


def test_a_thumbnail_that_breaks_the_decoder_is_recorded_and_its_device_cannot_do_it_again_at_once(tell: Told) -> None:
    poisoned = Poisoned()
    tell.ingest = Ingest(tell.parts, poisoned)
    frames = [shot() for _ in range(5)]
    for frame in (*frames, *frames):
        assert isinstance(tell(frame.offer), wire.Grant), "the frame is wanted all the same"
    assert poisoned.asked == 1
    (event,) = tell.events("broken picture")
    assert (event.subject, event.detail["device"]) == (frames[0].id, "cam-1")
    tell(shot("cam-2").offer)
    assert poisoned.asked == 2, "other devices are not distrusted"
    tell(shot().offer, now=NOW + timedelta(minutes=11))
    assert poisoned.asked == 3
    with tell.parts.catalogue.session() as session:
        problems = list(session.scalars(sa.select(Look.problem).order_by(Look.id)))
    assert problems[0] == problems[5] == "it takes more than 1 s of computing to decode"
    assert set(problems[1:5]) == {"not decoded, since another thumbnail of this device broke the decoder"}


def at_once(tell: Told, *messages: wire.Up) -> list[object]:
    """The answers to messages that come in one batch: a message, None, or an error."""
    said = [(wire.up_topic(message.device, type(message)), wire.encode(message)) for message in messages]
    answers = tell.ingest.handle_all(said, NOW)
    return [answer if isinstance(answer, Exception) else answer[0].message if answer else None for answer in answers]


def test_a_fault_of_ours_with_one_message_of_a_batch_leaves_the_others_as_they_would_be(
    tell: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, late = [shot() for _ in range(5)], shot(), shot()
    grant = tell.granted(late)
    tell.put(late, grant)
    place = clocks.place

    def trip(session: Session, row: Frame) -> None:
        if row.id == bad.id:
            raise KeyError("a fault of ours")
        place(session, row)

    monkeypatch.setattr(clocks, "place", trip)
    answers = at_once(
        tell, *(frame.offer for frame in good[:3]), bad.offer, late.stored(grant), *(f.offer for f in good[3:])
    )
    assert isinstance(answers[3], KeyError)
    assert answers[4] == wire.Ack(frame_id=late.id, sha256=late.offer.sha256)
    assert [answer.frame_id for answer in answers if isinstance(answer, wire.Grant)] == [frame.id for frame in good]
    with tell.parts.catalogue.session() as session:
        assert session.get(Frame, bad.id) is None
        looked_at = list(session.scalars(sa.select(Look.frame_id)))
    assert sorted(looked_at) == sorted(frame.id for frame in (*good, late))


def test_a_store_that_is_away_is_not_asked_for_every_message_of_a_batch_and_holds_up_only_what_needs_it(
    tell: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [shot() for _ in range(40)]
    grants = [tell.granted(frame) for frame in waiting]
    asked: list[str] = []

    def away(key: str) -> None:
        asked.append(key)
        time.sleep(0.05)
        raise Unreachable("away")

    monkeypatch.setattr(tell.parts.store, "head", away)
    new = shot()
    answers = at_once(tell, *(frame.stored(grant) for frame, grant in zip(waiting, grants, strict=True)), new.offer)
    assert [type(answer) for answer in answers] == [Unreachable] * 40 + [wire.Grant]
    assert len(asked) < 12
    assert {tell.row(frame).delivery for frame in (*waiting, new)} == {Delivery.GRANTED}


def test_of_one_picture_under_two_names_the_second_is_not_wanted_though_both_come_in_one_batch(tell: Told) -> None:
    first, second = shot(content=b"twice"), shot(content=b"twice")
    grant = tell.granted(first)
    tell.put(first, grant)
    acked, declined = at_once(tell, first.stored(grant), second.offer)
    assert isinstance(acked, wire.Ack)
    assert isinstance(declined, wire.Decline)


# Power cuts


def test_no_row_says_that_a_frame_is_here_before_the_disk_has_it(tell: Told) -> None:
    frame, then = shot(), list[Delivery]()
    tell.ingest = Ingest(tell.parts, make_durable=lambda: then.append(tell.row(frame).delivery))
    grant = tell.granted(frame)
    assert then == [], "nothing arrived yet"
    tell.put(frame, grant)
    assert isinstance(tell(frame.stored(grant)), wire.Ack)
    assert then == [Delivery.GRANTED]
    assert isinstance(tell(frame.stored(grant)), wire.Ack)
    assert then == [Delivery.GRANTED], "it is there already"


def test_where_the_disk_does_not_confirm_ingest_ends_and_nothing_is_said(tell: Told) -> None:
    def fails() -> None:
        raise durable.StorageFailed(5, "Input/output error")

    one, other = shot(), shot()
    grants = [tell.granted(frame) for frame in (one, other)]
    for frame, grant in zip((one, other), grants, strict=True):
        tell.put(frame, grant)
    tell.ingest = Ingest(tell.parts, make_durable=fails)
    with pytest.raises(durable.StorageFailed):
        tell(one.stored(grants[0]))
    with pytest.raises(durable.StorageFailed):
        at_once(tell, one.stored(grants[0]), other.stored(grants[1]))
    assert [tell.row(frame).delivery for frame in (one, other)] == [Delivery.GRANTED, Delivery.GRANTED]
    assert tell.events("dead letter") == []


@pytest.mark.parametrize("left", [b"", b"other bytes", None])
def test_of_an_object_that_was_put_before_ingest_began_the_bytes_are_read(tell: Told, left: bytes | None) -> None:
    """After a power cut its entry may be there and its bytes may not; the device still has them."""
    frame = shot()
    grant = tell.granted(frame)
    if left is None:
        tell.put(frame, grant)
    else:
        tell.parts.store.put(grant.key, left)
    time.sleep(1.1)  # objects are dated by the second
    tell.ingest = Ingest(tell.parts)
    answer = tell(frame.stored(grant))
    if left is not None:
        assert isinstance(answer, wire.Grant)
        tell.put(frame, answer)
        answer = tell(frame.stored(answer))
    assert isinstance(answer, wire.Ack)
    assert tell.parts.store.get(grant.key) == frame.content
    assert tell.events("incident") == []


def test_a_catalogue_that_cannot_be_written_answers_for_the_whole_batch(tell: Told) -> None:
    frames, engine = [shot() for _ in range(3)], tell.parts.catalogue.engine
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON"))
    assert [type(answer) for answer in at_once(tell, *(frame.offer for frame in frames))] == [Unreachable] * 3


def test_a_frame_goes_from_offer_to_acknowledged_and_its_row_says_all_that_was_offered(tell: Told) -> None:
    frame = shot()
    grant = tell(frame.offer)
    assert isinstance(grant, wire.Grant)
    assert grant.key == f"frames/cam-1/2026-03-04/{frame.id}.jpg"
    assert grant.expires_at == NOW + timedelta(minutes=15)
    assert tell.row(frame).delivery is Delivery.GRANTED
    assert put(PutGrant(grant.url, grant.headers), frame.content)[0] == 200
    assert tell(frame.stored(grant), now=LATER) == wire.Ack(frame_id=frame.id, sha256=frame.offer.sha256)
    row = tell.row(frame)
    assert (row.delivery, row.offered_at, row.acknowledged_at) == (Delivery.ACKNOWLEDGED, NOW, LATER)
    assert (row.device_id, row.camera, row.frame_index) == ("cam-1", "front", 7)
    assert (row.boot_id, row.monotonic_ns, row.captured_at) == ("boot-1", 123_456_789, NOW)
    assert (row.width_px, row.height_px, row.size_bytes) == (640, 384, len(frame.content))
    assert row.reasons == [{"strategy": "uncertainty", "score": 0.5, "threshold": 0.4, "propensity": 1.0}]
    assert row.boxes == [[1, 0.5, 10.0, 20.0, 30.0, 40.0]]
    assert row.thumbnail_jpeg == b"\xff\xd8\xff\xd9"
    assert tell.parts.store.get(row.key) == frame.content


def test_asking_again_gets_the_same_answer_at_every_stage(tell: Told) -> None:
    frame = shot()
    first, second = tell(frame.offer), tell(frame.offer, now=LATER)
    assert isinstance(first, wire.Grant)
    assert isinstance(second, wire.Grant)
    assert second.expires_at > first.expires_at
    put(PutGrant(second.url, second.headers), frame.content)
    ack = wire.Ack(frame_id=frame.id, sha256=frame.offer.sha256)
    assert [tell(frame.stored(first)), tell(frame.stored(first)), tell(frame.offer, now=LATER)] == [ack, ack, ack]
    assert tell.row(frame).acknowledged_at == NOW
    assert tell.events("incident") == []


def test_a_frame_whose_object_is_not_there_is_granted_again_and_not_acknowledged(tell: Told) -> None:
    frame = shot()
    grant = tell(frame.offer)
    assert isinstance(grant, wire.Grant)
    assert isinstance(tell(frame.stored(grant)), wire.Grant)
    assert tell.row(frame).delivery is Delivery.GRANTED


def test_a_large_frame_may_come_in_parts_and_is_acknowledged_once_its_bytes_were_read(tell: Told) -> None:
    frame = shot(content=secrets.token_bytes(64) + LARGE)
    first, second = tell(frame.offer), tell(frame.offer, now=LATER)
    assert isinstance(first, wire.Grant)
    assert isinstance(second, wire.Grant)
    done = in_parts(first, frame.content)
    assert second.parts is not msgspec.UNSET
    assert second.parts.upload_id == done.upload_id, "asking again does not begin another upload"
    stored = msgspec.structs.replace(frame.stored(first), parts=done)
    ack = wire.Ack(frame_id=frame.id, sha256=frame.offer.sha256)
    assert [tell(stored), tell(stored), tell(frame.offer)] == [ack, ack, ack]
    assert tell.parts.store.head(tell.row(frame).key).sha256 == frame.offer.sha256
    assert tell.events("incident") == []


def test_parts_of_other_bytes_are_an_incident_and_never_acknowledged(tell: Told) -> None:
    frame = shot(content=secrets.token_bytes(64) + LARGE)
    grant = tell(frame.offer)
    assert isinstance(grant, wire.Grant)
    done = in_parts(grant, secrets.token_bytes(64) + LARGE)
    told = tell(msgspec.structs.replace(frame.stored(grant), parts=done))
    assert told == wire.Reject(frame_id=frame.id, reason="the object in the store is not what was offered")
    assert len(tell.events("incident")) == 1


def test_parts_that_the_store_does_not_have_are_granted_anew_under_another_upload(tell: Told) -> None:
    frame = shot(content=secrets.token_bytes(64) + LARGE)
    grant = tell(frame.offer)
    assert isinstance(grant, wire.Grant)
    assert grant.parts is not msgspec.UNSET
    lost = wire.PartsDone(grant.parts.upload_id, grant.parts.part_bytes, ['"a"', '"b"'])
    again = tell(msgspec.structs.replace(frame.stored(grant), parts=lost))
    assert isinstance(again, wire.Grant)
    assert again.parts is not msgspec.UNSET
    assert again.parts.upload_id != grant.parts.upload_id
    done = in_parts(again, frame.content)
    assert isinstance(tell(msgspec.structs.replace(frame.stored(again), parts=done)), wire.Ack)


def test_a_large_frame_may_still_come_whole_and_a_small_one_only_does(tell: Told) -> None:
    assert isinstance(tell.deliver(shot(content=secrets.token_bytes(64) + LARGE)), wire.Ack)
    grant = tell(shot().offer)
    assert isinstance(grant, wire.Grant)
    assert grant.parts is msgspec.UNSET


@pytest.mark.parametrize("content", [b"other bytes", b"\x00" * 2004], ids=["another length", "the same length"])
def test_an_object_that_is_not_what_was_offered_is_rejected_and_an_incident(tell: Told, content: bytes) -> None:
    frame = shot()
    grant = tell(frame.offer)
    assert isinstance(grant, wire.Grant)
    tell.parts.store.put(grant.key, content)
    expected = wire.Reject(frame_id=frame.id, reason="the object in the store is not what was offered")
    assert [tell(frame.stored(grant)), tell(frame.stored(grant)), tell(frame.offer)] == [expected] * 3
    assert tell.row(frame).delivery is Delivery.REJECTED
    (incident,) = tell.events("incident")
    assert incident.subject == frame.id
    assert incident.detail["found"]["size_bytes"] == len(content)


def test_a_frame_is_rejected_only_for_its_own_message_not_by_a_wrong_word(tell: Told) -> None:
    frame = shot()
    grant = tell(frame.offer)
    assert isinstance(grant, wire.Grant)
    wrong = msgspec.structs.replace(frame.stored(grant), key="frames/cam-1/2026-03-04/other.jpg")
    assert isinstance(tell(wrong), wire.Reject)
    assert tell.row(frame).delivery is Delivery.GRANTED
    put(PutGrant(grant.url, grant.headers), frame.content)
    assert isinstance(tell(frame.stored(grant)), wire.Ack)


def test_a_stored_that_was_never_offered_is_recorded_and_not_answered(tell: Told) -> None:
    frame = shot()
    stored = wire.Stored(device="cam-1", frame_id=frame.id, key="frames/x", sha256=frame.offer.sha256)
    assert tell(stored) is None
    assert [event.subject for event in tell.events("unknown frame")] == [frame.id]


# One id, one device, one content


@pytest.mark.parametrize("acknowledged", [False, True])
def test_other_bytes_under_a_known_id_are_an_incident_and_never_an_overwrite(tell: Told, acknowledged: bool) -> None:
    frame = shot()
    if acknowledged:
        tell.deliver(frame)
    else:
        tell(frame.offer)
    before = tell.row(frame)
    other = shot(frame_id=frame.id)
    assert tell(other.offer) == wire.Reject(frame_id=frame.id, reason="frame id is known with another sha256")
    after = tell.row(frame)
    assert (after.sha256, after.delivery) == (before.sha256, before.delivery)
    (incident,) = tell.events("incident")
    assert incident.detail["known"] == {"sha256": frame.offer.sha256}
    assert incident.detail["said"] == {"sha256": other.offer.sha256}
    if acknowledged:
        assert tell.parts.store.get(before.key) == frame.content


def test_the_frame_of_another_device_is_not_given_away(tell: Told) -> None:
    frame = shot("cam-1")
    tell.deliver(frame)
    stolen = msgspec.structs.replace(frame.offer, device="cam-2")
    reply = tell(stolen)
    assert isinstance(reply, wire.Reject)
    assert frame.offer.sha256 not in reply.reason
    stored = wire.Stored(device="cam-2", frame_id=frame.id, key=tell.row(frame).key, sha256=frame.offer.sha256)
    assert isinstance(tell(stored), wire.Reject)
    assert tell.row(frame).device_id == "cam-1"
    assert len(tell.events("incident")) == 2


# Declined


def test_a_picture_that_the_fleet_has_already_is_declined_for_good(tell: Told) -> None:
    frame = shot("cam-1")
    tell.deliver(frame)
    twin = shot("cam-2", frame.content)
    expected = wire.Decline(frame_id=twin.id, reason=f"the same picture is here already as {frame.id}")
    assert [tell(twin.offer), tell(twin.offer, now=LATER)] == [expected, expected]
    assert tell.row(twin).delivery is Delivery.DECLINED


def test_what_was_redacted_and_where_it_was_are_kept_with_the_frame_and_nothing_where_neither_is_told(
    tell: Told,
) -> None:
    done = wire.Redaction(mode="blur", method="fill", count=2, boxes=[wire.Area(0, 16, 48, 64)], classes=["person"])
    told, silent = shot(redaction=done, position=wire.Position(48.14, 11.58, 2)), shot()
    for frame in (told, silent):
        assert isinstance(tell.deliver(frame), wire.Ack)
    row = tell.row(told)
    assert row.redaction == {
        "mode": "blur",
        "method": "fill",
        "count": 2,
        "boxes": [[0, 16, 48, 64]],
        "classes": ["person"],
    }
    assert row.position == {"latitude_deg": 48.14, "longitude_deg": 11.58, "decimals": 2}
    with tell.parts.catalogue.session() as session:
        null = sa.select(Frame.id).where(Frame.redaction.is_(None), Frame.position.is_(None))
        assert list(session.scalars(null)) == [silent.id]


def test_a_frame_whose_pixels_stay_on_the_device_is_known_with_the_reason_and_never_asked_for(tell: Told) -> None:
    why = wire.Redaction(
        mode="drop", method="fill", count=1, boxes=[wire.Area(0, 0, 16, 16)], withheld="it shows a person"
    )
    content = b"\xff\xd8 the stand-in of all such frames \xff\xd9"
    frames = [shot(content=content, thumbnail_jpeg=b"", redaction=why) for _ in range(2)]
    for frame in frames:
        expected = wire.Decline(frame_id=frame.id, reason="its pixels stay on the device: it shows a person")
        assert [tell(frame.offer), tell(frame.offer, now=LATER)] == [expected, expected]
        row = tell.row(frame)
        assert (row.delivery, row.boxes, row.reasons[0]["strategy"]) == (
            Delivery.DECLINED,
            [[1, 0.5, 10.0, 20.0, 30.0, 40.0]],
            "uncertainty",
        )
        assert row.redaction is not None
        assert row.redaction["withheld"] == "it shows a person"


def test_a_twin_of_a_frame_that_has_not_arrived_yet_is_wanted(tell: Told) -> None:
    frame = shot("cam-1")
    tell(frame.offer)
    assert isinstance(tell(shot("cam-2", frame.content).offer), wire.Grant)


def test_the_cap_is_per_device_and_per_day(tmp_path: Path, s3: S3Server) -> None:
    tell = Told(make_services(tmp_path, s3.store, "cam-1", "cam-2", max_frames_per_device_per_day=2))
    granted = [shot(), shot()]
    assert all(isinstance(tell(frame.offer), wire.Grant) for frame in granted)
    third = shot()
    declined = wire.Decline(frame_id=third.id, reason="2 frames of this device were taken today")
    assert tell(third.offer) == declined
    assert isinstance(tell(granted[0].offer), wire.Grant), "what was granted stays granted"
    assert isinstance(tell(shot("cam-2").offer), wire.Grant)
    assert isinstance(tell(shot().offer, now=NOW + timedelta(days=1)), wire.Grant)
    assert tell(third.offer, now=NOW + timedelta(days=1)) == declined


# Classes


def test_class_names_get_their_index_once_and_keep_it_whatever_order_a_model_has(tell: Told) -> None:
    box = wire.Box(0, 0.5, 0, 0, 1, 1)
    first = shot(classes=["car", "person"], boxes=[box])
    second = shot("cam-2", classes=["bicycle", "person", "car"], boxes=[box, wire.Box(2, 0.5, 0, 0, 1, 1)])
    tell(first.offer)
    tell(second.offer)
    assert tell.row(first).boxes[0][0] == 0
    assert [found[0] for found in tell.row(second).boxes] == [2, 0]
    with tell.parts.catalogue.session() as session:
        names = session.scalars(sa.select(ObjectClass.name).order_by(ObjectClass.index)).all()
    assert names == ["car", "person", "bicycle"]


def test_names_that_others_have_appended_meanwhile_are_found(tell: Told) -> None:
    tell(shot(classes=["car"], boxes=[]).offer)
    with tell.parts.catalogue.session.begin() as session:
        session.add(ObjectClass(index=1, name="tram"))
    frame = shot(classes=["tram", "bus"], boxes=[wire.Box(0, 0.5, 0, 0, 1, 1), wire.Box(1, 0.5, 0, 0, 1, 1)])
    tell(frame.offer)
    assert [found[0] for found in tell.row(frame).boxes] == [1, 2]


def test_a_fleet_cannot_fill_the_class_table(tmp_path: Path, s3: S3Server) -> None:
    tell = Told(make_services(tmp_path, s3.store, "cam-1", max_classes=3))
    reply = tell(shot(classes=["a", "b", "c", "d"], boxes=[]).offer)
    assert isinstance(reply, wire.Reject)
    assert "class table is full" in reply.reason
    with tell.parts.catalogue.session() as session:
        assert session.scalars(sa.select(ObjectClass)).all() == []
    assert isinstance(tell(shot(classes=["a", "b", "c"], boxes=[]).offer), wire.Grant)


# Status


def status(session: str = "s1", at_s: int = 0, **changed: Any) -> wire.Status:
    at = NOW + timedelta(seconds=at_s)
    report = wire.Status(device="cam-1", online=True, session=session, at=at, running_digest="b" * 64)
    return msgspec.structs.replace(report, **changed)


def device(tell: Told) -> Device:
    with tell.parts.catalogue.session() as session:
        return session.get_one(Device, "cam-1")


def test_a_status_becomes_what_is_known_of_the_device(tell: Told) -> None:
    assert tell(status(frames_seen=5), now=LATER) is None
    row = device(tell)
    assert (row.online, row.session, row.last_seen_at, row.running_digest) == (True, "s1", LATER, "b" * 64)
    assert row.status["frames_seen"] == 5
    json.dumps(row.status, allow_nan=False)


def test_a_last_will_takes_the_device_offline_and_keeps_what_it_counted(tell: Told) -> None:
    tell(status(at_s=10, frames_seen=5))
    tell(status(at_s=0, online=False, running_digest=""), now=LATER)
    row = device(tell)
    assert (row.online, row.status["online"], row.status["frames_seen"], row.running_digest) == (
        False,
        False,
        5,
        "b" * 64,
    )


def test_the_last_will_of_a_session_that_another_followed_changes_nothing(tell: Told) -> None:
    tell(status("s1", 0))
    tell(status("s2", 10))
    tell(status("s1", 0, online=False))
    assert device(tell).online


def test_a_goodbye_counts_to_the_end(tell: Told) -> None:
    tell(status(at_s=0, frames_seen=5))
    tell(status(at_s=20, online=False, frames_seen=9))
    row = device(tell)
    assert (row.online, row.status["frames_seen"]) == (False, 9)


@pytest.mark.parametrize("told", [status(at_s=5), status(at_s=0, online=False)], ids=["online", "will"])
def test_a_status_that_the_broker_repeats_is_no_sign_of_life(tell: Told, told: wire.Status) -> None:
    tell(status(at_s=5))
    tell(told)
    tell(told, now=LATER)
    assert device(tell).last_seen_at == NOW


def runs(run: str, at_s: float) -> wire.Status:
    """What a run says that many seconds after NOW."""
    clock = {"run": run, "boot_id": f"boot-{run}", "monotonic_ns": int((1000 + at_s) * 1e9)}
    return status(f"{run}-{at_s}", int(at_s), agent_version="1.2", **clock)


def test_two_devices_with_one_identity_are_flagged_once_and_both_named(tell: Told) -> None:
    for at_s in range(0, 300, 4):
        tell(runs("ab"[at_s // 4 % 2], at_s), now=NOW + timedelta(seconds=at_s))
    (event,) = tell.events("shared identity")
    assert event.subject == "cam-1"
    assert [(each["run"], each["boot_id"], each["agent_version"]) for each in event.detail["runs"]] in (
        [("a", "boot-a", "1.2"), ("b", "boot-b", "1.2")],
        [("b", "boot-b", "1.2"), ("a", "boot-a", "1.2")],
    )
    shared_at = device(tell).shared_at
    assert shared_at is not None
    assert shared_at >= NOW + timedelta(seconds=280)
    json.dumps(event.detail)


def test_frames_that_both_copies_of_a_spool_hold_are_taken_once(tell: Told) -> None:
    """A copied card has the same frames in its spool: the same ids and bytes."""
    frame = shot()
    ack = tell.deliver(frame)
    assert isinstance(ack, wire.Ack)
    assert tell(frame.offer) == ack
    other = dataclasses.replace(frame, offer=msgspec.structs.replace(frame.offer, sha256="b" * 64))
    assert isinstance(tell(other.offer), wire.Reject)
    assert tell.row(frame).sha256 == frame.offer.sha256


def test_a_device_that_starts_again_is_not_flagged(tell: Told) -> None:
    for number, run in enumerate("abcd"):
        for at_s in range(number * 100, number * 100 + 95, 5):
            tell(runs(run, at_s), now=NOW + timedelta(seconds=at_s))
        tell(
            status(f"{run}-{number * 100}", number * 100, online=False), now=NOW + timedelta(seconds=number * 100 + 99)
        )
    assert tell.events("shared identity") == []
    assert device(tell).shared_at is None


# What is not right


def test_a_message_in_the_name_of_another_device_is_dropped_and_recorded(tell: Told) -> None:
    frame = shot("cam-1")
    assert tell.replies(frame.offer, device="cam-2") == []
    (event,) = tell.events("forged topic")
    assert (event.subject, event.detail["claims"]) == ("cam-2", "cam-1")
    with tell.parts.catalogue.session() as session:
        assert session.get(Frame, frame.id) is None


def test_a_device_that_was_never_added_gets_nothing(tell: Told) -> None:
    assert tell.replies(shot("stranger").offer) == []
    assert [event.subject for event in tell.events("unknown device")] == ["stranger"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"captured_at": "2026-01-01T00:00:00"}, "no zone"),
        ({"captured_at": "0001-01-01T00:00:00+10:00"}, "outside the calendar"),
        ({"captured_at": "9999-12-31T23:59:59-10:00"}, "outside the calendar"),
        ({"boxes": [[7, 0.5, 0, 0, 1, 1]]}, "class 7"),
        ({"boxes": [[0, 0.5, -1, 0, 1, 1]]}, "outside the picture"),
        ({"boxes": [[0, 0.5, 0, 0, 1e300, 1]]}, "outside the picture"),
        ({"boxes": [[0, 0.5, 0, 0, 1, 1]] * 301}, "length"),
        ({"boxes": [[0, 0.5, 0, 0, 1, 1]], "classes": []}, "without class names"),
        ({"classes": ["car", "  "]}, "no name"),
        ({"media_type": "text/html\r\nx: y"}, "media type"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"width_px": 20_001}, "width_px"),
        ({"sha256": "zz"}, "sha256"),
        ({"v": 2}, "version 2"),
        ({"device": "cam-1/../x"}, "device"),
    ],
)
def test_an_offer_that_can_never_be_taken_is_set_aside_and_its_device_told(
    tell: Told, changed: dict[str, Any], why: str
) -> None:
    frame = shot()
    payload = json.dumps(json.loads(wire.encode(frame.offer)) | changed).encode()
    (reply,) = tell.ingest.handle("edgecase/1/up/cam-1/offer", payload, NOW)
    assert reply.device == "cam-1"
    assert isinstance(reply.message, wire.Reject)
    assert reply.message.frame_id == frame.id
    wire.decode_down(wire.encode(reply.message))
    (event,) = tell.events("dead letter")
    assert why in event.detail["error"]
    with tell.parts.catalogue.session() as session:
        assert session.get(Frame, frame.id) is None
    assert isinstance(tell(shot().offer), wire.Grant), "the next one flows"


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("edgecase/1/up/cam-1/offer", b""),
        ("edgecase/1/up/cam-1/offer", b"\xff\xfe"),
        ("edgecase/1/up/cam-1/offer", b"[" * 10_000),
        ("edgecase/1/up/cam-1/offer", b'{"type":"offer","frame_id":"../x"}'),
        ("edgecase/1/up/cam-1/offer", b'{"type":"ack","frame_id":"0"}'),
        ("edgecase/1/up/cam-1/offer", b'{"type":"offer","score":1e309}'),
        ("edgecase/1/up/cam-1/offer", b"x" * 200_000),
        ("edgecase/2/up/cam-1/offer", b"{}"),
        ("edgecase/1/up/../offer", b"{}"),
        ("", b"{}"),
        ("edgecase/1/up/\u202ecam/offer", b"\x00"),
    ],
)
def test_what_is_no_message_at_all_becomes_a_dead_letter(tell: Told, topic: str, payload: bytes) -> None:
    assert tell.ingest.handle(topic, payload, NOW) == []
    (event,) = tell.events("dead letter")
    assert event.detail["size_bytes"] == len(payload)
    assert len(json.dumps(event.detail)) < 8000


# What is away


def test_while_the_store_is_away_nothing_is_acknowledged_and_nothing_is_decided(tell: Told) -> None:
    frame = shot()
    grant = tell(frame.offer)
    assert isinstance(grant, wire.Grant)
    away = ObjectStore(f"http://127.0.0.1:{free_port()}", "a", "b", attempts=1)
    cut_off = Told(dataclasses.replace(tell.parts, store=away))
    with pytest.raises(Unreachable):
        cut_off(frame.stored(grant))
    assert tell.row(frame).delivery is Delivery.GRANTED
    assert tell.events("incident") == []
    assert isinstance(cut_off(shot().offer), wire.Grant), "an offer needs no store"


def test_on_a_full_disk_nothing_is_answered_and_the_message_can_be_handed_in_again(
    tmp_path: Path, s3: S3Server
) -> None:
    parts = make_services(tmp_path, s3.store, "cam-1")
    pages = 1
    sa.event.listen(parts.catalogue.engine, "checkout", lambda raw, *_: raw.execute(f"PRAGMA max_page_count={pages}"))
    tell = Told(parts)
    frame = shot(thumbnail_jpeg=b"x" * 20_000)  # more than the pages that are there can hold
    with pytest.raises(Unreachable, match="disk is full"):
        tell(frame.offer)
    pages = 10_000
    assert isinstance(tell(frame.offer), wire.Grant)


# Duplicates


def test_duplicates_are_taken_unless_they_are_to_be_declined(tell: Told) -> None:
    for _ in range(2):
        assert isinstance(tell(shot(thumbnail_jpeg=circle.plain_jpeg()).offer), wire.Grant)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, wire.Decline),
        ({"device": "cam-2"}, wire.Decline),
        ({"score": 0.6}, wire.Grant),
        ({"thumbnail_jpeg": circle.plain_jpeg(160)}, wire.Grant),
        ({"thumbnail_jpeg": b""}, wire.Grant),
        ({"reasons": [wire.Reason("audit", 0.1, 0.0, 0.1)]}, wire.Grant),
        ({"context_of": "f" * 32, "score": 0.0}, wire.Grant),
    ],
    ids=["again", "on another device", "more doubtful", "other light", "no thumbnail", "audit", "beside a pick"],
)
def test_where_they_are_declined_only_what_shows_nothing_new_is(
    tmp_path: Path, s3: S3Server, changes: dict[str, Any], expected: type[wire.Down]
) -> None:
    tell = Told(make_services(tmp_path, s3.store, "cam-1", "cam-2", decline_duplicates=True))
    first = shot(thumbnail_jpeg=circle.plain_jpeg())
    assert isinstance(tell(first.offer), wire.Grant)
    answer = tell(shot(**{"thumbnail_jpeg": circle.plain_jpeg()} | changes).offer)
    assert isinstance(answer, expected)
    if isinstance(answer, wire.Decline):
        assert answer.reason == f"it shows what {first.id} shows"
    assert isinstance(tell(first.offer), wire.Grant)  # it is no duplicate of itself


def test_what_lies_beside_a_pick_is_kept_but_not_asked_for_and_takes_no_picks_place(
    tmp_path: Path, s3: S3Server
) -> None:
    tell = Told(make_services(tmp_path, s3.store, "cam-1", decline_duplicates=True))
    pick = shot(thumbnail_jpeg=circle.plain_jpeg())
    reasons = [wire.Reason("context", -1.5, 0.0)]
    beside = shot(
        content=pick.content, thumbnail_jpeg=circle.plain_jpeg(), score=0.0, reasons=reasons, context_of=pick.id
    )
    for frame in (beside, pick):  # in this order: what came before a pick may well arrive before it
        grant = tell(frame.offer)
        assert isinstance(grant, wire.Grant)
        put(grant, frame.content)
        assert isinstance(tell(frame.stored(grant)), wire.Ack)
    with tell.parts.catalogue.session() as session:
        rows = [session.get_one(Frame, frame.id) for frame in (pick, beside)]
    assert [(row.review, row.context_of) for row in rows] == [(Review.OPEN, None), (Review.CONTEXT, pick.id)]
