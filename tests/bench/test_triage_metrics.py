"""What the judge of the labelled streams promises: errors counted as COCO counts them, and figures that a hand can check."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.triage.metrics import (
    Errors,
    auroc,
    bootstrap_interval,
    errors_of,
    frame_errors,
    judge,
    lift,
    most_in_any,
    near_duplicate_rate,
    paired_difference,
    paired_ratio,
    share_in_top,
    t_interval,
    t_point,
)
from edgecase_models.detections import Detections
from support.streams import a_look, a_stream, synthetic

HERE = (0.0, 0.0, 10.0, 10.0)
BESIDE = (4.0, 0.0, 14.0, 10.0)  # overlaps HERE by 60 of 140
NEARLY = (2.0, 0.0, 12.0, 10.0)  # by 80 of 120
AWAY = (50.0, 50.0, 60.0, 60.0)


# ---- errors --------------------------------------------------------------------------------------------------------


def missed_and_false(seen: Detections, *truth: tuple[tuple[float, ...], int, int]) -> tuple[list[int], int]:
    tracks, false = frame_errors(a_look(seen=seen, truth=truth), 0.4)
    return [int(track) for track in tracks], false


def test_a_box_on_its_object_is_no_error() -> None:
    assert missed_and_false(Detections.of([HERE], [0.9], [1]), (HERE, 1, 7)) == ([], 0)
    assert missed_and_false(Detections.of([NEARLY], [0.9], [1]), (HERE, 1, 7)) == ([], 0)


def test_a_box_that_overlaps_by_less_than_half_both_misses_and_invents() -> None:
    assert missed_and_false(Detections.of([BESIDE], [0.9], [1]), (HERE, 1, 7)) == ([7], 1)


def test_a_box_of_another_class_both_misses_and_invents() -> None:
    assert missed_and_false(Detections.of([HERE], [0.9], [0]), (HERE, 1, 7)) == ([7], 1)


def test_what_lies_below_the_operating_point_is_not_reported() -> None:
    assert missed_and_false(Detections.of([HERE], [0.39], [1]), (HERE, 1, 7)) == ([7], 0)
    assert missed_and_false(Detections.of([HERE], [0.41], [1]), (HERE, 1, 7)) == ([], 0)


def test_an_object_is_hit_once() -> None:
    assert missed_and_false(Detections.of([HERE, HERE], [0.9, 0.8], [1, 1]), (HERE, 1, 7)) == ([], 1)


def test_the_best_scored_box_chooses_first_and_the_best_overlap() -> None:
    seen = Detections.of([NEARLY, HERE], [0.9, 0.8], [1, 1])
    assert missed_and_false(seen, (HERE, 1, 7), (NEARLY, 1, 8)) == ([], 0)
    # The better-scored takes HERE, its only hit; what is left does not fit the other.
    assert missed_and_false(seen, (HERE, 1, 7), (AWAY, 1, 8)) == ([8], 1)


def test_scores_and_not_the_order_of_the_arrays_say_who_chooses_first() -> None:
    beyond = (5.0, 0.0, 15.0, 10.0)  # only NEARLY hits it, but hits HERE better
    for order in ([0, 1], [1, 0]):
        seen = Detections.of([HERE, NEARLY], [0.5, 0.9], [1, 1])[np.array(order)]
        assert missed_and_false(seen, (HERE, 1, 7), (beyond, 1, 8)) == ([8], 1)


def test_a_frame_with_nothing_in_it_and_nothing_seen_has_no_error() -> None:
    assert missed_and_false(Detections.empty()) == ([], 0)
    assert missed_and_false(Detections.empty(), (HERE, 0, 1), (AWAY, 0, 2)) == ([1, 2], 0)
    assert missed_and_false(Detections.of([HERE, AWAY], [0.9, 0.8], [0, 0])) == ([], 2)


def test_one_error_is_a_failure_and_two_a_severe_one() -> None:
    spurious = [Detections.of([HERE] * count, [0.9] * count, [0] * count) for count in (0, 1, 2)]
    errors = errors_of(a_stream([a_look(index, seen) for index, seen in enumerate(spurious)]))
    assert errors.counts.tolist() == [0, 1, 2]
    assert errors.failures.tolist() == [False, True, True]
    assert errors.severe.tolist() == [False, False, True]


def test_false_and_missed_boxes_add_up() -> None:
    errors = errors_of(a_stream([a_look(0, Detections.of([AWAY], [0.9], [0]), [(HERE, 0, 3)])]))
    assert (errors.false_negatives.tolist(), errors.false_positives.tolist()) == ([1], [1])
    assert errors.missed == (frozenset({3}),)


# ---- ranking -------------------------------------------------------------------------------------------------------


def test_auroc_by_hand() -> None:
    assert auroc([3, 2, 1, 0], [True, True, False, False]) == 1
    assert auroc([0, 1, 2, 3], [True, True, False, False]) == 0
    assert auroc([3, 1, 2, 0], [True, True, False, False]) == 0.75
    assert auroc([1, 1, 0], [True, False, False]) == 0.75  # a tie counts half
    assert auroc([5, 5, 5, 5], [True, False, True, False]) == 0.5
    assert auroc([-math.inf, 0, math.inf], [False, False, True]) == 1


def test_auroc_of_one_kind_only_is_not_a_number() -> None:
    assert math.isnan(auroc([1, 2], [True, True]))
    assert math.isnan(auroc([1, 2], [False, False]))
    assert math.isnan(auroc([], []))


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores"):
        auroc([1, math.nan], [True, False])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = zip(*pairs, strict=True)
    wins = [(a > b) + 0.5 * (a == b) for (a, yes), (b, other) in product(pairs, pairs) if yes and not other]
    if wins:
        assert auroc(scores, positive) == pytest.approx(np.mean(wins))


def test_lift_stands_beside_the_most_it_could_be() -> None:
    positive = [True, True] + [False] * 6
    best = lift([8, 7, 6, 5, 4, 3, 2, 1], positive, 0.25)
    assert (best.value, best.maximum) == (4, 4)
    wide = lift([8, 7, 6, 5, 4, 3, 2, 1], positive, 0.5)
    assert (wide.value, wide.maximum) == (2, 2)  # more frames than are positive
    assert lift([1, 2, 3, 4, 5, 6, 7, 8], positive, 0.25).value == 0


def test_of_ties_the_top_holds_what_chance_would_put_there() -> None:
    assert lift([0] * 8, [True, True] + [False] * 6, 0.25).value == 1
    # One frame is above all, three share the other place of two.
    assert share_in_top([9, 5, 5, 5, 0, 0, 0, 0], [3, 6, 0, 0, 0, 0, 0, 1], 0.25) == pytest.approx((3 + 6 / 3) / 10)


def test_the_share_of_the_errors_in_the_top() -> None:
    assert share_in_top([4, 3, 2, 1], [5, 1, 3, 1], 0.5) == 0.6
    assert share_in_top([4, 3, 2, 1], [5, 1, 3, 1], 1.0) == 1
    assert share_in_top([4, 3, 2, 1], [5, 1, 3, 1], 0.0) == 0
    assert math.isnan(share_in_top([4, 3], [0, 0], 0.5))


def test_lift_without_a_single_failure_is_not_a_number() -> None:
    assert math.isnan(lift([1, 2], [False, False], 0.5).value)


# ---- selections ----------------------------------------------------------------------------------------------------


def test_a_selection_is_measured_by_hand() -> None:
    lost, also_lost = (HERE, 0, 1), (AWAY, 0, 2)
    looks = [
        a_look(0, truth=[lost], scene=0, size_bytes=10),
        a_look(1, truth=[lost, also_lost], scene=0, size_bytes=20),
        a_look(2, scene=0, size_bytes=30),
        a_look(3, Detections.of([HERE], [0.9], [0]), scene=1, size_bytes=40),
    ]
    stream = a_stream(looks)
    caught = judge(stream, errors_of(stream), [3, 0, 2], budget=2)
    assert (caught.picks, caught.overspend, caught.size_bytes, caught.boxes) == (3, 1, 80, 1)
    assert caught.precision == pytest.approx(2 / 3)
    assert caught.errors == 2 / 4
    assert caught.missed_tracks == 1 / 2
    assert caught.scenes == 1
    assert caught.near_duplicates == pytest.approx(2 / 3)
    assert caught.burst == 3


def test_a_track_counts_once_however_often_it_is_shown_missed() -> None:
    stream = a_stream([a_look(index, truth=[(HERE, 0, 1)]) for index in range(5)] + [a_look(5, truth=[(HERE, 0, 2)])])
    errors = errors_of(stream)
    assert judge(stream, errors, [0, 1, 2, 3], 9).missed_tracks == 0.5
    assert judge(stream, errors, [0, 5], 9).missed_tracks == 1


def test_a_pick_that_sees_the_object_captures_no_miss() -> None:
    stream = a_stream([a_look(0, Detections.of([HERE], [0.9], [0]), [(HERE, 0, 1)]), a_look(1, truth=[(HERE, 0, 1)])])
    assert judge(stream, errors_of(stream), [0], 1).missed_tracks == 0
    assert judge(stream, errors_of(stream), [1], 1).missed_tracks == 1


def test_no_picks_catch_nothing() -> None:
    stream = synthetic(1, 120)
    nothing = judge(stream, errors_of(stream), [], 5)
    assert (nothing.picks, nothing.overspend, nothing.errors, nothing.missed_tracks, nothing.burst) == (0, 0, 0, 0, 0)
    assert math.isnan(nothing.precision)


def test_all_frames_catch_everything() -> None:
    stream = synthetic(1, 300)
    all_of_it = judge(stream, errors_of(stream), range(300), 300)
    assert (all_of_it.errors, all_of_it.missed_tracks, all_of_it.scenes) == (1, 1, 1)
    assert (all_of_it.near_duplicates, all_of_it.burst, all_of_it.overspend) == (1, 300, 0)


@pytest.mark.parametrize("wrong", [[0, 0], [-1], [5]])
def test_picks_that_cannot_be_are_refused(wrong: list[int]) -> None:
    stream = a_stream([a_look(index) for index in range(5)])
    with pytest.raises(ValueError, match=r"twice|do not lie"):
        judge(stream, errors_of(stream), wrong, 5)


def test_near_duplicates_lie_ten_frames_apart_in_one_scene() -> None:
    assert near_duplicate_rate([(0, 0), (0, 10)]) == 1
    assert near_duplicate_rate([(0, 0), (0, 11)]) == 0
    assert near_duplicate_rate([(0, 58), (1, 62)]) == 0
    assert near_duplicate_rate([(0, 30), (0, 5), (0, 0), (1, 0)]) == 0.5
    assert math.isnan(near_duplicate_rate([]))


def test_the_most_in_any_stretch() -> None:
    assert most_in_any([0, 299, 300, 700], [1, 1, 1, 1], 300) == 2
    assert most_in_any([0, 299, 300, 599], [1, 1, 1, 1], 301) == 3
    assert most_in_any([5.0, 1.0, 1.5], [100, 20, 30], 1.0) == 100
    assert most_in_any([], [], 10) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=30), st.integers(1, 20))
def test_the_most_in_any_stretch_is_what_trying_all_gives(spent: list[tuple[int, int]], span: int) -> None:
    tried = [sum(amount for at, amount in spent if start <= at < start + span) for start, _ in spent]
    assert most_in_any([at for at, _ in spent], [amount for _, amount in spent], span) == max(tried, default=0)


# ---- intervals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "point"),
    [(1, 12.706), (4, 2.776), (9, 2.262), (10, 2.2281), (15, 2.1314), (30, 2.0423), (1000, 1.9623)],
)
def test_students_t_is_that_of_the_tables(freedom: int, point: float) -> None:
    assert t_point(freedom) == pytest.approx(point, abs=5e-4)


def test_an_interval_by_hand() -> None:
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))


def test_one_seed_has_no_interval() -> None:
    found = t_interval([2.0])
    assert found.mean == 2
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(t_interval([]).mean)


def test_a_95_percent_interval_holds_the_truth_19_times_of_20() -> None:
    chance = np.random.default_rng(0)
    held = [found.low <= 1 <= found.high for found in (t_interval(list(chance.normal(1, 2, 5))) for _ in range(2000))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_the_bootstrap_agrees_with_t_where_there_are_many_seeds() -> None:
    values = list(np.random.default_rng(3).normal(5, 1, 60))
    one, other = bootstrap_interval(values, np.random.default_rng(0)), t_interval(values)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.05)
    assert one == bootstrap_interval(values, np.random.default_rng(0))


def test_pairs_cancel_what_the_seed_does_to_both() -> None:
    baseline = [1.0, 2.0, 4.0, 8.0]
    found = paired_ratio([1.5 * base for base in baseline], baseline)
    assert (found.mean, found.low, found.high, found.least) == pytest.approx((1.5, 1.5, 1.5, 1.5))
    apart = paired_difference([base + 1 for base in baseline], baseline)
    assert (apart.mean, apart.low, apart.high) == pytest.approx((1, 1, 1))


def test_the_least_ratio_is_told() -> None:
    found = paired_ratio([2.0, 3.0, 1.0], [1.0, 1.0, 1.0])
    assert (found.mean, found.least) == (2, 1)


def test_a_baseline_of_nothing_gives_no_ratio() -> None:
    found = paired_ratio([1.0, 1.0], [0.0, 1.0])
    assert math.isnan(found.mean)
    assert math.isnan(found.least)


def test_pairs_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0], [1.0, 2.0])


def test_errors_know_every_track_that_some_frame_misses() -> None:
    errors = Errors(np.array([1, 2, 0]), np.array([0, 0, 0]), (frozenset({1}), frozenset({1, 2}), frozenset()))
    assert errors.missed_tracks == {1, 2}
