"""Box arithmetic: overlap, suppression of duplicates, and the letterbox that carries boxes between picture and model."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_models.detections import Boxes, Classes, Scores

PAD_VALUE = 114


def iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[np.float32]:
    """Intersection over union of every pair: (N, 4) and (M, 4) give (N, M). A box without area overlaps nothing."""
    shared = _common(a_xyxy[:, 0::2], b_xyxy[:, 0::2]) * _common(a_xyxy[:, 1::2], b_xyxy[:, 1::2])
    union = _areas(a_xyxy)[:, None] + _areas(b_xyxy)[None, :] - shared
    overlap: NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
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


def _common(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length (N, M) that intervals (N, 2) and (M, 2) share. One axis at a time: numpy is slow on rows of two."""
    length: NDArray[np.float32] = np.minimum(a[:, 1, None], b[:, 1]) - np.maximum(a[:, 0, None], b[:, 0])
    np.maximum(length, 0, out=length)
    return length


def _areas(boxes_xyxy: Boxes) -> NDArray[np.float32]:
    area: NDArray[np.float32] = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    return area


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
