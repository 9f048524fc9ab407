"""Where a frame lies among the others: the detector's own pooled features, or what can be had without them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.triage.looks import Look, Stream

Vectors = NDArray[np.float64]


def embeddings(stream: Stream, *, causal: bool) -> Vectors:
    """One vector per frame (N, D), each dimension standardised.

    `seen.features` where every frame has them. Else the fallback, in two parts of equal weight: the brightness of 6 × 8 cells of the
    fingerprint, and the sum of the candidates' scores per class. For a selector that works on the pool each dimension is standardised
    over the whole stream; `causal`, for one that does not know the future, over the frames up to and including each.
    """
    features = [getattr(look.seen, "features", None) for look in stream.looks]
    if features and all(vector is not None for vector in features):
        return _standardised(np.asarray(features, np.float64), causal)
    cells = _standardised(np.array([_brightness(look) for look in stream.looks]).reshape(-1, 48), causal)
    classes = len(stream.names)
    histogram = _standardised(
        np.array([_histogram(look, classes) for look in stream.looks]).reshape(-1, classes), causal
    )
    return np.concatenate([cells / 48**0.5, histogram / max(classes, 1) ** 0.5], axis=1)


def _brightness(look: Look) -> Vectors:
    return np.asarray(look.fingerprint.cells.reshape(6, 4, 8, 4).mean(axis=(1, 3)).ravel() / 255)


def _histogram(look: Look, classes: int) -> Vectors:
    return np.asarray(np.bincount(look.seen.classes, weights=look.seen.scores, minlength=classes)[:classes], np.float64)


def _standardised(vectors: Vectors, causal: bool) -> Vectors:
    """Mean 0 and deviation 1 in each dimension; what never varies stays 0."""
    if not len(vectors):
        return vectors
    if not causal:
        deviation = vectors.std(axis=0)
        return np.asarray((vectors - vectors.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1))
    # Sums of squares about the first frame, so that a large constant offset costs no digits.
    moved = vectors - vectors[:1]
    count = np.arange(1, len(moved) + 1)[:, None]
    mean = np.cumsum(moved, axis=0) / count
    variance = np.cumsum(moved**2, axis=0) / count - mean**2
    deviation = np.sqrt(np.maximum(variance, 0))
    return np.asarray((moved - mean) / np.where(deviation > 1e-9, deviation, 1))
