"""The batch to label: of all frames that wait, the few that teach most for a labeller's time, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecase_cloud.greedy import Greedy, best
from edgecase_cloud.pool import CONDITIONS, Answer, Answered, BatchError, Candidate, Pool, Quota
from edgecase_cloud.quotas import (
    SEEN_FROM,
    Alternation,
    ClassQuota,
    Turns,
    fair_shares,
    guaranteed_shares,
    minority,
    minority_share,
)
from edgecase_cloud.repeats import Likeness

BY_LOT: Final = frozenset({Quota.AUDIT, Quota.LOT})


COLDEST: Final = 0.5
"""The most that typicality counts. The frames come from a model that works, so its doubt is worth something before the first label; by
typicality alone an empty road would be the best value.
"""


@dataclass(frozen=True)
class BatchRules:
    """How a batch is chosen.

    `frames`: how many. `explore_share` of them are random. The others: `score_strength` and `distance_strength` are the strengths of the
    product rule, `frame_s` and `box_s` a labeller's seconds for a frame and for each box in it, `cold_labels` the number of labels from
    which on typical frames are not preferred any more. `quotas`: whether cameras, conditions and classes have shares.

    `box_s` = 7 s is what extreme clicking takes (Papadopoulos et al., "Extreme clicking for efficient object annotation", ICCV 2017;
    the traditional way of drawing took 35 s). `frame_s` = 5 s, to open a frame and look it over, is an assumption: with five boxes it
    gives 40 s, where Aghdam et al. (ICCV 2019) count 35 s and more for an urban picture with pedestrians.
    """

    frames: int = 100
    explore_share: float = 0.25
    score_strength: float = 1.0
    distance_strength: float = 1.0
    frame_s: float = 5.0
    box_s: float = 7.0
    cold_labels: int = 300
    quotas: bool = True
    likeness: Likeness = field(default_factory=Likeness)

    def __post_init__(self) -> None:
        bounds = {
            "frames": (0, 10_000),
            "explore_share": (0.0, 1.0),
            "score_strength": (0.0, 100.0),
            "distance_strength": (0.0, 100.0),
            "frame_s": (1e-3, 1e6),
            "box_s": (0.0, 1e6),
            "cold_labels": (0, 10**9),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BatchError(f"{name} must lie between {low:g} and {high:g}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Pick:
    """A frame of the batch. `value`: by how much it raises the logarithm of the product rule's objective (`Greedy.gains`). It rests on
    `score` (1 is typical), `distance` to the nearest frame picked or answered before (1 is typical; None where there is none),
    `typicality` (1 is the median) and `cost_s`. `propensity`: the chance of a random pick, 1 for any other."""

    id: str
    rank: int
    value: float
    score: float
    distance: float | None
    typicality: float
    cost_s: float
    quota: Quota
    propensity: float
    reason: str


@dataclass(frozen=True)
class Repeat:
    """A frame that shows what `of` shows: it stays open and stands behind all others."""

    id: str
    of: str

    @property
    def reason(self) -> str:
        """The same in words."""
        return f"duplicate of {self.of}"


@dataclass(frozen=True)
class Batch:
    """The picks in their order, the repeats, and what the choice went by. `cold` is how much typicality counted, 0 to `COLDEST`."""

    at: datetime
    picks: tuple[Pick, ...]
    repeats: tuple[Repeat, ...]
    waiting: int
    labels: int
    cold: float
    minorities: tuple[int, ...]

    @property
    def cost_s(self) -> float:
        """A labeller's time for all picks."""
        return sum(pick.cost_s for pick in self.picks)


def choose(
    frames: Sequence[Candidate],
    answered: Sequence[Answered],
    *,
    labels: int,
    rules: BatchRules,
    now: datetime,
    names: Sequence[str] = (),
) -> Batch:
    """The batch to label, from frames that wait; the same from the same input, in whatever order the frames come.

    `answered`: earlier answers, the latest last; they count as picked, and the quotas go on from them. `labels`: how many labelled pictures
    the models have learnt from. `names`: the class table. Raises `BatchError`.

    1. Of frames that repeat each other the most doubtful stays, whichever device it came from. A frame that repeats an answered one stays
       behind as well. Frames of a device's audit are never left behind: a sample without its repeats would be none.
    2. Every so often (`explore_share`) a random frame: from the devices' audits first, by lot, then from all. The lot is a hash of the
       frame's id, so that it is the same whenever it is drawn, and whatever else is picked. Of the audits, those that are answered and
       whose lot is below that of every open one are an honest sample of what the devices saw.
    3. Every so often a frame that seems to show a minority class, its gain weighed by how likely (`quotas.ClassQuota`).
    4. Else what the product rule picks (`greedy.Greedy`), a frame's weight being score^(1-c) · typicality^c / (frame_s + box_s · boxes),
       expected ones. With the phase c = (1 - labels / `cold_labels`) / 2, typical frames count while labels are few (TypiClust: Hacohen,
       Dekel, Weinshall, ICML 2022), and later what is doubtful and far from all that was labelled. Cameras get equal shares, light and
       dark pictures at least a quarter each, as long as they have frames (`quotas.Turns`).

    Costs O((N + A) · k · D) time and O((N + A) · D) memory for N frames, A answers, k picks and D dimensions.
    """
    if not frames:
        return Batch(now, (), (), 0, labels, 0.0, ())
    return _Choice(Pool(frames, answered, rules.likeness), labels, rules, names).batch(now)


class _Choice:
    """One batch being chosen from a pool; arrays are (R,), of the open frames and behind them the answered ones."""

    def __init__(self, pool: Pool, labels: int, rules: BatchRules, names: Sequence[str]) -> None:
        self._pool, self._labels, self._rules, self._names = pool, labels, rules, names
        waits = np.arange(len(pool.scores)) < pool.count
        self._repeats = waits & (pool.repeats_of != np.arange(len(waits)))
        self._cold = COLDEST * max(0.0, 1 - labels / rules.cold_labels) if rules.cold_labels else 0.0
        self._typicality = pool.space.typicality(np.flatnonzero(waits))
        self._cost_s = rules.frame_s + rules.box_s * pool.expected_boxes
        weights = pool.scores ** (1 - self._cold) * self._typicality**self._cold / self._cost_s
        self._greedy = Greedy(
            weights.astype(np.float32),
            pool.space.to,
            strengths=(rules.score_strength, rules.distance_strength),
            before=pool.behind.tolist(),
            nearest=pool.space.nearest(pool.behind),
        )
        self._greedy.open[self._repeats] = False
        self._slots = min(rules.frames, int((self._greedy.open | pool.audit).sum()))
        self._picks: list[Pick] = []
        self._picked = np.zeros(len(waits), np.bool_)
        self._set_lottery(waits)
        self._set_quotas()

    def _set_lottery(self, waits: NDArray[np.bool_]) -> None:
        """The devices' audits by lot, behind them all that repeats nothing; the next one last."""
        pool, share = self._pool, self._rules.explore_share
        drawn = sorted(np.flatnonzero(pool.audit).tolist(), key=pool.lot)
        others = sorted(np.flatnonzero(waits & ~pool.audit & ~self._repeats).tolist(), key=pool.lot)
        self._lottery = [*drawn, *others][::-1]
        slots = round(share * self._slots)
        self._propensity = {
            Quota.AUDIT: min(1.0, slots / max(1, len(drawn))),
            Quota.LOT: min(1.0, max(0, slots - len(drawn)) / max(1, len(others))),
        }
        by_lot = [each.quota in BY_LOT for each in pool.recent if each.quota]
        self._explore = Alternation(share, len(by_lot), sum(by_lot))

    def _set_quotas(self) -> None:
        pool = self._pool
        self._cameras = self._turns(pool.cameras, fair_shares)
        self._conditions = self._turns(pool.conditions, guaranteed_shares)
        labelled = pool.labelled_boxes()
        self._minorities = minority(labelled, pool.presence)
        there = labelled > 0
        there[pool.presence.cls] = True
        self._class_quota = ClassQuota(
            pool.presence,
            self._minorities,
            minority_share(int(self._minorities.sum()), int(there.sum())),
            [
                (_shown(each.answer, pool.classes), each.quota is Quota.CLASS)
                for each in pool.recent
                if each.quota and each.quota not in BY_LOT
            ],
        )

    def _turns(self, group: NDArray[np.int64], share: Callable[[NDArray[np.int64], int], NDArray[np.float64]]) -> Turns:
        """Shares among the groups that have frames to pick, going on from the latest answers."""
        counts = np.bincount(group[self._greedy.open], minlength=int(group.max()) + 1)
        shares = np.zeros(len(counts))
        shares[counts > 0] = share(counts[counts > 0], self._slots)
        behind = self._pool.behind[len(self._pool.behind) - len(self._pool.recent) :]
        return Turns(group, shares, self._slots, group[behind].tolist())

    def batch(self, now: datetime) -> Batch:
        """Pick until the batch is full."""
        pool = self._pool
        while len(self._picks) < self._slots:
            frame = self._drawn() if self._explore.due or not self._greedy.open.any() else None
            if frame is not None:
                self._serve(frame, Quota.AUDIT if pool.audit[frame] else Quota.LOT)
            elif self._greedy.open.any():
                self._serve(*self._chosen())
            else:
                break
        behind = np.flatnonzero(self._repeats & ~pool.audit).tolist()
        return Batch(
            at=now,
            picks=tuple(self._picks),
            repeats=tuple(Repeat(pool.id(row), pool.id(int(pool.repeats_of[row]))) for row in behind),
            waiting=pool.count,
            labels=self._labels,
            cold=self._cold,
            minorities=tuple(np.flatnonzero(self._minorities).tolist()),
        )

    def _drawn(self) -> int | None:
        """The next of the lottery that was not picked for its value meanwhile."""
        while self._lottery:
            frame = self._lottery.pop()
            if not self._picked[frame]:
                return frame
        return None

    def _chosen(self) -> tuple[int, Quota]:
        """The most valuable frame that the quotas allow, and the quota that decided."""
        greedy = self._greedy
        values = greedy.values()
        first = best(values, greedy.open)
        if not self._rules.quotas:
            return first, Quota.BEST
        cameras, conditions = self._cameras.allowed(), self._conditions.allowed()
        masks = (greedy.open & cameras & conditions, greedy.open & cameras, greedy.open)
        eligible = next(mask for mask in masks if mask.any())
        if self._class_quota.due:
            chance = self._pool.presence.best(self._class_quota.wanted())
            showing = eligible & (chance >= SEEN_FROM)
            if showing.any():
                return best(greedy.gains() * chance.astype(np.float32), showing), Quota.CLASS
        if eligible[first]:
            return first, Quota.BEST
        return best(values, eligible), Quota.CONDITION if cameras[first] else Quota.CAMERA

    def _serve(self, frame: int, quota: Quota) -> None:
        greedy, pool = self._greedy, self._pool
        self._picks.append(
            Pick(
                id=pool.id(frame),
                rank=len(self._picks) + 1,
                value=float(greedy.gains()[frame]),
                score=float(pool.scores[frame]),
                distance=self._distance(frame),
                typicality=float(self._typicality[frame]),
                cost_s=float(self._cost_s[frame]),
                quota=quota,
                propensity=self._propensity.get(quota, 1.0),
                reason=self._reason(frame, quota),
            )
        )
        self._picked[frame] = True
        self._explore.serve(taken=quota in BY_LOT)
        if quota not in BY_LOT:
            self._class_quota.serve(frame, reserved=quota is Quota.CLASS)
        self._cameras.serve(frame)
        self._conditions.serve(frame)
        greedy.take(frame)

    def _distance(self, frame: int) -> float | None:
        half_square = float(self._greedy.nearest[frame])
        return math.sqrt(2 * half_square) if math.isfinite(half_square) else None

    def _reason(self, frame: int, quota: Quota) -> str:
        """Why this frame comes now, for people."""
        if quota in BY_LOT:
            whose = "by its device" if quota is Quota.AUDIT else "among all that wait"
            return f"Drawn at random {whose}: such frames keep the estimates honest."
        condition = CONDITIONS[int(self._pool.conditions[frame])]
        lead = {
            Quota.BEST: "Most to learn for a labeller's time",
            Quota.CAMERA: "Its camera's turn",
            Quota.CONDITION: f"A turn for {condition} pictures",
            Quota.CLASS: self._suspicion(frame),
        }[quota]
        return f"{lead}: {self._measured(frame)}."

    def _suspicion(self, frame: int) -> str:
        presence, wanted = self._pool.presence, self._class_quota.wanted()
        cls = presence.likeliest(frame, wanted)
        if cls is None:
            return ""
        name = self._names[cls] if cls < len(self._names) else f"class {cls}"
        return f"May show {name} ({presence.row(frame)[cls]:.0%}), of which little is labelled"

    def _measured(self, frame: int) -> str:
        told = f"{self._pool.scores[frame]:.1f} × the usual doubt, about {self._cost_s[frame]:.0f} s to label"
        distance = self._distance(frame)
        if distance is not None:
            told += f", {distance:.1f} × the usual distance from what is picked or labelled"
        if self._cold > 0:
            told += f", {self._typicality[frame]:.1f} × as typical as most, which counts while labels are few"
        return told


def _shown(answer: Answer, classes: int) -> NDArray[np.float64]:
    """(C,) 1 for each class that an answer has boxes of."""
    found = np.zeros(classes)
    found[[cls for cls, boxes in answer.items() if boxes]] = 1.0
    return found
