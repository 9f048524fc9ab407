"""Whose turn it is: shares that hold all along a queue, since a reviewer may stop anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SEEN_FROM: Final = 0.1  # a candidate that scores less does not yet suggest an object of its class
AHEAD: Final = 10  # frames that a group may be in front of its share, before they are divided among all
PRIOR_BOXES: Final = 50.0  # how many labelled boxes weigh as much as what the open frames seem to show
_EPS: Final = 1e-9  # shares add up to whole frames but for rounding


class Alternation:
    """Every so many slots one goes to a purpose that has a share of all: slot n is due where floor(share · n) grows."""

    def __init__(self, share: float, slots: int = 0, taken: int = 0) -> None:
        self.share = share
        self.slots = slots
        self.taken = taken

    @property
    def due(self) -> bool:
        """Whether the next slot is the purpose's."""
        return int(self.share * (self.slots + 1) + _EPS) > self.taken

    def serve(self, *, taken: bool) -> None:
        """A slot was given away."""
        self.slots += 1
        self.taken += taken


class Turns:
    """No group takes more than its share of the slots, and none runs further ahead of it than by what the next `AHEAD` slots would give.

    `group` (N,) is each frame's, `shares` (G,) what a group may take, `served` the groups of what was served before, `slots` how many are
    to be served.
    """

    def __init__(
        self,
        group: NDArray[np.int64],
        shares: NDArray[np.float64],
        slots: int,
        served: Sequence[int] = (),
    ) -> None:
        self._group = group
        self._shares = shares
        self._count = np.bincount(np.asarray(served, np.int64), minlength=len(shares)).astype(np.float64)
        self._end = len(served) + slots

    def allowed(self) -> NDArray[np.bool_]:
        """(N,) Whose group may take the next slot."""
        bound = np.ceil(self._shares * min(self._count.sum() + 1 + AHEAD, self._end) - _EPS)
        return np.asarray((self._count + 1 <= bound)[self._group])

    def serve(self, frame: int) -> None:
        """This frame was picked."""
        self._count[self._group[frame]] += 1


def fair_shares(counts: NDArray[np.int64], slots: int) -> NDArray[np.float64]:
    """(G,) Equal shares of the slots among groups with so many frames each; what a small group leaves, the others share (max-min)."""
    level, left, free = 0.0, float(min(slots, counts.sum())), np.sort(counts).astype(np.float64)
    for position, count in enumerate(free):
        each = left / (len(free) - position)
        if count >= each:
            level = each
            break
        left -= count
        level = count
    return np.asarray(np.minimum(counts, level) / max(1, min(slots, counts.sum())))


def guaranteed_shares(counts: NDArray[np.int64], slots: int) -> NDArray[np.float64]:
    """(G,) The most that each group may take, so that every other gets half of an equal share, or all that it has."""
    floor = np.minimum(1 / (2 * max(1, len(counts))), counts / max(1, slots))
    return np.asarray(1 - (floor.sum() - floor))


@dataclass(frozen=True, eq=False)
class Presence:
    """How likely frames show classes, as sorted pairs: `frame`, `cls` and `chance`, (P,) each; C classes, N frames.

    The chance that at least one candidate of the class is an object, candidates being independent and a score being its chance.
    """

    frame: NDArray[np.int64]
    cls: NDArray[np.int64]
    chance: NDArray[np.float64]
    frames: int
    classes: int

    @classmethod
    def of(
        cls,
        frame: NDArray[np.int64],
        box_class: NDArray[np.int64],
        score: NDArray[np.float64],
        *,
        frames: int,
        classes: int,
    ) -> Presence:
        """From boxes as rows: (B,) frame, class and score."""
        pair, where = np.unique(frame * max(1, classes) + box_class, return_inverse=True)
        missed = np.bincount(where, np.log1p(-np.minimum(score, 0.999)), minlength=len(pair))
        return cls(pair // max(1, classes), pair % max(1, classes), -np.expm1(missed), frames, classes)

    def best(self, wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(N,) The chance of the likeliest of the wanted classes (C,)."""
        found = np.zeros(self.frames)
        if len(self.frame):
            starts = np.flatnonzero(np.diff(self.frame, prepend=-1))
            found[self.frame[starts]] = np.maximum.reduceat(self.chance * wanted[self.cls], starts)
        return found

    def likeliest(self, frame: int, wanted: NDArray[np.bool_]) -> int | None:
        """The likeliest of the wanted classes in one frame."""
        low, high = np.searchsorted(self.frame, (frame, frame + 1))
        chance = self.chance[low:high] * wanted[self.cls[low:high]]
        return int(self.cls[low + chance.argmax()]) if chance.any() else None

    def row(self, frame: int) -> NDArray[np.float64]:
        """(C,) The chances of one frame."""
        low, high = np.searchsorted(self.frame, (frame, frame + 1))
        found = np.zeros(self.classes)
        found[self.cls[low:high]] = self.chance[low:high]
        return found


def minority(labelled: NDArray[np.int64], presence: Presence) -> NDArray[np.bool_]:
    """(C,) The classes with less than half of an equal share of the boxes, of those that are labelled or seem to be there.

    `labelled` (C,) counts boxes; with few of them what the open frames seem to show counts as well.
    """
    expected = np.bincount(presence.cls, presence.chance, minlength=len(labelled))
    there = labelled > 0
    there[presence.cls[presence.chance >= SEEN_FROM]] = True
    if not there.any():
        return there
    boxes = labelled + PRIOR_BOXES * expected / max(expected.sum(), _EPS)
    return np.asarray(there & (boxes < boxes[there].mean() / 2))


def minority_share(minorities: int, classes: int) -> float:
    """β = α + (1 - α) / 2, α being the share of minority classes among all (DivProto: Wu, Chen, Huang, "Entropy-based Active Learning for
    Object Detection with Progressive Diversity Constraint", CVPR 2022). 0 where there is no minority."""
    if not minorities:
        return 0.0
    alpha = minorities / classes
    return alpha + (1 - alpha) / 2


class ClassQuota:
    """The slots that are reserved for minority classes, the same number for each, a frame counting as far as it seems to show them.

    `served`: the classes of each frame that was served before, as far as it was a slot of this quota or a free one.
    """

    def __init__(
        self,
        presence: Presence,
        minorities: NDArray[np.bool_],
        share: float,
        served: Sequence[tuple[NDArray[np.float64], bool]],
    ) -> None:
        self._presence = presence
        self._minorities = minorities
        self._each = share / max(1, int(minorities.sum()))
        self._got = np.zeros(len(minorities))
        self._turn = Alternation(share)
        for chances, reserved in served:
            self._got += chances
            self._turn.serve(taken=reserved)

    @property
    def due(self) -> bool:
        """Whether the next slot is reserved."""
        return bool(self._minorities.any()) and self._turn.due

    def wanted(self) -> NDArray[np.bool_]:
        """(C,) The minority classes that are behind their share; all of them where none is."""
        behind = self._minorities & (self._got < self._each * self._turn.slots)
        return behind if behind.any() else self._minorities

    def serve(self, frame: int, *, reserved: bool) -> None:
        """This frame was picked."""
        self._got += self._presence.row(frame)
        self._turn.serve(taken=reserved)
