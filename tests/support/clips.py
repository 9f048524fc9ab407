"""Little videos with real codecs, made where they are needed: a red and a green square on grey, moving from frame to frame."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

RED, GREEN, GREY = (220, 20, 20), (20, 220, 20), (90, 90, 90)


def squares(index: int, height: int = 128, width: int = 128) -> NDArray[np.uint8]:
    """A red square that moves right and a green one that moves left, 32 pixels wide, on grey."""
    picture = np.full((height, width, 3), GREY, np.uint8)
    right = (8 + 4 * index) % max(1, width - 32)
    left = (width - 40 - 4 * index) % max(1, width - 32)
    picture[16:48, right : right + 32] = RED
    picture[80:112, left : left + 32] = GREEN
    return picture


def plain(colour: tuple[int, int, int], height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def write_clip(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    fps: int = 10,
    full_range: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode RGB pictures (H, W, 3); the container is chosen by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.pix_fmt = pix_fmt
        stream.codec_context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        if codec in {"mpeg4", "mjpeg"}:
            stream.codec_context.qmin = stream.codec_context.qmax = 2
        for index, picture in enumerate(pictures):
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
            levels = ColorRange.JPEG if full_range else ColorRange.MPEG
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt, dst_color_range=levels)
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
