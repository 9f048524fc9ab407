"""How far frames lie apart: by the model's own features where both have them, else by what the thumbnails and the boxes tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_GROUP: Final = 32
REFERENCES: Final = 2048
NEIGHBOURS: Final = 20
_BLOCK: Final = 128

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Group:
    """Frames that can be compared with each other: `frames` (M,) int64, `points` (M, D) float32."""

    frames: NDArray[np.int64]
    points: Floats


class Space:
    """N points; the distance of two is Euclidean in the first group that has both, and scaled so that 1.0 is the typical one.

    `groups`: the models' features, a model's frames in one group; the last group holds all N frames, in order, and is what is left to the
    others. Scaling: every group is divided by the root mean square distance of its pairs, sqrt(2 · total variance), so that distances
    from different groups can stand in one minimum. A model with fewer than `MIN_GROUP` frames is left to the last group: its scale would be
    chance. Distances are given as half their squares, which is what the product rule adds up.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        *models, every = groups
        kept = [group for group in models if len(group.frames) >= MIN_GROUP]
        self._groups = [Group(group.frames, _scaled(group.points)) for group in (*kept, every)]
        self._halves = [np.einsum("nd,nd->n", group.points, group.points) / 2 for group in self._groups]
        self._home = np.full(len(every.frames), len(kept), np.int64)
        self._row = np.arange(len(every.frames))
        for number, group in enumerate(kept):
            self._home[group.frames] = number
            self._row[group.frames] = np.arange(len(group.frames))

    def __len__(self) -> int:
        return len(self._home)

    def to(self, frame: int) -> Floats:
        """(N,) Half the squared distance of every frame to this one."""
        return np.asarray(self._apart(np.array([frame]))[0])

    def nearest(self, frames: NDArray[np.int64]) -> Floats:
        """(N,) Half the squared distance of every frame to the nearest of these other than itself; infinite where there is none."""
        found = np.full(len(self), np.inf, np.float32)
        for start in range(0, len(frames), _BLOCK):
            block = frames[start : start + _BLOCK]
            for number in np.unique(self._home[block]):
                mine = block[self._home[block] == number]
                apart = self._apart(mine)
                apart[np.arange(len(mine)), mine] = np.inf
                np.minimum(found, apart.min(axis=0), out=found)
        return found

    def typicality(self, among: NDArray[np.int64]) -> Floats:
        """(N,) How dense it is around each frame, 1.0 being the median: the inverse of the mean distance to its nearest neighbours.

        TypiClust's density with K = 20 (Hacohen, Dekel, Weinshall, "Active Learning on a Budget", ICML 2022, eq. 4). Neighbours are looked
        for among at most `REFERENCES` frames of `among`, evenly taken, so that the cost grows with N and not with its square.
        """
        found = np.ones(len(self), np.float32)
        for number, group in enumerate(self._groups):
            rows = np.flatnonzero(self._home[group.frames] == number)
            pool = rows[np.isin(group.frames[rows], among)]
            if len(pool) > 2:
                found[group.frames[rows]] = self._density(number, rows, pool)
        return found

    def _density(self, number: int, rows: NDArray[np.int64], pool: NDArray[np.int64]) -> Floats:
        references = pool[np.linspace(0, len(pool) - 1, min(len(pool), REFERENCES)).astype(np.int64)]
        thinned = len(references) / len(pool)
        neighbours = min(len(references) - 1, max(5, round(NEIGHBOURS * thinned)))
        mean = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            apart = np.sqrt(2 * self._from(number, block, references))
            apart[block[:, None] == references[None]] = np.inf  # not oneself
            mean[start : start + _BLOCK] = np.partition(apart, neighbours - 1, axis=1)[:, :neighbours].mean(axis=1)
        dense = 1 / np.maximum(mean, 1e-3)
        return np.asarray(dense / np.median(dense), np.float32)

    def _apart(self, frames: NDArray[np.int64]) -> Floats:
        """(F, N) From frames that are at home in one group."""
        last, home = len(self._groups) - 1, int(self._home[frames[0]])
        if home == last:
            return self._from(last, frames)
        group = self._groups[home]
        near = self._from(home, self._row[frames])
        if len(group.frames) == len(self):
            return near[:, self._row]
        found = self._from(last, frames)
        found[:, group.frames] = near
        return found

    def _from(self, number: int, rows: NDArray[np.int64], to: NDArray[np.int64] | None = None) -> Floats:
        """(F, M) Between rows of one group and all of it, or these of it."""
        points, halves = self._groups[number].points, self._halves[number]
        other, other_halves = (points, halves) if to is None else (points[to], halves[to])
        found = other_halves[None] - points[rows] @ other.T + halves[rows][:, None]
        return np.asarray(np.maximum(found, 0, out=found), np.float32)


def appearance(cells: NDArray[np.uint8], known: NDArray[np.bool_], content: Floats) -> Floats:
    """(N, 192 + C) What thumbnails and boxes tell: brightness on a grid of 12 × 16, and how many objects of each class are expected.

    `cells` (N, 768) are a fingerprint's, `known` (N,) where there is one: other frames lie in the middle. `content` (N, C). Each
    half weighs the same: it is divided by the typical distance of its pairs.
    """
    grid = cells.reshape(-1, 12, 2, 16, 2).mean(axis=(2, 4), dtype=np.float32).reshape(len(cells), -1)
    grid[~known] = grid[known].mean(axis=0) if known.any() else 0
    return np.concatenate([_scaled(grid), _scaled(np.sqrt(content))], axis=1)


def _scaled(points: Floats) -> Floats:
    """The points around zero, a typical pair 1.0 apart."""
    centred = points - points.mean(axis=0)
    typical = float(np.sqrt(2 * np.einsum("nd,nd->", centred, centred, dtype=np.float64) / max(1, len(points))))
    return np.asarray(centred / typical if typical > 0 else centred, np.float32)
