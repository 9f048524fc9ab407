"""Which frames show what another shows already: the same picture, or, to the model's own features, the same view of one camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 512
_TELLING: Final = 8


@dataclass(frozen=True)
class Likeness:
    """From when on two frames show the same.

    By picture: the hashes differ in at most `bits` of 64 and no cell in brightness by more than `levels` of 255; -1 bits: never.
    By features: their cosine exceeds `cosine`; 1: never.
    """

    bits: int = 4
    levels: int = 6
    cosine: float = 0.97


@dataclass(frozen=True, eq=False)
class Prints:
    """Fingerprints of N frames: `dhash` (N,) uint64, `cells` (N, K) uint8, `known` (N,) bool, false where there is none."""

    dhash: NDArray[np.uint64]
    cells: NDArray[np.uint8]
    known: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """What one camera gave under one model: `frames` (M,) int64 in ascending order, `unit` (M, D) float32 of length 1 each."""

    frames: NDArray[np.int64]
    unit: NDArray[np.float32]


def leaders(prints: Prints, views: Sequence[View], likeness: Likeness) -> NDArray[np.int64]:
    """(N,) For each frame the frame that stands for it: itself, or an earlier one that it repeats.

    The frames are given best first. One pass: a frame follows the first leader that it repeats, else it leads. Followers
    are not followed, so a slow drift ends when it has gone far enough from its leader. First by picture, then what is left by features.
    """
    found = _by_picture(prints, likeness)
    for view in views:
        leading = found[view.frames] == view.frames
        own, unit = view.frames[leading], view.unit[leading]
        found[own] = own[_by_features(unit, likeness.cosine)]
    return found[found]  # the leader by picture may itself follow by features


def _by_picture(prints: Prints, likeness: Likeness) -> NDArray[np.int64]:
    count, levels = len(prints.dhash), likeness.levels
    found = np.arange(count)
    if likeness.bits < 0 or not prints.known.any():
        return found
    telling = _telling(prints)
    lead = np.empty(count, np.int64)
    lead_hash = np.empty(count, np.uint64)
    lead_cells = np.empty(prints.cells.shape[::-1], np.int16)  # by cell, so that one cell of all leaders lies together
    leading = 0
    for frame in np.flatnonzero(prints.known):
        cells = prints.cells[frame].astype(np.int16)
        near = np.flatnonzero(np.bitwise_count(lead_hash[:leading] ^ prints.dhash[frame]) <= likeness.bits)
        for cell in telling[frame]:
            if not near.size:
                break
            near = near[np.abs(lead_cells[cell, near] - cells[cell]) <= levels]
        if near.size:
            near = near[(np.abs(prints.cells[lead[near]] - cells) <= levels).all(axis=1)]
        if near.size:
            found[frame] = lead[near[0]]
        else:
            lead[leading], lead_hash[leading], lead_cells[:, leading] = frame, prints.dhash[frame], cells
            leading += 1
    return found


def _telling(prints: Prints) -> NDArray[np.int64]:
    """(N, 8) The cells in which each frame is least like most frames: what is not alike there need not be looked at elsewhere."""
    usual = np.median(prints.cells[prints.known], axis=0).astype(np.int16)
    found = np.empty((len(prints.cells), _TELLING), np.int64)
    for start in range(0, len(prints.cells), _BLOCK):
        apart = np.abs(prints.cells[start : start + _BLOCK] - usual)
        found[start : start + _BLOCK] = np.argpartition(apart, -_TELLING, axis=1)[:, -_TELLING:]
    return found


def _by_features(unit: NDArray[np.float32], cosine: float) -> NDArray[np.int64]:
    """(M,) The row that stands for each row; in blocks, so that no (M, M) matrix is made."""
    found = np.arange(len(unit))
    lead = np.empty(len(unit), np.int64)
    lead_unit = np.empty_like(unit)
    leading = 0
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        before = block @ lead_unit[:leading].T > cosine
        within = block @ block.T > cosine
        fresh = np.zeros(len(block), np.bool_)
        for row in range(len(block)):
            earlier, beside = np.flatnonzero(before[row]), np.flatnonzero(within[row] & fresh)
            if earlier.size:
                found[start + row] = lead[earlier[0]]
            elif beside.size:
                found[start + row] = start + beside[0]
            else:
                fresh[row] = True
        new = int(fresh.sum())
        lead[leading : leading + new] = start + np.flatnonzero(fresh)
        lead_unit[leading : leading + new] = block[fresh]
        leading += new
    return found
