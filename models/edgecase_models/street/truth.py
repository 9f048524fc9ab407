"""What a labeller with the whole sequence would box: the visible part of every road user a person could make out."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_models.street.camera import Bytes, Camera, Float
from edgecase_models.street.light import Light
from edgecase_models.street.sketch import Sketch, fixed_point
from edgecase_models.street.traffic import Actor

MIN_VISIBLE = 0.25
"""Road users of which less than this share can be seen, for what stands before them or the frame's edge, are left out."""

MIN_HEIGHT_PX, MIN_WIDTH_PX = 8.0, 5.0
"""Smaller boxes are left out; both are for a picture 360 pixels high and grow with it."""

MIN_CLEAR = 0.1
"""Road users of whose light less than this share gets through the fog are left out. Darkness leaves nobody out."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The road users of one frame, nearest first. `boxes_xyxy_px` (N,4) float32 bounds the visible silhouette within
    the frame, `classes` (N,) int32 indexes CLASSES, `track_ids` (N,) int64 stay with a road user for its whole way,
    `visible` (N,) float32 is the visible share of the silhouette, `condition` the scene's ("day", "night-rain", …).
    """

    boxes_xyxy_px: NDArray[np.float32]
    classes: NDArray[np.int32]
    track_ids: NDArray[np.int64]
    visible: NDArray[np.float32]
    condition: str

    def __post_init__(self) -> None:
        count = len(self.boxes_xyxy_px)
        if self.boxes_xyxy_px.shape != (count, 4):
            raise ValueError(f"boxes_xyxy_px has shape {self.boxes_xyxy_px.shape}, not (N, 4)")
        if not len(self.classes) == len(self.track_ids) == len(self.visible) == count:
            raise ValueError("classes, track_ids and visible must be as long as boxes_xyxy_px")

    def __len__(self) -> int:
        return len(self.boxes_xyxy_px)


@dataclass(frozen=True, eq=False)
class Cast:
    """One road user in the picture: who, how it looks, and how far away it is."""

    actor: Actor
    sketch: Sketch
    depth_m: float


def judge_visible(cast: list[Cast], occluder_m: Float, camera: Camera, light: Light, condition: str) -> Truth:
    """The truth of one frame from its cast, nearest first."""
    taken = np.zeros((camera.height_px, camera.width_px), np.uint8)
    scale = camera.height_px / 360
    boxes, classes, tracks, shares = [], [], [], []
    for one in cast:
        if np.exp(-light.fog_per_m * one.depth_m) < MIN_CLEAR:
            continue
        seen = _seen(one, taken, occluder_m, camera)
        if seen is None:
            continue
        box, share = seen
        if share < MIN_VISIBLE or box[2] - box[0] < MIN_WIDTH_PX * scale or box[3] - box[1] < MIN_HEIGHT_PX * scale:
            continue
        boxes.append(box)
        classes.append(one.actor.kind)
        tracks.append(one.actor.track_id)
        shares.append(min(share, 1.0))
    return Truth(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int32),
        np.array(tracks, np.int64),
        np.array(shares, np.float32),
        condition,
    )


def _seen(
    one: Cast, taken: Bytes, occluder_m: Float, camera: Camera
) -> tuple[tuple[float, float, float, float], float] | None:
    """The box and visible share of one road user; marks its pixels as taken. None when nothing of it is in the frame."""
    x0, y0, x1, y1 = one.sketch.extent_px()
    width_px, height_px = camera.width_px, camera.height_px
    if x1 <= 0 or y1 <= 0 or x0 >= width_px or y0 >= height_px:
        return None
    left, top = max(int(np.floor(x0)), -width_px), max(int(np.floor(y0)), -height_px)
    right, bottom = min(int(np.ceil(x1)), 2 * width_px), min(int(np.ceil(y1)), 2 * height_px)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    origin = np.array([left + 0.5, top + 0.5], np.float32)
    for polygon, decal in zip(fixed_point(one.sketch.polygons, origin), one.sketch.decal.tolist(), strict=True):
        if not decal:
            cv2.fillConvexPoly(mask, polygon, 1, cv2.LINE_8, 4)
    whole = int(cv2.countNonZero(mask))
    rows = slice(max(top, 0), min(bottom, height_px))
    columns = slice(max(left, 0), min(right, width_px))
    inner = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if whole == 0 or inner.size == 0:
        return None
    free = inner * (taken[rows, columns] == 0)
    hidden = occluder_m[rows, columns] < one.depth_m - 0.3
    free[hidden] = 0
    np.maximum(taken[rows, columns], inner, out=taken[rows, columns])
    shown = int(cv2.countNonZero(free))
    if shown == 0:
        return None
    fx, fy, fw, fh = cv2.boundingRect(free)
    mx, my, mw, mh = cv2.boundingRect(inner)
    box = (
        max(x0, 0.0) if fx == mx else float(columns.start + fx),
        max(y0, 0.0) if fy == my else float(rows.start + fy),
        min(x1, float(width_px)) if fx + fw == mx + mw else float(columns.start + fx + fw),
        min(y1, float(height_px)) if fy + fh == my + mh else float(rows.start + fy + fh),
    )
    return box, shown / whole
