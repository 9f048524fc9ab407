"""Frames that arrived and cannot be decoded are kept, shown with the reason, and in nobody's way."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from edgecase_cloud import datasets, label_queue, review_queue
from edgecase_cloud.batch import BatchRules
from edgecase_cloud.catalogue import Delivery, Frame, Look, Review
from edgecase_cloud.decoder_process import Seen
from edgecase_cloud.decoding import Decoder, decoder
from edgecase_cloud.inspection import look_at_pictures
from edgecase_cloud.services import Services
from edgecase_cloud.store import Unreachable
from edgecase_cloud.web.app import create_app
from edgecase_models import wire
from support import circle
from support.cloud import NOW, Shot, Told, shot

GOOD = circle.plain_jpeg()
HTML = b"\xff\xd8" + b"<html><script>alert(1)</script>" * 20 + b"\xff\xd9"


def frame(content: bytes, **changed: object) -> Shot:
    return shot(content=content, width_px=circle.WIDTH, height_px=circle.HEIGHT, **changed)


@pytest.fixture
def tell(own: Services) -> Told:
    return Told(own)


def looked_at(tell: Told, *frames: Shot) -> dict[str, str | None]:
    while look_at_pictures(tell.parts, decoder(), at_most=2):
        pass
    return {each.id: tell.row(each).problem for each in frames}


def test_what_cannot_be_decoded_is_acknowledged_kept_and_shown_with_the_reason(tell: Told) -> None:
    good, html = frame(GOOD), frame(HTML)
    cut, other_size = frame(GOOD[:-200] + b"\x00" * 60), frame(circle.plain_jpeg(70), thumbnail_jpeg=GOOD)
    other_size = Shot(
        other_size.content, wire.decode_up(wire.encode(other_size.offer).replace(b'"width_px":640', b'"width_px":641'))
    )  # type: ignore[arg-type]
    frames = (good, html, cut, other_size)
    for each in frames:
        assert isinstance(tell.deliver(each), wire.Ack)
    assert looked_at(tell, *frames) == {
        good.id: "",
        html.id: "not a picture that can be decoded",
        cut.id: "the JPEG is cut off",
        other_size.id: "the picture is 640 × 360 pixels, announced were 641 × 360",
    }
    for each in frames:
        row = tell.row(each)
        assert row.delivery is Delivery.ACKNOWLEDGED
        assert tell.parts.store.get(row.key) == each.content
    chosen = label_queue.reorder(tell.parts.catalogue, BatchRules(), NOW)
    assert [pick.id for pick in chosen.picks] == [good.id]
    with tell.parts.catalogue.session() as session:
        page = review_queue.queue(session, review_queue.QueueFilter(), limit=9)
    assert page.items[0].id == good.id, "what cannot be labelled stands behind all others"
    assert {item.id for item in page.items if item.problem} == {html.id, cut.id, other_size.id}


def test_no_browser_is_asked_to_decode_it(tell: Told) -> None:
    html, good = frame(HTML, thumbnail_jpeg=HTML), frame(GOOD, thumbnail_jpeg=GOOD)
    for each in (html, good):
        tell.deliver(each)
    looked_at(tell)
    client = TestClient(create_app(tell.parts), base_url="http://127.0.0.1")
    served = client.get(f"/api/v1/frames/{html.id}/thumbnail")
    assert served.content == HTML
    assert served.headers["content-type"] == "application/octet-stream"
    assert served.headers["x-content-type-options"] == "nosniff"
    assert served.headers["content-disposition"].startswith("attachment")
    picture = client.get(f"/api/v1/frames/{good.id}/image")
    assert (picture.headers["content-type"], picture.headers["x-content-type-options"]) == ("image/jpeg", "nosniff")
    assert client.get(f"/api/v1/frames/{good.id}/thumbnail").headers["content-type"] == "image/jpeg"
    page = client.get(f"/frames/{html.id}").text
    assert "The picture cannot be used: not a picture that can be decoded" in page
    assert "cannot be used" not in client.get(f"/frames/{good.id}").text
    assert client.get("/queue").text.count("no picture") == 1
    assert client.get(f"/api/v1/frames/{html.id}").json()["frame"]["problem"] == "not a picture that can be decoded"


def test_it_is_left_out_of_datasets_with_the_reason(tell: Told) -> None:
    for each in (html := frame(HTML), frame(GOOD)):
        tell.deliver(each)
    with tell.parts.catalogue.session.begin() as session:
        session.execute(sa.update(Frame).values(review=Review.ACCEPTED, revision=1))
        for frame_id in session.scalars(sa.select(Frame.id)).all():
            session.execute(
                sa.text("INSERT INTO annotations VALUES (NULL, :f, 1, 'accepted', '[]', 'test', '2026-01-01')"),
                {"f": frame_id},
            )
    built = datasets.build_labelled(tell.parts.settings.data, tell.parts.catalogue, tell.parts.store)
    assert [(each.frame_id, each.reason) for each in built.excluded] == [(html.id, "not a picture that can be decoded")]


class Breaking(Decoder):
    def picture(self, content: bytes) -> Seen:
        return Seen(problem="it broke the decoder twice", broke=True) if content == HTML else super().picture(content)


def test_one_that_breaks_the_decoder_is_an_event_and_stops_no_other(tell: Told) -> None:
    poison, good = frame(HTML), frame(GOOD)
    for each in (poison, good):
        tell.deliver(each)
    breaking = Breaking()
    try:
        assert look_at_pictures(tell.parts, breaking) == 2
        assert look_at_pictures(tell.parts, breaking) == 0, "each is looked at once"
    finally:
        breaking.close()
    assert tell.row(good).problem == ""
    (event,) = tell.events("broken picture")
    assert (event.subject, event.detail) == (poison.id, {"device": "cam-1", "reason": "it broke the decoder twice"})


def test_a_lost_or_altered_object_is_said_and_holds_up_nothing(tell: Told) -> None:
    lost, altered, good = frame(GOOD), frame(circle.plain_jpeg(30)), frame(circle.plain_jpeg(40))
    for each in (lost, altered, good):
        tell.deliver(each)
    tell.parts.store.delete([tell.row(lost).key])
    tell.parts.store.put(tell.row(altered).key, GOOD)
    assert looked_at(tell, lost, altered, good) == {
        lost.id: "its object is not in the store",
        altered.id: "the bytes in the object store are not those that the device announced",
        good.id: "",
    }


def test_one_that_the_store_does_not_give_waits_for_the_others(tell: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, others = frame(GOOD), [frame(circle.plain_jpeg(level)) for level in (30, 40)]
    for each in (kept, *others):
        tell.deliver(each)
    plain = tell.parts.store.get

    def get(key: str) -> bytes:
        if tell.row(kept).key == key:
            raise Unreachable("the store cannot serve it now: 500")
        return plain(key)

    monkeypatch.setattr(tell.parts.store, "get", get)
    resting: set[str] = set()

    def look() -> int:
        return look_at_pictures(tell.parts, decoder(), resting=resting)

    with pytest.raises(Unreachable):
        look()
    while look():
        pass
    assert [tell.row(each).problem for each in (kept, *others)] == [None, "", ""]
    with pytest.raises(Unreachable):
        look()
    monkeypatch.undo()
    assert (look(), look()) == (0, 1), "after the others its turn comes again"
    assert tell.row(kept).problem == ""


def test_looks_say_why_there_is_no_fingerprint(tell: Told) -> None:
    tell(frame(GOOD, thumbnail_jpeg=HTML).offer)
    with tell.parts.catalogue.session() as session:
        look = session.scalars(sa.select(Look)).one()
    assert look.problem.startswith("not a JPEG that can be decoded")
