"""What a distance between frames means, whichever way it is measured."""

from __future__ import annotations

import numpy as np
import pytest

from edgecase_cloud.space import MIN_GROUP, Group, Space, appearance

CHANCE = np.random.default_rng(5)


def group(count: int, dimensions: int = 8, start: int = 0, scale: float = 1.0) -> Group:
    points = (scale * np.random.default_rng(start + count).normal(size=(count, dimensions))).astype(np.float32)
    return Group(np.arange(start, start + count), points)


def halves(points: np.ndarray) -> np.ndarray:
    """Half the squared distances of all pairs, in units of a typical pair's distance."""
    square = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return square / square.mean() / 2


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_typical_pair_lies_one_apart_in_whatever_unit_it_was_measured(scale: float) -> None:
    every = group(200, scale=scale)
    space = Space([every])
    apart = np.stack([space.to(frame) for frame in range(200)])
    np.testing.assert_allclose(apart, halves(every.points), atol=2e-3)


def test_features_decide_where_both_have_them_and_looks_where_not() -> None:
    every, model = group(100), group(60, 4)
    space = Space([model, every])
    by_features, by_looks = halves(model.points), halves(every.points)
    for frame in (0, 59):
        np.testing.assert_allclose(space.to(frame)[:60], by_features[frame], atol=2e-3)
        np.testing.assert_allclose(space.to(frame)[60:], by_looks[frame][60:], atol=2e-3)
    np.testing.assert_allclose(space.to(80), by_looks[80], atol=2e-3)


def test_two_models_features_are_not_compared() -> None:
    every, old, new = group(100), group(50, 4), group(50, 4, start=50)
    space = Space([old, new, every])
    np.testing.assert_allclose(space.to(3)[50:], halves(every.points)[3, 50:], atol=2e-3)
    np.testing.assert_allclose(space.to(53)[50:], halves(new.points)[3], atol=2e-3)


def test_a_model_with_a_handful_of_frames_is_left_to_looks() -> None:
    every, few = group(100), group(MIN_GROUP - 1, 4)
    np.testing.assert_allclose(Space([few, every]).to(0), Space([every]).to(0), atol=1e-5)


def test_the_nearest_of_many_is_the_least_of_each() -> None:
    space = Space([group(150, 4), group(100, 6, start=150), group(400)])
    those = np.array([0, 7, 149, 150, 222, 250, 399])
    apart = np.stack([space.to(frame) for frame in those])
    apart[np.arange(7), those] = np.inf  # other than itself
    np.testing.assert_allclose(space.nearest(those), apart.min(axis=0), atol=2e-3)
    assert np.isinf(space.nearest(np.empty(0, np.int64))).all()


def test_frames_amid_others_are_more_typical_than_those_aside() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(0, 0.1, (300, 4)), np.full((3, 4), 3.0)]).astype(
        np.float32
    )
    points[300:] += np.eye(4, dtype=np.float32)[:3]
    typical = Space([Group(np.arange(303), points)]).typicality(np.arange(303))
    assert np.median(typical) == pytest.approx(1.0)
    assert typical[300:].max() < typical[:300].min()


def test_neighbours_are_looked_for_among_a_sample_where_there_are_many() -> None:
    every = group(5000, 6)
    space = Space([every])
    apart = np.sqrt(2 * np.stack([space.to(frame) for frame in range(200)]))
    exact = 1 / np.sort(apart, axis=1)[:, 1:21].mean(axis=1)
    sampled = space.typicality(np.arange(5000))[:200]
    assert np.corrcoef(np.argsort(np.argsort(exact)), np.argsort(np.argsort(sampled)))[0, 1] > 0.9


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_frames_are_all_typical_or_nearly_so(count: int) -> None:
    assert np.isfinite(Space([group(count)]).typicality(np.arange(count))).all()


def test_a_frame_without_thumbnail_lies_in_the_middle_of_what_can_be_seen() -> None:
    cells = CHANCE.integers(0, 255, (50, 768)).astype(np.uint8)
    known = np.arange(50) > 0
    content = np.zeros((50, 3), np.float32)
    seen = appearance(cells, known, content)
    assert np.abs(seen[0]).max() < 1e-5
    assert np.isfinite(seen).all()


def test_brightness_and_content_weigh_the_same() -> None:
    cells = CHANCE.integers(0, 255, (200, 768)).astype(np.uint8)
    content = CHANCE.gamma(2.0, size=(200, 5)).astype(np.float32)
    seen = appearance(cells, np.ones(200, np.bool_), content)
    grid, boxes = seen[:, :192], seen[:, 192:]
    assert (grid**2).sum() == pytest.approx((boxes**2).sum(), rel=1e-3)
