"""What a selection caught of a detector's real errors, beside what as many random picks would: pure measures, for whoever has the truth."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecase_models.boxes import iou_matrix
from edgecase_models.detections import Detections

MATCH_IOU: Final = 0.5
NEAR_FRAMES: Final = 10

Bools = NDArray[np.bool_]


# ---- a detector's errors -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Objects:
    """What is really there in one frame: `boxes_xyxy_px` (M, 4), and `classes` (M,), indices into the detector's.

    `tracks` (M,) names each object over the whole recording; None where nobody knows which object is which in the next frame.
    `unjudged` (M,) marks those that are not asked of a detector, too small or too hidden, say: it is no error not to report one, and none
    to report it.
    """

    boxes_xyxy_px: NDArray[np.floating]
    classes: NDArray[np.integer]
    tracks: NDArray[np.integer] | None = None
    unjudged: Bools | None = None

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, eq=False, slots=True)
class FrameErrors:
    """`missed` (M,): the objects that no reported box hits; `false_positives`: how many reported boxes hit none."""

    missed: Bools
    false_positives: int

    @property
    def false_negatives(self) -> int:
        """How many objects are missed."""
        return int(self.missed.sum())

    @property
    def count(self) -> int:
        """All errors."""
        return self.false_negatives + self.false_positives


def frame_errors(reported: Detections, objects: Objects, iou: float = MATCH_IOU) -> FrameErrors:
    """The errors in what the detector reports of a frame.

    The best-scored box chooses first, and the best overlap of its class among the objects that are still free; one that is judged before
    one that is not (as COCO matches).
    """
    free = np.ones(len(objects), np.bool_)
    judged = free if objects.unjudged is None else ~objects.unjudged
    false_positives = 0
    if len(reported):
        overlaps = iou_matrix(reported.boxes_xyxy_px, np.asarray(objects.boxes_xyxy_px, np.float32).reshape(-1, 4))
        overlaps[reported.classes[:, None] != objects.classes[None]] = 0
        for row in np.argsort(-reported.scores, kind="stable"):
            fits = free & (overlaps[row] >= iou)
            if fits.any():
                worth = np.where(fits, overlaps[row] + judged, 0)
                free[int(worth.argmax())] = False
            else:
                false_positives += 1
    return FrameErrors(free & judged, false_positives)


@dataclass(frozen=True, eq=False)
class Errors:
    """Where a detector errs in N frames, at its operating point.

    `false_negatives` and `false_positives` (N,) count boxes; `missed` names, per frame, the objects that it misses, where those are known.
    """

    false_negatives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    missed: tuple[frozenset[int], ...]

    def __len__(self) -> int:
        return len(self.missed)

    @property
    def counts(self) -> NDArray[np.int64]:
        """All errors of each frame."""
        return self.false_negatives + self.false_positives

    @property
    def failures(self) -> Bools:
        """Frames with an error."""
        return np.asarray(self.counts >= 1)

    @property
    def severe(self) -> Bools:
        """Frames with two errors or more."""
        return np.asarray(self.counts >= 2)

    @property
    def missed_tracks(self) -> frozenset[int]:
        """Objects that some frame misses."""
        return frozenset().union(*self.missed)


class Tally:
    """The errors of the labelled frames of a recording, as they come; some numbers for each."""

    def __init__(self) -> None:
        self.objects = 0
        self.tracked = True
        self._positions = array("L")
        self._false_negatives, self._false_positives = array("L"), array("L")
        self._missed: list[frozenset[int]] = []

    def add(self, position: int, objects: Objects, errors: FrameErrors) -> None:
        """Count the frame at `position` in. `tracked` is False from the first on that does not say which object is which."""
        self._positions.append(position)
        self.objects += len(objects)
        self._false_negatives.append(errors.false_negatives)
        self._false_positives.append(errors.false_positives)
        self.tracked = self.tracked and objects.tracks is not None
        tracks = [] if objects.tracks is None else objects.tracks[errors.missed].tolist()
        self._missed.append(frozenset(tracks))

    def labelled(self, frames: int) -> Bools:
        """Which of so many frames were counted in, (N,)."""
        labelled = np.zeros(frames, np.bool_)
        labelled[np.array(self._positions, np.int64)] = True
        return labelled

    def errors(self) -> Errors | None:
        """Those of the labelled frames in their order; None without any."""
        if not self._positions:
            return None
        missed = tuple(self._missed) if self.tracked else (frozenset[int](),) * len(self._missed)
        return Errors(np.array(self._false_negatives, np.int64), np.array(self._false_positives, np.int64), missed)


# ---- what picks caught of them -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capture:
    """What picks caught: shares in [0, 1], NaN where they are shares of nothing.

    `precision`: of the picks, how many show an error. `failures` and `severe`: of the frames that fail, and that fail severely, how many
    were picked. `errors`: of all errors, how many lie in picks. `missed_tracks`: of the objects that some frame misses, how many a pick
    shows missed.
    """

    picks: int
    precision: float
    failures: float
    severe: float
    errors: float
    missed_tracks: float


def captured(errors: Errors, picks: Sequence[int]) -> Capture:
    """What these frames, each given once, show of the errors."""
    chosen = list(picks)
    caught = frozenset[int]().union(*(errors.missed[pick] for pick in chosen))
    failures, severe, counts = errors.failures, errors.severe, errors.counts
    return Capture(
        picks=len(chosen),
        precision=share_of(int(failures[chosen].sum()), len(chosen)),
        failures=share_of(int(failures[chosen].sum()), int(failures.sum())),
        severe=share_of(int(severe[chosen].sum()), int(severe.sum())),
        errors=share_of(int(counts[chosen].sum()), int(counts.sum())),
        missed_tracks=share_of(len(caught), len(errors.missed_tracks)),
    )


def by_chance(errors: Errors, picks: int) -> Capture:
    """What `picks` different frames drawn at random show of the errors, in expectation; exact.

    An object that m of the N frames miss is shown by one of n picks with probability 1 − C(N − m, n) / C(N, n) (hypergeometric).
    """
    frames = len(errors)
    share = share_of(picks, frames)
    missing = Counter(track for missed in errors.missed for track in missed)
    shown = math.fsum(1 - _shown_by_none(frames, count, picks) for count in missing.values())
    return Capture(
        picks=picks,
        precision=share_of(int(errors.failures.sum()), frames) if picks else math.nan,
        failures=share if errors.failures.any() else math.nan,
        severe=share if errors.severe.any() else math.nan,
        errors=share if errors.failures.any() else math.nan,
        missed_tracks=shown / len(missing) if missing else math.nan,
    )


def _shown_by_none(frames: int, missing: int, picks: int) -> float:
    """C(N − m, n) / C(N, n): the probability that none of n picks is among m of N frames."""
    if missing + picks > frames:
        return 0.0
    return math.exp(
        math.lgamma(frames - missing + 1)
        - math.lgamma(frames - missing - picks + 1)
        - math.lgamma(frames + 1)
        + math.lgamma(frames - picks + 1)
    )


def near_duplicate_rate(scenes_and_frames: Sequence[tuple[int, int]], within: int = NEAR_FRAMES) -> float:
    """Of the picks (scene, frame), the share that has another at most `within` frames away in the same scene; NaN without picks."""
    ordered = np.array(sorted(scenes_and_frames), np.int64).reshape(-1, 2)
    close = (np.diff(ordered[:, 0]) == 0) & (np.diff(ordered[:, 1]) <= within)
    near = np.zeros(len(ordered), np.bool_)
    near[1:] |= close
    near[:-1] |= close
    return share_of(int(near.sum()), len(near))


def share_of(part: float, whole: float) -> float:
    """Part of the whole; NaN of nothing."""
    return part / whole if whole else math.nan
