"""What a detector says about one picture: boxes, scores and classes, checked once and then read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Scores = NDArray[np.float32]
Classes = NDArray[np.int32]
Probabilities = NDArray[np.float32]
Features = NDArray[np.float32]


class DetectionsError(ValueError):
    """Arrays that do not describe one picture's detections."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Parallel arrays, best score first.

    `boxes_xyxy_px` (N, 4) float32 in pixels of the picture the camera gave, `scores` (N,) float32 in [0, 1], `classes` (N,)
    int32 indices into the model's class names. Boxes are finite with x1 <= x2 and y1 <= y2; anything else raises `DetectionsError`.

    `probabilities` (N, C) float32 in [0, 1]: each candidate's probability of each class, None where the head gives only the best one.
    `features` (D,) float32, finite: the whole picture's pooled neck features, None where the model has no output for them.
    """

    boxes_xyxy_px: Boxes
    scores: Scores
    classes: Classes
    probabilities: Probabilities | None = None
    features: Features | None = None

    def __post_init__(self) -> None:
        boxes = np.array(self.boxes_xyxy_px, np.float32, order="C")
        scores = np.array(self.scores, np.float32)
        classes = np.array(self.classes, np.int32)
        count = scores.shape[0] if scores.ndim == 1 else -1
        if boxes.shape != (count, 4) or classes.shape != (count,):
            raise DetectionsError(
                f"boxes {boxes.shape}, scores {scores.shape} and classes {classes.shape} are not (N, 4), (N,) and (N,)"
            )
        if count:
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise DetectionsError("a box or a score is not finite")
            if scores.min() < 0 or scores.max() > 1:
                raise DetectionsError(f"scores lie in [{scores.min()}, {scores.max()}], not in [0, 1]")
            if (boxes[:, :2] > boxes[:, 2:]).any():
                raise DetectionsError("a box ends before it begins")
            if classes.min() < 0:
                raise DetectionsError("a class index is negative")
        self._freeze("boxes_xyxy_px", boxes)
        self._freeze("scores", scores)
        self._freeze("classes", classes)
        if self.probabilities is not None:
            self._freeze("probabilities", _checked_probabilities(self.probabilities, classes))
        if self.features is not None:
            self._freeze("features", _checked_features(self.features))

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    @classmethod
    def empty(cls) -> Detections:
        """No object seen."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    @classmethod
    def of(
        cls, boxes_xyxy_px: Sequence[Sequence[float]], scores: Sequence[float], classes: Sequence[int]
    ) -> Detections:
        """Detections from plain sequences."""
        return cls(
            np.asarray(boxes_xyxy_px, np.float32).reshape(-1, 4),
            np.asarray(scores, np.float32),
            np.asarray(classes, np.int32),
        )

    def above(self, score: float) -> Detections:
        """Those whose score is at least `score`."""
        return self[self.scores >= score]

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Those that `keep` picks; the features are the picture's and stay."""
        probabilities = None if self.probabilities is None else self.probabilities[keep]
        return Detections(self.boxes_xyxy_px[keep], self.scores[keep], self.classes[keep], probabilities, self.features)

    def _freeze(self, name: str, array: NDArray[np.generic]) -> None:
        array.flags.writeable = False
        object.__setattr__(self, name, array)


def _checked_probabilities(probabilities: Probabilities, classes: Classes) -> Probabilities:
    table = np.array(probabilities, np.float32, order="C")
    if table.ndim != 2 or len(table) != len(classes):
        raise DetectionsError(f"probabilities {table.shape} are not (N, C) for {len(classes)} detections")
    if len(classes):
        if classes.max() >= table.shape[1]:
            raise DetectionsError(f"class {classes.max()} is not among {table.shape[1]} probabilities")
        if not (table.min() >= 0 and table.max() <= 1):  # neither holds where one is NaN
            raise DetectionsError("a probability is not in [0, 1]")
    return table


def _checked_features(features: Features) -> Features:
    vector = np.array(features, np.float32)
    if vector.ndim != 1 or not len(vector):
        raise DetectionsError(f"features {vector.shape} are not (D,)")
    if not np.isfinite(vector).all():
        raise DetectionsError("a feature is not finite")
    return vector
