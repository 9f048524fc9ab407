"""Which candidate was which a frame ago, and where that tells of an error: objects that vanish, flicker, turn or appear from nowhere.

Causal: a frame is judged by the frames before it. The cues are those of Bengar et al. 2019 (arXiv 1908.11757), who estimate false positives
and false negatives from tracks that run both ways, in the form that needs no future.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecase_models.boxes import iou_matrix
from edgecase_models.detections import Boxes, Detections

MOST_TRACKS: Final = 512
_MOST_PAIRS: Final = 4096

_SAME_CLASS: Final = 0.1  # what a class that stays is worth, in overlap
_REPORTED: Final = 3.0  # more than anything else is worth: what is reported chooses first
_COVERED: Final = 0.5  # of a track's place, by something that was found: then it is hidden rather than missed
_DROP: Final = 0.2
_MEMORY: Final = 10  # frames that a track's mean score goes back
_BORDER: Final = 0.02  # of the picture's side
_CROSSING_PER_S: Final = 0.5  # of the picture's side that an object crosses in a second, at most
_SMALL: Final = 0.05  # side of a box, of the picture's: a smaller one may come out of the distance

_TRACK: Final = np.dtype(
    [
        ("id", np.int64),
        ("box", np.float32, 4),
        ("speed", np.float32, 2),  # pixels per second, of the centre
        ("cls", np.int32),  # as it was last reported; before that, as last seen
        ("score", np.float32),
        ("mean", np.float32),
        ("age", np.int64),  # frames that it was seen in
        ("seen_s", np.float64),
        ("reported_s", np.float64),
        ("up", np.bool_),  # reported in the frame before
        ("low", np.float32),  # lowest score since it was reported
        ("born_px", np.float32),  # √area when it was first seen
    ]
)
_Records = NDArray[np.void]


class CueKind(StrEnum):
    """What about a track tells of an error."""

    GAP = "gap"
    FLICKER = "flicker"
    SCORE_DROP = "score_drop"
    CLASS_FLIP = "class_flip"
    BIRTH = "birth"


@dataclass(frozen=True, slots=True)
class Cue:
    """One sign of an error in this frame or just before it; `score` in [0, 1] is how strong it is."""

    kind: CueKind
    score: float
    track_id: int


@dataclass(frozen=True, eq=False, slots=True)
class Sighting:
    """One frame's candidates as parts of tracks.

    `ids` (N,) int64 is the track of each, `ages` (N,) int64 the frames that this track was seen in, this one included.
    """

    ids: NDArray[np.int64]
    ages: NDArray[np.int64]
    cues: tuple[Cue, ...]


def missed_score(cues: Iterable[Cue]) -> float:
    """The frame's aggregate: over its tracks, the sum of each one's strongest cue. An error that shows in two ways counts once."""
    strongest: dict[int, float] = {}
    for cue in cues:
        strongest[cue.track_id] = max(cue.score, strongest.get(cue.track_id, 0.0))
    return math.fsum(strongest.values())


class Tracks:
    """Candidates associated from frame to frame, also those far below the operating point.

    A track is expected where its speed has taken it, and its partner overlaps that place by at least `iou`, whatever its class; a class
    that stays breaks ties. What is reported and was in the frame before chooses first, so that an object keeps its id when its class
    turns and when an unlikely second box lies on it; among equals the largest overlap and the better scores do. A reported candidate
    that is left over may still be what a reported track of its class has become: there both boxes are given room for a first step, or
    a turn, that no speed foretold. A track that is not seen is expected for `max_gap_s`; frames more than `max_step_s` apart share none.
    Ids begin at 1 and are never used again.

    At most `MOST_TRACKS` tracks are remembered. Of a frame with more candidates the first (best-scored) so many are associated, and each
    other one is a track of its own. A clock that goes back, or a picture of another size, starts afresh.
    """

    def __init__(self, iou: float = 0.3, max_gap_s: float = 1.0, max_step_s: float = 5.0) -> None:
        self._iou = iou
        self._max_gap_s = max_gap_s
        self._max_step_s = max_step_s
        self._known: _Records = np.zeros(0, _TRACK)
        self._at_s = math.inf
        self._picture_hw_px = (0, 0)
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._known)

    def update(
        self, detections: Detections, operating_point: float, now_s: float, picture_hw_px: tuple[int, int]
    ) -> Sighting:
        """Take the frame of `now_s`, in seconds; detections at or above `operating_point` are what the device reports.

        The cues, with s the candidate's score and s̄ its track's mean:

        * gap: a track of two frames or more that was reported within `max_gap_s` is expected inside the picture, and nothing is its
          partner: s̄ · (1 − best score of what overlaps or covers its place).
        * flicker: reported again within `max_gap_s`: s̄ · (1 − lowest score in between).
        * score_drop: reported a frame ago and now at least 0.2 below its mean, away from the border: s̄ − s.
        * class_flip: reported as another class within `max_gap_s`: min(s̄, s), since one of the two is wrong.
        * birth: reported for the first time in mid-frame, and neither small nor small when it was first a candidate: 1 − s.
        """
        afresh = not 0 <= now_s - self._at_s <= self._max_step_s or picture_hw_px != self._picture_hw_px
        known = self._known[:0] if afresh else self._known
        step_s = math.inf if afresh else now_s - self._at_s
        self._at_s, self._picture_hw_px = now_s, picture_hw_px

        found = _candidates(detections, operating_point, now_s)
        expected = _moved(known, now_s)
        overlap = iou_matrix(found["box"], expected)
        pairing = self._partners(found, known, expected, overlap)
        new = pairing.partner < 0
        found["id"][new] = self._new_ids(int(np.count_nonzero(new)))
        before = found.copy()
        before["up"] = False
        before[~new] = known[pairing.partner[~new]]
        now = _continued(before, found)

        missing, places = known[pairing.free], expected[pairing.free]
        best = _best_score_there(found, places, overlap[:, pairing.free] >= self._iou)
        frame = _Frame(now_s, step_s, self._max_gap_s, picture_hw_px)
        cues = (*frame.changes(before, now, found["cls"]), *frame.gaps(missing, places, best))
        missing["up"] = False
        missing["low"] = np.minimum(missing["low"], best)
        self._known = self._remembered(now, missing, now_s)

        more = len(detections) - len(now)
        ids = np.concatenate([now["id"], self._new_ids(more)])
        return Sighting(ids, np.concatenate([now["age"], np.ones(more, np.int64)]), cues)

    def _partners(self, found: _Records, known: _Records, expected: Boxes, overlap: NDArray[np.float32]) -> _Pairing:
        """Greedy, the pair of most worth first; then, for what is left over, once more with room for what nobody could foresee."""
        pairing = _Pairing(len(found), len(known))
        rows, columns = np.nonzero(overlap >= self._iou)
        worth = overlap[rows, columns] + found["score"][rows] * known["mean"][columns]
        worth += _SAME_CLASS * (found["cls"][rows] == known["cls"][columns])
        worth += _REPORTED * (found["up"][rows] & known["up"][columns])
        pairing.take(rows, columns, worth)
        lone = np.flatnonzero(found["up"] & (pairing.partner < 0))
        lost = np.flatnonzero(np.isfinite(known["reported_s"]) & pairing.free)
        near = iou_matrix(_grown(found["box"][lone]), _grown(expected[lost]))
        near[found["cls"][lone][:, None] != known["cls"][lost]] = 0
        rows, columns = np.nonzero(near >= self._iou)
        pairing.take(lone[rows], lost[columns], near[rows, columns])
        return pairing

    def _new_ids(self, count: int) -> NDArray[np.int64]:
        first, self._next_id = self._next_id, self._next_id + count
        return np.arange(first, first + count, dtype=np.int64)

    def _remembered(self, now: _Records, missing: _Records, now_s: float) -> _Records:
        waiting = missing[now_s - missing["seen_s"] <= self._max_gap_s]
        latest = np.argsort(-waiting["seen_s"], kind="stable")[: MOST_TRACKS - len(now)]
        known = np.empty(len(now) + len(latest), _TRACK)
        known[: len(now)], known[len(now) :] = now, waiting[latest]
        return known


class _Pairing:
    """Who is whose: `partner` (N,) is the track of each candidate, -1 for none; `free` (T,) the tracks that nobody has."""

    def __init__(self, candidates: int, tracks: int) -> None:
        self.partner = np.full(candidates, -1, np.intp)
        self.free = np.ones(tracks, np.bool_)

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp], worth: NDArray[np.floating]) -> None:
        """Pair candidates `rows` with tracks `columns`, those of most worth first, nobody twice."""
        order = np.argsort(-worth, kind="stable")[:_MOST_PAIRS]
        partner, free = self.partner.tolist(), self.free.tolist()
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if partner[row] < 0 and free[column]:
                partner[row], free[column] = column, False
        self.partner[:], self.free[:] = partner, free


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where and when cues are looked for: `step_s` since the frame before, infinite where there is none."""

    now_s: float
    step_s: float
    gap_s: float
    picture_hw_px: tuple[int, int]

    def changes(self, before: _Records, now: _Records, classes: NDArray[np.int32]) -> list[Cue]:
        """The cues of candidates, from their tracks `before` this frame and `now`."""
        recently, score, mean = self._recently(before), now["score"], before["mean"]
        again = now["up"] & ~before["up"] & recently
        dropped = before["up"] & (before["age"] >= 2) & (mean - score >= _DROP) & self._within(now["box"], _BORDER)
        turned = now["up"] & recently & (before["cls"] != classes)
        return [
            *_cues(CueKind.FLICKER, again, mean * (1 - before["low"]), now),
            *_cues(CueKind.SCORE_DROP, dropped, mean - score, now),
            *_cues(CueKind.CLASS_FLIP, turned, np.minimum(mean, score), now),
            *_cues(CueKind.BIRTH, self._born_in_mid_frame(before, now), 1 - score, now),
        ]

    def gaps(self, missing: _Records, expected: Boxes, best: NDArray[np.float32]) -> list[Cue]:
        """The cues of tracks that nothing is the partner of; `best` is the score of what was found in their place instead."""
        gone = (missing["age"] >= 2) & self._recently(missing) & self._within(expected, _BORDER)
        return _cues(CueKind.GAP, gone, missing["mean"] * (1 - best), missing)

    def _recently(self, tracks: _Records) -> NDArray[np.bool_]:
        reported: NDArray[np.bool_] = tracks["up"] | (self.now_s - tracks["reported_s"] <= self.gap_s)
        return reported

    def _born_in_mid_frame(self, before: _Records, now: _Records) -> NDArray[np.bool_]:
        """Too far inside to have come in since the frame before, and too large to have come out of the distance."""
        height, width = self.picture_hw_px
        small_px = _SMALL * math.sqrt(height * width)
        first = now["up"] & np.isneginf(before["reported_s"])
        large = (_side_px(now["box"]) >= small_px) & (before["born_px"] >= small_px)
        born: NDArray[np.bool_] = first & large & self._within(now["box"], _BORDER + _CROSSING_PER_S * self.step_s)
        return born

    def _within(self, boxes: Boxes, border: float) -> NDArray[np.bool_]:
        """Whether each box keeps at least `border`, a share of the picture's sides, from the border."""
        height, width = self.picture_hw_px
        low = (boxes[:, :2] >= (border * width, border * height)).all(axis=1)
        high = (boxes[:, 2:] <= ((1 - border) * width, (1 - border) * height)).all(axis=1)
        return np.asarray(low & high, np.bool_)


def _candidates(detections: Detections, operating_point: float, now_s: float) -> _Records:
    """Tracks that begin with this frame's first `MOST_TRACKS` candidates: not seen before, so of age 0, and without ids."""
    count = min(len(detections), MOST_TRACKS)
    tracks = np.zeros(count, _TRACK)
    tracks["box"] = detections.boxes_xyxy_px[:count]
    tracks["cls"] = detections.classes[:count]
    tracks["score"] = tracks["mean"] = detections.scores[:count]
    tracks["up"] = tracks["score"] >= operating_point
    tracks["seen_s"], tracks["reported_s"], tracks["low"] = now_s, -np.inf, 1.0
    tracks["born_px"] = _side_px(tracks["box"])
    return tracks


def _continued(before: _Records, found: _Records) -> _Records:
    """The tracks `before`, each with the candidate that was found for it."""
    now, score, reported = before.copy(), found["score"], found["up"]
    now["speed"] = _speed(before, found)
    now["box"], now["score"], now["seen_s"], now["up"] = found["box"], score, found["seen_s"], reported
    now["age"] += 1
    now["mean"] += (score - before["mean"]) / np.minimum(now["age"], _MEMORY)
    never = np.isneginf(before["reported_s"])
    now["cls"] = np.where(reported | never, found["cls"], before["cls"])
    now["low"] = np.where(reported, 1.0, np.minimum(before["low"], score))
    now["reported_s"] = np.where(reported, found["seen_s"], before["reported_s"])
    return now


def _speed(before: _Records, found: _Records) -> NDArray[np.float32]:
    """The mean of the speed that was known, where it was, and that of the latest step."""
    passed_s = (found["seen_s"] - before["seen_s"])[:, None]
    latest = (_centres(found["box"]) - _centres(before["box"])) / np.maximum(passed_s, 1e-3)
    mean = np.where(before["age"][:, None] > 1, (before["speed"] + latest) / 2, latest)
    speed = np.where(passed_s > 1e-3, mean, before["speed"])  # two pictures of one moment tell nothing
    return speed.astype(np.float32)


def _moved(tracks: _Records, now_s: float) -> Boxes:
    """Where the tracks are expected, at a constant speed."""
    way = tracks["speed"] * (now_s - tracks["seen_s"])[:, None]
    boxes: Boxes = (tracks["box"] + np.tile(way, 2)).astype(np.float32)
    return boxes


def _grown(boxes: Boxes) -> Boxes:
    """Boxes with their own width and height added on every side (after Yang et al. 2023, C-BIoU, arXiv 2211.14317)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] - sides, boxes[:, 2:] + sides], axis=1)


def _best_score_there(found: _Records, places: Boxes, overlapping: NDArray[np.bool_]) -> NDArray[np.float32]:
    """For each place the best score of what overlaps it (`overlapping` (N, K)) or covers most of it, 0 where there is nothing."""
    boxes = found["box"]
    shared = np.ones((len(boxes), len(places)), np.float32)
    for low, high in ((0, 2), (1, 3)):
        length = np.minimum(boxes[:, high, None], places[:, high]) - np.maximum(boxes[:, low, None], places[:, low])
        shared *= np.maximum(length, 0)
    covering = shared > _COVERED * (places[:, 2:] - places[:, :2]).prod(axis=1)
    there = np.where(overlapping | covering, found["score"][:, None], np.float32(0))
    best: NDArray[np.float32] = there.max(axis=0, initial=0)
    return best


def _centres(boxes: Boxes) -> NDArray[np.float32]:
    return (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)


def _side_px(boxes: Boxes) -> NDArray[np.float32]:
    """The side of the square of the same area."""
    side: NDArray[np.float32] = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return side


def _cues(kind: CueKind, where: NDArray[np.bool_], score: NDArray[np.float32], tracks: _Records) -> list[Cue]:
    chosen = np.flatnonzero(where)
    return [
        Cue(kind, value, track_id)
        for value, track_id in zip(score[chosen].tolist(), tracks["id"][chosen].tolist(), strict=True)
    ]
