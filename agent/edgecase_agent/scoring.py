"""How doubtful a detector was about a frame, from its detections alone: candidates far below the operating point included."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecase_models.detections import Classes, Detections, Scores
from edgecase_models.strategy import Strategy as Strategy  # noqa: PLC0414 (those who score take it from here)

Calibration = Callable[[Scores, Classes], NDArray[np.floating]]
"""The probability that each candidate (score, class) is a true object, in [0, 1]."""


def identity(scores: Scores, classes: Classes) -> NDArray[np.floating]:  # noqa: ARG001
    """The calibration of a model that has none: its score is taken at its word."""
    return scores


def score(
    detections: Detections,
    operating_point: float,
    strategy: Strategy = Strategy.EDE,
    calibration: Calibration = identity,
) -> float:
    """One frame's measure: more is more doubtful, 0 where nothing at all was seen, NaN where a probability is none.

    Detections at or above `operating_point` are what the device reports; the others are its candidates.
    """
    if not len(detections):
        return 0.0
    if strategy is Strategy.EDE:
        probabilities = calibration(detections.scores, detections.classes)
        return expected_detection_errors(probabilities, detections.scores >= operating_point)
    return _MEASURES[strategy](detections.scores, operating_point)


def expected_detection_errors(probabilities: NDArray[np.floating], reported: NDArray[np.bool_]) -> float:
    """Expected false positives plus expected false negatives of what is reported.

    Each candidate is a true object with probability q: one that is reported errs with 1 − q, one that is not with q, so
    EDE = Σ_reported (1 − q) + Σ_rest q: the number of errors at the deployed operating point that the model itself expects (a causal,
    single-frame form of the error estimate of Bengar et al. 2019).
    """
    return float(np.where(reported, 1 - probabilities, probabilities).sum(dtype=np.float64))


def least_confidence(scores: Scores, operating_point: float) -> float:
    """1 − mean score of the detections that are reported, 0 where there are none: the objectness measure of `lightly`."""
    reported = scores[scores >= operating_point]
    return 1 - float(reported.mean()) if len(reported) else 0.0


def margin(scores: Scores, operating_point: float) -> float:
    """The largest 1 − |s − τ| / max(τ, 1 − τ): how near the nearest candidate comes to the other side of the operating point τ."""
    nearest = float(np.abs(scores - operating_point).min())
    return max(0.0, 1 - nearest / max(operating_point, 1 - operating_point))


def entropies(scores: Scores) -> NDArray[np.float32]:
    """H(s) = −s·ln s − (1 − s)·ln(1 − s) of each candidate, in nats."""
    s = np.clip(scores, 1e-6, 1 - 1e-6)
    found: NDArray[np.float32] = -(s * np.log(s) + (1 - s) * np.log1p(-s))
    return found


def is_sound(value: float) -> bool:
    """Whether a score can be compared: a frame whose score is not finite is dropped and counted."""
    return math.isfinite(value)


# The three aggregations are those of Brust et al. 2019 (arXiv 1809.09875), over H in the place of their 1-vs-2 margin.
_MEASURES: Final[Mapping[Strategy, Callable[[Scores, float], float]]] = MappingProxyType(
    {
        Strategy.LEAST_CONFIDENCE: least_confidence,
        Strategy.MARGIN: margin,
        Strategy.ENTROPY_MAX: lambda scores, _: float(entropies(scores).max()),
        Strategy.ENTROPY_MEAN: lambda scores, _: float(entropies(scores).mean()),
        Strategy.ENTROPY_SUM: lambda scores, _: float(entropies(scores).sum()),
    }
)

MEASURED: Final = frozenset({Strategy.EDE, *_MEASURES})
"""The strategies that `score` knows."""
