"""A picture's brightness, from every second pixel: how light it is, how much in contrast, and what it looks like from afar."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_agent.source import Picture
from edgecase_models.detector import Planes
from edgecase_models.fingerprint import CELLS_HW, Fingerprint


def brightness(picture: Picture) -> tuple[float, float]:
    """Mean and standard deviation of the brightness, 0 to 255 (green where it is RGB)."""
    mean, deviation = cv2.meanStdDev(_sampled(picture))
    return float(mean[0, 0]), float(deviation[0, 0])


def fingerprint(picture: Picture) -> Fingerprint:
    """The picture's fingerprint, of the same pixels."""
    return Fingerprint.of(_in_whole_cells(_sampled(picture)))


def _sampled(picture: Picture) -> NDArray[np.uint8]:
    bright = picture.y if isinstance(picture, Planes) else picture[:, :, 1]
    step = 2 if min(bright.shape) >= 2 * max(CELLS_HW) else 1
    return np.ascontiguousarray(bright[::step, ::step])


def _in_whole_cells(sampled: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirrored at its end where it is no multiple of the cells: the mean of whole pixels takes an eighth of the time."""
    (height, width), (rows, columns) = sampled.shape, CELLS_HW
    below, right = -height % rows, -width % columns
    if height < rows or width < columns or not (below or right):
        return sampled
    return np.asarray(cv2.copyMakeBorder(sampled, 0, below, 0, right, cv2.BORDER_REFLECT_101))
