"""A second opinion where the first is doubtful: two members look at one frame, and what they disagree about is counted."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecase_agent.scoring import Calibration, expected_detection_errors, identity
from edgecase_agent.source import Picture
from edgecase_models.boxes import Letterbox, iou_matrix
from edgecase_models.detections import Boxes, Detections
from edgecase_models.detector import StagesMs

PARTNER_IOU: Final = 0.5
_MOST_SAVED: Final = 8.0


class Detecting(Protocol):
    """What a committee and the watch loop need of `edgecase_models.detector.Detector`."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def stride_px(self) -> int: ...

    @property
    def stages_ms(self) -> StagesMs: ...

    def detect(self, picture: Picture, *, shift_px: int = 0) -> Detections: ...

    def letterbox(self, picture: Picture) -> Letterbox: ...


@dataclass(frozen=True, eq=False, slots=True)
class Matching:
    """Who saw the same: `pairs` (K, 2) indices into both members' detections, and those without a partner."""

    pairs: NDArray[np.intp]
    only_a: NDArray[np.intp]
    only_b: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """`c_ede`: the errors that the committee expects of the first member. `hard`: detections that only one of them reports."""

    c_ede: float
    hard: int


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """What the second member saw, and the part of the picture that it could see, as x1, y1, x2, y2 in pixels."""

    detections: Detections
    seen_xyxy_px: tuple[float, float, float, float]


class Member(Protocol):
    """A second member: it looks at the picture that `incumbent` was given first."""

    def look(self, picture: Picture, incumbent: Detecting) -> View: ...


class Shifted:
    """The incumbent itself, on the picture moved by half a stride: as good a second member as an independent model, and no memory."""

    def look(self, picture: Picture, incumbent: Detecting) -> View:
        """Detections of the moved picture; what left the model's input at the right and at the bottom was not seen."""
        shift_px = incumbent.stride_px // 2
        detections = incumbent.detect(picture, shift_px=shift_px)
        box = incumbent.letterbox(picture)
        (height, width), (rows, columns) = box.picture_hw_px, box.inner_hw_px
        right = min(columns, box.input_hw_px[1] - box.left_px - shift_px) / columns
        bottom = min(rows, box.input_hw_px[0] - box.top_px - shift_px) / rows
        return View(detections, (0.0, 0.0, width * right, height * bottom))


class Independent:
    """Another model. Its classes are matched to the incumbent's by name; those that the incumbent does not know are left out."""

    def __init__(self, detector: Detecting) -> None:
        self._detector = detector

    def look(self, picture: Picture, incumbent: Detecting) -> View:
        detections = self._detector.detect(picture)
        places = {name: index for index, name in enumerate(incumbent.names)}
        table = np.array([places.get(name, -1) for name in self._detector.names], np.int32)
        classes = table[detections.classes]
        known = classes >= 0
        height, width = self._detector.letterbox(picture).picture_hw_px
        seen = Detections(detections.boxes_xyxy_px[known], detections.scores[known], classes[known])
        return View(seen, (0.0, 0.0, float(width), float(height)))


def match(a: Detections, b: Detections, iou: float = PARTNER_IOU) -> Matching:
    """Partners of the same class that overlap by at least `iou`: the best-scored of `a` chooses first, and the best overlap."""
    every_a, every_b = np.arange(len(a)), np.arange(len(b))
    if not len(a) or not len(b):
        return Matching(np.zeros((0, 2), np.intp), every_a, every_b)
    overlap = iou_matrix(a.boxes_xyxy_px, b.boxes_xyxy_px)
    near_a, near_b = np.nonzero((overlap >= iou) & (a.classes[:, None] == b.classes[None]))
    order = np.lexsort((-overlap[near_a, near_b], near_a, -a.scores[near_a]))
    taken_a: set[int] = set()
    taken_b: set[int] = set()
    pairs = []
    for i, j in zip(near_a[order].tolist(), near_b[order].tolist(), strict=True):
        if i not in taken_a and j not in taken_b:
            taken_a.add(i)
            taken_b.add(j)
            pairs.append((i, j))
    found = np.array(pairs, np.intp).reshape(-1, 2)
    return Matching(found, np.setdiff1d(every_a, found[:, 0]), np.setdiff1d(every_b, found[:, 1]))


def disagreement(
    a: Detections, view: View, operating_point: float, calibration: Calibration = identity, iou: float = PARTNER_IOU
) -> Disagreement:
    """What the second member's view says about the first member's detections `a`.

    A candidate's probability q is the calibrated mean of both scores, a missing partner counting 0; over the union of both members'
    candidates, C-EDE = Σ (1 − q) of those that `a` reports + Σ q of the rest. Candidates of `a` whose centre lies outside the part
    that the second member saw keep their own score, and count for no disagreement.
    """
    b = view.detections
    matching = match(a, b, iou)
    unseen = matching.only_a[_outside(a.boxes_xyxy_px[matching.only_a], view.seen_xyxy_px)]
    alone = np.setdiff1d(matching.only_a, unseen)
    in_a, in_b = matching.pairs[:, 0], matching.pairs[:, 1]
    means = np.concatenate(
        [(a.scores[in_a] + b.scores[in_b]) / 2, a.scores[alone] / 2, a.scores[unseen], b.scores[matching.only_b] / 2]
    )
    classes = np.concatenate([a.classes[in_a], a.classes[alone], a.classes[unseen], b.classes[matching.only_b]])
    reported_a = np.concatenate([a.scores[in_a], a.scores[alone], a.scores[unseen], np.zeros(len(matching.only_b))])
    reported = reported_a >= operating_point
    hard = np.count_nonzero((a.scores[in_a] >= operating_point) != (b.scores[in_b] >= operating_point))
    hard += np.count_nonzero(a.scores[alone] >= operating_point)
    hard += np.count_nonzero(b.scores[matching.only_b] >= operating_point)
    return Disagreement(expected_detection_errors(calibration(means, classes), reported), int(hard))


@dataclass(frozen=True, slots=True)
class SecondLook:
    """Ask the second member. `propensity`: 1 where the first score's rank demands it, else the known share of random looks."""

    propensity: float


class Cascade:
    """Decides which frames the second member sees: those whose first score is among the highest `share` of the last `window`, and a
    `random_share` of the others, so that what the rank misses stays measurable. Deterministic given `seed`.

    While scores rise every frame ranks high; so that the cost stays what was asked for, looks by rank come to no more than `share` of the
    frames and a few saved ones.
    """

    def __init__(self, share: float = 0.2, random_share: float = 0.01, window: int = 512, seed: int = 0) -> None:
        self._share = share
        self._random_share = random_share
        self._recent: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []
        self._saved = 0.0
        self._chance = random.Random(seed)  # noqa: S311 (a sample, not a secret)

    def judge(self, value: float) -> SecondLook | None:
        """Whether the frame with this first score deserves a second look; the score is remembered."""
        drawn = self._chance.random() < self._random_share
        rank = bisect_left(self._sorted, value) / len(self._sorted) if self._sorted else 0.0
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(value)
        insort(self._sorted, value)
        self._saved = min(_MOST_SAVED, self._saved + self._share)
        if rank >= 1 - self._share and rank > 0 and self._saved >= 1:
            self._saved -= 1
            return SecondLook(1.0)
        return SecondLook(self._random_share) if drawn else None


def _outside(boxes_xyxy_px: Boxes, area_xyxy_px: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    centre = (boxes_xyxy_px[:, :2] + boxes_xyxy_px[:, 2:]) / 2
    left, top, right, bottom = area_xyxy_px
    inside = (centre >= (left, top)).all(axis=1) & (centre < (right, bottom)).all(axis=1)
    return np.asarray(~inside, np.bool_)
