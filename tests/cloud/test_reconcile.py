"""The catalogue against the store: what does not match is told, what can be put right is, and nothing goes that was not to go."""

from __future__ import annotations

import secrets
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from edgecase_cloud import datasets, forgetting, inspection, label_queue, migrations, review, settings
from edgecase_cloud.batch import BatchRules
from edgecase_cloud.catalogue import Annotation, Catalogue, Delivery, Frame, Look, Review
from edgecase_cloud.decoding import decoder
from edgecase_cloud.ingest import PARTS_WAIT
from edgecase_cloud.reconcile import Repaired, reconcile, repair
from edgecase_cloud.reviewable import LabelBox, Origin
from edgecase_cloud.services import Services
from edgecase_cloud.store import PutGrant
from edgecase_cloud.web.app import create_app
from edgecase_models import wire
from support import circle
from support.cloud import NOW, Shot, Told, shot
from support.s3 import put

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def tell(own: Services) -> Told:
    datasets.add_classes(own.catalogue, ["car", "person"])
    return Told(own)


def picture(shade: int, **changed: object) -> Shot:
    given = {"content": circle.plain_jpeg(shade), "width_px": circle.WIDTH, "height_px": circle.HEIGHT}
    return shot(**{**given, **changed})  # type: ignore[arg-type]


def v7(at_ms: int) -> str:
    return f"{at_ms:012x}7{secrets.token_hex(16)[:3]}8{secrets.token_hex(16)[:15]}"


def restored(tell: Told, backup: Path) -> Told:
    """A cloud whose catalogue is this older one, and whose store is as it is."""
    folder = backup.parent / "restored"
    folder.mkdir()
    (folder / "catalogue.db").write_bytes(backup.read_bytes())
    catalogue = Catalogue.in_folder(folder)
    migrations.upgrade(catalogue)
    return Told(Services(settings.load(folder), catalogue, tell.parts.store))


def copied(tell: Told) -> Path:
    """A backup of the catalogue as it is now, taken while it is in use."""
    path = tell.parts.settings.data / "backup.db"
    with sqlite3.connect(tell.parts.settings.path("catalogue.db")) as live, sqlite3.connect(path) as target:
        live.backup(target)
    return path


def test_what_matches_is_left_alone(tell: Told) -> None:
    for shade in (20, 60):
        tell.deliver(picture(shade))
    found = reconcile(tell.parts)
    assert (found.objects, found.acknowledged) == (2, 2)
    assert (found.lost, found.unknown, found.waiting, found.leftover) == ((), (), (), ())
    assert repair(tell.parts, found, NOW) == Repaired()
    assert tell.events("repaired") == []


def test_uploads_in_parts_that_nobody_goes_on_with_are_dropped_after_their_time(tell: Told) -> None:
    key, size_bytes = "frames/cam-1/2026-03-04/large.jpg", 9_000_000
    upload_id = tell.parts.store.parts(key, size_bytes).upload_id
    now, found = wire.now(), reconcile(tell.parts)
    assert repair(tell.parts, found, now) == Repaired()
    assert tell.parts.store.parts(key, size_bytes).upload_id == upload_id, "a device may still go on with it"
    assert repair(tell.parts, found, now + PARTS_WAIT + timedelta(minutes=1)) == Repaired(abandoned=[key])
    assert tell.parts.store.parts(key, size_bytes).upload_id != upload_id


def test_an_older_catalogue_ends_whole(tell: Told) -> None:
    """A backup, an hour of work, the restore. What was in flight its device offers again; what it let go of is taken in from its object."""
    at_ms = int(NOW.timestamp() * 1000)
    old = picture(20)
    tell.deliver(old)
    in_flight, uploaded = picture(40), picture(60)
    first = tell.granted(in_flight)
    backup = copied(tell)
    gone = picture(80, frame_id=v7(at_ms))
    tell.deliver(gone, now=LATER)  # acknowledged within the hour: no device has it any more
    tell.put(in_flight, first)
    tell.put(uploaded, tell.granted(uploaded, LATER))  # the ack was still to come

    after = restored(tell, backup)
    found = reconcile(after.parts)
    assert (found.lost, found.waiting) == ((), (in_flight.id,))
    assert {key.rpartition("/")[2] for key in found.unknown} == {f"{gone.id}.jpg", f"{uploaded.id}.jpg"}

    assert after(uploaded.stored(first), now=LATER) is None, "a word about an unknown frame is not answered"
    grant = after.granted(uploaded, LATER)  # so its device offers it again
    assert put(PutGrant(grant.url, grant.headers), uploaded.content)[0] == 412, "the store has it, which is as good"
    assert isinstance(after(uploaded.stored(grant), now=LATER), wire.Ack)
    assert isinstance(after(in_flight.offer, now=LATER), wire.Grant)
    assert isinstance(after(in_flight.stored(first), now=LATER), wire.Ack)

    done = repair(after.parts, reconcile(after.parts), LATER)
    assert (done.adopted, done.left, done.removed) == ([gone.id], {}, [])
    end = reconcile(after.parts)
    assert (end.objects, end.acknowledged) == (4, 4)
    assert (end.lost, end.unknown, end.waiting, end.leftover) == ((), (), (), ())
    row = after.row(gone)
    assert (row.device_id, row.sha256, row.size_bytes) == ("cam-1", gone.offer.sha256, gone.offer.size_bytes)
    assert (row.width_px, row.height_px, row.problem) == (circle.WIDTH, circle.HEIGHT, "")
    assert abs(row.taken_at - NOW) < timedelta(seconds=1), "its id says when it was made"
    (event,) = after.events("repaired")
    assert event.detail == {"adopted": 1}
    assert gone.id in {pick.id for pick in label_queue.reorder(after.parts.catalogue, BatchRules(), LATER).picks}
    client = TestClient(create_app(after.parts), base_url="http://127.0.0.1")
    for page in ("/", "/queue", f"/frames/{gone.id}"):
        assert client.get(page).status_code == 200
    assert "known by its object alone" in client.get(f"/frames/{gone.id}").text


def test_an_adopted_frame_can_be_labelled_and_its_devices_word_completes_it(tell: Told) -> None:
    frame = picture(40, thumbnail_jpeg=circle.plain_jpeg(40))
    grant = tell.granted(frame)
    tell.put(frame, grant)
    with tell.parts.catalogue.session.begin() as session:
        session.execute(sa.delete(Look))
        session.execute(sa.delete(Frame))
    assert repair(tell.parts, reconcile(tell.parts), NOW).adopted == [frame.id]
    with tell.parts.catalogue.session.begin() as session:
        box = LabelBox(0, 8, 8, 24, 40, Origin.HUMAN)
        saved = review.save_annotation(
            session, frame.id, revision=0, verdict=Review.CORRECTED, boxes=[box], author="a", now=NOW
        )
    assert isinstance(saved, review.Saved)
    assert tell(frame.offer, now=LATER) == wire.Ack(frame_id=frame.id, sha256=frame.offer.sha256)
    row = tell.row(frame)
    assert (row.camera, row.model_digest, row.strategies) == ("front", "a" * 64, "uncertainty")
    assert row.boxes == [[1, 0.5, 10.0, 20.0, 30.0, 40.0]]
    assert (row.review, row.revision, row.delivery) == (Review.CORRECTED, 1, Delivery.ACKNOWLEDGED)
    other = Shot(
        frame.content, wire.decode_up(wire.encode(frame.offer).replace(frame.offer.sha256.encode(), b"e" * 64))
    )  # type: ignore[arg-type]
    assert isinstance(tell(other.offer), wire.Reject), "other bytes under its id are an incident as ever"


def test_a_lost_object_is_restored_from_a_dataset_and_else_stays_lost(tell: Told) -> None:
    kept, gone = picture(40), picture(200)
    for each in (kept, gone):
        tell.deliver(each)
    with tell.parts.catalogue.session.begin() as session:
        row = session.get_one(Frame, kept.id)
        row.review, row.revision = Review.ACCEPTED, 1
        session.add(Annotation(frame_id=kept.id, revision=1, verdict=row.review, boxes=[], author="a", created_at=NOW))
    datasets.build_labelled(tell.parts.settings.data, tell.parts.catalogue, tell.parts.store)
    tell.parts.store.delete([tell.row(kept).key, tell.row(gone).key])
    inspection.look_at_pictures(tell.parts, decoder())
    assert tell.row(kept).problem == "its object is not in the store"
    found = reconcile(tell.parts)
    assert set(found.lost) == {kept.id, gone.id}
    done = repair(tell.parts, found, NOW)
    assert done.restored == [kept.id]
    assert list(done.left) == [gone.id]
    assert tell.parts.store.get(tell.row(kept).key) == kept.content
    assert reconcile(tell.parts).lost == (gone.id,), "what is lost is told until it is not"
    inspection.look_at_pictures(tell.parts, decoder())
    assert tell.row(kept).problem == ""


def test_a_waiting_object_that_is_not_what_was_offered_is_left_for_its_device(tell: Told) -> None:
    frame = picture(40)
    tell.parts.store.put(tell.granted(frame).key, b"other bytes")
    done = repair(tell.parts, reconcile(tell.parts), NOW)
    assert (done.acknowledged, list(done.left)) == ([], [frame.id])
    assert tell.row(frame).delivery is Delivery.GRANTED


def test_what_is_nobodys_is_left_where_it_is(tell: Told) -> None:
    strange = [
        f"frames/stranger/2026-01-01/{secrets.token_hex(16)}.jpg",
        "frames/cam-1/2026-01-01/stray.jpg",
        "frames/loose.jpg",
    ]
    for key in strange:
        tell.parts.store.put(key, b"stray")
    found = reconcile(tell.parts)
    assert set(found.unknown) == set(strange)
    done = repair(tell.parts, found, NOW)
    assert set(done.left) == set(strange)
    assert (done.adopted, done.removed) == ([], [])
    assert all(tell.parts.store.head(key) for key in strange)


def test_an_object_that_is_no_picture_is_taken_in_with_the_reason(tell: Told) -> None:
    key = f"frames/cam-1/2026-03-04/{secrets.token_hex(16)}.jpg"
    tell.parts.store.put(key, b"\xff\xd8<html>\xff\xd9")
    (frame_id,) = repair(tell.parts, reconcile(tell.parts), NOW).adopted
    with tell.parts.catalogue.session() as session:
        assert session.get_one(Frame, frame_id).problem == "not a picture that can be decoded"


def test_an_object_of_a_forgotten_frame_is_never_taken_in(tell: Told) -> None:
    frame = picture(40)
    grant = tell.granted(frame)
    forgetting.order(tell.parts, forgetting.Scope(frame_id=frame.id), NOW)
    forgetting.carry_out(tell.parts, lambda: NOW)
    tell.put(frame, grant)
    found = reconcile(tell.parts)
    assert (found.unknown, found.leftover) == ((), (grant.key,))
    assert repair(tell.parts, found, NOW).removed == [grant.key]
    assert reconcile(tell.parts).objects == 0
