"""What the figures of a replay promise: errors counted as COCO counts them, shares that a hand can check, and chance without luck."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_agent.capture import (
    Errors,
    FrameErrors,
    Objects,
    Tally,
    by_chance,
    captured,
    frame_errors,
    near_duplicate_rate,
)
from edgecase_models.detections import Detections

HERE, AWAY = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def objects(*given: tuple[tuple[float, ...], int, int]) -> Objects:
    boxes, classes, tracks = zip(*given, strict=True) if given else ((), (), ())
    return Objects(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, int), np.array(tracks, int))


def errors(*missed: set[int], false: dict[int, int] | None = None) -> Errors:
    positives = np.zeros(len(missed), np.int64)
    for place, count in (false or {}).items():
        positives[place] = count
    return Errors(np.array([len(each) for each in missed], np.int64), positives, tuple(map(frozenset, missed)))


# ---- errors --------------------------------------------------------------------------------------------------------


def test_a_missed_object_and_a_box_on_nothing_are_two_errors() -> None:
    found = frame_errors(Detections.of([AWAY], [0.9], [0]), objects((HERE, 0, 7)))
    assert found.missed.tolist() == [True]
    assert (found.false_negatives, found.false_positives, found.count) == (1, 1, 2)


def test_a_box_of_another_class_hits_nothing() -> None:
    assert frame_errors(Detections.of([HERE], [0.9], [1]), objects((HERE, 0, 7))).count == 2
    assert frame_errors(Detections.of([HERE], [0.9], [0]), objects((HERE, 0, 7))).count == 0


def test_an_empty_frame_has_no_error() -> None:
    assert frame_errors(Detections.empty(), objects()).count == 0


def test_a_tally_is_the_errors_of_the_frames_that_were_labelled() -> None:
    tally = Tally()
    tally.add(1, objects((HERE, 0, 7), (AWAY, 0, 8)), FrameErrors(np.array([True, False]), 3))
    tally.add(4, objects((AWAY, 0, 8)), FrameErrors(np.array([True]), 0))
    found = tally.errors()
    assert found is not None
    assert found.counts.tolist() == [4, 1]
    assert found.missed == (frozenset({7}), frozenset({8}))
    assert tally.labelled(6).tolist() == [False, True, False, False, True, False]
    assert (tally.objects, tally.tracked) == (3, True)


def test_without_tracks_no_object_is_told_from_another() -> None:
    tally = Tally()
    tally.add(0, objects((HERE, 0, 7)), FrameErrors(np.array([True]), 0))
    tally.add(1, Objects(np.array([HERE]), np.array([0])), FrameErrors(np.array([True]), 0))
    found = tally.errors()
    assert not tally.tracked
    assert found is not None
    assert found.missed_tracks == frozenset()
    assert math.isnan(captured(found, [0]).missed_tracks)


def test_nothing_labelled_gives_no_errors() -> None:
    assert Tally().errors() is None
    assert Tally().labelled(2).tolist() == [False, False]


# ---- what picks caught ---------------------------------------------------------------------------------------------


def test_a_selection_is_measured_by_hand() -> None:
    found = captured(errors({1}, {1, 2}, set(), set(), {3}, false={2: 1, 4: 2}), [1, 3])
    assert found.picks == 2
    assert found.precision == 1 / 2
    assert found.failures == 1 / 4
    assert found.severe == 1 / 2
    assert found.errors == 2 / 7
    assert found.missed_tracks == 2 / 3


def test_no_picks_catch_nothing_and_are_no_share_of_themselves() -> None:
    found = captured(errors({1}, set()), [])
    assert (found.errors, found.missed_tracks) == (0, 0)
    assert math.isnan(found.precision)
    assert math.isnan(by_chance(errors({1}, set()), 0).precision)


def test_a_detector_without_errors_leaves_nothing_to_catch() -> None:
    for found in (captured(errors(set(), set()), [0]), by_chance(errors(set(), set()), 1)):
        assert found.precision == 0
        assert all(math.isnan(value) for value in (found.failures, found.severe, found.errors, found.missed_tracks))


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 3), max_size=3), st.integers(0, 2)), min_size=1, max_size=7),
    st.data(),
)
def test_chance_is_the_mean_over_every_selection_of_that_size(
    frames: list[tuple[set[int], int]], data: st.DataObject
) -> None:
    known = errors(*(missed for missed, _ in frames), false={place: count for place, (_, count) in enumerate(frames)})
    picks = data.draw(st.integers(1, len(frames)))
    every = [captured(known, chosen) for chosen in combinations(range(len(frames)), picks)]
    expected = by_chance(known, picks)
    for name in ("precision", "failures", "severe", "errors", "missed_tracks"):
        values = [getattr(each, name) for each in every]
        assert getattr(expected, name) == pytest.approx(np.mean(values), nan_ok=True), name


def test_chance_agrees_with_many_draws_on_a_long_recording() -> None:
    chance = np.random.default_rng(0)
    known = errors(*(set(chance.integers(0, 60, 2).tolist()) if chance.random() < 0.2 else set() for _ in range(3000)))
    draws = [captured(known, chance.choice(3000, 90, replace=False).tolist()).missed_tracks for _ in range(200)]
    assert by_chance(known, 90).missed_tracks == pytest.approx(np.mean(draws), abs=3 * np.std(draws) / 200**0.5)


def test_near_duplicates_lie_ten_frames_apart() -> None:
    assert near_duplicate_rate([(0, 0), (0, 10), (0, 30)]) == pytest.approx(2 / 3)
    assert near_duplicate_rate([(0, 0), (1, 1)]) == 0
    assert math.isnan(near_duplicate_rate([]))
