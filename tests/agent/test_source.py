"""What a source promises: each picture as it was recorded, a camera that is waited for, one line for what cannot be read, no password."""

from __future__ import annotations

import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from structlog.testing import capture_logs

from edgecase_agent.source import Frame, Source, SourceError, SourceState, open_source, shown
from edgecase_agent.sources.stream import Backoff, StreamSource
from edgecase_models.detector import Planes
from support.clips import plain, squares, write_clip
from support.http_server import serving
from support.rtsp import rtsp_camera
from support.wait import until

QUICK = Backoff(first_s=0.01, longest_s=0.05)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", (squares(index) for index in range(12)), metadata={})


def rgb(frame: Frame) -> np.ndarray:
    return frame.picture.rgb() if isinstance(frame.picture, Planes) else frame.picture


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", ".avi"), ("mpeg4", ".mp4"), ("libx264", ".mkv")])
def test_a_recording_gives_each_of_its_frames_once_and_in_order(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", (squares(index) for index in range(12)), codec=codec)
    source = open_source(str(path))
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(12))
    assert not source.live
    assert source.state is SourceState.ENDED
    for index in (0, 5, 11):
        assert np.abs(rgb(frames[index]).astype(int) - squares(index)).mean() < 6


def test_frames_can_be_kept_after_the_source_has_gone_on(clip: Path) -> None:
    first, *_, last = open_source(str(clip))
    assert np.abs(rgb(first).astype(int) - squares(0)).mean() < 6
    assert np.abs(rgb(last).astype(int) - squares(11)).mean() < 6


def test_a_recording_is_dated_by_its_container(tmp_path: Path) -> None:
    made = {"creation_time": "2026-03-01T12:00:00.000000Z"}
    path = write_clip(tmp_path / "dated.mp4", (squares(index) for index in range(5)), fps=5, metadata=made)
    expected = [datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=0.2 * index) for index in range(5)]
    frames = list(open_source(str(path)))
    assert [frame.captured_at for frame in frames] == expected
    assert all(frame.recorded for frame in frames), "so that nobody takes it for the device's clock"


def test_a_recording_without_a_date_ends_when_its_file_was_last_written(clip: Path) -> None:
    written = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    os.utime(clip, (written, written))
    frames = list(open_source(str(clip)))
    assert frames[0].captured_at.timestamp() == pytest.approx(written - 1.2, abs=0.2)
    assert frames[-1].captured_at - frames[0].captured_at == timedelta(seconds=1.1)


def test_a_live_file_comes_at_its_recorded_pace_with_the_wall_clock(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", (squares(index) for index in range(4)), fps=20)
    before = datetime.now(UTC)
    frames = list(open_source(str(path), live=True))
    assert len(frames) == 4
    assert not any(frame.recorded for frame in frames)
    assert before <= frames[0].captured_at <= frames[-1].captured_at <= datetime.now(UTC)
    assert frames[-1].captured_at - before >= timedelta(seconds=0.15)


@pytest.mark.parametrize("make_uri", [str, lambda path: path.as_uri()])
def test_a_file_is_named_by_its_path_or_as_a_uri(tmp_path: Path, make_uri: Callable[[Path], str]) -> None:
    path = write_clip(tmp_path / "two words.mp4", [squares(0)])
    assert len(list(open_source(make_uri(path)))) == 1


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt", "full_range"),
    [
        ("libx264", ".mp4", "yuv420p", False),
        ("libx264", ".mp4", "yuv420p", True),
        ("libx264", ".mkv", "yuv444p", False),
        ("libx264", ".mkv", "yuv420p10le", False),
        ("mjpeg", ".avi", "yuvj420p", True),
        ("mjpeg", ".avi", "yuvj422p", True),
        ("rawvideo", ".nut", "yuyv422", False),
        ("rawvideo", ".nut", "nv12", False),
        ("rawvideo", ".nut", "rgb24", False),
        ("ffv1", ".mkv", "bgra", False),
    ],
)
def test_colours_are_right_in_every_pixel_format(
    tmp_path: Path, codec: str, suffix: str, pix_fmt: str, full_range: bool
) -> None:
    for colour in ((200, 50, 20), (10, 30, 240), (255, 255, 255), (0, 0, 0)):
        path = write_clip(
            tmp_path / f"clip{suffix}", [plain(colour)], codec=codec, pix_fmt=pix_fmt, full_range=full_range
        )
        (frame,) = open_source(str(path))
        assert np.abs(rgb(frame).astype(int) - colour).max() <= 6


def test_a_grey_camera_stays_grey(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.nut", [plain((130, 130, 130))], codec="rawvideo", pix_fmt="gray")
    (frame,) = open_source(str(path))
    assert np.abs(rgb(frame).astype(int) - 130).max() <= 2


def test_odd_sizes_lose_no_row_and_no_column(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", [squares(0, 129, 133)], codec="ffv1")
    (frame,) = open_source(str(path))
    assert frame.hw_px == (129, 133)
    assert rgb(frame).shape == (129, 133, 3)
    assert np.abs(rgb(frame).astype(int) - squares(0, 129, 133)).mean() < 6


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_telephone_held_upright_gives_upright_pictures(tmp_path: Path, degrees: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", [squares(0, 128, 192)])
    turn_display_matrix(path, degrees)
    (frame,) = open_source(str(path))
    capture = cv2.VideoCapture(str(path))
    _, expected = capture.read()
    capture.release()
    assert rgb(frame).shape == expected.shape
    assert np.abs(rgb(frame).astype(int) - expected[:, :, ::-1]).mean() < 6


def turn_display_matrix(path: Path, degrees: int) -> None:
    """Write a rotation into the track header of an MP4 file (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    cos, sin = (round(f(math.radians(degrees))) << 16 for f in (math.cos, math.sin))
    data[start : start + 36] = struct.pack(">9i", cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_damage_inside_a_recording_costs_frames_but_not_the_rest(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", (squares(index) for index in range(60)))
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    frames = list(open_source(str(path)))
    assert len(frames) >= 50
    assert np.abs(rgb(frames[0]).astype(int) - squares(0)).mean() < 6


def test_a_truncated_recording_gives_what_is_left_of_it(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", (squares(index) for index in range(60)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 10 <= len(list(open_source(str(path)))) < 60


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "absent.mp4", "no such file"),
        (lambda folder: written(folder / "noise.mp4", os.urandom(5000)), "cannot be read as a video"),
        (lambda folder: written(folder / "empty.mp4", b""), "cannot be read as a video"),
        (lambda folder: written(folder / "letter.txt", b"Dear camera,\n" * 50), "cannot be"),
        (lambda folder: folder, "put pictures there"),
        (lambda folder: written(folder / "a.jpg", b"no jpeg"), "can be read"),
        (lambda folder: silent_film(folder / "sound.wav"), "holds no video"),
        (lambda _: "ftp://host/a.mp4", "unknown scheme ftp"),
        (lambda _: "rtsp:///path", "names no host"),
        (lambda _: "v4l2://video0", "write v4l2:///dev/video0"),
        (lambda _: "v4l2:///dev/video0?sise=1x1", "unknown key 'sise'"),
        (lambda _: "sim://street?sceen=day", "did you mean 'scene'"),
        (lambda _: "sim://street?live=perhaps", "must be true or false"),
        (lambda _: "sim://street?frames=0", "must be a whole number above 0"),
        (lambda _: "sim://avenue", "sim://street"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line_with_its_cure(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    uri = str(make(tmp_path))
    with pytest.raises(SourceError) as raised:
        list(open_source(uri))
    message = str(raised.value)
    assert says in message
    assert uri.partition("?")[0] in message
    assert "\n" not in message


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def silent_film(path: Path) -> Path:
    size = 8000
    header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, 8000, 8000, 1, 8, b"data", size)
    return written(path, header + bytes(size))


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_pictures_by_name_one_second_apart(tmp_path: Path) -> None:
    for name, level in (("b.png", 60), ("a.jpg", 30), ("c.JPEG", 90)):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), level, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    frames = list(open_source(str(tmp_path)))
    assert [round(float(rgb(frame).mean())) for frame in frames] == [30, 60, 90]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[2].captured_at - frames[0].captured_at == timedelta(seconds=2)


def test_a_picture_has_its_colours_in_order(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((20, 30, 3), (10, 20, 200), np.uint8))  # OpenCV writes BGR
    (frame,) = open_source(str(path))
    assert rgb(frame)[0, 0].tolist() == [200, 20, 10]


def test_an_unreadable_picture_is_passed_over_and_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), plain((1, 2, 3)))
    (tmp_path / "b.png").write_bytes(b"torn")
    with capture_logs() as logs:
        frames = list(open_source(str(tmp_path)))
    assert [frame.index for frame in frames] == [0]
    assert [entry["picture"] for entry in logs] == [str(tmp_path / "b.png")]


# ---- cameras -------------------------------------------------------------------------------------------------------


@contextmanager
def server(folder: Path, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """A real HTTP server for a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    served = ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=str(folder)))
    with serving(served):
        yield served


@contextmanager
def reading(source: Source) -> Iterator[list[Frame]]:
    """The frames that a thread of its own gets from a camera, until the block ends."""
    seen: list[Frame] = []

    def follow() -> None:
        for frame in source:
            seen.append(frame)  # noqa: PERF402 (the test looks at the list while it grows)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        source.close()
        thread.join(20)
    assert not thread.is_alive()
    assert source.state is SourceState.ENDED


@pytest.fixture
def quick_clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "quick.mp4", (squares(index) for index in range(12)), fps=120)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_stream_that_ends_is_opened_again_and_its_frames_go_on_counting(quick_clip: Path) -> None:
    with server(quick_clip.parent) as served, capture_logs() as logs:
        uri = f"http://127.0.0.1:{served.server_port}/{quick_clip.name}"
        with reading(StreamSource.network(uri, backoff=QUICK)) as seen:
            until(lambda: len(seen) > 30, what="frames of a third connection")
    assert [frame.index for frame in seen] == list(range(len(seen)))
    events = [entry["event"] for entry in logs]
    assert events[:3] == ["camera gone", "camera back", "camera gone"]


def test_a_camera_that_goes_away_is_waited_for(quick_clip: Path) -> None:
    with capture_logs():
        with server(quick_clip.parent) as served:
            port = served.server_port
            source = StreamSource.network(f"http://127.0.0.1:{port}/{quick_clip.name}", backoff=QUICK)
            reader = reading(source)
            seen = reader.__enter__()
            until(lambda: len(seen) > 3, what="the first frames")
        until(lambda: source.state is SourceState.GONE, what="the outage")
        before = len(seen)
        with server(quick_clip.parent, port):
            until(lambda: len(seen) > before + 3, what="frames after the outage")
            reader.__exit__(None, None, None)


def test_a_recording_behind_an_address_is_played_at_its_own_pace(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", (squares(index) for index in range(6)), fps=20)
    with server(tmp_path) as served:
        source = StreamSource.network(f"http://127.0.0.1:{served.server_port}/{path.name}", backoff=QUICK)
        before = datetime.now(UTC)
        with capture_logs(), reading(source) as seen:
            until(lambda: len(seen) >= 6, what="the whole clip")
    assert seen[5].captured_at - before >= timedelta(seconds=0.25)
    assert np.abs(rgb(seen[0]).astype(int) - squares(0)).mean() < 6  # what was read to learn the format is not lost


def test_an_rtsp_camera_is_played_with_its_password_and_waited_for_while_it_is_away() -> None:
    login = "admin:hunter2"
    with capture_logs() as logs:
        with rtsp_camera(login=login) as camera:
            port = camera.port
            source = StreamSource.network(f"rtsp://{login}@127.0.0.1:{port}/live", timeout_s=5, backoff=QUICK)
            reader = reading(source)
            seen = reader.__enter__()
            until(lambda: len(seen) > 5, what="the first frames")
        until(lambda: source.state is SourceState.GONE, what="the outage")
        before = len(seen)
        with rtsp_camera(port, login):
            until(lambda: len(seen) > before + 5, what="frames after the outage")
            reader.__exit__(None, None, None)
    assert [frame.index for frame in seen] == list(range(len(seen)))
    assert np.abs(rgb(seen[0]).astype(int) - squares(0)).mean() < 12
    assert [entry["event"] for entry in logs] == ["camera gone", "camera back"]
    assert "hunter2" not in repr(logs)


def test_an_rtsp_camera_with_another_password_is_told_as_such() -> None:
    with rtsp_camera(login="admin:right") as camera, capture_logs() as logs:
        source = StreamSource.network(f"rtsp://admin:wrong@127.0.0.1:{camera.port}/live", timeout_s=5, backoff=QUICK)
        with reading(source):
            until(lambda: source.state is SourceState.GONE, what="the refusal")
    assert "nauthorized" in logs[0]["cause"]
    assert "wrong" not in repr(logs)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_camera_that_never_answers_is_waited_for_and_its_password_told_to_nobody(scheme: str) -> None:
    uri = f"{scheme}://admin:hunter2@127.0.0.1:{closed_port()}/live?token=hunter2"
    source = StreamSource.network(uri, timeout_s=2, backoff=QUICK)
    with capture_logs() as logs, reading(source) as seen:
        until(lambda: source.state is SourceState.GONE, what="the outage")
    assert seen == []
    assert [entry["event"] for entry in logs] == ["camera gone"]
    assert "hunter2" not in repr(logs)
    assert "127.0.0.1" in logs[0]["source"]


def test_a_stream_read_once_tells_no_password_either() -> None:
    source = open_source(f"http://admin:hunter2@127.0.0.1:{closed_port()}/clip.mp4", live=False)
    with pytest.raises(SourceError) as raised:
        list(source)
    assert "hunter2" not in repr(raised.value)
    assert raised.value.__suppress_context__


def test_a_stream_that_is_not_live_is_read_to_its_end_once(clip: Path) -> None:
    with server(clip.parent) as served:
        frames = list(open_source(f"http://127.0.0.1:{served.server_port}/{clip.name}", live=False))
    assert len(frames) == 12


def test_a_missing_video_device_is_waited_for() -> None:
    source = StreamSource.v4l2("v4l2:///dev/video987?size=640x480&fps=30&format=mjpeg", backoff=QUICK)
    assert source.live
    with capture_logs() as logs, reading(source):
        until(lambda: source.state is SourceState.GONE, what="the outage")
    assert logs[0]["event"] == "camera gone"


def test_pauses_grow_to_a_limit_and_differ_between_devices() -> None:
    pauses = [Backoff(first_s=1, longest_s=30).pause_s(attempt) for attempt in range(40)]
    assert all(0.5 * min(30, 2**n) <= pause <= min(30, 2**n) for n, pause in enumerate(pauses))
    assert len(set(pauses)) > 30


@pytest.mark.parametrize(
    ("uri", "as_shown"),
    [
        ("rtsp://cam.local:554/live", "rtsp://cam.local:554/live"),
        ("rtsp://admin:secret@cam:554/live", "rtsp://***@cam:554/live"),
        ("rtsp://admin:se@cr/et@cam/live", "rtsp://***@cam/live"),
        ("rtsp://admin:se/cret@cam/live", "rtsp://***@cam/live"),
        ("http://secret@cam/a", "http://***@cam/a"),
        ("http://cam/a@2x.mp4", "http://cam/a@2x.mp4"),
        ("http://cam:80/a@2x.mp4", "http://cam:80/a@2x.mp4"),
        ("http://cam/a?user=x&Password=secret&n=1", "http://cam/a?user=x&Password=***&n=1"),
        ("http://cam/a?access_token=secret#part", "http://cam/a?access_token=***#part"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://[::1]/a@b", "http://[::1]/a@b"),
        ("rtsp://admin:secret@cam/a?b=c@d", "rtsp://***@d"),
        ("/a/b@c.mp4", "/a/b@c.mp4"),
    ],
)
def test_what_is_shown_of_an_address_holds_no_secret(uri: str, as_shown: str) -> None:
    assert shown(uri) == as_shown


# ---- the simulated street ------------------------------------------------------------------------------------------


def test_a_recorded_street_is_the_street_frame_by_frame() -> None:
    from edgecase_models.street import Street, StreetSpec

    uri = "sim://street?seed=3&scene=day:4,night&width=160&height=90&fps=5"
    frames = list(open_source(f"{uri}&live=false&frames=4"))
    street = Street(StreetSpec.from_uri(uri))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert all((frame.picture == street.frame(frame.index)[0]).all() for frame in frames)
    assert frames[3].captured_at - frames[0].captured_at == timedelta(seconds=0.6)


def test_a_live_street_keeps_its_pace_and_passes_over_what_it_cannot_draw_in_time() -> None:
    source = open_source("sim://street?width=320&height=180&fps=100&frames=60")
    assert source.live
    began = time.monotonic()
    frames = list(source)
    assert time.monotonic() - began >= frames[-1].index / 100 - 0.02
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))


# ---- the rate ------------------------------------------------------------------------------------------------------


def test_a_rate_limit_passes_over_frames_evenly(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", (squares(index) for index in range(30)), fps=30)
    frames = list(open_source(str(path), max_fps=10))
    assert [frame.index for frame in frames] == list(range(0, 30, 3))
    assert len(list(open_source(str(path), max_fps=20))) == 20
    assert len(list(open_source(str(path), max_fps=60))) == 30


def test_a_rate_limit_of_nothing_is_refused(clip: Path) -> None:
    with pytest.raises(SourceError, match="max_fps"):
        open_source(str(clip), max_fps=0)
