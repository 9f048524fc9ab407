"""Pictures for the tiny detector: grey noise with red and green cells, some of them doubtful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg


def a_folder(folder: Path, count: int, *, seed: int = 0) -> Path:
    """`count` JPEG files of 128 x 128, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for number in range(count):
        picture = chance.integers(60, 90, (128, 128, 3), np.uint8)
        for _ in range(chance.integers(1, 6)):
            row, column = (int(place) * 16 for place in chance.integers(0, 8, 2))
            colour = int(chance.integers(0, 2))
            picture[row : row + 16, column : column + 16] = 0
            picture[row : row + 16, column : column + 16, colour] = chance.integers(40, 256)
        (folder / f"{number:05}.jpg").write_bytes(simplejpeg.encode_jpeg(picture, 95, "RGB", "444"))
    return folder
