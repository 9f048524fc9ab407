"""What the loop is promised of its frames: a recording whole, a camera's newest, and the reader's troubles."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from edgecase_agent.latest import EachFrame, NewestFrame, Nothing, feed_of
from edgecase_agent.source import Frame, SourceState
from support.wait import until


def frame(index: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), index, datetime.now(UTC), index)


class Camera:
    """A camera whose shutter the test holds: each `shoot` lets one frame out."""

    def __init__(self, frames: int, *, live: bool = True, trouble: Exception | None = None) -> None:
        self.name = "camera"
        self.live = live
        self.state = SourceState.PLAYING
        self.given = 0
        self._frames = frames
        self._trouble = trouble
        self._shutter = threading.Semaphore(0)
        self._closed = False

    def shoot(self, frames: int) -> None:
        for _ in range(frames):
            self._shutter.release()

    def close(self) -> None:
        self._closed = True
        self._shutter.release()

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            if self.live:
                self._shutter.acquire()
            if self._closed:
                return
            yield frame(index)
            self.given += 1
        if self._trouble is not None:
            raise self._trouble


def test_a_slow_loop_gets_the_newest_frame_and_skips_the_others() -> None:
    camera = Camera(100)
    feed = NewestFrame(camera)
    camera.shoot(1)
    first = feed.take(5)
    assert isinstance(first, Frame)
    assert first.index == 0
    camera.shoot(9)
    until(lambda: camera.given == 10, what="nine more frames")
    newest = feed.take(5)
    assert isinstance(newest, Frame)
    assert newest.index == 9
    assert feed.skipped == 8
    feed.close()


def test_no_frame_is_given_twice() -> None:
    camera = Camera(100)
    feed = NewestFrame(camera)
    camera.shoot(1)
    assert isinstance(feed.take(5), Frame)
    assert feed.take(0) is Nothing.YET
    feed.close()


def test_the_end_of_a_camera_comes_after_its_last_frame() -> None:
    camera = Camera(1)
    feed = NewestFrame(camera)
    camera.shoot(1)
    assert isinstance(feed.take(5), Frame)
    assert feed.take(5) is Nothing.MORE
    assert feed.take(0) is Nothing.MORE


def test_the_readers_exception_reaches_the_loop_after_the_last_frame() -> None:
    camera = Camera(1, trouble=OSError("the driver is gone"))
    feed = NewestFrame(camera)
    camera.shoot(1)
    assert isinstance(feed.take(5), Frame)
    with pytest.raises(OSError, match="the driver is gone"):
        feed.take(5)


def test_closing_ends_the_reader() -> None:
    before = threading.active_count()
    feed = NewestFrame(Camera(10))
    feed.close()
    assert threading.active_count() == before
    assert feed.take(5) is Nothing.MORE


def test_a_recording_gives_every_frame_and_its_exception() -> None:
    feed = EachFrame(Camera(3, live=False, trouble=ValueError("torn")))
    assert [taken.index for taken in (feed.take(0) for _ in range(3)) if isinstance(taken, Frame)] == [0, 1, 2]
    with pytest.raises(ValueError, match="torn"):
        feed.take(0)
    assert feed.skipped == 0


def test_a_camera_is_read_for_its_newest_frame_and_a_recording_for_each() -> None:
    live, recorded = feed_of(Camera(0)), feed_of(Camera(0, live=False))
    assert isinstance(live, NewestFrame)
    assert isinstance(recorded, EachFrame)
    live.close()
