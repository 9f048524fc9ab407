"""Pictures from devices, decoded where they can do no harm: in a warm child process with limits, replaced when one of them breaks it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Final

import msgspec

from edgecase_cloud.decoder_process import ANSWER, CPU_S, MAX_PIXELS, PICTURE, REQUEST, THUMBNAIL, Seen

COMMAND: Final = (sys.executable, "-P", "-m", "edgecase_cloud.decoder_process")
_WALL_S: Final = 30.0  # the limit of computing ends a child that works; this one ends a child that hangs
_START_S: Final = 60.0
_KEPT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "VIRTUAL_ENV")


class DecoderError(RuntimeError):
    """The child cannot be started: a fault of this installation, not of a picture."""


class Decoder:
    """One child, started at the first picture. Safe to use from several threads, which take turns; it ends with this process."""

    def __init__(self, command: Sequence[str] = COMMAND, wall_s: float = _WALL_S) -> None:
        self._command = tuple(command)
        self._wall_s = wall_s
        self._turn = Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def thumbnail(self, jpeg: bytes) -> Seen:
        """The fingerprint of a small JPEG, or why it has none. Raises `DecoderError`."""
        return self._ask(THUMBNAIL, jpeg)

    def picture(self, content: bytes) -> Seen:
        """Height and width of a picture that was decoded as a whole, or why it cannot be used. Raises `DecoderError`."""
        return self._ask(PICTURE, content)

    def close(self) -> None:
        """End the child; the next picture starts another."""
        with self._turn:
            self._end()

    def _ask(self, kind: bytes, content: bytes) -> Seen:
        with self._turn:
            for _ in range(
                2
            ):  # a child may be killed for somebody else's memory: a picture is to blame when it kills two
                line = self._line or self._start()
                try:
                    line.settimeout(self._wall_s)
                    line.sendall(REQUEST.pack(kind, len(content)) + content)
                    (size,) = ANSWER.unpack(_received(line, ANSWER.size))
                    return msgspec.msgpack.decode(_received(line, size), type=Seen)
                except TimeoutError:
                    self._end()
                    return Seen(problem=f"it was not decoded within {self._wall_s:g} s", broke=True)
                except (ConnectionError, msgspec.MsgspecError):
                    code = self._end()
                    if code == -signal.SIGXCPU:
                        return Seen(problem=f"it takes more than {CPU_S[kind]} s of computing to decode", broke=True)
            return Seen(problem=f"it broke the decoder twice (the last one ended with {code})", broke=True)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what libraries say of broken pictures would fill the log
                pass_fds=(theirs.fileno(),),
                env=_environment(),
            )
        try:
            ours.settimeout(_START_S)
            _received(ours, ANSWER.size)
        except OSError as error:
            ours.close()
            code = self._end()
            raise DecoderError(
                f"the decoder does not start (it ended with {code}); try: python -m {self._command[-1]} 0"
            ) from error
        self._line = ours
        return ours

    def _end(self) -> int:
        """How the child ended; one that has not is killed."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._child is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(0.5)
        self._child.kill()
        code = self._child.wait()
        self._child = None
        return code


@cache
def decoder() -> Decoder:
    """The one of this process."""
    made = Decoder()
    atexit.register(made.close)
    return made


def _environment() -> dict[str, str]:
    """Nothing of ours that it does not need, and libraries that keep to one thread and to the limit."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS)}


def _received(line: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        piece = line.recv(size - len(content))
        if not piece:
            raise ConnectionResetError("the decoder is gone")
        content += piece
    return bytes(content)
