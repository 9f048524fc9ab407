"""What is forgotten is gone from everywhere, is declined when it comes again, and leaves an audit row; a kill is made good."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from edgecase_cloud import dataset_files, datasets, forgetting, review_queue
from edgecase_cloud.catalogue import (
    Annotation,
    Bundle,
    Dataset,
    Event,
    Forgetting,
    Forgotten,
    Frame,
    Look,
    Review,
    Standing,
)
from edgecase_cloud.dataset_files import DatasetFolder
from edgecase_cloud.datasets import Kind, build_labelled
from edgecase_cloud.forgetting import ForgetError, Scope
from edgecase_cloud.services import Services
from edgecase_cloud.splits import SplitRule
from edgecase_cloud.store import Unreachable
from edgecase_cloud.training import write_mix
from edgecase_models import wire
from support import circle
from support.cloud import NOW, Cloud, Shot, Told, edgecase_cloud, shot
from support.s3 import LARGE, in_parts

HOUR = timedelta(hours=1)


@pytest.fixture
def tell(own: Services) -> Told:
    datasets.add_classes(own.catalogue, ["car", "person"])
    return Told(own)


def picture(shade: int, **changed: Any) -> Shot:
    content = circle.plain_jpeg(shade)
    return shot(content=content, width_px=circle.WIDTH, height_px=circle.HEIGHT, thumbnail_jpeg=content, **changed)


def labelled(tell: Told, *frames: Shot) -> None:
    with tell.parts.catalogue.session.begin() as session:
        for each in frames:
            row = session.get_one(Frame, each.id)
            row.review, row.revision = Review.CORRECTED, 1
            box = {"cls": 0, "x1": 8, "y1": 8, "x2": 24, "y2": 40, "origin": "human"}
            session.add(
                Annotation(frame_id=each.id, revision=1, verdict=row.review, boxes=[box], author="a", created_at=NOW)
            )
            session.add(Standing(frame_id=each.id, rank=1, reason="so"))


def forget(tell: Told, **scope: Any) -> list[Event]:
    forgetting.order(tell.parts, Scope(**scope), NOW)
    return forgetting.carry_out(tell.parts, lambda: NOW + HOUR)


def count(tell: Told, table: type[Any]) -> int:
    with tell.parts.catalogue.session() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def holding(data: Path, content: bytes) -> list[Path]:
    """Every file under the data folder with these bytes in it, whatever it is called."""
    return [path for path in data.rglob("*") if path.is_file() and content in path.read_bytes()]


def test_a_frame_is_gone_from_everywhere(tell: Told) -> None:
    """Object, row, thumbnail, look, standing, answer, the versions that had it, and the trainings' copies."""
    parts = tell.parts
    frame, other = picture(40), picture(200)
    for each in (frame, other):
        tell.deliver(each)
    labelled(tell, frame, other)
    beside = picture(90, context_of=frame.id)
    tell.deliver(beside)
    built = build_labelled(parts.settings.data, parts.catalogue, parts.store, rule=SplitRule(val_share=0))
    before = datasets.opened(parts.settings.data, built.dataset)
    write_mix(parts.settings.path("runs", "job-1", "mix"), before, [], replay=0, repeat=2)
    with parts.catalogue.session.begin() as session:
        digest = {"digest": "d" * 64, "name": "m", "version": "1", "path": "bundles/d.tar"}
        session.add(Bundle(**digest, release=3, created_at=NOW, dataset_id=built.dataset.id))
    key = tell.row(frame).key
    assert len(holding(parts.settings.data / "datasets", frame.content)) == 1
    assert len(holding(parts.settings.data / "runs", frame.content)) == 2

    (audit,) = forget(tell, frame_id=frame.id)

    assert parts.store.head(key) is None
    assert not holding(parts.settings.data / "datasets", frame.content)
    assert not holding(parts.settings.data / "runs", frame.content)
    assert not [path for path in parts.settings.data.rglob("*") if frame.id in path.name]
    with parts.catalogue.session() as session:
        assert session.get(Frame, frame.id) is None
        assert session.get_one(Frame, beside.id).context_of is None
        for table in (Look, Annotation, Standing):
            assert frame.id not in set(session.scalars(sa.select(table.frame_id)))
        now = session.scalars(sa.select(Dataset)).one()
        assert session.get_one(Bundle, "d" * 64).dataset_id is None
    assert (now.name, now.kind, now.pictures) == ("labelled", "labelled", 1)
    assert [each.frame_id for each in datasets.opened(parts.settings.data, now).pictures] == [other.id]
    assert len(holding(parts.settings.data / "runs", other.content)) == 2
    assert (audit.kind, audit.subject, audit.at) == ("forgotten", frame.id, NOW + HOUR)
    assert audit.detail == {
        "frame_id": frame.id,
        "frames": 1,
        "datasets": [{"id": built.dataset.id, "name": "labelled", "now": now.id}],
        "models": [{"digest": "d" * 64, "release": 3, "dataset": built.dataset.id}],
        "note": forgetting.OF_MODELS,
    }
    json.dumps(audit.detail)


def test_a_forgotten_frame_that_is_offered_again_is_declined_and_leaves_nothing(tell: Told) -> None:
    frame = picture(40)
    tell.deliver(frame)
    forget(tell, frame_id=frame.id)
    for now in (NOW, NOW + timedelta(days=400)):
        answer = tell(frame.offer, now=now)
        assert answer == wire.Decline(frame_id=frame.id, reason="it is to be forgotten")
    assert (count(tell, Frame), count(tell, Look)) == (0, 0)


def test_one_that_was_never_seen_can_be_forgotten_before_it_comes(tell: Told) -> None:
    frame = picture(40)
    (audit,) = forget(tell, frame_id=frame.id)
    assert audit.detail == {"frame_id": frame.id}
    assert isinstance(tell(frame.offer), wire.Decline)


def test_an_upload_that_was_granted_before_is_removed_when_it_comes(tell: Told) -> None:
    frame = picture(40)
    grant = tell.granted(frame)
    forget(tell, frame_id=frame.id)
    tell.put(frame, grant)
    foreign = picture(90)
    tell.deliver(foreign)
    tricked = wire.Stored(device="cam-1", frame_id=frame.id, key=tell.row(foreign).key, sha256=frame.offer.sha256)
    assert isinstance(tell(tricked), wire.Decline)
    assert tell.parts.store.head(tell.row(foreign).key) is not None, "a device names no other frame's object"
    assert isinstance(tell(frame.stored(grant)), wire.Decline)
    assert tell.parts.store.head(grant.key) is None


def test_of_an_upload_in_parts_nothing_is_left_either(tell: Told) -> None:
    """Not of one that goes on when the order comes, and not of one that has come to its end on the device since."""
    going_on, ended = (shot(content=secrets.token_bytes(64) + LARGE) for _ in range(2))
    grants = [tell.granted(frame) for frame in (going_on, ended)]
    done = in_parts(grants[1], ended.content)
    store = tell.parts.store
    for frame in (going_on, ended):
        forgetting.order(tell.parts, Scope(frame_id=frame.id), NOW)
    said = msgspec.structs.replace(ended.stored(grants[1]), parts=done)
    forgetting.carry_out(tell.parts, lambda: NOW + HOUR)
    assert store.give_up_parts("frames/") == []
    again = store.parts(grants[1].key, len(ended.content))  # as if it had been granted in the moment between
    assert isinstance(tell(said), wire.Decline)
    assert store.give_up_parts("frames/") == []
    assert again.upload_id != done.upload_id


def test_a_stretch_of_time_holds_for_what_comes_later_and_for_nothing_beside_it(tell: Told) -> None:
    def at(hours: float, shade: int, device: str = "cam-1") -> Shot:
        return picture(shade, captured_at=NOW + hours * HOUR, device=device, monotonic_ns=int((100 + hours) * 3.6e12))

    before, inside, other = at(-3, 20), at(-2, 40), at(-2, 60, "cam-2")
    for each in (before, inside, other):
        tell.deliver(each)
    forget(tell, device="cam-1", taken_from=NOW - 2 * HOUR, taken_to=NOW - HOUR)
    late, at_the_end, of_the_other = at(-1.5, 80), at(-1, 100), at(-1.5, 120, "cam-2")
    assert tell(late.offer) == wire.Decline(frame_id=late.id, reason="it is to be forgotten")
    assert isinstance(tell(at_the_end.offer), wire.Grant)
    assert isinstance(tell(of_the_other.offer), wire.Grant)
    assert isinstance(tell(late.offer), wire.Decline)
    with tell.parts.catalogue.session() as session:
        assert set(session.scalars(sa.select(Frame.id))) == {before.id, other.id, at_the_end.id, of_the_other.id}
        assert set(session.scalars(sa.select(Forgotten.frame_id))) == {inside.id, late.id}


def test_a_device_is_forgotten_up_to_now_and_may_go_on(tell: Told) -> None:
    frames = [picture(shade) for shade in (20, 40)]
    for each in frames:
        tell.deliver(each)
    tell.deliver(theirs := picture(60, device="cam-2"))
    (audit,) = forget(tell, device="cam-1")
    assert (audit.subject, audit.detail) == ("cam-1", {"device": "cam-1", "frames": 2})
    assert isinstance(tell(picture(80).offer), wire.Grant)
    assert tell.row(theirs)


def test_from_the_order_on_no_page_and_no_version_has_it(tell: Told) -> None:
    frame = picture(40)
    tell.deliver(frame)
    labelled(tell, frame)
    forgetting.order(tell.parts, Scope(frame_id=frame.id), NOW)
    with tell.parts.catalogue.session() as session:
        assert review_queue.queue(session, review_queue.QueueFilter(review=None), limit=9).total == 0
    assert tell.row(frame).thumbnail_jpeg == b""
    with pytest.raises(dataset_files.DatasetError, match="nothing is labelled"):
        build_labelled(tell.parts.settings.data, tell.parts.catalogue, tell.parts.store)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("step", ["_replace", "_remove_from_runs", "_remove_rows", "_note"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_step_is_made_good(tell: Told, monkeypatch: pytest.MonkeyPatch, step: str, moment: str) -> None:
    parts = tell.parts
    frame, other = picture(40), picture(200)
    for each in (frame, other):
        tell.deliver(each)
    labelled(tell, frame, other)
    built = build_labelled(parts.settings.data, parts.catalogue, parts.store, rule=SplitRule(val_share=0))
    write_mix(
        parts.settings.path("runs", "job-1", "mix"), datasets.opened(parts.settings.data, built.dataset), [], replay=0
    )
    real: Callable[..., Any] = getattr(forgetting, step)

    def dies(*arguments: Any, **named: Any) -> None:
        if moment == "after":
            real(*arguments, **named)
        raise Killed

    forgetting.order(parts, Scope(frame_id=frame.id), NOW)
    with monkeypatch.context() as patched:
        patched.setattr(forgetting, step, dies)
        with pytest.raises(Killed):
            forgetting.carry_out(parts, lambda: NOW)
    (audit,) = forgetting.carry_out(parts, lambda: NOW)
    assert audit.detail["frames"] == 1
    (entry,) = audit.detail["datasets"]
    assert entry["id"] == built.dataset.id
    for folder in ("datasets", "runs"):
        assert not holding(parts.settings.data / folder, frame.content)
    with parts.catalogue.session() as session:
        (row,) = session.scalars(sa.select(Dataset)).all()
    assert [each.frame_id for each in datasets.opened(parts.settings.data, row).pictures] == [other.id]
    assert forgetting.carry_out(parts, lambda: NOW) == [], "it is done"
    assert len(tell.events("forgotten")) == 1


def test_half_removed_versions_are_finished(tell: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = picture(40)
    tell.deliver(frame)
    labelled(tell, frame)
    build_labelled(tell.parts.settings.data, tell.parts.catalogue, tell.parts.store)
    forgetting.order(tell.parts, Scope(frame_id=frame.id), NOW)

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", dies)
        with pytest.raises(Killed):
            forgetting.carry_out(tell.parts, lambda: NOW)
    assert holding(tell.parts.settings.data / "datasets", frame.content)
    (audit,) = forgetting.carry_out(tell.parts, lambda: NOW)
    assert audit.detail["datasets"][0]["now"] is None, "nothing was left of the version"
    assert not holding(tell.parts.settings.data / "datasets", frame.content)
    assert count(tell, Dataset) == 0


def test_while_the_store_is_away_the_order_stands(tell: Told) -> None:
    frame = picture(40)
    tell.deliver(frame)
    key = tell.row(frame).key
    forgetting.order(tell.parts, Scope(frame_id=frame.id), NOW)
    away = Services(
        tell.parts.settings, tell.parts.catalogue, type(tell.parts.store)("http://127.0.0.1:9", "a", "b", attempts=1)
    )
    with pytest.raises(Unreachable):
        forgetting.carry_out(away, lambda: NOW)
    assert tell.row(frame).key == key, "what is still in the store is not forgotten by its row"
    assert len(forgetting.carry_out(tell.parts, lambda: NOW)) == 1
    assert tell.parts.store.head(key) is None


def test_an_imported_copy_of_a_forgotten_picture_goes_too_and_the_set_stays(tell: Told, tmp_path: Path) -> None:
    frame = picture(40)
    tell.deliver(frame)
    source = tmp_path / "source"
    for kind in ("images", "labels"):
        (source / kind / "val").mkdir(parents=True)
    for name, content in (("mine", frame.content), ("theirs", circle.plain_jpeg(210))):
        (source / f"images/val/{name}.jpg").write_bytes(content)
        (source / f"labels/val/{name}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (source / "data.yaml").write_text("train: images/val\nval: images/val\nnames: [car]\n")
    datasets.import_folder(tell.parts.settings.data, tell.parts.catalogue, source, name="golden", kind=Kind.GOLDEN)
    forget(tell, frame_id=frame.id)
    (golden,) = datasets.listed(tell.parts.catalogue, Kind.GOLDEN)
    assert golden.pictures == 1
    assert "theirs" in DatasetFolder.read(tell.parts.settings.data / golden.path).pictures[0].image


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        ({}, "say which frames"),
        ({"taken_from": NOW}, "a beginning and an end"),
        ({"taken_from": NOW, "taken_to": NOW}, "is not before"),
        ({"frame_id": "../x"}, "is no frame id"),
    ],
)
def test_an_order_that_says_too_little_is_refused(scope: dict[str, Any], why: str) -> None:
    with pytest.raises(ForgetError, match=why):
        Scope(**scope)


def test_the_command_says_what_would_go_asks_and_removes(cloud: Cloud) -> None:
    device = cloud.device("forget-cam")
    frame, kept = shot("forget-cam"), shot("forget-cam", captured_at=NOW + HOUR, monotonic_ns=3_600_123_456_789)
    for each in (frame, kept):
        device.deliver(each)
    device.leave()
    stretch = f"{NOW.isoformat()}..{(NOW + HOUR).isoformat()}"
    scope = ("--device", "forget-cam", "--time", stretch)
    told = json.loads(cloud.run("forget", *scope, "--dry-run", "--json").stdout)
    assert told == {"frames": 1, "pictures": 1, "labelled": 0, "size_bytes": len(frame.content), "datasets": []}
    unanswered = cloud.run("forget", *scope)
    assert unanswered.returncode == 1, "nobody said yes"
    key = f"frames/forget-cam/2026-03-04/{frame.id}.jpg"
    assert cloud.services().store.head(key) is not None
    done = cloud.run("forget", *scope, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    (audit,) = json.loads(done.stdout)
    assert (audit["device"], audit["frames"]) == ("forget-cam", 1)
    assert cloud.services().store.head(key) is None
    with cloud.services().catalogue.session() as session:
        assert session.get(Frame, frame.id) is None
        assert session.get(Frame, kept.id) is not None
        assert session.scalar(sa.select(Forgetting.done_at).where(Forgetting.device == "forget-cam")) is not None
    for wrong, why in (
        (("--time", "yesterday"), "is not FROM..TO"),
        (("--time", "2026-01-01..2026-01-02"), "has no zone"),
        (("--device", "nobody"), "there is no device nobody"),
        ((), "say which frames"),
    ):
        refused = cloud.run("forget", *wrong)
        assert (refused.returncode, why in refused.stderr) == (2, True), refused.stderr


def test_the_command_needs_a_cloud(tmp_path: Path) -> None:
    refused = edgecase_cloud("forget", "--device", "x", "--data", str(tmp_path / "none"))
    assert (refused.returncode, "holds no cloud yet" in refused.stderr) == (2, True)
