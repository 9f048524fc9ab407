"""What a thumbnail looks like from afar: enough to know the same picture again, and whether it was taken in the dark."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELLS_HW: Final = (24, 32)
MAX_SIDE_PX: Final = 2048  # a thumbnail is small; a header that says more would have us decode for seconds
_HASH_WH: Final = (9, 8)
_POWERS: Final = (1 << np.arange(64, dtype=np.uint64)).astype(np.uint64)


@dataclass(frozen=True, eq=False, slots=True)
class Fingerprint:
    """`dhash`: 64 signs of the horizontal gradient; `cells` (24, 32) uint8: mean brightness."""

    dhash: int
    cells: NDArray[np.uint8]

    @property
    def luma(self) -> float:
        """Mean brightness, 0 to 255."""
        return float(self.cells.mean())

    def to_bytes(self) -> bytes:
        """776 bytes: the hash, big-endian, then the cells row by row."""
        return self.dhash.to_bytes(8, "big") + self.cells.tobytes()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Fingerprint:
        """The inverse of `to_bytes`."""
        return cls(int.from_bytes(stored[:8], "big"), np.frombuffer(stored, np.uint8, offset=8).reshape(CELLS_HW))

    def repeats(self, other: Fingerprint, max_bits: int, max_levels: int) -> bool:
        """Whether both show the same: the hashes differ in at most `max_bits`, and no cell by more than `max_levels` of 255.

        The hash alone is blind to what is small in the picture: on a fixed camera it would call every frame a repeat.
        """
        if (self.dhash ^ other.dhash).bit_count() > max_bits:
            return False
        return int(np.abs(self.cells.astype(np.int16) - other.cells).max()) <= max_levels


def fingerprint(jpeg: bytes) -> Fingerprint | None:
    """The fingerprint of a small JPEG; None where it is none that can be decoded.

    dHash: the sign of neighbouring differences of a 9 × 8 reduction (N. Krawetz, "Kind of Like That", 2013).
    """
    grey = _grey(jpeg)
    if grey is None:
        return None
    cells = np.asarray(cv2.resize(grey, CELLS_HW[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    tiny = np.asarray(cv2.resize(cells, _HASH_WH, interpolation=cv2.INTER_AREA))
    signs = (tiny[:, 1:] > tiny[:, :-1]).ravel()
    return Fingerprint(int(_POWERS[signs].sum()), cells)


def _grey(jpeg: bytes) -> NDArray[np.uint8] | None:
    """Brightness (H, W). The bytes come from outside: the size is looked at before anything is decoded."""
    try:
        with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
            if max(picture.size) > MAX_SIDE_PX:
                return None
            picture.draft("L", None)  # colours are not even decoded
            return np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
