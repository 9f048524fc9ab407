"""What a labeller's hour is promised: nothing twice, every camera and class its share, an honest sample, and a reason for each frame."""

from __future__ import annotations

import dataclasses
import random
import time
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from edgecase_cloud.batch import Batch, BatchRules, Pick, choose
from edgecase_cloud.pool import Answered, BatchError, Candidate, Quota
from edgecase_cloud.quotas import AHEAD
from edgecase_cloud.repeats import Likeness
from support.pools import START, candidate, crowd, frame_id, look

PLAIN = BatchRules(explore_share=0.0, quotas=False, cold_labels=0)


def chosen(pool: list[Candidate], answered: list[Answered] = [], labels: int = 1000, **rules: Any) -> Batch:  # noqa: B006
    return choose(
        pool,
        answered,
        labels=labels,
        rules=dataclasses.replace(PLAIN, **rules),
        now=START,
        names=["person", "bicycle"],
    )


def ids(batch: Batch) -> list[str]:
    return [pick.id for pick in batch.picks]


def answer(frame: Candidate, boxes: dict[int, int] | None = None, quota: Quota | None = None) -> Answered:
    return Answered(frame, boxes if boxes is not None else {3: 1}, quota)


# ---- the whole


def test_no_frames_make_an_empty_batch() -> None:
    batch = chosen([], [answer(candidate(1))])
    assert (batch.picks, batch.repeats, batch.waiting, batch.at) == ((), (), 0, START)


def test_a_batch_is_no_larger_than_asked_for_or_than_there_are_frames() -> None:
    frames = crowd(30)
    assert len(chosen(frames, frames=7).picks) == 7
    assert sorted(ids(chosen(frames, frames=500, explore_share=0.25, quotas=True))) == sorted(
        each.id for each in frames
    )
    assert chosen(frames, frames=0).picks == ()


def test_the_same_frames_in_another_order_make_the_same_batch() -> None:
    frames = crowd(120, features=16)
    answers = [answer(each) for each in crowd(20, seed=1, features=16)]
    rules = {"frames": 40, "explore_share": 0.25, "quotas": True, "cold_labels": 300}
    first = chosen(frames, answers, labels=20, **rules)
    random.Random(1).shuffle(frames)
    assert chosen(frames, answers, labels=20, **rules) == first


def test_every_pick_says_its_rank_its_parts_and_why() -> None:
    batch = chosen(crowd(60), [answer(candidate(9000))], frames=30, explore_share=0.25, quotas=True)
    assert [pick.rank for pick in batch.picks] == list(range(1, 31))
    for pick in batch.picks:
        assert pick.distance is not None
        assert (pick.score > 0, pick.distance > 0, pick.typicality > 0, pick.cost_s >= 5) == (True,) * 4
        assert pick.reason.endswith(".")
        assert 0 < pick.propensity <= 1
        assert pick.quota in {Quota.AUDIT, Quota.LOT} or pick.propensity == 1
    assert batch.cost_s == sum(pick.cost_s for pick in batch.picks)
    assert all(pick.value > 0 for pick in batch.picks)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": float("nan")}, "a score that is not finite"),
        ({"score": float("inf")}, "a score that is not finite"),
        ({"classes": [1], "scores": [float("nan")]}, "a score that is not finite"),
        ({"classes": [1, 2], "scores": [0.5]}, "2 classes for 1 scores"),
        ({"classes": [-1], "scores": [0.5]}, "a negative one"),
        ({"id": frame_id(1)}, "is given twice"),
    ],
)
def test_a_frame_that_cannot_be_judged_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BatchError, match=says):
        chosen([candidate(1), candidate(2, **changes)])


@pytest.mark.parametrize(
    "changes", [{"frames": -1}, {"explore_share": 1.1}, {"frame_s": 0.0}, {"box_s": float("nan")}, {"cold_labels": -1}]
)
def test_rules_out_of_bounds_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(BatchError, match=next(iter(changes))):
        dataclasses.replace(PLAIN, **changes)


# ---- the product rule


def test_the_first_pick_is_the_best_for_its_cost_and_the_next_lies_far_from_it() -> None:
    near = np.array([1.0, 0.0, 0.02], np.float32)
    pool = [candidate(n, features=np.eye(3, dtype=np.float32)[n % 3]) for n in range(100, 140)]
    best = candidate(1, score=9.0, features=np.array([1, 0, 0], np.float32))
    twin = candidate(2, score=8.0, features=near)
    other = candidate(3, score=4.0, features=np.array([0, 1, 0], np.float32))
    batch = chosen([*pool, best, twin, other], frames=2, likeness=Likeness(bits=-1, cosine=1.0))
    assert ids(batch) == [best.id, other.id]
    assert (batch.picks[0].distance, batch.picks[1].distance) == (None, pytest.approx(1.2, abs=0.2))


def test_what_was_answered_counts_like_what_was_picked() -> None:
    east, north = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    frames = [candidate(n, features=(east, north)[n % 2] + np.float32(n / 1e3), score=1 + n / 1e3) for n in range(40)]
    answered = answer(candidate(500, features=east))
    first = chosen(frames, [answered], frames=1, likeness=Likeness(bits=-1, cosine=1.0)).picks[0]
    assert first.id in {frame_id(n) for n in range(1, 40, 2)}


def test_a_frame_with_more_boxes_must_be_more_doubtful_by_what_they_cost() -> None:
    few = candidate(1, score=2.0, classes=[3], scores=[1.0])
    many = candidate(2, score=3.0, classes=[3] * 9, scores=[1.0] * 9)
    assert ids(chosen([few, many], frames=2, frame_s=5, box_s=7)) == [few.id, many.id]
    assert ids(chosen([few, many], frames=2, frame_s=5, box_s=0)) == [many.id, few.id]
    batch = chosen([few, many], frames=2, frame_s=5, box_s=7)
    assert [pick.cost_s for pick in batch.picks] == [12.0, 68.0]


def test_scores_of_different_strategies_are_held_against_their_own_kind() -> None:
    entropy = [candidate(n, score=50.0, strategies=("audit", "entropy_sum")) for n in range(20)]
    errors = [candidate(100 + n, score=0.5, strategies=("ede",)) for n in range(20)]
    standing_out = candidate(200, score=2.0, strategies=("ede",))
    assert ids(chosen([*entropy, *errors, standing_out], frames=1)) == [standing_out.id]


def test_doubt_is_held_against_the_same_models_so_a_release_neither_buries_what_waits_nor_what_comes() -> None:
    old = [candidate(n, score=40.0 + n) for n in range(30)]
    new = [candidate(100 + n, score=0.4 + n / 100, model_digest="b" * 64) for n in range(30)]
    old_best, new_best = candidate(200, score=300.0), candidate(201, score=4.0, model_digest="b" * 64)
    assert set(ids(chosen([*old, *new, old_best, new_best], frames=2))) == {old_best.id, new_best.id}


def test_a_model_that_gave_next_to_no_scores_yet_makes_none_of_them_typical() -> None:
    old = [candidate(n, score=1.0) for n in range(30)]
    first = candidate(100, score=5.0, model_digest="b" * 64)
    (pick,) = chosen([*old, first], frames=1).picks
    assert (pick.id, pick.score) == (first.id, 5.0)


def test_where_nothing_is_doubtful_distance_decides() -> None:
    frames = [candidate(n, score=0.0) for n in range(50)]
    batch = chosen(frames, frames=10)
    assert len(set(ids(batch))) == 10
    assert all(pick.value > 0 for pick in batch.picks)


# ---- typical first


def test_while_labels_are_few_typical_frames_come_first_and_later_what_is_doubtful() -> None:
    chance = np.random.default_rng(3)
    usual = [
        candidate(n, features=np.array([1, 0], np.float32) + chance.normal(0, 0.05, 2).astype(np.float32))
        for n in range(60)
    ]
    strange = candidate(99, score=5.0, features=np.array([-1, 0.2], np.float32))
    known = Likeness(bits=-1, cosine=1.0)
    cold = chosen([*usual, strange], labels=0, frames=1, cold_labels=300, likeness=known)
    warm = chosen([*usual, strange], labels=300, frames=1, cold_labels=300, likeness=known)
    assert (cold.cold, warm.cold) == (0.5, 0.0)
    assert cold.picks[0].id != strange.id
    assert cold.picks[0].typicality > 1
    assert "as typical" in cold.picks[0].reason
    assert warm.picks[0].id == strange.id
    assert "as typical" not in warm.picks[0].reason


# ---- repeats


def test_of_frames_that_show_the_same_the_most_doubtful_stays_whichever_device_it_came_from() -> None:
    seen = look(7)
    first = candidate(1, score=1.0, fingerprint=seen)
    best = candidate(2, score=3.0, fingerprint=seen, device="van")
    other = candidate(3, score=0.5)
    batch = chosen([first, best, other], frames=9)
    assert ids(batch) == [best.id, other.id]
    assert [(each.id, each.of, each.reason) for each in batch.repeats] == [
        (first.id, best.id, f"duplicate of {best.id}")
    ]


def test_a_frame_that_shows_what_was_answered_stays_behind_however_doubtful() -> None:
    old, again = candidate(1, fingerprint=look(7)), candidate(2, score=99.0, fingerprint=look(7), device="van")
    batch = chosen([again, candidate(3)], [answer(old, {})], frames=9)
    assert ids(batch) == [frame_id(3)]
    assert batch.repeats[0].of == old.id


def test_features_tell_repeats_on_one_camera_and_under_one_model_only() -> None:
    unit = np.array([1, 0, 0, 0], np.float32)
    almost = np.array([1, 0.1, 0, 0], np.float32)
    first = candidate(1, score=3.0, features=unit)
    same = candidate(2, features=almost)
    elsewhere = candidate(3, features=almost, camera="rear")
    successor = candidate(4, features=almost, model_digest="b" * 64)
    batch = chosen([first, same, elsewhere, successor], frames=9)
    assert [each.id for each in batch.repeats] == [same.id]


def test_an_audit_frame_is_never_left_behind_as_a_repeat() -> None:
    """A sample of what a device saw, without what it saw twice, would be none."""
    frames = [candidate(n, fingerprint=look(7), strategies=("audit", "ede"), score=float(n)) for n in (1, 2, 3)]
    for share in (0.0, 0.25, 1.0):
        batch = chosen(frames, frames=9, explore_share=share)
        assert sorted(ids(batch)) == sorted(each.id for each in frames)
        assert batch.repeats == ()


# ---- quotas


def quotas_of(picks: tuple[Pick, ...]) -> Counter[Quota]:
    return Counter(pick.quota for pick in picks)


def test_no_camera_takes_more_than_its_share_while_others_have_frames_all_along_the_queue() -> None:
    frames = [
        candidate(n, score=5.0 if n < 60 else 1.0, device="loud" if n < 60 else f"quiet-{n % 2}") for n in range(90)
    ]
    batch = chosen(frames, frames=60, quotas=True)
    device = {each.id: each.device for each in frames}
    for length in range(1, 61):
        counts = Counter(device[pick.id] for pick in batch.picks[:length])
        assert counts["loud"] <= (length + AHEAD) / 2 + 1, length
    counts = Counter(device[each] for each in ids(batch))
    assert counts == {"loud": 30, "quiet-0": 15, "quiet-1": 15}
    assert Quota.CAMERA in quotas_of(batch.picks)


def test_without_quotas_the_loud_camera_takes_all() -> None:
    frames = [candidate(n, score=50.0 if n < 60 else 1e-3, device="loud" if n < 60 else "quiet") for n in range(90)]
    assert {each.id: each.device for each in frames}[ids(chosen(frames, frames=30))[-1]] == "loud"


def test_the_dark_gets_its_share_of_pictures_though_the_light_is_more_doubtful() -> None:
    frames = [candidate(n, score=5.0) for n in range(80)]
    frames += [candidate(100 + n, score=0.5, fingerprint=look(500 + n, luma=20, spread=15)) for n in range(40)]
    batch = chosen(frames, frames=40, quotas=True)
    dark = {frame_id(100 + n) for n in range(40)}
    assert sum(each in dark for each in ids(batch)) >= 10
    assert sum(each in dark for each in ids(chosen(frames, frames=40))) < 10
    assert Quota.CONDITION in quotas_of(batch.picks)


def test_classes_of_which_little_is_labelled_get_their_share_and_the_reason_names_them() -> None:
    """Of 2 classes 1 is rare: α = 0.5, so β = 0.75 of the slots go to frames that may show it."""
    cars = [candidate(n, score=5.0, classes=[0], scores=[0.9]) for n in range(80)]
    bicycles = [candidate(100 + n, score=0.5, classes=[0, 1], scores=[0.9, 0.2 + n / 200]) for n in range(40)]
    answers = [answer(candidate(900 + n), {0: 5}) for n in range(20)]
    batch = chosen([*cars, *bicycles], answers, frames=40, quotas=True)
    assert batch.minorities == (1,)
    assert quotas_of(batch.picks)[Quota.CLASS] == 30
    reasons = [pick.reason for pick in batch.picks if pick.quota is Quota.CLASS]
    assert all("May show bicycle" in reason for reason in reasons)
    first = next(pick for pick in batch.picks if pick.quota is Quota.CLASS)
    assert first.id in {frame_id(100 + n) for n in range(30, 40)}  # the likelier a bicycle, the sooner


def test_a_class_that_is_not_even_suspected_takes_no_slot() -> None:
    ghosts = [candidate(n, classes=[0, 1], scores=[0.9, 0.05]) for n in range(40)]
    batch = chosen(ghosts, [answer(candidate(900), {0: 500})], frames=20, quotas=True)
    assert (batch.minorities, quotas_of(batch.picks)[Quota.CLASS]) == ((), 0)


def test_quotas_go_on_from_the_latest_answers() -> None:
    """A queue that is chosen anew after each answer must not give the same camera the first place each time."""
    frames = [candidate(n, score=5.0 if n % 2 else 1.0, device=("quiet", "loud")[n % 2]) for n in range(80)]
    answered: list[Answered] = []
    for _ in range(40):
        first = chosen(frames, answered, frames=10, quotas=True, explore_share=0.25).picks[0]
        (frame,) = [each for each in frames if each.id == first.id]
        frames.remove(frame)
        answered.append(answer(frame, quota=first.quota))
    assert sum(each.quota in {Quota.AUDIT, Quota.LOT} for each in answered) == 10
    assert sum(each.frame.device == "loud" for each in answered) <= (40 + AHEAD) / 2 + 1


# ---- what is random


def test_a_share_is_random_and_spread_over_the_batch_audits_first() -> None:
    audits = [candidate(n, strategies=("audit", "ede"), score=0.0) for n in range(6)]
    others = [candidate(100 + n) for n in range(100)]
    batch = chosen([*audits, *others], frames=40, explore_share=0.25)
    assert quotas_of(batch.picks) == {Quota.BEST: 30, Quota.AUDIT: 6, Quota.LOT: 4}
    ranks = [pick.rank for pick in batch.picks if pick.quota is not Quota.BEST]
    assert ranks == list(range(4, 41, 4))
    assert {pick.propensity for pick in batch.picks if pick.quota is Quota.AUDIT} == {1.0}
    assert {pick.propensity for pick in batch.picks if pick.quota is Quota.LOT} == {4 / 100}


def test_the_lot_does_not_look_at_the_score() -> None:
    """Each frame's chance is the same: over many pools, the mean score of what is drawn is that of all."""
    drawn, all_of_them = [], []
    for seed in range(12):
        frames = [dataclasses.replace(each, strategies=("audit",)) for each in crowd(80, seed=seed)]
        score = {each.id: each.score for each in frames}
        batch = chosen(frames, frames=20, explore_share=1.0)
        drawn += [score[each] for each in ids(batch)]
        all_of_them += list(score.values())
    error = np.std(all_of_them) / len(drawn) ** 0.5
    assert abs(np.mean(drawn) - np.mean(all_of_them)) < 3 * error


def test_lots_stay_as_they_are_when_other_frames_come_and_go() -> None:
    frames = [candidate(n, strategies=("audit", "ede")) for n in range(60)]
    first = [each for each in ids(chosen(frames, frames=60, explore_share=1.0)) if each in {f.id for f in frames[:30]}]
    assert ids(chosen(frames[:30], frames=30, explore_share=1.0)) == first


# ---- size


@pytest.mark.slow
def test_thousands_of_frames_are_chosen_from_in_seconds_and_bounded_memory() -> None:
    frames = crowd(4_000, features=64)
    answers = [answer(each) for each in crowd(400, seed=1, features=64)]
    tracemalloc.start()
    began_s = time.process_time()
    batch = chosen(frames, answers, frames=150, explore_share=0.25, quotas=True, cold_labels=300, labels=100)
    took_s, peak_bytes = time.process_time() - began_s, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(batch.picks) == 150
    assert took_s < 15, took_s
    assert peak_bytes < 100 << 20, peak_bytes
