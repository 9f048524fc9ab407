"""A task that a detector of a few thousand weights learns in seconds: red and green squares on grey, bright or dark."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("red", "green")
SIZE_PX = 64
COLOURS = {"red": (40, 40, 230), "green": (40, 230, 40)}

TINY_YAML = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[2, 3, 4], 1, Detect, [nc]]
"""


def picture(seed: int, *, dark: bool = False, count: int = 2) -> tuple[bytes, list[tuple[int, int, int, int, int]]]:
    """A JPEG and its boxes (class, x1, y1, x2, y2) in pixels."""
    rng = np.random.default_rng(seed)
    canvas = rng.integers(90, 140, (SIZE_PX, SIZE_PX, 3), np.uint8)
    boxes = []
    for corner in range(count):
        cls, side = int(rng.integers(2)), int(rng.integers(14, 24))
        x, y = (
            int(rng.integers(0, 32 - side + 8)) + 32 * (corner % 2) - 4 * (corner % 2),
            int(rng.integers(0, 64 - side)),
        )
        cv2.rectangle(canvas, (x, y), (x + side - 1, y + side - 1), COLOURS[CLASSES[cls]], -1)
        boxes.append((cls, x, y, x + side, y + side))
    if dark:
        canvas = (canvas * 0.25).astype(np.uint8)
    return cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes(), boxes


def folder(path: Path, count: int, *, seed: int = 0, split: str = "train", dark_every: int = 0) -> Path:
    """A folder in Ultralytics layout; every `dark_every`-th picture is dark, and the manifest says so."""
    lines = []
    for kind in ("images", "labels"):
        (path / kind / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        dark = bool(dark_every) and number % dark_every == 0
        content, boxes = picture(seed + number, dark=dark)
        name = f"{seed + number:05d}"
        (path / "images" / split / f"{name}.jpg").write_bytes(content)
        rows = [
            f"{c} {(x1 + x2) / 2 / SIZE_PX} {(y1 + y2) / 2 / SIZE_PX} {(x2 - x1) / SIZE_PX} {(y2 - y1) / SIZE_PX}"
            for c, x1, y1, x2, y2 in boxes
        ]
        (path / "labels" / split / f"{name}.txt").write_text("\n".join(rows) + "\n")
        lines.append({"image": f"images/{split}/{name}.jpg", "split": split, "condition": "dark" if dark else "light"})
    (path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ", ".join(CLASSES)
    (path / "data.yaml").write_text(f"train: images/{split}\nval: images/{split}\nnames: [{names}]\n")
    return path


def tiny_yaml(path: Path) -> Path:
    """The description of a detector with few weights, to be trained from scratch."""
    path.write_text(TINY_YAML)
    return path
