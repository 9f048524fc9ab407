"""The simulated street as a camera: at its own pace like a real one, or frame by frame as a recording."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from edgecase_agent.source import Frame, SourceError, SourceState

if TYPE_CHECKING:
    from edgecase_models.street import Truth

_SWITCHES: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class StreetSource:
    """`sim://street?…` with two keys of its own: `live` (default true) and `frames` (default: without end).

    `count` is how many frames there will be, None without end. `Frame.index` is the street's own frame index, by which its truth can be
    asked for. Live, a street that draws too slowly passes over indices instead of lagging; not live, every index is drawn and stamped
    from the moment of opening on.
    """

    def __init__(self, uri: str, *, live: bool | None = None) -> None:
        from edgecase_models.street import Street, StreetError, StreetSpec

        parts = urlsplit(uri)
        keys = parse_qsl(parts.query, keep_blank_values=True)
        own = dict(pair for pair in keys if pair[0] in {"live", "frames"})
        query = urlencode([pair for pair in keys if pair[0] not in own], safe=":,.")
        try:
            self._spec = StreetSpec.from_uri(urlunsplit(parts._replace(query=query)))
            self._street = Street(self._spec)
        except StreetError as error:
            raise SourceError(f"source {uri}: {error}") from error
        self.name = uri
        self.live = _switch(uri, own.get("live", "true")) if live is None else live
        self.state = SourceState.OPENING
        self.count = _count(uri, own["frames"]) if "frames" in own else None
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def truth(self, index: int) -> Truth:
        """What is really in the frame of this index."""
        return self._street.truth(index)

    def __iter__(self) -> Iterator[Frame]:
        since, since_s = datetime.now(UTC), time.monotonic()
        index = 0
        while (self.count is None or index < self.count) and not self._closed.is_set():
            if self.live and self._closed.wait(max(0.0, since_s + index / self._spec.fps - time.monotonic())):
                break
            picture, _ = self._street.frame(index)
            captured_at = datetime.now(UTC) if self.live else since + timedelta(seconds=index / self._spec.fps)
            self.state = SourceState.PLAYING
            yield Frame(picture, index, captured_at, time.monotonic_ns(), not self.live)
            on_time = int((time.monotonic() - since_s) * self._spec.fps)
            index = max(index + 1, on_time) if self.live else index + 1
        self.state = SourceState.ENDED


def _switch(uri: str, text: str) -> bool:
    if text.lower() not in _SWITCHES:
        raise SourceError(f"source {uri}: live={text!r} must be true or false")
    return _SWITCHES[text.lower()]


def _count(uri: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise SourceError(f"source {uri}: frames={text!r} must be a whole number above 0")
    return int(text)
