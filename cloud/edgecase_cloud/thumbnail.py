"""A thumbnail as a device sent it: bytes from outside, held against limits before anything is decoded."""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgecase_models.fingerprint import Fingerprint

MAX_SIDE_PX: Final = 2048  # a thumbnail is small; a header that says more would have us decode for seconds


def fingerprint(jpeg: bytes) -> Fingerprint | None:
    """The fingerprint of a small JPEG; None where it is none that can be decoded."""
    grey = _grey(jpeg)
    return None if grey is None else Fingerprint.of(grey)


def _grey(jpeg: bytes) -> NDArray[np.uint8] | None:
    """Brightness (H, W)."""
    try:
        with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
            if max(picture.size) > MAX_SIDE_PX:
                return None
            picture.draft("L", None)  # colours are not even decoded
            return np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
