"""Box arithmetic: overlap, suppression of duplicates, and the letterbox that carries boxes between picture and model."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_models.detections import Boxes, Classes, Scores

PAD_VALUE = 114
_FEW = 8  # where more than one pair in so many touches, all are computed at once


def iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[np.float32]:
    """Intersection over union of every pair: (N, 4) and (M, 4) give (N, M). A box without area overlaps nothing.

    Boxes lie all over a picture and few pairs touch: comparing tells which, far faster than all can be computed.
    """
    a, b = np.ascontiguousarray(a_xyxy.T), np.ascontiguousarray(b_xyxy.T)  # numpy is slow on rows of four
    touch = a[0][:, None] < b[2]
    touch &= a[2][:, None] > b[0]
    touch &= a[1][:, None] < b[3]
    touch &= a[3][:, None] > b[1]
    places = np.flatnonzero(touch)
    if len(places) * _FEW > touch.size:
        return _ious(a[:, :, None], b[:, None])
    rows, columns = np.divmod(places, max(1, len(b_xyxy)))
    overlap = np.zeros(touch.shape, np.float32)
    overlap.ravel()[places] = _ious(a[:, rows], b[:, columns])
    return overlap


def nms_per_class(
    boxes_xyxy: Boxes, scores: Scores, classes: Classes, iou: float, limit: int = 300
) -> NDArray[np.intp]:
    """Indices of the boxes that greedy suppression keeps, best score first, at most `limit`.

    A box goes when a better one *of its own class* overlaps it by more than `iou`.
    """
    if not len(scores):
        return np.zeros(0, np.intp)
    xywh = boxes_xyxy.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    kept = cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores.tolist(), classes.tolist(), 0.0, iou)
    return np.asarray(kept, np.intp)[:limit]


def _ious(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes given as x1, y1, x2, y2 along the first axis, broadcast against each other."""
    shared: NDArray[np.float32] = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0)
    shared *= np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    overlap: NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


@dataclass(frozen=True)
class Letterbox:
    """How a picture of `picture_hw_px` lies in a model's input of `input_hw_px`: scaled to `inner_hw_px`, then padded.

    The aspect ratio is kept and the padding split evenly, the odd pixel going below and to the right; the same geometry as Ultralytics'
    `LetterBox`, so that its exports see what they saw in training. `mirrored`: the picture lies there with left and right exchanged.
    """

    picture_hw_px: tuple[int, int]
    input_hw_px: tuple[int, int]
    inner_hw_px: tuple[int, int]
    top_px: int
    left_px: int
    mirrored: bool = False

    @classmethod
    def fit(cls, picture_hw_px: tuple[int, int], input_hw_px: tuple[int, int], *, even: bool = False) -> Letterbox:
        """The letterbox for a fixed input; `even` rounds the inner size to even sides, as half-sized chroma planes need."""
        height, width = picture_hw_px
        gain = min(input_hw_px[0] / height, input_hw_px[1] / width)
        step = 2 if even else 1
        inner = (
            max(step, min(round(height * gain / step) * step, input_hw_px[0])),
            max(step, min(round(width * gain / step) * step, input_hw_px[1])),
        )
        top = round((input_hw_px[0] - inner[0]) / 2 - 0.1)
        left = round((input_hw_px[1] - inner[1]) / 2 - 0.1)
        return cls(picture_hw_px, input_hw_px, inner, top, left)

    def to_picture(self, boxes_xyxy: Boxes, shift_px: int = 0) -> Boxes:
        """Boxes (N, 4) in input pixels, moved and mirrored back, in picture pixels and clipped to the picture."""
        height, width = self.picture_hw_px
        scale = np.array([width / self.inner_hw_px[1], height / self.inner_hw_px[0]] * 2, np.float32)
        offset = np.array([self.left_px + shift_px, self.top_px + shift_px] * 2, np.float32)
        limit = np.array([width, height] * 2, np.float32)
        moved: Boxes = np.clip((boxes_xyxy - offset) * scale, 0, limit)
        if self.mirrored:
            moved[:, [0, 2]] = width - moved[:, [2, 0]]
        return moved


def rectangle_for(picture_hw_px: tuple[int, int], long_side_px: int, stride_px: int) -> tuple[int, int]:
    """The smallest input (height, width) that holds the picture at `long_side_px`, each side a multiple of the stride.

    16:9 at 640 with stride 32 gives 384 × 640: 0.6 of the padded square's work.
    """
    gain = long_side_px / max(picture_hw_px)
    height, width = (int(np.ceil(round(side * gain) / stride_px)) * stride_px for side in picture_hw_px)
    return max(stride_px, height), max(stride_px, width)
