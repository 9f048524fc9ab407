"""How the loop gets its frames: each one of a recording, the newest of a camera. A slow model skips frames instead of lagging."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from enum import Enum
from typing import Final, Protocol

from edgecase_agent.source import Frame, Source


class Nothing(Enum):
    """Why there is no frame: none came in time, or none will come any more."""

    YET = "yet"
    MORE = "more"


class Feed(Protocol):
    """Where `Watch` takes its frames from."""

    @property
    def skipped(self) -> int: ...

    def take(self, timeout_s: float) -> Frame | Nothing:
        """The next frame; `Nothing.YET` after `timeout_s`, `Nothing.MORE` at the end. What the source raises is raised here."""

    def close(self) -> None: ...


def feed_of(source: Source) -> Feed:
    """The newest frame of a live source, every frame of a recording."""
    return NewestFrame(source) if source.live else EachFrame(source)


class EachFrame:
    """A recording, frame by frame, at the speed of whoever takes them."""

    skipped: Final = 0

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frames = iter(source)

    def take(self, timeout_s: float) -> Frame | Nothing:  # noqa: ARG002 (a recording does not keep one waiting)
        return next(self._frames, Nothing.MORE)

    def close(self) -> None:
        self._source.close()
        if isinstance(self._frames, Generator):
            self._frames.close()


class NewestFrame:
    """A camera, read by a thread of its own into a slot that holds one frame, the newest; `skipped` counts those that nobody took."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._skipped = 0
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    @property
    def skipped(self) -> int:
        return self._skipped

    def take(self, timeout_s: float) -> Frame | Nothing:
        """The newest frame that was not taken yet. An exception of the reader comes once the last frame is taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout_s)
            frame, self._frame = self._frame, None
            if frame is not None:
                return frame
            if self._error is not None:
                raise self._error
            return Nothing.MORE if self._ended else Nothing.YET

    def close(self, timeout_s: float = 2.0) -> None:
        """End the reader. One that hangs in a driver or a dead connection is left to end with the process."""
        self._source.close()
        self._thread.join(timeout_s)

    def _read(self) -> None:
        frames: Iterator[Frame] = iter(self._source)
        try:
            for frame in frames:
                with self._changed:
                    self._skipped += self._frame is not None
                    self._frame = frame
                    self._changed.notify()
        except BaseException as error:  # noqa: BLE001 (raised again in take(), by the loop)
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()
