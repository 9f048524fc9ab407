"""Shares that hold at every length."""

from __future__ import annotations

import numpy as np
import pytest

from edgecase_cloud.quotas import (
    AHEAD,
    Alternation,
    ClassQuota,
    Presence,
    Turns,
    fair_shares,
    guaranteed_shares,
    minority,
    minority_share,
)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, ""), (0.25, "3 7 11 15 19"), (0.3, "3 6 9 13 16 19"), (1.0, " ".join(map(str, range(20))))],
)
def test_slots_are_due_evenly(share: float, expected: str) -> None:
    turn = Alternation(share)
    due = []
    for slot in range(20):
        if turn.due:
            due.append(str(slot))
        turn.serve(taken=turn.due)
    assert " ".join(due) == expected


def test_what_could_not_be_served_is_made_up_for() -> None:
    turn = Alternation(0.5)
    for _ in range(6):
        turn.serve(taken=False)
    taken = 0
    while turn.due:
        turn.serve(taken=True)
        taken += 1
    assert taken == 6


@pytest.mark.parametrize(
    ("counts", "slots", "expected"),
    [
        ([100, 100], 60, [30, 30]),
        ([10, 3, 100], 60, [10, 3, 47]),
        ([5, 5, 5], 60, [5, 5, 5]),
        ([1] * 10, 5, [0.5] * 10),
        ([7], 5, [5]),
    ],
)
def test_shares_are_equal_but_for_what_the_small_leave_to_the_others(
    counts: list[int], slots: int, expected: list[float]
) -> None:
    served = min(slots, sum(counts))
    np.testing.assert_allclose(fair_shares(np.array(counts), slots) * served, expected)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([90, 90], [0.75, 0.75]), ([90, 5], [0.95, 0.75]), ([90, 90, 90], [2 / 3] * 3), ([50], [1.0])],
)
def test_each_gets_half_of_an_equal_share_or_all_that_it_has(counts: list[int], expected: list[float]) -> None:
    np.testing.assert_allclose(guaranteed_shares(np.array(counts), 100), expected)


def served(turns: Turns, group: np.ndarray, slots: int) -> str:
    """Serve the first frame that may, until nobody may."""
    order = ""
    for _ in range(slots):
        may = np.flatnonzero(turns.allowed())
        if not may.size:
            break
        order += str(group[may[0]])
        turns.serve(int(may[0]))
    return order


def test_a_group_may_run_ahead_a_little_and_ends_with_its_share() -> None:
    group = np.array([0] * 50 + [1] * 50)
    order = served(Turns(group, np.array([0.5, 0.5]), 60), group, 60)
    assert (order.count("0"), order.count("1")) == (30, 30)
    for length in range(1, 61):
        assert order[:length].count("0") <= length / 2 + AHEAD / 2 + 1


def test_a_share_of_a_short_queue_is_no_more_than_that() -> None:
    group = np.array([0] * 50 + [1] * 50)
    assert served(Turns(group, np.array([0.5, 0.5]), 4), group, 4) == "0011"


def test_a_group_that_was_served_before_waits_for_the_others() -> None:
    group = np.array([0, 1])
    assert Turns(group, np.array([0.5, 0.5]), 4, served=[0] * 4).allowed().tolist() == [False, True]


def presence(boxes: list[tuple[int, int, float]], frames: int, classes: int) -> Presence:
    frame, cls, score = (np.array(column) for column in zip(*boxes, strict=True))
    return Presence.of(frame, cls, score, frames=frames, classes=classes)


def test_a_class_is_as_likely_there_as_not_all_its_candidates_are_wrong() -> None:
    seen = presence([(0, 1, 0.5), (0, 1, 0.5), (0, 0, 0.2), (2, 1, 0.9)], 3, 2)
    np.testing.assert_allclose(seen.row(0), [0.2, 0.75])
    np.testing.assert_allclose(seen.row(1), [0, 0])
    np.testing.assert_allclose(seen.best(np.array([True, True])), [0.75, 0, 0.9])
    np.testing.assert_allclose(seen.best(np.array([True, False])), [0.2, 0, 0])
    assert seen.likeliest(0, np.array([True, True])) == 1
    assert seen.likeliest(0, np.array([True, False])) == 0
    assert seen.likeliest(1, np.array([True, True])) is None


def test_a_minority_has_less_than_half_of_an_equal_share_of_the_boxes() -> None:
    seen = presence([(0, c, 0.9) for c in range(4)], 1, 5)
    assert minority(np.array([900, 400, 90, 80, 0]), seen).tolist() == [False, False, True, True, False]
    assert minority(np.array([100, 100, 100, 100, 0]), seen).tolist() == [False] * 5
    assert minority(np.zeros(5, np.int64), presence([(0, 0, 0.01)], 1, 5)).tolist() == [False] * 5


def test_with_few_labels_it_counts_what_the_frames_seem_to_show() -> None:
    seen = presence([(f, 0, 0.9) for f in range(40)] + [(0, 1, 0.5)], 40, 2)
    assert minority(np.zeros(2, np.int64), seen).tolist() == [False, True]
    assert minority(np.array([0, 3]), seen).tolist() == [False, True]
    assert minority(np.array([0, 500]), seen).tolist() == [True, False]


@pytest.mark.parametrize(("minorities", "classes", "expected"), [(0, 6, 0.0), (3, 6, 0.75), (1, 10, 0.55), (4, 4, 1.0)])
def test_the_share_of_minorities_is_that_of_divproto(minorities: int, classes: int, expected: float) -> None:
    assert minority_share(minorities, classes) == pytest.approx(expected)


def test_a_class_that_got_its_share_leaves_the_next_slot_to_the_others() -> None:
    seen = presence([(0, 0, 0.9), (1, 1, 0.9), (2, 2, 0.9)], 3, 3)
    quota = ClassQuota(seen, np.array([True, True, False]), 1.0, [])
    assert quota.due
    assert quota.wanted().tolist() == [True, True, False]
    quota.serve(0, reserved=True)
    assert quota.wanted().tolist() == [False, True, False]
