"""What a selection caught of a detector's real errors: pure measures over a labelled stream, for the judge alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.triage.looks import Look, Stream
from edgecase_agent import capture
from edgecase_agent.capture import MATCH_IOU, Errors, Objects, near_duplicate_rate, share_of

BURST_FRAMES: Final = 300

Floats = NDArray[np.float64]

# Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom; beyond them the expansion in `t_point` is exact to four digits.
_T_POINTS: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


# ---- a detector's errors -------------------------------------------------------------------------------------------


def errors_of(stream: Stream, iou: float = MATCH_IOU) -> Errors:
    """The errors of what the detector reports in each frame."""
    missed, spurious = [], []
    for look in stream.looks:
        unseen, false = frame_errors(look, stream.operating_point, iou)
        missed.append(unseen)
        spurious.append(false)
    return Errors(
        np.array([len(unseen) for unseen in missed], np.int64),
        np.array(spurious, np.int64),
        tuple(frozenset(int(track) for track in unseen) for unseen in missed),
    )


def frame_errors(look: Look, operating_point: float, iou: float = MATCH_IOU) -> tuple[NDArray[np.integer], int]:
    """The tracks of the truth that no reported box hits, and the number of reported boxes that hit none, as COCO matches."""
    truth = Objects(look.truth_boxes_xyxy_px, look.truth_classes, look.truth_tracks, look.truth_hard)
    found = capture.frame_errors(look.seen.above(operating_point), truth, iou)
    return look.truth_tracks[found.missed], found.false_positives


# ---- how well a score ranks frames ---------------------------------------------------------------------------------


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """The probability that a positive frame scores higher than another, ties counting half (Mann-Whitney); NaN where all are alike.

    Raises `ValueError` where a score is NaN: it would rank anywhere.
    """
    values, chosen = _scores(scores), np.asarray(positive, np.bool_)
    of_positive = int(chosen.sum())
    of_others = len(values) - of_positive
    if not of_positive or not of_others:
        return float("nan")
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(size) - (size - 1) / 2)[place]
    return float((ranks[chosen].sum() - of_positive * (of_positive + 1) / 2) / (of_positive * of_others))


@dataclass(frozen=True)
class Lift:
    """How many times more often the top frames are positive than all; `maximum` is what a perfect score would reach."""

    value: float
    maximum: float


def lift(scores: ArrayLike, positive: ArrayLike, share: float) -> Lift:
    """The lift of the top `share` of the frames; its maximum is 1/base rate, less where the top holds more frames than are positive."""
    chosen = np.asarray(positive, np.bool_)
    count = _top_count(len(chosen), share)
    base = float(chosen.mean()) if len(chosen) else 0.0
    if not base or not count:
        return Lift(float("nan"), float("nan"))
    precision = float(_in_top(_scores(scores), count) @ chosen) / count
    return Lift(precision / base, min(1.0, chosen.sum() / count) / base)


def share_in_top(scores: ArrayLike, amounts: ArrayLike, share: float) -> float:
    """The share of all `amounts` (errors, say) that lies in the top `share` of the frames; NaN where there is nothing to find."""
    found = np.asarray(amounts, np.float64)
    total = float(found.sum())
    return float(_in_top(_scores(scores), _top_count(len(found), share)) @ found) / total if total else float("nan")


def _scores(scores: ArrayLike) -> Floats:
    values = np.asarray(scores, np.float64)
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} scores are not a number")
    return values


def _top_count(frames: int, share: float) -> int:
    return min(frames, round(frames * share))


def _in_top(scores: Floats, count: int) -> Floats:
    """With which probability each frame is among the `count` highest when ties are broken by chance."""
    if not count:
        return np.zeros(len(scores))
    cut = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, level = scores > cut, scores == cut
    return np.asarray(above + level * ((count - above.sum()) / level.sum()))


# ---- what a selection caught ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Catch:
    """What a selection caught: shares are in [0, 1], and NaN where they are shares of nothing.

    `precision`: of the picks, how many show an error. `errors`: of all errors, how many lie in picks. `missed_tracks`: of the objects that
    some frame misses, how many a pick shows missed. `near_duplicates`: of the picks, how many have another within 10 frames in their
    scene. `burst`: the most picks in any 300 frames. `overspend`: picks beyond the budget. `boxes`: the truth's in the picks, to label.
    """

    picks: int
    overspend: int
    precision: float
    errors: float
    missed_tracks: float
    scenes: float
    near_duplicates: float
    burst: int
    size_bytes: int
    boxes: int


def judge(stream: Stream, errors: Errors, picks: Sequence[int], budget: int) -> Catch:
    """Measure a selection; `ValueError` where a pick is no frame of the stream or is made twice."""
    chosen = sorted(picks)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{len(chosen) - len(set(chosen))} of {len(chosen)} picks are made twice")
    if chosen and not 0 <= chosen[0] <= chosen[-1] < len(stream.looks):
        raise ValueError(f"picks {chosen[0]} to {chosen[-1]} do not lie in a stream of {len(stream.looks)} frames")
    looks = [stream.looks[pick] for pick in chosen]
    caught = capture.captured(errors, chosen)
    return Catch(
        picks=len(chosen),
        overspend=max(0, len(chosen) - budget),
        precision=caught.precision,
        errors=caught.errors,
        missed_tracks=caught.missed_tracks,
        scenes=share_of(len({look.scene for look in looks}), len({look.scene for look in stream.looks})),
        near_duplicates=near_duplicate_rate([(look.scene, look.index) for look in looks]),
        burst=round(most_in_any([look.index for look in looks], np.ones(len(looks)), BURST_FRAMES)),
        size_bytes=sum(look.size_bytes for look in looks),
        boxes=sum(len(look.truth_classes) for look in looks),
    )


def most_in_any(at: ArrayLike, amounts: ArrayLike, span: float) -> float:
    """The largest sum of `amounts` whose places `at` lie in one stretch [t, t + span): frames, seconds, any unit, any currency."""
    places, spent = np.asarray(at, np.float64), np.asarray(amounts, np.float64)
    if not len(places):
        return 0.0
    order = np.argsort(places, kind="stable")
    places, sums = places[order], np.concatenate([[0.0], np.cumsum(spent[order])])
    return float((sums[np.searchsorted(places, places + span, side="left")] - sums[:-1]).max())


# ---- intervals over seeds ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; the bounds are NaN where one value alone tells nothing of the spread."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """How many times the baseline, seed by seed: the mean of the seeds' ratios with its interval, and the least of them."""

    mean: float
    low: float
    high: float
    least: float


def t_point(freedom: int) -> float:
    """The two-sided 95 % point of Student's t (Abramowitz & Stegun 26.7.5 beyond 9 degrees of freedom)."""
    if freedom < 1:
        return float("nan")
    if freedom <= len(_T_POINTS):
        return _T_POINTS[freedom - 1]
    z: float = NormalDist().inv_cdf(0.975)
    terms: tuple[float, ...] = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of independent seeds ± t·s/√n."""
    if not values:
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = t_point(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(values: Sequence[float], rng: np.random.Generator, resamples: int = 4000) -> Interval:
    """The mean with the percentile bootstrap over seeds: no assumption about the spread, but too narrow for fewer than ten seeds."""
    if len(values) < 2:
        return t_interval(values)
    given = np.asarray(values, np.float64)
    means = given[rng.integers(len(given), size=(resamples, len(given)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(given.mean()), float(low), float(high))


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """The mean of value − baseline of each seed: what both owe to the seed cancels."""
    return t_interval([value - base for value, base in zip(values, baseline, strict=True)])


def paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """The mean of value / baseline of each seed; NaN where a baseline is 0.

    Draw the baseline several times per seed and hand in its means: a ratio to one draw carries that draw's luck.
    """
    ratios = [value / base if base else float("nan") for value, base in zip(values, baseline, strict=True)]
    found = t_interval(ratios)
    return Ratio(found.mean, found.low, found.high, float(np.min(ratios)) if ratios else float("nan"))
