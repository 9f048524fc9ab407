"""How doubtful a detector was about a frame, from its detections alone: candidates far below the operating point included."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgecase_models.detections import Classes, Detections, Scores

Calibration = Callable[[Scores, Classes], NDArray[np.floating]]
"""The probability that each candidate (score, class) is a true object, in [0, 1]."""

ClassWeights = NDArray[np.float64]
"""(C,): how much an error in each class counts. A class beyond the table counts 1."""

_ALPHA: Final = 0.3
_BETA: Final = 0.2
_TINY: Final = np.finfo(np.float32).tiny
_ALMOST_1: Final = np.nextafter(np.float32(1), np.float32(0))


class Strategy(StrEnum):
    """Which measure orders the frames."""

    LEAST_CONFIDENCE = "least_confidence"
    LEAST_CONFIDENCE_MAX = "least_confidence_max"
    LEAST_CONFIDENCE_SUM = "least_confidence_sum"
    MARGIN = "margin"
    MARGIN_MEAN = "margin_mean"
    MARGIN_SUM = "margin_sum"
    CLASS_MARGIN_MAX = "class_margin_max"
    CLASS_MARGIN_MEAN = "class_margin_mean"
    CLASS_MARGIN_SUM = "class_margin_sum"
    ENTROPY_MAX = "entropy_max"
    ENTROPY_MEAN = "entropy_mean"
    ENTROPY_SUM = "entropy_sum"
    DIFFICULTY_ENTROPY = "difficulty_entropy"
    EDE = "ede"
    MISSED = "missed"
    MODEL_CHANGE = "model_change"
    NOVELTY = "novelty"
    RANDOM = "random"


def identity(scores: Scores, classes: Classes) -> NDArray[np.floating]:  # noqa: ARG001
    """The calibration of a model that has none: its score is taken at its word."""
    return scores


def score(
    detections: Detections,
    operating_point: float,
    strategy: Strategy = Strategy.EDE,
    calibration: Calibration = identity,
    *,
    weights: ClassWeights | None = None,
    difficulty: ClassWeights | None = None,
    memory: Novelty | None = None,
    chance: random.Random | None = None,
) -> float:
    """One frame's measure: more is more doubtful, 0 where nothing at all was seen, NaN where a probability is none.

    Detections at or above `operating_point` are what the device reports; the others are its candidates. `weights` counts the errors of EDE
    and of what is missed by class, `difficulty` the entropy of `DIFFICULTY_ENTROPY`; left out, every class counts 1. `NOVELTY` is measured
    against `memory` and `RANDOM` drawn from `chance`; `ValueError` where it is not given, or where the model gives no features.
    """
    if strategy is Strategy.RANDOM:
        if chance is None:
            raise ValueError("a random score needs a generator to be drawn from")
        return chance.random()
    if strategy is Strategy.NOVELTY:
        if memory is None or detections.features is None:
            missing = "the model gives no features" if memory is not None else "there is no memory to compare with"
            raise ValueError(f"novelty cannot be told: {missing}; choose another strategy, or export with features")
        return memory.of(detections.features)
    terms, aggregate = _MEASURES[strategy]
    return aggregate(terms(_Judged(detections, operating_point, calibration, weights, difficulty)))


def measures(
    detections: Detections,
    operating_point: float,
    calibration: Calibration = identity,
    *,
    weights: ClassWeights | None = None,
    difficulty: ClassWeights | None = None,
) -> dict[Strategy, float]:
    """What `score` gives for every strategy that needs nothing but the detections; what they share is computed once."""
    judged = _Judged(detections, operating_point, calibration, weights, difficulty)
    terms: dict[_Terms, NDArray[np.floating]] = {}
    found = {}
    for strategy, (of, aggregate) in _MEASURES.items():
        if of not in terms:
            terms[of] = of(judged)
        found[strategy] = aggregate(terms[of])
    return found


# ---- expected errors ---------------------------------------------------------------------------------------------------


def errors(
    detections: Detections,
    operating_point: float,
    calibration: Calibration = identity,
    weights: ClassWeights | None = None,
) -> NDArray[np.float64]:
    """The errors that each candidate is expected to be, (N,): e = w·(1 − q) of one that is reported, e = w·q of one that is not.

    q is the calibrated probability that it is a true object, and w the weight of its class.
    """
    if not len(detections):
        return np.zeros(0)
    probabilities = calibration(detections.scores, detections.classes)
    wrong = error_probabilities(probabilities, detections.scores >= operating_point)
    return wrong if weights is None else wrong * weights_of(detections.classes, weights)


def expected_detection_errors(
    detections: Detections,
    operating_point: float,
    calibration: Calibration = identity,
    weights: ClassWeights | None = None,
) -> float:
    """Expected false positives plus expected false negatives of what is reported: the sum of `errors`.

    EDE = Σ_reported (1 − q) + Σ_rest q: the number of errors at the deployed operating point that the model itself expects (a causal,
    single-frame form of the error estimate of Bengar et al. 2019, arXiv 1908.11757).
    """
    return float(errors(detections, operating_point, calibration, weights).sum())


def misses(
    detections: Detections,
    operating_point: float,
    calibration: Calibration = identity,
    weights: ClassWeights | None = None,
) -> NDArray[np.float64]:
    """The false negatives among `errors`, (N,): w·q of each candidate below the operating point, 0 of what is reported."""
    return np.where(detections.scores < operating_point, errors(detections, operating_point, calibration, weights), 0.0)


def error_probabilities(probabilities: NDArray[np.floating], reported: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The probability that each is an error, (N,): 1 − q of what is reported, q of the rest. NaN stays NaN."""
    q = np.clip(np.asarray(probabilities, np.float64), 0.0, 1.0)
    return np.where(reported, 1 - q, q)


# ---- class weights -----------------------------------------------------------------------------------------------------


def difficulty_weights(quality: Sequence[float] | NDArray[np.floating]) -> ClassWeights:
    """PPAL's class difficulty, in [1, 1.2]: w = 1 + αβ·ln(1 + γ(1 − quality)), γ = e^(1/α) − 1, α = 0.3, β = 0.2.

    `quality` (C,) in [0, 1] says how well the model knows each class; `ValueError` for anything else. Yang et al. 2024, arXiv 2211.11612.
    """
    known = np.asarray(quality, np.float64)
    if not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"the quality of a class lies in [0, 1], not at {known.tolist()}")
    weights: ClassWeights = 1 + _ALPHA * _BETA * np.log1p(np.expm1(1 / _ALPHA) * (1 - known))
    return weights


def rarity_weights(counts: Sequence[float] | NDArray[np.floating]) -> ClassWeights:
    """√(median count / count) of each class, within [0.5, 3]; `counts` (C,) are the boxes of each class that were trained on.

    The median is that of the classes that have any. `ValueError` for a count that is none.
    """
    known = np.asarray(counts, np.float64)
    if not ((known >= 0) & np.isfinite(known)).all():
        raise ValueError(f"a class has a finite count of boxes, not {known.tolist()}")
    if not known.any():
        return np.ones_like(known)
    rarity: ClassWeights = np.clip(np.sqrt(np.median(known[known > 0]) / np.maximum(known, 1e-9)), 0.5, 3.0)
    return rarity


def weights_of(classes: Classes, weights: ClassWeights) -> NDArray[np.float64]:
    """The weight of each candidate's class, (N,); 1 for a class that the table does not know."""
    table = np.append(weights, 1.0)
    found: NDArray[np.float64] = table[np.minimum(classes, len(weights))]
    return found


# ---- uncertainty sampling ----------------------------------------------------------------------------------------------


def least_confidences(scores: Scores, operating_point: float) -> Scores:
    """1 − s of the detections that are reported; of a candidate it would say nothing. Their mean is the objectness measure of `lightly`."""
    reported: Scores = scores[scores >= operating_point]
    return 1 - reported


def margins(scores: Scores, operating_point: float) -> Scores:
    """1 − |s − τ| / max(τ, 1 − τ), (N,) in [0, 1]: how near each candidate comes to the other side of the operating point τ."""
    apart: Scores = np.abs(scores - operating_point) / max(operating_point, 1 - operating_point)
    return np.maximum(0, 1 - apart)


def class_margins(detections: Detections) -> NDArray[np.floating]:
    """Brust's 1-vs-2 margin of each candidate, (N,) in [0, 1]: (1 − (p₁ − p₂))², p₁ and p₂ being its two most probable classes.

    Where only the score is known, object and background are the two: (1 − |2s − 1|)². Brust et al. 2019, arXiv 1809.09875.
    """
    p = detections.probabilities
    if p is None or p.shape[1] < 2:
        gap = np.abs(2 * detections.scores - 1)
    else:
        rows = np.arange(len(p))
        best = p.argmax(axis=1)
        rest = p.copy()
        rest[rows, best] = -1
        gap = p[rows, best] - rest.max(axis=1)
    return np.asarray((1 - gap) ** 2)


def entropies(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """H(p) = −p·ln p − (1 − p)·ln(1 − p) of each element, in nats; exactly 0 at 0 and at 1."""
    p = probabilities
    found: NDArray[np.floating] = -(p * np.log(np.maximum(p, _TINY)) + (1 - p) * np.log1p(-np.minimum(p, _ALMOST_1)))
    return found


def difficulty_entropies(detections: Detections, difficulty: ClassWeights | None = None) -> NDArray[np.floating]:
    """PPAL's difficulty-weighted entropy of each candidate, (N,): w·H(s); their sum is its uncertainty of the picture.

    Boxes that it leaves out count 0: scores up to 0.05, boxes of up to 16 pixels a side (geometric mean), and those five times as long
    as wide or more. `difficulty` is what `difficulty_weights` gives. Yang et al. 2024, arXiv 2211.11612.
    """
    sides = (detections.boxes_xyxy_px[:, 2:] - detections.boxes_xyxy_px[:, :2]).astype(np.float64)
    short, long = sides.min(axis=1), sides.max(axis=1)
    counted = (detections.scores > 0.05) & (short * long > 16.0**2) & (long < 5 * short)
    weighted = np.where(counted, entropies(detections.scores), 0)
    return weighted if difficulty is None else weighted * weights_of(detections.classes, difficulty)


# ---- expected model change ---------------------------------------------------------------------------------------------


def squared_gradients(detections: Detections) -> NDArray[np.float64]:
    """The squared gradient that labelling each candidate would send through the last layer, (N,): (‖φ‖² + 1)·Σ_c p_c·(1 − p_c).

    Exact for z = Wφ + b with sigmoids and cross-entropy: ∂L/∂W = (p − y)φᵀ, and y ~ Bernoulli(p) gives E(p − y)² = p(1 − p). The gradient
    length of the picture is the root of their sum, since the cross terms vanish (Settles, Craven and Ray 2007; Haussmann et al. 2020,
    arXiv 2004.04699). φ are the picture's pooled features in the place of each anchor's own, of length 1 where the model gives none; where
    only the score is known it is the one p. After suppression, so that an object counts once however many anchors it fills.
    """
    p = detections.scores[:, None] if detections.probabilities is None else detections.probabilities
    features = detections.features
    squared_norm = 1.0 if features is None else float(np.square(features, dtype=np.float64).sum())
    spread: NDArray[np.float64] = (p * (1 - p)).sum(axis=1, dtype=np.float64)
    return (squared_norm + 1) * spread


# ---- novelty -----------------------------------------------------------------------------------------------------------


class Novelty:
    """The directions of the last `capacity` feature vectors that were remembered; how far a new one points away from all of them.

    Memory is `capacity` × D float32. A vector of another length comes from another model: what is remembered then starts afresh. One
    without a direction (zeros, or not finite) says nothing: it is neither new nor a repeat, and is not remembered.
    """

    def __init__(self, capacity: int = 128) -> None:
        """Raises `ValueError` for a capacity below 1."""
        if capacity < 1:
            raise ValueError(f"a memory holds at least one vector, not {capacity}")
        self._capacity = capacity
        self._memory = np.zeros((capacity, 0), np.float32)
        self._remembered = 0

    def __len__(self) -> int:
        return min(self._remembered, self._capacity)

    def of(self, features: NDArray[np.floating]) -> float:
        """(1 − max cos)/2 over the memory, in [0, 1]: 0 for a repeat, 1 for the opposite of everything and where nothing is remembered."""
        unit = _direction(features)
        return 0.0 if unit is None else (1 - self._nearest(unit)) / 2

    def repeats(self, features: NDArray[np.floating], cosine: float = 0.97) -> bool:
        """Whether something remembered is more alike than `cosine`: a near-duplicate."""
        unit = _direction(features)
        return unit is not None and self._nearest(unit) > cosine

    def remember(self, features: NDArray[np.floating]) -> None:
        """Add a vector in the place of the oldest."""
        unit = _direction(features)
        if unit is None:
            return
        if unit.size != self._memory.shape[1]:
            self._memory = np.zeros((self._capacity, unit.size), np.float32)
            self._remembered = 0
        self._memory[self._remembered % self._capacity] = unit
        self._remembered += 1

    def forget(self) -> None:
        """Start afresh: another model's features of the same length cannot be compared."""
        self._remembered = 0

    def _nearest(self, unit: NDArray[np.float32]) -> float:
        """The largest cosine; -1 where there is nothing to compare with."""
        if not len(self) or unit.size != self._memory.shape[1]:
            return -1.0
        return float(np.clip((self._memory[: len(self)] @ unit).max(), -1, 1))


def _direction(features: NDArray[np.floating]) -> NDArray[np.float32] | None:
    vector = np.asarray(features, np.float64).ravel()
    largest = float(np.abs(vector).max(initial=0.0))
    if not (math.isfinite(largest) and largest > 0):
        return None
    vector = vector / largest  # before it is squared, which could overflow or vanish
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def is_sound(value: float) -> bool:
    """Whether a score can be compared: a frame whose score is not finite is dropped and counted."""
    return math.isfinite(value)


# ---- the table of measures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Judged:
    """One frame's detections, and what they are judged by."""

    detections: Detections
    operating_point: float
    calibration: Calibration
    weights: ClassWeights | None
    difficulty: ClassWeights | None


_Terms = Callable[[_Judged], NDArray[np.floating]]
_Aggregate = Callable[[NDArray[np.floating]], float]


def _largest(terms: NDArray[Any]) -> float:
    return float(terms.max(initial=0))


def _mean(terms: NDArray[Any]) -> float:
    return float(terms.mean(dtype=np.float64)) if terms.size else 0.0


def _sum(terms: NDArray[Any]) -> float:
    return float(terms.sum(dtype=np.float64))


def _length(squares: NDArray[Any]) -> float:
    return math.sqrt(_sum(squares))


def _least_confidences(of: _Judged) -> NDArray[np.floating]:
    return least_confidences(of.detections.scores, of.operating_point)


def _margins(of: _Judged) -> NDArray[np.floating]:
    return margins(of.detections.scores, of.operating_point)


def _class_margins(of: _Judged) -> NDArray[np.floating]:
    return class_margins(of.detections)


def _entropies(of: _Judged) -> NDArray[np.floating]:
    return entropies(of.detections.scores)


def _difficulty_entropies(of: _Judged) -> NDArray[np.floating]:
    return difficulty_entropies(of.detections, of.difficulty)


def _errors(of: _Judged) -> NDArray[np.floating]:
    return errors(of.detections, of.operating_point, of.calibration, of.weights)


def _misses(of: _Judged) -> NDArray[np.floating]:
    return misses(of.detections, of.operating_point, of.calibration, of.weights)


def _squared_gradients(of: _Judged) -> NDArray[np.floating]:
    return squared_gradients(of.detections)


# Maximum, mean and sum are the aggregations of Brust et al. 2019. The plain names are those that stood first: each measure's usual one.
_MEASURES: Final[Mapping[Strategy, tuple[_Terms, _Aggregate]]] = MappingProxyType(
    {
        Strategy.LEAST_CONFIDENCE: (_least_confidences, _mean),
        Strategy.LEAST_CONFIDENCE_MAX: (_least_confidences, _largest),
        Strategy.LEAST_CONFIDENCE_SUM: (_least_confidences, _sum),
        Strategy.MARGIN: (_margins, _largest),
        Strategy.MARGIN_MEAN: (_margins, _mean),
        Strategy.MARGIN_SUM: (_margins, _sum),
        Strategy.CLASS_MARGIN_MAX: (_class_margins, _largest),
        Strategy.CLASS_MARGIN_MEAN: (_class_margins, _mean),
        Strategy.CLASS_MARGIN_SUM: (_class_margins, _sum),
        Strategy.ENTROPY_MAX: (_entropies, _largest),
        Strategy.ENTROPY_MEAN: (_entropies, _mean),
        Strategy.ENTROPY_SUM: (_entropies, _sum),
        Strategy.DIFFICULTY_ENTROPY: (_difficulty_entropies, _sum),
        Strategy.EDE: (_errors, _sum),
        Strategy.MISSED: (_misses, _sum),
        Strategy.MODEL_CHANGE: (_squared_gradients, _length),
    }
)
