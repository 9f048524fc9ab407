"""The peers' scores of a single frame, from published formulas: no code of theirs is in here.

Each takes a look and its stream and gives a number that is higher where the method would rather label. A frame without a box
scores 0, as it does there, unless its docstring says otherwise: that blindness is what they have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.triage.looks import Look, Stream
from bench.triage.peers.peer import ScoreOf
from edgecase_models.boxes import iou_matrix
from edgecase_models.detections import Detections

Floats = NDArray[np.float64]

EPSILON: Final = 0.1
PUBLISHED_FLOOR: Final = 0.05  # what the frameworks of PPAL, CALD and ENMS hand on of a detector's boxes


# ---- tools that people run -----------------------------------------------------------------------------------------


def close_to_threshold(look: Look, stream: Stream, epsilon: float = EPSILON) -> float:
    """Roboflow Inference: the number of boxes with |s − τ| < ε.

    Kinder than the original, which sees only boxes above the threshold that the model was run with.
    """
    return float((np.abs(look.seen.scores - stream.operating_point) < epsilon).sum())


def lightly_objectness(look: Look, stream: Stream) -> float:
    """Lightly's objectness_least_confidence (and Encord Active's): 1 − mean score of the reported boxes.

    It orders frames as Sedna's threshold filter does.
    """
    reported = look.seen.scores[look.seen.scores >= stream.operating_point]
    return 1 - float(reported.mean()) if len(reported) else 0.0


def sedna_ibt(look: Look, stream: Stream, threshold_box: float = 0.5) -> float:
    """Sedna's image-box-threshold coefficient: the share of the reported boxes with s ≤ threshold_box."""
    reported = look.seen.scores[look.seen.scores >= stream.operating_point]
    return float((reported <= threshold_box).mean()) if len(reported) else 0.0


# ---- entropy and what was made of it -------------------------------------------------------------------------------


def binary_entropy(probabilities: NDArray[np.floating]) -> Floats:
    """H(p) = −p·ln p − (1 − p)·ln(1 − p), in nats, of each."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log1p(-p)))


def entropy_sum(look: Look, stream: Stream) -> float:
    """Σ H(s) over all candidates."""
    return float(binary_entropy(look.seen.scores).sum())


def entropy_max(look: Look, stream: Stream) -> float:
    """max H(s) over all candidates."""
    return float(binary_entropy(look.seen.scores).max(initial=0.0))


def entropy_mean(look: Look, stream: Stream) -> float:
    """mean H(s) over all candidates."""
    return float(binary_entropy(look.seen.scores).mean()) if len(look.seen) else 0.0


def ppal(look: Look, stream: Stream, quality: NDArray[np.floating] | None = None) -> float:
    """PPAL's difficulty-calibrated entropy (arXiv 2211.11612, stage 1): Σ w_c·H(s) over boxes with s > 0.05, √(w·h) > 16 px, aspect < 5.

    w_c = 1 + α·β·ln(1 + γ·(1 − q_c)) with γ = e^(1/α) − 1, α = 0.3, β = 0.2; q_c in [0, 1] is how well the detector knows class c.
    Without `quality` (C,) every class weighs the same.
    """
    seen = look.seen.above(PUBLISHED_FLOOR)
    if not len(seen):
        return 0.0
    sides = seen.boxes_xyxy_px[:, 2:] - seen.boxes_xyxy_px[:, :2]
    kept = (np.sqrt(sides.prod(axis=1)) > 16) & (sides.max(axis=1) < 5 * sides.min(axis=1))
    weights = 1.0 if quality is None else _difficulty_weights(quality)[seen.classes]
    return float((weights * binary_entropy(seen.scores) * kept).sum())


def _difficulty_weights(quality: NDArray[np.floating], alpha: float = 0.3, beta: float = 0.2) -> Floats:
    return np.asarray(1 + alpha * beta * np.log1p(np.expm1(1 / alpha) * (1 - np.asarray(quality, np.float64))))


def enms(look: Look, stream: Stream, alike: float = 0.5) -> float:
    """Entropy-based suppression of DivProto (arXiv 2204.07965): Σ H(s), largest first, without boxes alike to one counted of their class.

    Alike means cos(φ_i, φ_j) > 0.5 over a box's own features. A look has none; the boxes' class probabilities stand in for them, and
    where there are none either, boxes of a class are taken to be alike.
    """
    seen = look.seen.above(PUBLISHED_FLOOR)
    entropies = binary_entropy(seen.scores)
    features = _probabilities(seen)
    if features is None:
        most: dict[int, float] = {}
        for index, entropy in zip(seen.classes.tolist(), entropies.tolist(), strict=True):
            most[index] = max(most.get(index, 0.0), entropy)
        return sum(most.values())
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rivals = (unit @ unit.T > alike) & (seen.classes[:, None] == seen.classes[None])
    open_boxes = np.ones(len(seen), np.bool_)
    total = 0.0
    while open_boxes.any():
        best = int(np.where(open_boxes, entropies, -1).argmax())
        total += float(entropies[best])
        open_boxes &= ~rivals[best]
        open_boxes[best] = False
    return total


# ---- margins and gradients -----------------------------------------------------------------------------------------


def brust_sum(look: Look, stream: Stream) -> float:
    """Brust et al. (arXiv 1809.09875): Σ (1 − (p₁ − p₂))² over the two likeliest classes of each candidate."""
    return float(_one_vs_two(look.seen).sum())


def brust_max(look: Look, stream: Stream) -> float:
    """Brust et al.: the largest (1 − (p₁ − p₂))²."""
    return float(_one_vs_two(look.seen).max(initial=0.0))


def _one_vs_two(seen: Detections) -> Floats:
    """(1 − (p₁ − p₂))² of each; a head that gives only the best class is one against its background, |2s − 1|."""
    probabilities = _probabilities(seen)
    if probabilities is None or probabilities.shape[1] < 2:
        return np.asarray((1 - np.abs(2 * seen.scores.astype(np.float64) - 1)) ** 2)
    best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray((1 - (best[:, 1] - best[:, 0])) ** 2)


def egl(look: Look, stream: Stream) -> float:
    """Expected gradient length of a sigmoid head, closed form of Haussmann et al. (arXiv 2004.04699) without features: Σ Σ_c p·(1 − p)."""
    probabilities = _probabilities(look.seen)
    p = look.seen.scores.astype(np.float64) if probabilities is None else probabilities
    return float((p * (1 - p)).sum())


def expected_errors(look: Look, stream: Stream) -> float:
    """Our own measure without its calibration, Σ_reported (1 − s) + Σ_rest s: lent to peers that need a score and bring none."""
    scores = look.seen.scores.astype(np.float64)
    return float(np.where(scores >= stream.operating_point, 1 - scores, scores).sum())


# ---- two passes ----------------------------------------------------------------------------------------------------


def cald(look: Look, stream: Stream, beta: float = 1.3) -> float:
    """CALD (arXiv 2103.10374, stage 1) with the mirrored view as its augmentation: minus the consistency of the least consistent box.

    Each box is held against the one of the other view that overlaps it most: m = |IoU + ½·(1 − JS(p, q))·(s + s′) − β|, at most 1 over the
    frame. A frame, or a view, without a box has consistency 0 and is chosen first. Raises `ValueError` without a second pass.
    """
    if look.flipped is None:
        raise ValueError(f"frame {look.index} of {stream.name} has no second pass")
    ours, theirs = look.seen.above(PUBLISHED_FLOOR), look.flipped.above(PUBLISHED_FLOOR)
    if not len(ours) or not len(theirs):
        return 0.0
    overlaps = iou_matrix(ours.boxes_xyxy_px, theirs.boxes_xyxy_px)
    partner = overlaps.argmax(axis=1)
    iou = overlaps[np.arange(len(ours)), partner]
    classes = len(stream.names)
    divergence = _jensen_shannon(_distributions(ours, classes), _distributions(theirs, classes)[partner])
    confidence = 0.5 * (1 - divergence) * (ours.scores + theirs.scores[partner])
    return -min(1.0, float(np.abs(iou + confidence - beta).min()))


def _distributions(seen: Detections, classes: int) -> Floats:
    """A distribution over the classes and the background for each box (N, C + 1)."""
    probabilities = _probabilities(seen)
    spread = np.zeros((len(seen), max(classes, int(seen.classes.max(initial=0)) + 1) + 1))
    if probabilities is None:
        spread[np.arange(len(seen)), seen.classes] = seen.scores
    else:
        spread[:, : probabilities.shape[1]] = probabilities
    spread[:, -1] = 1 - seen.scores
    return np.asarray(spread / spread.sum(axis=1, keepdims=True))


def _jensen_shannon(p: Floats, q: Floats) -> Floats:
    """The divergence of each row, in nats."""
    middle = np.maximum((p + q) / 2, 1e-12)
    entropy = p * np.log(np.maximum(p, 1e-12) / middle) + q * np.log(np.maximum(q, 1e-12) / middle)
    return np.asarray(np.maximum(entropy.sum(axis=1) / 2, 0))


def _probabilities(seen: Detections) -> Floats | None:
    """The probabilities of every class (N, C), where the head gives them."""
    found = getattr(seen, "probabilities", None)
    return None if found is None else np.asarray(found, np.float64)


SCORES: Final[Mapping[str, ScoreOf]] = MappingProxyType(
    {
        "Roboflow close_to_threshold": close_to_threshold,
        "Lightly objectness, Sedna threshold": lightly_objectness,
        "Sedna IBT": sedna_ibt,
        "entropy, sum": entropy_sum,
        "entropy, max": entropy_max,
        "entropy, mean": entropy_mean,
        "PPAL": ppal,
        "ENMS": enms,
        "Brust 1-vs-2, sum": brust_sum,
        "Brust 1-vs-2, max": brust_max,
        "EGL": egl,
    }
)
TWO_PASS_SCORES: Final[Mapping[str, ScoreOf]] = MappingProxyType({"CALD, mirrored view": cald})
