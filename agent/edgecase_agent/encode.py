"""JPEG of the frames that are kept, made from the decoder's own planes, with the colours that the detector saw."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edgecase_agent.source import Picture
from edgecase_models.detector import Planes, Rgb

THUMBNAIL_BYTES: Final = 16_000
THUMBNAIL_LONG_SIDE_PX: Final = 320

Channels = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]

# JFIF is BT.601 in full range; video is BT.601 in 16-235 and 16-240 (ITU-R BT.601-7, 2.5.3).
_LEVELS: Final = np.arange(256)
_FULL_LUMA: Final = np.clip(np.round((_LEVELS - 16) * (255 / 219)), 0, 255).astype(np.uint8)
_FULL_CHROMA: Final = np.clip(np.round((_LEVELS - 128) * (255 / 224) + 128), 0, 255).astype(np.uint8)


def jpeg(picture: Picture, quality: int = 85) -> bytes:
    """The whole picture; `quality` 1 to 100. 85 takes half the bytes of 95."""
    if isinstance(picture, Planes):
        if not any(side % 2 for side in picture.hw_px):
            return _encode_planes(_full_range(picture), quality)
        # Of planes of an odd size the encoder reads a row or a column too many: whatever lies there in memory.
        picture = picture.rgb()
    contiguous = np.ascontiguousarray(picture)
    return bytes(simplejpeg.encode_jpeg(contiguous, quality=quality, colorspace="RGB", colorsubsampling="420"))


def decoded(content: bytes) -> Rgb:
    """The picture of a JPEG that `jpeg` made, (H, W, 3)."""
    return np.asarray(simplejpeg.decode_jpeg(content), np.uint8)


def thumbnail(picture: Picture, limit_bytes: int = THUMBNAIL_BYTES) -> bytes:
    """A small JPEG of the picture, at most `limit_bytes` long."""
    long_side_px, quality = THUMBNAIL_LONG_SIDE_PX, 75
    while True:
        small = jpeg(_reduced(picture, long_side_px), quality)
        if len(small) <= limit_bytes or long_side_px <= 16:
            return small if len(small) <= limit_bytes else b""
        if quality > 45:
            quality -= 15
        else:
            long_side_px //= 2


def _reduced(picture: Picture, long_side_px: int) -> Picture:
    height, width = picture.hw_px if isinstance(picture, Planes) else picture.shape[:2]
    gain = min(1.0, long_side_px / max(height, width))
    size = max(2, round(width * gain / 2) * 2), max(2, round(height * gain / 2) * 2)
    if isinstance(picture, Planes):
        half = size[0] // 2, size[1] // 2
        return Planes(_area(picture.y, size), _area(picture.u, half), _area(picture.v, half), picture.full_range)
    return _area(picture, size)


def _area(plane: NDArray[np.uint8], size_wh_px: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(plane, size_wh_px, interpolation=cv2.INTER_AREA), np.uint8)


def _full_range(planes: Planes) -> Channels:
    if planes.full_range:
        return planes.y, planes.u, planes.v
    luma, chroma = _FULL_LUMA, _FULL_CHROMA
    y, u, v = cv2.LUT(planes.y, luma), cv2.LUT(planes.u, chroma), cv2.LUT(planes.v, chroma)
    return np.asarray(y, np.uint8), np.asarray(u, np.uint8), np.asarray(v, np.uint8)


def _encode_planes(channels: Channels, quality: int) -> bytes:
    y, u, v = (np.ascontiguousarray(channel) for channel in channels)
    return bytes(simplejpeg.encode_jpeg_yuv_planes(y, u, v, quality))
