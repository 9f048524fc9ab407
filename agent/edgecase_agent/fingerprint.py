"""What a picture looks like from afar: enough to know a frozen or parked camera's repeats, and to tell a small object from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecase_agent.source import Picture
from edgecase_models.detector import Planes

CELLS_HW: Final = (24, 32)
_HASH_WH: Final = (9, 8)
_POWERS: Final = (1 << np.arange(64, dtype=np.uint64)).astype(np.uint64)


@dataclass(frozen=True, eq=False, slots=True)
class Fingerprint:
    """`dhash`: 64 signs of the horizontal gradient; `cells` (24, 32) int16: mean brightness."""

    dhash: int
    cells: NDArray[np.int16]

    def repeats(self, other: Fingerprint, max_bits: int, max_levels: int) -> bool:
        """Whether both show the same: the hashes differ in at most `max_bits`, and no cell by more than `max_levels` of 255.

        The hash alone is blind to what is small in the picture: on a fixed camera it would call every frame a repeat.
        """
        if (self.dhash ^ other.dhash).bit_count() > max_bits:
            return False
        return int(np.abs(self.cells - other.cells).max()) <= max_levels


def fingerprint(picture: Picture) -> Fingerprint:
    """The picture's fingerprint, from every second pixel of its brightness (green where it is RGB).

    dHash: the sign of neighbouring differences of a 9 × 8 reduction (N. Krawetz, "Kind of Like That", 2013).
    """
    sampled = _in_whole_cells(_sampled(picture))
    cells = np.asarray(cv2.resize(sampled, CELLS_HW[::-1], interpolation=cv2.INTER_AREA))
    tiny = np.asarray(cv2.resize(cells, _HASH_WH, interpolation=cv2.INTER_AREA))
    signs = (tiny[:, 1:] > tiny[:, :-1]).ravel()
    return Fingerprint(int(_POWERS[signs].sum()), cells.astype(np.int16))


def _in_whole_cells(sampled: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirrored at its end where it is no multiple of the cells: the mean of whole pixels takes an eighth of the time."""
    (height, width), (rows, columns) = sampled.shape, CELLS_HW
    below, right = -height % rows, -width % columns
    if height < rows or width < columns or not (below or right):
        return sampled
    return np.asarray(cv2.copyMakeBorder(sampled, 0, below, 0, right, cv2.BORDER_REFLECT_101))


def brightness(picture: Picture) -> tuple[float, float]:
    """Mean and standard deviation of the brightness, 0 to 255, from every second pixel (green where it is RGB)."""
    mean, deviation = cv2.meanStdDev(_sampled(picture))
    return float(mean[0, 0]), float(deviation[0, 0])


def _sampled(picture: Picture) -> NDArray[np.uint8]:
    bright = picture.y if isinstance(picture, Planes) else picture[:, :, 1]
    step = 2 if min(bright.shape) >= 2 * max(CELLS_HW) else 1
    return np.ascontiguousarray(bright[::step, ::step])
