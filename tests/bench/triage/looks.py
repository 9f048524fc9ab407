"""A labelled stream: what every selector sees of each frame, with the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecase_models.detections import Detections
from edgecase_models.fingerprint import Fingerprint


@dataclass(frozen=True, eq=False)
class Look:
    """One frame of a labelled stream, as every selector sees it, with the truth beside it for the judge alone.

    `index` counts from 0 in the stream, `at_s` is stream time. `seen` are the detections of the first pass, candidates down to 0.03;
    `shifted` those of the same model on the input shifted by half a stride, `flipped` with left and right exchanged. `size_bytes` is that
    of the JPEG that would be sent. `truth_boxes_xyxy_px` (M, 4), `truth_classes` (M,) and `truth_tracks` (M,), unique over the whole
    stream, are what is really there; `truth_hard` (M,) marks what is too small or too hidden to be asked of a detector: it is no error not
    to see it, and none to see it.
    """

    index: int
    scene: int
    condition: str
    at_s: float
    hw_px: tuple[int, int]
    seen: Detections
    shifted: Detections | None
    flipped: Detections | None
    size_bytes: int
    fingerprint: Fingerprint
    truth_boxes_xyxy_px: NDArray[np.floating]
    truth_classes: NDArray[np.integer]
    truth_tracks: NDArray[np.integer]
    truth_hard: NDArray[np.bool_]


@dataclass(frozen=True)
class Stream:
    """Looks in order of time, and the operating point at which the detector is deployed; `names` are its classes."""

    name: str
    seed: int
    looks: tuple[Look, ...]
    operating_point: float
    names: tuple[str, ...]
    fps: float
