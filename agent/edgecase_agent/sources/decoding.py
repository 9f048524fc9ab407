"""FFmpeg's frames as the YUV planes they are decoded to: no copy, and no full-size RGB picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import av
import av.container
import numpy as np
from av.error import FFmpegError, InvalidDataError
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from edgecase_models.detector import Planes

_AS_DECODED: Final = ("yuv420p", "yuvj420p")
_FULL_RANGE: Final = int(ColorRange.JPEG)

UNREADABLE: Final = (FFmpegError, OSError, ValueError, IndexError)
"""What PyAV raises for a place that is not there or does not hold a video."""


class NoVideo(ValueError):
    """The container holds no video stream."""


def frames(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """The pictures of the first video stream; a packet that cannot be decoded is passed over. What the decoder pieced together around
    damage comes marked `is_corrupt`: smears, which a detector doubts most and nobody should label.

    One decoder thread: on the core that the detector shares, frame threads cost 5-30 % more and hold pictures back.
    """
    if not container.streams.video:
        raise NoVideo
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "SLICE"
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except InvalidDataError:
            continue


def planes_of(frame: av.VideoFrame) -> Planes:
    """The frame as YUV 4:2:0, upright. The arrays look into FFmpeg's own buffer, which lives as long as they do."""
    full_range = frame.format.name.startswith("yuvj") or frame.color_range == _FULL_RANGE
    if frame.format.name not in _AS_DECODED:
        frame = frame.reformat(format="yuv420p", dst_color_range=ColorRange.MPEG)
        full_range = False
    y, u, v = (_plane(plane) for plane in frame.planes)
    turns = round(frame.rotation / 90) % 4
    if turns:
        y, u, v = (np.ascontiguousarray(np.rot90(plane, turns)) for plane in (y, u, v))
    return Planes(y, u, v, full_range)


def _plane(plane: VideoPlane) -> NDArray[np.uint8]:
    buffer = memoryview(plane)
    rows: NDArray[np.uint8] = np.frombuffer(buffer, np.uint8)[: plane.height * plane.line_size]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width]


class Pace:
    """When each picture of a recording is due, counted from the moment of the first."""

    def __init__(self, first_s: float) -> None:
        self.first_s = first_s
        self._began_s = time.monotonic()

    def early_s(self, media_s: float) -> float:
        """How long the picture stamped `media_s` has to wait; 0 where it is late."""
        return max(0.0, self._began_s + media_s - self.first_s - time.monotonic())


def cause_of(error: BaseException) -> str:
    """What went wrong, without the address: FFmpeg's own messages repeat it, password and all."""
    text = getattr(error, "strerror", None) or (type(error).__name__ if isinstance(error, OSError) else str(error))
    return str(text).splitlines()[0][:200] if text else type(error).__name__
