"""What a reviewer is promised: the frames in the order asked for, no answer lost or overwritten unseen, no label that breaks a rule."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud import review, review_queue, reviewable
from edgecase_cloud.catalogue import Annotation, Delivery, Frame, Review
from edgecase_cloud.review import InvalidAnnotation, NotReviewable, Saved, StaleRevision
from edgecase_cloud.review_queue import Order, QueueFilter
from edgecase_cloud.reviewable import LabelBox, Origin
from edgecase_cloud.services import Services
from support import circle

NOW = circle.START + timedelta(hours=1)
CAR = LabelBox(3, 210.0, 130.0, 350.0, 230.0, Origin.EDITED)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = circle.services_in(tmp_path)
    with made.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session, "gate")
        circle.add_device(session, "van")
    yield made
    made.catalogue.close()


@pytest.fixture
def session(services: Services) -> Iterator[Session]:
    with services.catalogue.session() as opened:
        yield opened


def ids(page: review_queue.QueuePage) -> list[str]:
    return [item.id for item in page.items]


def answer(
    session: Session,
    number: int = 1,
    *,
    revision: int = 0,
    verdict: Review = Review.CORRECTED,
    boxes: tuple[LabelBox, ...] = (CAR,),
    author: str = "kim",
) -> object:
    return review.save_annotation(
        session, circle.frame_id(number), revision=revision, verdict=verdict, boxes=boxes, author=author, now=NOW
    )


# ---- the queue


def test_the_most_doubtful_frame_comes_first_or_the_newest_where_asked(services: Services, session: Session) -> None:
    for number, score in ((1, 0.2), (2, 0.9), (3, 0.5), (4, 0.9)):
        circle.add_frame(services, session, number, score=score)
    by_score = ids(review_queue.queue(session, QueueFilter(order=Order.SCORE), limit=9))
    by_time = ids(review_queue.queue(session, QueueFilter(order=Order.TIME), limit=9))
    first = sorted((circle.frame_id(2), circle.frame_id(4)))
    assert by_score == [*first, circle.frame_id(3), circle.frame_id(1)]
    assert by_time == [circle.frame_id(n) for n in (4, 3, 2, 1)]


@pytest.mark.parametrize("delivery", [d for d in Delivery if d is not Delivery.ACKNOWLEDGED])
def test_a_frame_whose_picture_has_not_arrived_is_neither_shown_nor_answered(
    services: Services, session: Session, delivery: Delivery
) -> None:
    circle.add_frame(services, session, 1, delivery=delivery, acknowledged_at=None)
    page = review_queue.queue(session, QueueFilter(review=None), limit=9)
    assert (page.total, page.left, ids(page)) == (0, 0, [])
    with pytest.raises(NotReviewable, match="has not arrived"):
        review.frame_detail(session, circle.frame_id(1))
    with pytest.raises(NotReviewable, match="has not arrived"):
        answer(session)


def test_every_filter_keeps_what_it_asks_for_and_nothing_else(services: Services, session: Session) -> None:
    audit = [{"strategy": "audit", "score": 0.1, "threshold": 0.0, "propensity": 0.01}]
    bus = [[4, 0.12, 1.0, 1.0, 50.0, 50.0]]
    ghost = [[4, 0.05, 1.0, 1.0, 50.0, 50.0]]
    circle.add_frame(services, session, 1)
    circle.add_frame(services, session, 2, device_id="van")
    circle.add_frame(services, session, 3, camera="rear")
    circle.add_frame(services, session, 4, reasons=audit)
    circle.add_frame(services, session, 5, boxes=bus)
    circle.add_frame(services, session, 6, boxes=ghost)
    circle.add_frame(services, session, 7, model_digest="f" * 64)
    circle.add_frame(services, session, 8, score=3.5)
    circle.add_frame(services, session, 9, review=Review.REJECTED)
    for wanted, expected in (
        (QueueFilter(device="van"), {2}),
        (QueueFilter(camera="rear"), {3}),
        (QueueFilter(strategy="audit"), {4}),
        (QueueFilter(cls=4), {5}),
        (QueueFilter(cls=4, class_score=0.0), {5, 6}),
        (QueueFilter(model_digest="f" * 64), {7}),
        (QueueFilter(min_score=3.5), {8}),
        (QueueFilter(review=Review.REJECTED), {9}),
        (QueueFilter(review=None), set(range(1, 10))),
        (QueueFilter(device="van", camera="rear"), set()),
    ):
        found = review_queue.queue(session, wanted, limit=20)
        assert set(ids(found)) == {circle.frame_id(n) for n in expected}, wanted
        assert found.total == len(expected)


def test_the_count_of_what_is_left_follows_the_filter_and_falls_with_every_answer(
    services: Services, session: Session
) -> None:
    for number in range(1, 6):
        circle.add_frame(services, session, number, device_id="gate" if number < 4 else "van")
    assert review_queue.queue(session, QueueFilter(device="gate"), limit=1).left == 3
    answer(session, 1)
    assert review_queue.queue(session, QueueFilter(device="gate"), limit=1).left == 2
    assert review_queue.queue(session, QueueFilter(device="gate", review=Review.CORRECTED), limit=1).left == 2
    assert review_queue.queue(session, QueueFilter(), limit=1).left == 4


def test_pages_cover_the_queue_without_gap_or_repeat_also_where_scores_are_equal(
    services: Services, session: Session
) -> None:
    for number in range(1, 12):
        circle.add_frame(services, session, number, score=0.5)
    pages = [ids(review_queue.queue(session, QueueFilter(), limit=4, offset=offset)) for offset in (0, 4, 8, 12)]
    assert [len(page) for page in pages] == [4, 4, 3, 0]
    assert len({frame for page in pages for frame in page}) == 11


def test_next_walks_the_queue_in_order_over_answers_given_on_the_way_and_comes_back_to_what_was_skipped(
    services: Services, session: Session
) -> None:
    for number in range(1, 5):
        circle.add_frame(services, session, number, score=1.0 - number / 10)
    one, two, three, four = (circle.frame_id(n) for n in range(1, 5))
    assert review_queue.next_frame(session, QueueFilter(), None) == one
    assert review_queue.next_frame(session, QueueFilter(), one) == two  # one is skipped
    answer(session, 2)
    assert review_queue.next_frame(session, QueueFilter(), two) == three
    answer(session, 3)
    answer(session, 4)
    assert review_queue.next_frame(session, QueueFilter(), four) == one
    answer(session, 1)
    assert review_queue.next_frame(session, QueueFilter(), one) is None


def test_back_leads_to_the_frame_just_answered(services: Services, session: Session) -> None:
    for number in range(1, 4):
        circle.add_frame(services, session, number, score=1.0 - number / 10)
    answer(session, 1)
    assert review_queue.previous_frame(session, QueueFilter(), circle.frame_id(2)) == circle.frame_id(1)
    assert review_queue.previous_frame(session, QueueFilter(), circle.frame_id(1)) is None
    assert review_queue.previous_frame(session, QueueFilter(), "0" * 32) is None


def test_facets_name_what_there_is_to_filter_by_most_first(services: Services, session: Session) -> None:
    two = [{"strategy": s, "score": 1.0, "threshold": 0.5, "propensity": 1.0} for s in ("ede", "committee")]
    circle.add_frame(services, session, 1)
    circle.add_frame(services, session, 2, reasons=two, camera="rear")
    circle.add_frame(services, session, 3, delivery=Delivery.OFFERED, acknowledged_at=None, camera="unseen")
    circle.add_frame(services, session, 4, reasons=[two[1], two[1]], camera="rear")
    circle.add_frame(services, session, 5, reasons=[], camera="rear", model_digest="b" * 64)
    found = review_queue.facets(session)
    assert found.devices == (("gate", 4),)
    assert found.cameras == (("rear", 3), ("front", 1))
    assert found.strategies == (("committee", 2), ("ede", 2))
    assert found.models == ((circle.STARTER, 3), ("b" * 64, 1))


def test_a_frame_is_shown_with_what_was_sent_beside_it_in_the_order_of_time(
    services: Services, session: Session
) -> None:
    def beside(number: int, pick: int, after_s: float, **changes: Any) -> None:
        reasons = [{"strategy": "context", "score": after_s, "threshold": 0.0}]
        changes = {"context_of": circle.frame_id(pick), "review": Review.CONTEXT, "reasons": reasons} | changes
        circle.add_frame(services, session, number, **changes)

    circle.add_device(session, "other")
    circle.add_frame(services, session, 3)
    circle.add_frame(services, session, 9)
    beside(1, 3, 2.0)
    beside(2, 3, -1.5)
    beside(4, 3, 0.5, delivery=Delivery.GRANTED, acknowledged_at=None)
    beside(5, 3, 0.5, device_id="other")  # one device cannot put its pictures beside another's
    beside(6, 7, -1.0)  # its pick has not arrived
    strips = {n: review.frame_detail(session, circle.frame_id(n)).strip for n in (1, 2, 3, 6, 9)}
    assert [(still.id, still.after_s) for still in strips[3]] == [
        (circle.frame_id(2), -1.5),
        (circle.frame_id(3), 0.0),
        (circle.frame_id(1), 2.0),
    ]
    assert strips[1] == strips[2] == strips[3]
    assert strips[6] == strips[9] == ()


# ---- answers


def test_accepting_takes_the_boxes_from_the_operating_point_that_the_device_sent(
    services: Services, session: Session
) -> None:
    circle.add_frame(services, session, 1, operating_point=0.5)
    saved = review.save_annotation(
        session, circle.frame_id(1), revision=0, verdict=Review.ACCEPTED, boxes=(), author="kim", now=NOW
    )
    assert isinstance(saved, Saved)
    assert [box.cls for box in saved.boxes] == [3]


def test_an_answer_is_kept_with_its_author_and_time_and_older_ones_stay(services: Services, session: Session) -> None:
    circle.add_frame(services, session, 1)
    answer(session, verdict=Review.ACCEPTED, boxes=(), author=" kim ")
    answer(session, revision=1, author="lee")
    found = review.frame_detail(session, circle.frame_id(1))
    assert (found.frame.review, found.frame.revision) == (Review.CORRECTED, 2)
    assert [(a.revision, a.verdict, a.author, a.created_at) for a in found.history] == [
        (2, Review.CORRECTED, "lee", NOW),
        (1, Review.ACCEPTED, "kim", NOW),
    ]
    assert found.frame.answer == found.history[0]
    assert found.frame.answer is not None
    assert found.frame.answer.boxes == (CAR,)


def test_a_corrected_frame_may_hold_nothing_and_a_rejected_one_must(services: Services, session: Session) -> None:
    circle.add_frame(services, session, 1)
    assert answer(session, boxes=()) == Saved(1, Review.CORRECTED, ())
    assert answer(session, revision=1, verdict=Review.REJECTED, boxes=()) == Saved(2, Review.REJECTED, ())
    assert isinstance(answer(session, revision=2, verdict=Review.REJECTED), InvalidAnnotation)


@pytest.mark.parametrize(
    ("box", "complaint"),
    [
        (LabelBox(3, -1.0, 0.0, 50.0, 50.0, Origin.HUMAN), "reaches out of the picture"),
        (LabelBox(3, 0.0, 0.0, 641.0, 50.0, Origin.HUMAN), "reaches out of the picture"),
        (LabelBox(3, 0.0, 0.0, 50.0, 360.2, Origin.HUMAN), "reaches out of the picture"),
        (LabelBox(3, 50.0, 0.0, 20.0, 50.0, Origin.HUMAN), "less than 1 pixel"),
        (LabelBox(3, 50.0, 0.0, 50.5, 50.0, Origin.HUMAN), "less than 1 pixel"),
        (LabelBox(6, 0.0, 0.0, 50.0, 50.0, Origin.HUMAN), "class 6 is none of the 6"),
        (LabelBox(-1, 0.0, 0.0, 50.0, 50.0, Origin.HUMAN), "class -1 is none of the 6"),
        (LabelBox(3, float("nan"), 0.0, 50.0, 50.0, Origin.HUMAN), "not a number"),
        (LabelBox(3, 0.0, 0.0, float("inf"), 50.0, Origin.HUMAN), "not a number"),
        (LabelBox(3, 0.0, 0.0, 50.0, 50.0, Origin.MODEL), "the model did not give it"),
    ],
)
def test_a_box_that_breaks_a_rule_is_named_and_nothing_is_written(
    services: Services, session: Session, box: LabelBox, complaint: str
) -> None:
    circle.add_frame(services, session, 1)
    refused = answer(session, boxes=(CAR, box))
    assert isinstance(refused, InvalidAnnotation)
    assert refused.message.startswith("box 2: ")
    assert complaint in refused.message
    assert review.frame_detail(session, circle.frame_id(1)).history == ()
    assert review.frame_detail(session, circle.frame_id(1)).frame.review is Review.OPEN


def test_accepting_other_boxes_than_the_models_is_refused(services: Services, session: Session) -> None:
    circle.add_frame(services, session, 1)
    own = reviewable.model_boxes(review.frame_detail(session, circle.frame_id(1)).frame)
    assert isinstance(answer(session, verdict=Review.ACCEPTED, boxes=own[:1]), InvalidAnnotation)
    assert isinstance(answer(session, verdict=Review.ACCEPTED, boxes=(*own, CAR)), InvalidAnnotation)
    assert isinstance(answer(session, verdict=Review.ACCEPTED, boxes=own), Saved)


@pytest.mark.parametrize("author", ["", "  ", "x" * 65, "a\nb", "\u202eevil"])
def test_an_answer_needs_a_name_that_can_be_shown(services: Services, session: Session, author: str) -> None:
    circle.add_frame(services, session, 1)
    assert isinstance(answer(session, author=author), InvalidAnnotation)


def test_open_is_no_verdict_and_too_many_boxes_are_no_picture(services: Services, session: Session) -> None:
    circle.add_frame(services, session, 1)
    assert isinstance(answer(session, verdict=Review.OPEN, boxes=()), InvalidAnnotation)
    assert isinstance(answer(session, boxes=(CAR,) * 301), InvalidAnnotation)


def test_an_answer_that_has_not_seen_the_newest_one_is_refused_and_told_what_it_says(
    services: Services, session: Session
) -> None:
    circle.add_frame(services, session, 1)
    answer(session, author="lee")
    late = answer(session, verdict=Review.REJECTED, boxes=(), author="kim")
    assert isinstance(late, StaleRevision)
    assert (late.seen, late.revision) == (0, 1)
    assert late.current is not None
    assert late.current.author == "lee"
    assert "lee corrected it meanwhile" in late.message
    assert review.frame_detail(session, circle.frame_id(1)).frame.review is Review.CORRECTED


def test_of_answers_given_at_once_to_one_revision_exactly_one_is_saved(services: Services) -> None:
    with services.catalogue.session.begin() as session:
        circle.add_frame(services, session, 1)

    def save(author: str) -> object:
        with services.catalogue.session.begin() as own:
            return answer(own, author=author)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(save, [f"person {n}" for n in range(16)]))
    assert sum(isinstance(o, Saved) for o in outcomes) == 1
    assert sum(isinstance(o, StaleRevision) for o in outcomes) == 15
    with services.catalogue.session() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Annotation)) == 1


def test_answers_given_at_once_to_different_frames_are_all_saved(services: Services) -> None:
    with services.catalogue.session.begin() as session:
        for number in range(24):
            circle.add_frame(services, session, number)

    def save(number: int) -> object:
        with services.catalogue.session.begin() as own:
            return answer(own, number)

    with ThreadPoolExecutor(8) as pool:
        assert all(isinstance(o, Saved) for o in pool.map(save, range(24)))


def test_counts_tell_how_many_can_teach(services: Services, session: Session) -> None:
    for number in range(1, 6):
        circle.add_frame(services, session, number)
    circle.add_frame(services, session, 9, delivery=Delivery.DECLINED, acknowledged_at=None)
    answer(session, 1)
    answer(session, 2, verdict=Review.ACCEPTED, boxes=())
    answer(session, 3, verdict=Review.REJECTED, boxes=())
    counted = review_queue.counts(session)
    assert counted.labelled == 2
    assert counted.review == {Review.OPEN: 2, Review.ACCEPTED: 1, Review.CORRECTED: 1, Review.REJECTED: 1}
    assert counted.delivery == {Delivery.ACKNOWLEDGED: 5, Delivery.DECLINED: 1}


def test_the_queue_asks_postgresql_in_its_own_words() -> None:
    """The array filters are the only SQL that differs; a server is not needed to see that it is PostgreSQL's."""

    class Bound:
        def get_bind(self) -> sa.Engine:
            return sa.create_mock_engine("postgresql+psycopg://", lambda *_: None)  # type: ignore[return-value]

    from sqlalchemy.dialects import postgresql

    statement = sa.select(Frame.id).where(*review_queue._matching(Bound(), QueueFilter(cls=4, strategy="audit")))  # type: ignore[arg-type]
    text = str(statement.compile(dialect=postgresql.dialect()))
    assert "json_array_elements(frames.boxes)" in text
    assert "json_array_elements(frames.reasons)" in text
    assert "json_each" not in text


def test_a_frame_id_is_looked_up_as_it_is(session: Session) -> None:
    for strange in ("", "../x", "0" * 32, hashlib.sha256(b"x").hexdigest()):
        with pytest.raises(NotReviewable):
            review.frame_detail(session, strange)
