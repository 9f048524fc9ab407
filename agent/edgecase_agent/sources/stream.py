"""A camera: its newest pictures for as long as the device runs. When it is gone it is waited for, with ever longer pauses."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import av
import structlog

from edgecase_agent.source import Frame, SourceError, SourceState, shown
from edgecase_agent.sources.decoding import UNREADABLE, NoVideo, Pace, cause_of, frames, planes_of

log = structlog.get_logger()

_V4L2_OPTIONS: Final = {"size": "video_size", "fps": "framerate", "format": "input_format"}
_NETWORK_OPTIONS: Final = {
    "rtsp_transport": "tcp",
    "max_delay": "500000",
    # A stream may name others (an HLS playlist does); it must not name files of this device.
    "protocol_whitelist": "http,https,tcp,tls,udp,rtp,rtsp,rtsps,hls,crypto,httpproxy",
}


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: doubled from `first_s` up to `longest_s`, each a random half to whole of that.

    The jitter keeps a fleet from knocking all at once when its network comes back.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    chance: random.Random = field(default_factory=random.Random, compare=False)

    def pause_s(self, attempt: int) -> float:
        """The pause after failed attempt number `attempt`, counted from 0."""
        whole_s = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return whole_s * self.chance.uniform(0.5, 1.0)


class StreamSource:
    """A network or V4L2 camera. The iteration ends only after `close()`; an outage is a state and two events in the log.

    A recording behind a URL is played at its own pace, again and again.
    """

    live = True

    def __init__(
        self,
        target: str,
        name: str,
        *,
        kind: str | None = None,
        options: dict[str, str] | None = None,
        timeout_s: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        """`target` is what FFmpeg opens, `name` what may be shown of it, `kind` the input format where it must be named."""
        self.name = name
        self.state = SourceState.OPENING
        self.outages = 0
        self._target = target
        self._kind = kind
        self._options = options or {}
        self._timeout_s = timeout_s
        self._backoff = backoff or Backoff()
        self._closed = threading.Event()
        self._index = 0

    @classmethod
    def network(cls, uri: str, *, timeout_s: float = 10.0, backoff: Backoff | None = None) -> StreamSource:
        """An RTSP or HTTP camera. `timeout_s` without a packet counts as gone."""
        if not urlsplit(uri).hostname:
            raise SourceError(f"source {shown(uri)}: names no host; write rtsp://host:554/path")
        return cls(uri, shown(uri), options=_NETWORK_OPTIONS, timeout_s=timeout_s, backoff=backoff)

    @classmethod
    def v4l2(cls, uri: str, *, timeout_s: float = 10.0, backoff: Backoff | None = None) -> StreamSource:
        """`v4l2:///dev/video0?size=1280x720&fps=30&format=mjpeg`; every key may be left out."""
        parts = urlsplit(uri)
        if parts.netloc or not parts.path.startswith("/dev/"):
            raise SourceError(f"source {uri}: names no device; write v4l2:///dev/video0")
        options = {}
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            if key not in _V4L2_OPTIONS:
                raise SourceError(f"source {uri}: unknown key {key!r}; v4l2 takes {', '.join(_V4L2_OPTIONS)}")
            options[_V4L2_OPTIONS[key]] = value
        return cls(parts.path, uri, kind="v4l2", options=options, timeout_s=timeout_s, backoff=backoff)

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[Frame]:
        attempt, gone_since_s = 0, time.monotonic()
        while not self._closed.is_set():
            try:
                for frame in self._connection():
                    if self.state is not SourceState.PLAYING:
                        self._came(gone_since_s)
                        attempt = 0
                    yield frame
                    if self._closed.is_set():
                        break
                else:
                    self._went("the stream ended")
            except NoVideo:
                self._went("the stream holds no video")
            except UNREADABLE as error:
                self._went(cause_of(error))
            if attempt == 0:
                gone_since_s = time.monotonic()
            self._closed.wait(self._backoff.pause_s(attempt))
            attempt += 1
        self.state = SourceState.ENDED

    def _connection(self) -> Iterator[Frame]:
        limits = (self._timeout_s, self._timeout_s)
        opened = av.open(self._target, format=self._kind, options=dict(self._options), timeout=limits)
        with closing(opened) as container:
            pace: Pace | None = None
            paced = bool(container.duration)  # a recording behind a URL: it would come as fast as the network is
            for decoded in frames(container):
                if decoded.is_corrupt:
                    continue
                if paced and decoded.time is not None:
                    pace = pace or Pace(decoded.time)
                    self._closed.wait(pace.early_s(decoded.time))
                yield Frame(planes_of(decoded), self._index, datetime.now(UTC), time.monotonic_ns())
                self._index += 1

    def _came(self, gone_since_s: float) -> None:
        if self.state is SourceState.GONE:
            log.info("camera back", source=self.name, away_s=round(time.monotonic() - gone_since_s, 1))
        self.state = SourceState.PLAYING

    def _went(self, cause: str) -> None:
        if self._closed.is_set():
            return
        if self.state is not SourceState.GONE:
            self.outages += 1
            log.warning("camera gone", source=self.name, cause=cause)
        self.state = SourceState.GONE
