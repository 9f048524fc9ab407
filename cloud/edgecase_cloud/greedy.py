"""The product rule: what to pick next so that a batch is both doubtful and spread out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgecase_cloud.space import Floats


class Greedy:
    """Picks one of R frames after another, each time the one that raises the batch's objective most:

        (sum of the picks' weights)^s · (sum of half their squared distances, each to its nearest other pick)^t

    `lightly-mundig` 0.1.16 does this with a weighting strategy of strength s and a diversifying one of strength t; found by trial, and
    held to by `tests/contracts/test_product_rule_contract.py`. The product is one of sums over the whole batch, not of each frame's
    score and distance. A candidate is judged with the picks' distances as they are; they fall when it is picked. Preselected frames
    count as picks. The first pick goes by weight alone. Of equal ones the first is taken. Sums, logarithms and their sum are rounded to
    single precision, and so are ours: where single precision holds all numbers, both pick the same to the last one.

    `to` gives half the squared distances (R,) of all frames to one. `before` are the rows of earlier picks, `nearest` (R,) half the squared
    distance to the nearest of them other than oneself, infinite where there is none.
    """

    def __init__(
        self,
        weights: Floats,
        to: Callable[[int], Floats],
        *,
        strengths: tuple[float, float] = (1.0, 1.0),
        before: Sequence[int] = (),
        nearest: Floats | None = None,
    ) -> None:
        self.open = np.ones(len(weights), np.bool_)
        self.open[list(before)] = False
        self.nearest = np.full(len(weights), np.inf, np.float32) if nearest is None else nearest.copy()
        self._weights = weights.astype(np.float32)
        self._to = to
        self._strengths = np.float32(strengths[0]), np.float32(strengths[1])
        self._picks = list(before)
        self._weight = _running(self._weights[self._picks])

    def values(self) -> Floats:
        """(R,) The logarithm of the objective with each frame in the batch as well."""
        by_weight, by_distance = self._strengths
        found = by_weight * _ln(self._weight + self._weights)
        if self._picks:
            with np.errstate(invalid="ignore"):  # of the first pick itself, which has no other
                found = found + by_distance * _ln(self._spread() + self.nearest)
        return np.asarray(found, np.float32)

    def gains(self) -> Floats:
        """(R,) How much each frame would raise the logarithm of the objective; before there are two picks, the objective itself."""
        spread = self._spread()
        if self._weight <= 0 or spread <= 0:
            found = np.exp(self.values())
        else:
            now = self._strengths[0] * _ln(self._weight) + self._strengths[1] * _ln(spread)
            found = np.maximum(self.values() - now, 0)
        return np.where(self.open, found, np.float32(0))

    def take(self, frame: int) -> None:
        """This frame was picked."""
        apart = self._to(frame)
        apart[frame] = np.inf
        self.nearest = np.minimum(self.nearest, apart)
        self.open[frame] = False
        self._picks.append(frame)
        self._weight += self._weights[frame]

    def _spread(self) -> np.float32:
        distances = self.nearest[self._picks]
        return _running(distances[np.isfinite(distances)])


def best(values: Floats, eligible: NDArray[np.bool_]) -> int:
    """The eligible frame of the greatest value, the first of equal ones; there must be one."""
    rows = np.flatnonzero(eligible)
    return int(rows[values[rows].argmax()])


def product_rule(
    weights: Floats,
    points: Floats,
    count: int,
    *,
    strengths: tuple[float, float] = (1.0, 1.0),
    preselected: Sequence[int] = (),
) -> list[int]:
    """The rule by itself on (R,) weights and (R, D) points: `count` picks in order, the preselected ones first."""
    halves = np.einsum("rd,rd->r", points, points) / 2

    def to(row: int) -> Floats:
        return np.asarray(np.maximum(halves - points @ points[row] + halves[row], 0), np.float32)

    greedy = Greedy(weights, to, strengths=strengths)
    picks = list(preselected)
    for row in picks:
        greedy.take(row)
    while len(picks) < min(count, len(weights)):
        picks.append(best(greedy.values(), greedy.open))
        greedy.take(picks[-1])
    return picks


def _running(values: Floats) -> np.float32:
    """The sum in the order given, rounded at every step: numpy's own adds in pairs."""
    return np.float32(np.add.accumulate(values, dtype=np.float32)[-1]) if len(values) else np.float32(0)


def _ln(values: Floats | np.float32) -> Floats:
    """The natural logarithm, correctly rounded to single precision; numpy's own is a bit off there."""
    with np.errstate(divide="ignore", invalid="ignore"):
        exact: NDArray[np.float64] = np.log(np.asarray(values, np.float64))
    return exact.astype(np.float32)
