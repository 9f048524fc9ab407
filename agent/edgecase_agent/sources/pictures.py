"""A folder of pictures, in the order of their names."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import structlog

from edgecase_agent.source import PICTURE_SUFFIXES, Frame, SourceError, SourceState
from edgecase_models.detector import Rgb

log = structlog.get_logger()


class PictureFolder:
    """The .jpg and .png files of a folder, or one of them, upright as their EXIF tag says.

    Pictures have no pace of their own: they count as taken one second apart, from the first file's time on; live, they come one a second.
    `count` is how many there are.
    """

    period_s = 1.0

    def __init__(self, path: Path, *, live: bool = False) -> None:
        self.name = str(path)
        self.live = live
        self.state = SourceState.OPENING
        self._closed = threading.Event()
        self._files = pictures_in(path)
        self.count = len(self._files)

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[Frame]:
        since = datetime.fromtimestamp(self._files[0].stat().st_mtime, UTC)
        readable = 0
        for index, path in enumerate(self._files):
            picture = _read(path)
            if picture is None:
                log.warning("picture passed over", picture=str(path), cause="not a readable JPEG or PNG")
                continue
            readable += 1
            if self.live and readable > 1 and self._closed.wait(self.period_s):
                break
            captured_at = datetime.now(UTC) if self.live else since + timedelta(seconds=index * self.period_s)
            self.state = SourceState.PLAYING
            yield Frame(picture, index, captured_at, time.monotonic_ns(), not self.live)
            if self._closed.is_set():
                break
        if not readable:
            raise SourceError(
                f"source {self.name}: not one of its {len(self._files)} pictures can be read; put others there"
            )
        self.state = SourceState.ENDED


def pictures_in(path: Path) -> list[Path]:
    """The picture files of a folder in the order in which they are shown, or the one; `SourceError` where there is none."""
    if path.is_file():
        return [path]
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURE_SUFFIXES and each.is_file())
    if not files:
        raise SourceError(f"source {path}: no {', '.join(PICTURE_SUFFIXES)} files in it; put pictures there")
    return files


def _read(path: Path) -> Rgb | None:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
    except (OSError, cv2.error):
        return None
    return None if picture is None else np.asarray(picture, np.uint8)
