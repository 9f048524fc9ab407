"""What the label queue promises: the batch in front, kept up while people work, and nobody's place taken from under them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from edgecase_cloud import label_queue, review, review_queue
from edgecase_cloud.batch import Batch, BatchRules
from edgecase_cloud.catalogue import FRONT, LAST, LATER, Dataset, Delivery, Frame, Look, Review, Standing
from edgecase_cloud.decoding import decoder
from edgecase_cloud.label_queue import Debounce, Keeper, reorder
from edgecase_cloud.review_queue import Order, QueueFilter
from edgecase_cloud.services import Services
from support import circle
from support.cloud import Cloud, shot
from support.wait import until

NOW = circle.START + timedelta(hours=1)
RULES = BatchRules(frames=4, explore_share=0.0, cold_labels=0)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = circle.services_in(tmp_path)
    with made.catalogue.session.begin() as session:
        circle.add_classes(session)
        circle.add_device(session)
        circle.add_device(session, "van")
    yield made
    made.catalogue.close()


def add(services: Services, number: int, **changes: Any) -> str:
    """A frame that is like no other; `shade` makes two that are like each other."""
    shade = changes.pop("shade", None)
    picture = np.random.default_rng(number if shade is None else shade).integers(0, 255, (9, 16, 3), np.uint8)
    small = circle.jpeg(np.kron(picture, np.ones((20, 20, 1), np.uint8)))
    with services.catalogue.session.begin() as session:
        row = circle.add_frame(services, session, number, small, thumbnail_jpeg=small, **changes)
        session.add(label_queue.look_of(row.id, decoder().thumbnail(small)))
    return row.id


def order(services: Services, rules: BatchRules = RULES) -> Batch:
    return reorder(services.catalogue, rules, NOW)


def queue(services: Services, wanted: QueueFilter = QueueFilter()) -> list[str]:  # noqa: B008
    with services.catalogue.session() as session:
        return [item.id for item in review_queue.queue(session, wanted, limit=200).items]


def answer(services: Services, frame: str, verdict: Review = Review.ACCEPTED) -> None:
    with services.catalogue.session.begin() as session:
        revision = session.get_one(Frame, frame).revision
        saved = review.save_annotation(
            session, frame, revision=revision, verdict=verdict, boxes=(), author="kim", now=NOW
        )
        assert isinstance(saved, review.Saved)


def after(services: Services, frame: str | None) -> str | None:
    with services.catalogue.session() as session:
        return review_queue.next_frame(session, QueueFilter(), frame)


def before(services: Services, frame: str) -> str | None:
    with services.catalogue.session() as session:
        return review_queue.previous_frame(session, QueueFilter(), frame)


# ---- the order


def test_the_batch_stands_first_then_what_waits_by_score_then_what_repeats_another(services: Services) -> None:
    frames = [add(services, n, score=n / 10) for n in range(10)]
    twin = add(services, 50, shade=9, score=0.2)
    batch = order(services)
    picks = [pick.id for pick in batch.picks]
    left = [each for each in reversed(frames) if each not in picks]
    assert queue(services) == [*picks, *left, twin]
    assert [(each.id, each.of) for each in batch.repeats] == [(twin, frames[9])]


def test_until_there_is_a_batch_the_most_doubtful_comes_first(services: Services) -> None:
    frames = [add(services, n, score=n / 10) for n in range(5)]
    assert queue(services) == frames[::-1]


def test_a_frame_that_arrives_takes_its_place_among_those_that_wait(services: Services) -> None:
    for number in range(10):
        add(services, number, score=number / 10)
    order(services)
    first = queue(services)
    new = add(services, 77, score=9.0)
    assert queue(services) == [*first[:4], new, *first[4:]]


def test_the_queue_item_says_why_it_stands_there(services: Services) -> None:
    frames = [add(services, n, score=1 + n / 10) for n in range(6)]
    twin = add(services, 50, shade=5, score=0.2)
    batch = order(services)
    with services.catalogue.session() as session:
        items = {item.id: item for item in review_queue.queue(session, QueueFilter(), limit=9).items}
        detail = review.frame_detail(session, batch.picks[0].id).frame.standing
    for pick in batch.picks:
        standing = items[pick.id].standing
        assert standing is not None
        assert (standing.rank, standing.reason, standing.quota) == (pick.rank, pick.reason, pick.quota)
        assert (standing.value, standing.cost_s, standing.repeats) == (pick.value, pick.cost_s, None)
    assert items[batch.picks[0].id].standing.distance is None  # nothing was picked or answered before
    assert detail == items[batch.picks[0].id].standing
    repeat = items[twin].standing
    assert repeat is not None
    assert (repeat.rank, repeat.repeats, repeat.reason) == (0, frames[5], f"duplicate of {frames[5]}")
    behind = [item for item in items.values() if item.id not in {p.id for p in batch.picks} and item.id != twin]
    assert [item.standing for item in behind] == [None, None]


def test_only_open_frames_whose_picture_arrived_are_chosen_from(services: Services) -> None:
    one = add(services, 1)
    add(services, 2, delivery=Delivery.GRANTED, acknowledged_at=None)
    add(services, 3, delivery=Delivery.REJECTED, acknowledged_at=None)
    add(services, 4, review=Review.REJECTED)
    batch = order(services)
    assert (batch.waiting, [pick.id for pick in batch.picks]) == (1, [one])


def test_what_lies_beside_a_pick_is_neither_in_the_batch_nor_in_the_queue_until_somebody_answers_it(
    services: Services,
) -> None:
    first = add(services, 1, score=2.0)
    beside = add(services, 2, score=0.0, review=Review.CONTEXT, context_of=first)
    last = add(services, 3, score=1.0)
    batch = order(services)
    assert (batch.waiting, {pick.id for pick in batch.picks}) == (2, {first, last})
    assert set(queue(services)) == {first, last}
    assert queue(services, QueueFilter(review=Review.CONTEXT)) == [beside]
    by_time = QueueFilter(order=Order.TIME)
    with services.catalogue.session() as session:
        assert review_queue.next_frame(session, by_time, last) == first
        assert review_queue.previous_frame(session, by_time, first) == last
        assert review_queue.counts(session).review == {Review.OPEN: 2, Review.CONTEXT: 1}
    answer(services, beside)
    with services.catalogue.session() as session:
        assert review_queue.counts(session).labelled == 1
    assert order(services).labels == 1


def test_a_repeat_stays_open_and_takes_the_place_of_what_it_repeats_when_that_is_gone(services: Services) -> None:
    """Answered frames keep theirs behind; only one that cannot be taken any more lets them forward."""
    best = add(services, 1, shade=7, score=2.0)
    twin = add(services, 2, shade=7, score=1.0)
    order(services)
    answer(services, best)
    order(services)
    assert queue(services) == [twin]
    with services.catalogue.session.begin() as session:
        assert session.get_one(Frame, twin).place == LAST
        session.execute(sa.update(Frame).where(Frame.id == best).values(delivery=Delivery.REJECTED))
        session.execute(sa.delete(sa.table("annotations")))
    order(services)
    with services.catalogue.session() as session:
        assert session.get_one(Frame, twin).place > LATER


# ---- while people work


def test_who_answers_goes_on_with_the_first_that_waits_also_when_the_batch_was_chosen_anew(services: Services) -> None:
    for number in range(12):
        add(services, number, score=1 + number / 10)
    order(services)
    seen = []
    frame = after(services, None)
    while frame is not None and len(seen) < 12:
        assert frame == queue(services)[0]
        seen.append(frame)
        answer(services, frame)
        if len(seen) % 3 == 0:
            order(services)
        frame = after(services, frame)
    assert len(set(seen)) == 12


@pytest.mark.parametrize(
    ("order", "places", "last", "expected"),
    [
        ("abc", {}, FRONT + 1, [FRONT, FRONT - 1, FRONT - 2]),
        ("abc", {}, 40, [39, 38, 37]),
        ("acd", {"a": 9, "c": 7, "d": 6}, 8, [9, 7, 6]),  # b was answered, a was skipped and is not shown again
        ("acde", {"a": 9, "c": 7, "d": 6}, 8, [9, 7, 6, 5]),
        ("xac", {"a": 9, "c": 7}, 8, [7, 6, 5]),  # what is new and first is not led past
        ("dac", {"a": 9, "c": 7, "d": 6}, 8, [6, 5, 4]),
        ("ab", {"a": LATER, "b": LAST}, 7, [6, 5]),
    ],
)
def test_a_frame_keeps_its_place_where_the_order_allows_and_what_is_new_stands_behind_the_last_answer(
    order: str, places: dict[str, int], last: int, expected: list[int]
) -> None:
    assert list(label_queue.numbered(order, places, last).values()) == expected


def test_back_leads_to_the_answer_just_given(services: Services) -> None:
    for number in range(6):
        add(services, number, score=1 + number / 10)
    order(services)
    first, second, third, *_ = queue(services)
    answer(services, first)
    order(services)
    answer(services, second)
    assert before(services, third) == second
    assert before(services, second) == first
    assert before(services, first) is None


def test_an_answered_frame_keeps_why_it_was_chosen(services: Services) -> None:
    for number in range(6):
        add(services, number)
    first = order(services, BatchRules(frames=4, explore_share=1.0)).picks[0]
    answer(services, first.id, Review.REJECTED)
    order(services)
    with services.catalogue.session() as session:
        kept = session.get_one(Standing, first.id)
    assert (kept.rank, kept.quota, kept.propensity) == (1, "lot", first.propensity)


def test_an_answer_that_is_given_while_the_batch_is_chosen_keeps_its_place_and_reason(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        add(services, number, score=1 + number / 10)
    order(services)
    first = queue(services)[0]
    with services.catalogue.session() as session:
        place, standing = session.get_one(Frame, first).place, session.get_one(Standing, first).reason
    choose = label_queue.choose

    def slow(*arguments: Any, **named: Any) -> Batch:
        answer(services, first)
        return choose(*arguments, **named)

    monkeypatch.setattr(label_queue, "choose", slow)
    add(services, 50, score=9.0)
    order(services, BatchRules(frames=2, explore_share=0.0))
    with services.catalogue.session() as session:
        row = session.get_one(Frame, first)
        assert (row.review, row.place) == (Review.ACCEPTED, place)
        assert session.get_one(Standing, first).reason == standing


def test_a_batch_that_stays_the_same_writes_nothing(services: Services) -> None:
    for number in range(8):
        add(services, number, score=1 + number / 10)
    order(services)
    written: list[str] = []

    def watch(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(("SELECT", "BEGIN", "PRAGMA")):
            written.append(statement)

    sa.event.listen(services.catalogue.engine, "before_cursor_execute", watch)
    order(services)
    assert written == []


def test_frames_leave_the_batch_when_it_gets_smaller(services: Services) -> None:
    for number in range(8):
        add(services, number, score=1 + number / 10)
    order(services)
    batch = order(services, BatchRules(frames=2, explore_share=0.0, cold_labels=0))
    with services.catalogue.session() as session:
        assert session.scalars(sa.select(Standing.frame_id)).all() == sorted(pick.id for pick in batch.picks)
        assert session.scalar(sa.select(sa.func.count()).where(Frame.place > LATER)) == 2


# ---- what it goes by


def test_labels_are_what_devices_brought_and_what_the_first_model_learnt_from(services: Services) -> None:
    for number in range(5):
        add(services, number)
    for number, verdict in ((0, Review.ACCEPTED), (1, Review.REJECTED)):
        answer(services, circle.frame_id(number), verdict)
    with services.catalogue.session.begin() as session:
        for kind, pictures in (("base", 100), ("golden", 500), ("labelled", 7)):
            session.add(
                Dataset(
                    id=kind, name=kind, kind=kind, created_at=NOW, path=kind, pictures=pictures, boxes=0, summary={}
                )
            )
    batch = order(services, BatchRules(frames=4))
    assert batch.labels == 101
    assert batch.cold == pytest.approx((1 - 101 / 300) / 2)


def test_features_that_came_with_the_offer_are_used(services: Services) -> None:
    one, two = add(services, 1, score=1.0), add(services, 2, score=2.0)
    with services.catalogue.session.begin() as session:
        for look in session.scalars(sa.select(Look)):
            look.features, look.features_scale = bytes([100, 3]), 0.01
    assert [(each.id, each.of) for each in order(services).repeats] == [(one, two)]


def test_frames_from_before_there_were_looks_are_looked_at(services: Services) -> None:
    for number in range(5):
        add(services, number)
    with services.catalogue.session.begin() as session:
        circle.add_frame(services, session, 99)  # without a thumbnail
        session.execute(sa.delete(Look))
    assert label_queue.look_at_frames(services.catalogue, at_most=4) == 4
    assert label_queue.look_at_frames(services.catalogue, at_most=4) == 2
    assert label_queue.look_at_frames(services.catalogue, at_most=4) == 0
    with services.catalogue.session() as session:
        sizes = sorted(len(look.fingerprint) for look in session.scalars(sa.select(Look)))
    assert sizes == [0, 776, 776, 776, 776, 776]


def test_two_that_look_at_the_same_frames_do_not_get_in_each_others_way(services: Services) -> None:
    for number in range(40):
        add(services, number)
    with services.catalogue.session.begin() as session:
        session.execute(sa.delete(Look))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: label_queue.look_at_frames(services.catalogue), range(8)))
    with services.catalogue.session() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Look)) == 40


def test_beyond_so_many_frames_audits_are_looked_at_all_the_same(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_queue, "MAX_OPEN", 6)
    for number in range(10):
        add(services, number, score=1.0 + number)
    audit = add(
        services, 50, score=0.0, reasons=[{"strategy": "audit", "score": 0.0, "threshold": 0.0, "propensity": 0.1}]
    )
    batch = order(services, BatchRules(frames=4, explore_share=0.25))
    assert batch.waiting == 7
    assert audit in {pick.id for pick in batch.picks}


# ---- in the background


def test_a_change_is_acted_on_when_it_is_quiet_or_after_a_while_and_not_all_the_time() -> None:
    wait = Debounce(quiet_s=1.0, patience_s=5.0)
    assert not wait.due("a", 0.0)
    assert not wait.due("a", 0.9)
    assert wait.due("a", 1.0)
    wait.acted("a", 1.1, took_s=0.1)
    assert not wait.due("a", 50.0)
    for second in range(50, 55):
        assert not wait.due(f"change {second}", float(second))
    assert wait.due("change 55", 55.0)  # five seconds of changes without a pause
    wait.acted("change 55", 57.0, took_s=2.0)
    assert not wait.due("b", 60.0)
    assert not wait.due("b", 74.9)  # two seconds of work are followed by eighteen of rest
    assert wait.due("b", 75.0)


def test_the_keeper_follows_frames_and_answers_and_rests_between(services: Services) -> None:
    keeper = Keeper(services, Debounce(quiet_s=1.0))
    for number in range(6):
        add(services, number, score=1 + number / 10)
    assert keeper.step(0.0) is None
    assert keeper.step(1.0) is not None
    assert keeper.step(100.0) is None
    answer(services, queue(services)[0])
    assert keeper.step(200.0) is None
    batch = keeper.step(201.0)
    assert batch is not None
    assert batch.waiting == 5


def test_the_queue_is_kept_until_it_is_told_to_stop_by_one_keeper_only(services: Services) -> None:
    stop = threading.Event()
    keepers = [threading.Thread(target=label_queue.run, args=(services, stop), kwargs={"poll_s": 0.02}) for _ in (1, 2)]
    for keeper in keepers:
        keeper.start()
    try:
        for number in range(3):
            add(services, number)

        def ranked() -> bool:
            with services.catalogue.session() as session:
                return session.scalar(sa.select(sa.func.count()).select_from(Standing)) == 3

        until(ranked, within_s=20, what="three standings")
    finally:
        stop.set()
        for keeper in keepers:
            keeper.join(10)
    assert not any(keeper.is_alive() for keeper in keepers)


def test_a_running_cloud_chooses_the_batch_by_itself(cloud: Cloud) -> None:
    device = cloud.device("batch-cam")
    size = {"width_px": circle.WIDTH, "height_px": circle.HEIGHT}
    frames = [
        shot("batch-cam", circle.plain_jpeg(shade), score=score, thumbnail_jpeg=circle.plain_jpeg(60), **size)
        for shade, score in ((60, 3.0), (61, 5.0))
    ]
    for frame in frames:
        device.deliver(frame)
    device.leave()
    twin, best = (frame.id for frame in frames)

    def chosen() -> bool:
        with cloud.services().catalogue.session() as session:
            found = {item.id: item.standing for item in review_queue.queue(session, QueueFilter(), limit=200).items}
        return found.get(best) is not None and found.get(twin) is not None and found[twin].repeats == best

    until(chosen, within_s=30, every_s=0.2, what="a batch with the one, and the other behind it as its duplicate")


# ---- the orders in SQL


@pytest.mark.parametrize("by", list(Order))
@pytest.mark.parametrize("state", [Review.OPEN, None])
def test_a_page_comes_from_an_index_and_a_table_is_never_gone_through(
    services: Services, by: Order, state: Review | None
) -> None:
    asked: list[tuple[str, Any]] = []

    def watch(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    wanted = QueueFilter(review=state, order=by)
    add(services, 1)
    sa.event.listen(services.catalogue.engine, "before_cursor_execute", watch)
    with services.catalogue.session() as session:
        review_queue.queue(session, wanted, limit=50)
        review_queue.next_frame(session, wanted, circle.frame_id(1))
        review_queue.previous_frame(session, wanted, circle.frame_id(1))
        review_queue.counts(session)
        review_queue.facets(session)
    sa.event.remove(services.catalogue.engine, "before_cursor_execute", watch)
    assert len(asked) > 8
    with services.catalogue.engine.connect() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            steps = [str(row[-1]) for row in plan]
            assert not [s for s in steps if s.startswith("SCAN frames") and "COVERING INDEX" not in s], (
                statement,
                steps,
            )
