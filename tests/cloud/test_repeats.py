"""What is called a repeat, and what stands for it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edgecase_cloud.repeats import Likeness, Prints, View, leaders


def prints(hashes: list[int], cells: np.ndarray | None = None, known: list[bool] | None = None) -> Prints:
    count = len(hashes)
    shown = np.zeros((count, 768), np.uint8) if cells is None else cells.astype(np.uint8)
    return Prints(np.array(hashes, np.uint64), shown, np.array(known or [True] * count))


@pytest.mark.parametrize(("bits", "expected"), [(-1, [0, 1, 2]), (0, [0, 1, 2]), (1, [0, 0, 2]), (2, [0, 0, 0])])
def test_hashes_may_differ_in_so_many_bits(bits: int, expected: list[int]) -> None:
    assert leaders(prints([0b00, 0b01, 0b11]), [], Likeness(bits=bits)).tolist() == expected


def test_one_cell_that_differs_tells_two_frames_of_a_fixed_camera_apart() -> None:
    cells = np.full((4, 768), 100)
    cells[1, 500] += 6
    cells[2, 500] += 7
    cells[3, 501] -= 7
    assert leaders(prints([0] * 4, cells), [], Likeness(levels=6)).tolist() == [0, 0, 2, 3]


def test_a_frame_without_a_fingerprint_repeats_nothing() -> None:
    assert leaders(prints([0, 0, 0], known=[True, False, True]), [], Likeness()).tolist() == [0, 1, 0]


def test_a_slow_drift_ends_where_it_is_too_far_from_its_leader() -> None:
    cells = np.repeat(100 + 4 * np.arange(5)[:, None], 768, axis=1)
    assert leaders(prints([0] * 5, cells), [], Likeness(levels=6)).tolist() == [0, 0, 2, 2, 4]


def test_features_take_what_pictures_left_and_never_reach_over_to_another_view() -> None:
    unit = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    left = View(np.array([0, 1, 2]), unit[:3])
    right = View(np.array([3]), unit[3:])
    assert leaders(prints([0, 2**20 - 1, 2**40 - 1, 2**60 - 1]), [left, right], Likeness()).tolist() == [0, 1, 0, 3]


def test_who_follows_a_follower_follows_its_leader() -> None:
    """Frame 2 looks like frame 1, which the features call a repeat of frame 0."""
    unit = np.array([[1, 0], [1, 0.01]], np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = leaders(prints([0, 2**40 - 1, 2**40 - 1]), [View(np.array([0, 1]), unit)], Likeness())
    assert found.tolist() == [0, 0, 0]


def test_blocks_make_no_difference() -> None:
    chance = np.random.default_rng(0)
    centres = chance.normal(size=(40, 16))
    points = centres[chance.integers(0, 40, 1500)] + chance.normal(0, 0.05, (1500, 16))
    unit = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    none = Prints(np.zeros(1500, np.uint64), np.zeros((1500, 768), np.uint8), np.zeros(1500, np.bool_))
    found = leaders(none, [View(np.arange(1500), unit)], Likeness())
    plain: list[int] = []
    expected = []
    for row in range(1500):
        near = [lead for lead in plain if unit[row] @ unit[lead] > 0.97]
        expected.append(near[0] if near else row)
        plain += [] if near else [row]
    assert found.tolist() == expected
    assert 20 < len(plain) < 400


def test_pictures_are_told_apart_as_by_looking_at_every_pair() -> None:
    chance = np.random.default_rng(1)
    scenes = chance.integers(0, 255, (30, 768))
    which = chance.integers(0, 30, 800)
    cells = np.clip(scenes[which] + chance.integers(-4, 5, (800, 768)), 0, 255)
    hashes = [int(scenes[w, 0]) for w in which]
    found = leaders(prints(hashes, cells), [], Likeness(bits=0, levels=6))
    plain: list[int] = []
    for row in range(800):
        near = [
            lead
            for lead in plain
            if hashes[lead] == hashes[row] and np.abs(cells[lead].astype(int) - cells[row]).max() <= 6
        ]
        assert found[row] == (near[0] if near else row)
        plain += [] if near else [row]


def test_a_fixed_camera_with_something_small_in_each_frame_is_gone_through_in_time() -> None:
    """All hashes are equal, and no two frames show the same."""
    chance = np.random.default_rng(2)
    cells = np.tile(chance.integers(60, 200, 768), (6000, 1)) + chance.integers(-2, 3, (6000, 768))
    cells[np.arange(6000), chance.integers(0, 768, 6000)] += chance.choice([-40, -25, 25, 40], 6000)
    began_s = time.process_time()
    found = leaders(prints([5] * 6000, cells), [], Likeness())
    assert time.process_time() - began_s < 10
    assert 1000 < len(np.unique(found)) < 6000
