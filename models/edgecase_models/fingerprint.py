"""What a picture looks like from afar: enough to know it again, and to tell a small object on a fixed camera from a repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

CELLS_HW: Final = (24, 32)
_HASH_WH: Final = (9, 8)
_POWERS: Final = (1 << np.arange(64, dtype=np.uint64)).astype(np.uint64)


@dataclass(frozen=True, eq=False, slots=True)
class Fingerprint:
    """`dhash`: 64 signs of the horizontal gradient; `cells` (24, 32) uint8: mean brightness."""

    dhash: int
    cells: NDArray[np.uint8]

    @classmethod
    def of(cls, bright: NDArray[np.uint8]) -> Fingerprint:
        """The fingerprint of a picture's brightness (H, W).

        dHash: the sign of neighbouring differences of a 9 × 8 reduction (N. Krawetz, "Kind of Like That", 2013).
        """
        cells = np.asarray(cv2.resize(bright, CELLS_HW[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        tiny = np.asarray(cv2.resize(cells, _HASH_WH, interpolation=cv2.INTER_AREA))
        signs = (tiny[:, 1:] > tiny[:, :-1]).ravel()
        return cls(int(_POWERS[signs].sum()), cells)

    @classmethod
    def from_bytes(cls, stored: bytes) -> Fingerprint:
        """The inverse of `to_bytes`."""
        return cls(int.from_bytes(stored[:8], "big"), np.frombuffer(stored, np.uint8, offset=8).reshape(CELLS_HW))

    def to_bytes(self) -> bytes:
        """776 bytes: the hash, big-endian, then the cells row by row."""
        return self.dhash.to_bytes(8, "big") + self.cells.tobytes()

    def repeats(self, other: Fingerprint, max_bits: int, max_levels: int) -> bool:
        """Whether both show the same: the hashes differ in at most `max_bits`, and no cell by more than `max_levels` of 255.

        The hash alone is blind to what is small in the picture: on a fixed camera it would call every frame a repeat.
        """
        if (self.dhash ^ other.dhash).bit_count() > max_bits:
            return False
        return int(cv2.absdiff(self.cells, other.cells).max()) <= max_levels
