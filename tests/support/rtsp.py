"""A small RTSP camera (RFC 2326, RTP over the same TCP connection): H.264 from FFmpeg's own RTP packer, one viewer at a time."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av

from support.clips import squares

SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 0.0.0.0
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
"""


class RtspCamera:
    """Serves moving squares to whoever plays, until it is closed; with a password it asks for it (Basic)."""

    def __init__(self, port: int = 0, login: str = "", fps: int = 50) -> None:
        self._login = login
        self._fps = fps
        self._closed = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", port))
        self._socket.settimeout(0.05)
        self.port = int(self._socket.getsockname()[1])
        self.viewers = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                viewer, _ = self._socket.accept()
            except TimeoutError:
                continue
            with viewer, contextlib.suppress(OSError, EOFError):
                viewer.settimeout(5)
                self._talk(viewer)

    def _talk(self, viewer: socket.socket) -> None:
        stream = viewer.makefile("rb")
        while not self._closed.is_set():
            method, headers = self._request(stream)
            answer = {"CSeq": headers.get("cseq", "0")}
            body = ""
            if (
                self._login
                and headers.get("authorization", "") != f"Basic {base64.b64encode(self._login.encode()).decode()}"
            ):
                self._answer(viewer, "401 Unauthorized", answer | {"WWW-Authenticate": 'Basic realm="camera"'}, "")
                continue
            if method == "OPTIONS":
                answer["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"
            elif method == "DESCRIBE":
                answer["Content-Type"], body = "application/sdp", SDP.replace("\n", "\r\n")
            elif method == "SETUP":
                answer |= {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1", "Session": "1"}
            elif method == "PLAY":
                answer["Session"] = "1"
            self._answer(viewer, "200 OK", answer, body)
            if method == "PLAY":
                self.viewers += 1
                self._play(viewer)
            if method in {"PLAY", "TEARDOWN"}:
                return

    @staticmethod
    def _request(stream: socket.SocketIO) -> tuple[str, dict[str, str]]:
        first = stream.readline().decode()
        if not first:
            raise EOFError
        headers = {}
        while line := stream.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return first.split()[0], headers

    @staticmethod
    def _answer(viewer: socket.socket, status: str, headers: dict[str, str], body: str) -> None:
        lines = [f"RTSP/1.0 {status}", *(f"{key}: {value}" for key, value in headers.items())]
        viewer.sendall("\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode())

    def _play(self, viewer: socket.socket) -> None:
        """FFmpeg packs RTP to a UDP port of ours; each packet goes on over the viewer's connection."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
            inbox.bind(("127.0.0.1", 0))
            inbox.setblocking(False)
            target = f"rtp://127.0.0.1:{inbox.getsockname()[1]}"
            with av.open(target, "w", format="rtp") as packer:
                video = packer.add_stream("libx264", rate=self._fps, options={"tune": "zerolatency", "g": "5"})
                video.height, video.width, video.pix_fmt = 128, 128, "yuv420p"
                index = 0
                while not self._closed.wait(1 / self._fps):
                    frame = av.VideoFrame.from_ndarray(squares(index), "rgb24").reformat(format="yuv420p")
                    frame.pts, frame.time_base = index, Fraction(1, self._fps)
                    packer.mux(video.encode(frame))
                    index += 1
                    for packet in _waiting(inbox):
                        viewer.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)


def _waiting(inbox: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield inbox.recv(65536)


@contextmanager
def rtsp_camera(port: int = 0, login: str = "") -> Iterator[RtspCamera]:
    """A camera for the length of a block."""
    camera = RtspCamera(port, login)
    try:
        yield camera
    finally:
        camera.close()
