"""Our greedy rule, with quotas off, is `lightly-mundig`'s: the same picks in the same order on the same matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgecase_cloud.greedy import Greedy, product_rule

mundig = pytest.importorskip("lightly_mundig", reason="lightly-mundig is not installed; it comes with edgecase[bench]")

STRENGTHS = [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (3.0, 0.25)]


def theirs(
    weights: np.ndarray, points: np.ndarray, count: int, strengths: tuple[float, float], before: Sequence[int] = ()
) -> list[int]:
    selection = mundig.Selection()
    selection.add_weighting_strategy(weights, strengths[0])
    selection.add_diversifying_strategy(points, strengths[1])
    found: list[int] = selection.run_selection(list(before), len(weights), count)
    return found


@pytest.mark.parametrize("strengths", STRENGTHS, ids=str)
@pytest.mark.parametrize(("rows", "dimensions", "count"), [(40, 2, 40), (300, 16, 100), (2000, 64, 150)])
def test_picks_are_the_same_to_the_last_one_where_single_precision_holds_the_numbers(
    rows: int, dimensions: int, count: int, strengths: tuple[float, float]
) -> None:
    """Whole coordinates and weights in 1/64: no sum is rounded, so that neither side's order of adding matters."""
    for seed in range(3):
        chance = np.random.default_rng(seed)
        weights = (chance.integers(1, 4000, rows) / 64).astype(np.float32)
        points = chance.integers(-12, 13, (rows, dimensions)).astype(np.float32)
        before = chance.choice(rows, seed * 3, replace=False).tolist()
        ours = product_rule(weights, points, count, strengths=strengths, preselected=before)
        assert ours == theirs(weights, points, count, strengths, before)


def test_equal_frames_are_taken_in_their_order_by_both() -> None:
    points = np.tile(np.eye(4, dtype=np.float32), (5, 1))
    weights = np.ones(20, np.float32)
    assert product_rule(weights, points, 20) == theirs(weights, points, 20, (1.0, 1.0))
    assert product_rule(np.zeros(20, np.float32), points, 5) == theirs(np.zeros(20, np.float32), points, 5, (1.0, 1.0))


@pytest.mark.parametrize("strengths", STRENGTHS, ids=str)
def test_on_any_numbers_a_short_selection_is_the_same(strengths: tuple[float, float]) -> None:
    for seed in range(10):
        chance = np.random.default_rng(seed)
        weights = chance.gamma(2.0, size=60).astype(np.float32)
        points = chance.normal(size=(60, 8)).astype(np.float32)
        assert product_rule(weights, points, 30, strengths=strengths) == theirs(weights, points, 30, strengths)


@pytest.mark.parametrize("strengths", STRENGTHS, ids=str)
def test_on_any_numbers_each_of_their_picks_is_our_best_but_for_rounding(strengths: tuple[float, float]) -> None:
    """Their distances are rounded in an order of their own, so two frames within a rounding error may change places: never more."""
    chance = np.random.default_rng(7)
    weights = chance.gamma(2.0, size=1000).astype(np.float32)
    points = chance.normal(size=(1000, 32)).astype(np.float32)

    def to(row: int) -> np.ndarray:
        return np.asarray(((points - points[row]) ** 2).sum(axis=1) / 2, np.float32)

    greedy = Greedy(weights, to, strengths=strengths)
    for row in theirs(weights, points, 300, strengths):
        values = greedy.values()
        assert values[row] >= values[greedy.open].max() - 8 * np.spacing(np.abs(values[row]))
        greedy.take(row)
