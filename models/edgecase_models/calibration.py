"""What a score is worth: the probability that a candidate is a true object, learnt from labelled frames, as a small table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecase_models.boxes import iou_matrix
from edgecase_models.detections import Classes, Scores
from edgecase_models.evaluate import Eye, Sample, Sighting, sightings

Reals = NDArray[np.float64]

MATCH_IOU: Final = 0.5
MAX_KNOTS: Final = 20
MAX_OFFSET: Final = 5.0
MIN_FRAMES: Final = 50
GROUP: Final = 10
"""A value of the curve rests on at least this many candidates."""

PRIOR: Final = 10.0
"""How much evidence a class needs to count as much as all classes together: 10 objects, or candidates with Σ p(1 − p) = 10 (some 50 of
them where p is 0.3)."""

_QUALITY_POWER: Final = 0.6


class CalibrationError(ValueError):
    """A table that is none, or frames that no table can be fitted on."""


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """P(true object | score, class) of a detector's candidates after suppression.

    `knots` (K,) scores, increasing, and `values` (K,) probabilities, non-decreasing, 2 to 20 of them, are the curve that all classes share,
    linear between its knots and level outside. `offsets` (C,) shift it for each class on the logit scale. `quality` (C,) in [0, 1] tells
    how well each class is detected. `iou` is what counted as a match, `frames` and `candidates` how much the table rests on.
    Anything else raises `CalibrationError`.
    """

    knots: Reals
    values: Reals
    offsets: Reals
    quality: Reals
    frames: int
    candidates: int
    iou: float = MATCH_IOU
    _odds: Reals = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("knots", "values", "offsets", "quality"):
            array = np.array(getattr(self, name), np.float64)
            if array.ndim != 1 or not np.isfinite(array).all():
                raise CalibrationError(f"{name} are not a list of finite numbers")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if not 2 <= len(self.knots) <= MAX_KNOTS or len(self.values) != len(self.knots):
            raise CalibrationError(
                f"a curve has 2 to {MAX_KNOTS} knots and as many values, not {len(self.knots)} and {len(self.values)}"
            )
        if (np.diff(self.knots) <= 0).any() or self.knots[0] < 0 or self.knots[-1] > 1:
            raise CalibrationError("knots must increase within [0, 1]")
        if (np.diff(self.values) < 0).any() or self.values[0] < 0 or self.values[-1] > 1:
            raise CalibrationError("values must not decrease, within [0, 1]")
        if len(self.offsets) != len(self.quality):
            raise CalibrationError(
                f"{len(self.offsets)} offsets and {len(self.quality)} qualities: one of each per class"
            )
        if (np.abs(self.offsets) > MAX_OFFSET).any():
            raise CalibrationError(f"an offset lies outside of ±{MAX_OFFSET:g}")
        if (self.quality < 0).any() or (self.quality > 1).any():
            raise CalibrationError("a quality lies outside of [0, 1]")
        if not 0 < self.iou < 1 or self.frames < 1 or self.candidates < 1:
            raise CalibrationError("iou must lie in (0, 1), frames and candidates be at least 1")
        # The last entry is that of every class that the table does not know.
        object.__setattr__(self, "_odds", np.append(np.exp(self.offsets), 1.0))

    def __call__(self, scores: Scores, classes: Classes) -> Reals:
        """The probabilities (N,) in [0, 1] of candidates with these scores (N,) and class indices (N,).

        Rises with the score for each class. A class outside of the table has the shared curve.
        """
        unknown = len(self.offsets)
        places = np.where((classes >= 0) & (classes < unknown), classes, unknown)
        return _shifted(np.interp(scores, self.knots, self.values), self._odds[places])


@dataclass(frozen=True, eq=False)
class Observation:
    """One labelled frame's candidates held against its truth.

    `scores` (N,) in (0, 1], `classes` (N,) indices, `ious` (N,) the overlap with the object that the candidate was matched to, 0 where it
    is a false one; `objects` (C,) how many objects of each class there are.
    """

    scores: Reals
    classes: NDArray[np.int64]
    ious: Reals
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """The calibration error of candidates that the table was not fitted on, as they come and calibrated."""

    frames: int
    candidates: int
    error_before: float
    error_after: float


@dataclass(frozen=True)
class Tally:
    """How much of one class the frames held: objects of the truth, candidates, and how many of these were true."""

    objects: int
    candidates: int
    hits: int


def observe(sighting: Sighting, names: Sequence[str], judged: Collection[str]) -> Observation:
    """Match a frame's candidates to its truth as the COCO metric does at IoU 0.5.

    Per class, best score first, each takes the free object that it overlaps most, if by at least 0.5. `names` are the detector's classes;
    candidates of classes that are not `judged` are left out, since the truth does not tell whether they are there.
    """
    places = {name: index for index, name in enumerate(names)}
    truth = np.array([places.get(name, -1) for name in sighting.truth_classes], np.int64)
    seen = sighting.seen[np.array([name in judged for name in sighting.seen_classes], np.bool_)]
    overlap = iou_matrix(seen.boxes_xyxy_px, sighting.truth_boxes_px)
    overlap[seen.classes[:, None] != truth[None]] = 0
    ious = np.zeros(len(seen))
    if len(truth):
        for candidate in np.argsort(-seen.scores, kind="stable"):
            best = int(overlap[candidate].argmax())
            if overlap[candidate, best] >= MATCH_IOU:
                ious[candidate] = overlap[candidate, best]
                overlap[:, best] = 0
    objects = np.bincount(truth[truth >= 0], minlength=len(names))
    return Observation(seen.scores.astype(np.float64), seen.classes.astype(np.int64), ious, objects)


def observations(detector: Eye, samples: Iterable[Sample], judged: Collection[str]) -> list[Observation]:
    """Run the detector over labelled pictures and match what it sees; `judged` are the classes that the pictures were labelled for."""
    return [observe(sighting, detector.names, judged) for sighting in sightings(detector, samples)]


def fit(observed: Sequence[Observation], names: Sequence[str]) -> CalibrationTable:
    """The table that these frames support.

    The shared curve is centred isotonic regression on at most 20 knots: Kuzucu et al. 2024 (arXiv 2405.20459) found isotonic regression
    after suppression better on detectors than calibrating in training. A class's offset b maximises
    Σ ln P(hit | sigmoid(logit q(s) + b)) − b²·PRIOR / 2. To first order that is n/(n + 50) of its own best offset, with the difference that
    a candidate counts by p(1 − p), what it can tell: hundreds of boxes that are surely false do not make a class's offset sure.

    `quality` is PPAL's (Yang et al. 2024, arXiv 2211.11612), mean p^0.6 · IoU^0.4, shrunk toward that of all classes. PPAL takes the mean
    in training, where each object has predictions assigned; here it goes over the objects of the truth, one that nothing finds being 0.

    Raises `CalibrationError` where there are fewer than `MIN_FRAMES`, no candidates, or only true or only false ones.
    """
    require_frames(len(observed), MIN_FRAMES)
    scores, classes, ious = _joined(observed)
    if not len(scores):
        raise CalibrationError(
            f"no candidate of a labelled class in {len(observed)} frames; do the data's class names fit the model's?"
        )
    hits = ious > 0
    if hits.all() or not hits.any():
        kind = "true" if hits.all() else "false"
        raise CalibrationError(
            f"all {len(hits)} candidates are {kind}: no curve can be fitted; do the labels fit the pictures?"
        )
    knots, values = _curve(scores, hits)
    shared = np.interp(scores, knots, values)
    each_class = [classes == index for index in range(len(names))]
    objects = np.sum([each.objects for each in observed], axis=0)
    found = np.where(hits, scores**_QUALITY_POWER * ious ** (1 - _QUALITY_POWER), 0.0)
    typical = found.sum() / objects.sum()
    return CalibrationTable(
        knots=knots,
        values=values,
        offsets=np.array([_offset(shared[mine], hits[mine]) for mine in each_class]),
        quality=(np.array([found[mine].sum() for mine in each_class]) + PRIOR * typical) / (objects + PRIOR),
        frames=len(observed),
        candidates=len(scores),
    )


def require_frames(count: int, needed: int) -> None:
    """Raise `CalibrationError` where there are fewer labelled frames than needed."""
    if count < needed:
        raise CalibrationError(f"{count} labelled frames are too few to calibrate on; give at least {needed}")


def held_out(observed: Sequence[Observation], names: Sequence[str], blocks: int = 10) -> HeldOut:
    """Fit on every second block of consecutive frames, measure on the others: neighbours, which are alike, stay on one side.

    Raises `CalibrationError` as `fit` does, for fewer than twice `MIN_FRAMES`.
    """
    require_frames(len(observed), 2 * MIN_FRAMES)
    side = np.arange(len(observed)) * blocks // len(observed) % 2
    table = fit([each for each, right in zip(observed, side, strict=True) if not right], names)
    checked = [each for each, right in zip(observed, side, strict=True) if right]
    scores, classes, ious = _joined(checked)
    hits = ious > 0
    return HeldOut(
        frames=len(checked),
        candidates=len(scores),
        error_before=expected_calibration_error(scores, hits),
        error_after=expected_calibration_error(table(scores.astype(np.float32), classes.astype(np.int32)), hits),
    )


def tally(observed: Sequence[Observation], names: Sequence[str]) -> dict[str, Tally]:
    """What a table rests on, per class in the order of `names`."""
    _, classes, ious = _joined(observed)
    objects = np.sum([each.objects for each in observed], axis=0)
    candidates, true = (np.bincount(each, minlength=len(names)) for each in (classes, classes[ious > 0]))
    return {name: Tally(int(objects[i]), int(candidates[i]), int(true[i])) for i, name in enumerate(names)}


def expected_calibration_error(probabilities: Reals, hits: NDArray[np.bool_], bins: int = 20) -> float:
    """D-ECE over bins of equal width: Σ_m (n_m / N) · |share of hits in m − mean probability in m|, 0 for no candidates.

    Küppers et al. 2020 (CVPR Workshops, Multivariate confidence calibration for object detection), over the confidence alone.
    """
    if not len(hits):
        return 0.0
    places = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, hits, bins) - np.bincount(places, probabilities, bins)
    return float(np.abs(gaps).sum() / len(hits))


def pool_adjacent_violators(values: Reals, weights: Reals) -> Reals:
    """The non-decreasing x (N,) that minimises Σ w·(x − v)²: isotonic regression, in linear time.

    Neighbours that fall are pooled into their weighted mean until none does (Ayer et al. 1955). `weights` are positive.
    """
    means: list[float] = []
    masses: list[float] = []
    spans: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, span = value, weight, 1
        while means and means[-1] >= mean:
            mean = (means[-1] * masses[-1] + mean * mass) / (masses[-1] + mass)
            mass += masses.pop()
            span += spans.pop()
            means.pop()
        means.append(mean)
        masses.append(mass)
        spans.append(span)
    return np.repeat(np.array(means, np.float64), spans)


def _joined(observed: Sequence[Observation]) -> tuple[Reals, NDArray[np.int64], Reals]:
    """Scores, classes and overlaps of all frames' candidates."""
    return (
        np.concatenate([each.scores for each in observed]),
        np.concatenate([each.classes for each in observed]),
        np.concatenate([each.ious for each in observed]),
    )


def _curve(scores: Reals, hits: NDArray[np.bool_]) -> tuple[Reals, Reals]:
    """Knots and values of the shared curve.

    Centred isotonic regression (Oron and Flournoy 2017): each pooled stretch becomes one knot at its mean score, so that the curve rises
    where the isotonic one is level, and no order is lost. Half a hit below all candidates and half a miss above them keep it off 0 and 1:
    ten hits in a row are no certainty. It begins at (0, 0): what scores nothing is nothing.
    """
    distinct, places = np.unique(scores, return_inverse=True)
    counts = np.bincount(places).astype(np.float64)
    # Grouped from the top, where candidates are few, so that it is the lowest group that may be short.
    above = len(scores) - np.cumsum(counts)
    table = np.add.reduceat(
        np.stack([counts, np.bincount(places, hits), counts * distinct]), _changes(above // GROUP), 1
    )
    for end, hit in ((0, 0.5), (-1, 0.0)):
        table[:, end] += (0.5, hit, 0.5 * table[2, end] / table[0, end])
    table = np.add.reduceat(table, _changes(pool_adjacent_violators(table[1] / table[0], table[0])), 1)
    while table.shape[1] > MAX_KNOTS - 1:
        table = _join_most_alike(table)
    counts, true, sums = table
    return np.concatenate([[0.0], sums / counts]), np.concatenate([[0.0], true / counts])


def _changes(values: Reals) -> NDArray[np.intp]:
    """Where a new stretch of equal values begins."""
    return np.flatnonzero(np.concatenate([[True], np.diff(values) != 0]))


def _join_most_alike(table: Reals) -> Reals:
    """Join the two neighbours whose joining costs the least squared error; columns are stretches: count, hits, sum of scores."""
    counts, means = table[0], table[1] / table[0]
    cost = counts[1:] * counts[:-1] / (counts[1:] + counts[:-1]) * np.diff(means) ** 2
    left = int(cost.argmin())
    return np.add.reduceat(table, np.delete(np.arange(table.shape[1]), left + 1), axis=1)


def _offset(shared: Reals, hits: NDArray[np.bool_]) -> float:
    """One class's shift of the logit; its log-likelihood with the prior is concave, so its slope has one root."""
    low, high = -MAX_OFFSET, MAX_OFFSET
    for _ in range(40):
        middle = (low + high) / 2
        slope = np.count_nonzero(hits) - _shifted(shared, np.exp(middle)).sum() - PRIOR * middle
        low, high = (middle, high) if slope > 0 else (low, middle)
    return round((low + high) / 2, 4) + 0.0  # never -0.0


def _shifted(probabilities: Reals, odds: Reals | np.float64) -> Reals:
    """sigmoid(logit p + ln odds), which needs no logarithm and keeps 0 and 1."""
    raised = probabilities * odds
    shifted: Reals = raised / (raised + (1 - probabilities))
    return shifted
