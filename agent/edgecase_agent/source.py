"""Pictures from a camera or a recording; what cannot be opened raises one line that names it and its cure, and no password."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote

from edgecase_models.detector import Planes, Rgb

Picture = Planes | Rgb

PICTURE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
KINDS: Final = "a video file, a folder of pictures, rtsp://, http(s)://, v4l2:///dev/video0 or sim://street"

_SECRET_PARAMETER: Final = re.compile(
    r"([?&;][^=&;]*(?:pass|pwd|token|key|secret|auth|sig|cred)[^=&;]*=)[^&;#]*", re.IGNORECASE
)


class SourceError(ValueError):
    """A source that cannot be read; the message names it without its secrets, and says what to do."""


class SourceState(StrEnum):
    """OPENING -> PLAYING -> ENDED for a recording; a camera goes PLAYING -> GONE -> PLAYING and never ends by itself."""

    OPENING = "opening"
    PLAYING = "playing"
    GONE = "gone"
    ENDED = "ended"


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One picture as the decoder gave it.

    `index` counts the source's own frames from 0, those that were passed over included. `captured_at` (aware UTC) is the wall clock for a
    camera, and for a recording the moment at which it was `recorded`, so that budgets mean the recording's time.
    """

    picture: Picture
    index: int
    captured_at: datetime
    monotonic_ns: int
    recorded: bool = False

    @property
    def hw_px(self) -> tuple[int, int]:
        picture = self.picture
        return picture.hw_px if isinstance(picture, Planes) else (int(picture.shape[0]), int(picture.shape[1]))


class Source(Protocol):
    """Frames in the order of their capture. `live`: frames that nobody takes are lost, as with any camera."""

    @property
    def name(self) -> str:
        """The address as it may be shown: without a password."""

    @property
    def live(self) -> bool: ...

    @property
    def state(self) -> SourceState: ...

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Ask the iteration to end; it may be called from any thread, and more than once."""


def open_source(uri: str, *, live: bool | None = None, max_fps: float | None = None) -> Source:
    """The source that `uri` names: a path, `file://`, `rtsp(s)://`, `http(s)://`, `v4l2:///dev/…` or `sim://street?…`.

    `live` left out is True for cameras, streams and the simulated street, False for files. A live file plays at its recorded pace; a stream
    that is not live is read to its end, once. `max_fps` passes over frames that come faster. `SourceError` where there is no such thing; a
    camera that does not answer yet is waited for.
    """
    scheme = _scheme(uri)
    source: Source
    if scheme == "sim":
        from edgecase_agent.sources.street import StreetSource

        source = StreetSource(uri, live=live)
    elif scheme in {"rtsp", "rtsps", "http", "https"} and live is not False:
        from edgecase_agent.sources.stream import StreamSource

        source = StreamSource.network(uri)
    elif scheme == "v4l2":
        from edgecase_agent.sources.stream import StreamSource

        source = StreamSource.v4l2(uri)
    elif scheme in {"rtsp", "rtsps", "http", "https"}:
        from edgecase_agent.sources.recording import Recording

        source = Recording(uri, shown(uri), live=False)
    elif scheme in {"", "file"}:
        source = _from_path(Path(unquote(uri.removeprefix("file://")) if scheme else uri), live=bool(live))
    else:
        raise SourceError(f"source {shown(uri)}: unknown scheme {scheme}://; use {KINDS}")
    return source if max_fps is None else Thinned(source, max_fps)


def shown(uri: str) -> str:
    """The address with its user, password and secret parameters struck out; where it is ambiguous, more rather than less."""
    head, mark, rest = uri.partition("://")
    if not mark:
        return uri
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = authority.rpartition(":")[2].rstrip("]") if ":" in authority else "0"
    if "@" in authority or ("@" in rest and not port.isdigit()):
        rest = "***@" + rest.rpartition("@")[2]  # the last one: a password may hold '@', '/', '?' and '#'
    rest = re.sub(_SECRET_PARAMETER, r"\1***", rest)
    return f"{head}://{rest}"


class Thinned:
    """A source slowed down to `max_fps`: frames that come sooner are passed over."""

    def __init__(self, source: Source, max_fps: float) -> None:
        if not max_fps > 0:
            raise SourceError(f"source {source.name}: max_fps must be above 0, not {max_fps}")
        self._source = source
        self._period_s = 1 / max_fps

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def live(self) -> bool:
        return self._source.live

    @property
    def state(self) -> SourceState:
        return self._source.state

    def close(self) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[Frame]:
        due_s: float | None = None
        for frame in self._source:
            now_s = frame.captured_at.timestamp()
            if due_s is None or not due_s - self._period_s <= now_s <= due_s + self._period_s:
                due_s = now_s  # the first frame, or a pause, or a clock that was set
            if now_s >= due_s - 1e-3:
                due_s += self._period_s
                yield frame


def _scheme(uri: str) -> str:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return match[1].lower() if match else ""


def _from_path(path: Path, *, live: bool) -> Source:
    if not path.exists():
        raise SourceError(f"source {path}: no such file or folder; check [source] uri, or give {KINDS}")
    if path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES:
        from edgecase_agent.sources.pictures import PictureFolder

        return PictureFolder(path, live=live)
    from edgecase_agent.sources.recording import Recording

    return Recording(f"file:{path}", str(path), live=live)
