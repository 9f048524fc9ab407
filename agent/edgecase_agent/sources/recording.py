"""A video that has an end: each of its frames once, as fast as they are taken or at the pace at which they were recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import av.container
import structlog

from edgecase_agent.source import Frame, SourceError, SourceState
from edgecase_agent.sources.decoding import UNREADABLE, NoVideo, Pace, cause_of, frames, planes_of

log = structlog.get_logger()

FALLBACK_FPS = 25.0


class Recording:
    """One video, `target` being what FFmpeg opens (`file:…` or a URL) and `name` what may be shown of it.

    Not live: `captured_at` is when the frame was recorded, from the container's creation time, else from the file's own time. Live: frames
    come at their recorded pace, stamped with the wall clock, as a camera's would.
    """

    def __init__(self, target: str, name: str, *, live: bool) -> None:
        self.name = name
        self.live = live
        self.state = SourceState.OPENING
        self._target = target
        self._closed = threading.Event()

    @property
    def count(self) -> int | None:
        """About how many frames a file holds, as its container says; None where that does not tell, and for what comes over a network."""
        if not self._target.startswith("file:"):
            return None
        with closing(self._open()) as container:
            known = container.streams.video[0].frames if container.streams.video else 0
            return known or round((container.duration or 0) / av.time_base * _rate(container)) or None

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[Frame]:
        index = -1
        with closing(self._open()) as container:
            since = _recorded_since(container, self._target)
            pace: Pace | None = None
            step_s = 1 / _rate(container)
            try:
                for index, decoded in enumerate(frames(container)):
                    if decoded.is_corrupt:
                        continue
                    media_s = decoded.time if decoded.time is not None else index * step_s
                    pace = pace or Pace(media_s)
                    if self.live and self._closed.wait(pace.early_s(media_s)):
                        break
                    captured_at = datetime.now(UTC) if self.live else since + timedelta(seconds=media_s - pace.first_s)
                    self.state = SourceState.PLAYING
                    yield Frame(planes_of(decoded), index, captured_at, time.monotonic_ns(), not self.live)
                    if self._closed.is_set():
                        break
            except NoVideo:
                raise SourceError(f"source {self.name}: holds no video; give {_CURE}") from None
            except UNREADABLE as error:
                if index < 0:
                    raise SourceError(
                        f"source {self.name}: cannot be decoded ({cause_of(error)}); give {_CURE}"
                    ) from None
                log.warning("recording ends early", source=self.name, frame_index=index, cause=cause_of(error))
        if index < 0 and not self._closed.is_set():
            raise SourceError(f"source {self.name}: not one frame can be decoded; give {_CURE}")
        self.state = SourceState.ENDED

    def _open(self) -> av.container.InputContainer:
        try:
            container = av.open(self._target, timeout=(10.0, 10.0))
        except UNREADABLE as error:
            raise SourceError(
                f"source {self.name}: cannot be read as a video ({cause_of(error)}); give {_CURE}"
            ) from None
        if container.format.name == "tty":  # FFmpeg plays any text as a teletype
            container.close()
            raise SourceError(f"source {self.name}: cannot be read as a video (it is text); give {_CURE}")
        return container


_CURE = "a file that FFmpeg plays, such as .mp4, .mkv or .avi"


def _rate(container: av.container.InputContainer) -> float:
    rate = container.streams.video[0].average_rate if container.streams.video else None
    return float(rate) if rate else FALLBACK_FPS


def _recorded_since(container: av.container.InputContainer, target: str) -> datetime:
    """When the recording began: as its container says, else its file's time less its length, else now."""
    try:
        stamp = datetime.fromisoformat(container.metadata.get("creation_time", ""))
        return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)
    except ValueError:
        pass
    if not target.startswith("file:"):
        return datetime.now(UTC)
    length_s = (container.duration or 0) / av.time_base
    return datetime.fromtimestamp(Path(target.removeprefix("file:")).stat().st_mtime - length_s, UTC)
