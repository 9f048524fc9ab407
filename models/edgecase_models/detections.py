"""What a detector says about one picture: boxes, scores and classes, checked once and then read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Scores = NDArray[np.float32]
Classes = NDArray[np.int32]


class DetectionsError(ValueError):
    """Arrays that do not describe one picture's detections."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Parallel arrays, best score first.

    `boxes_xyxy_px` (N, 4) float32 in pixels of the picture the camera gave, `scores` (N,) float32 in [0, 1], `classes` (N,)
    int32 indices into the model's class names. Boxes are finite with x1 <= x2 and y1 <= y2; anything else raises `DetectionsError`.
    """

    boxes_xyxy_px: Boxes
    scores: Scores
    classes: Classes

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
        for name, array in (("boxes_xyxy_px", boxes), ("scores", scores), ("classes", classes)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

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
        return Detections(self.boxes_xyxy_px[keep], self.scores[keep], self.classes[keep])
