"""The child that decodes what devices sent. It limits itself, answers one request after the other, and may die of any of them."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import sys
import time
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

REQUEST: Final = struct.Struct(">cI")
ANSWER: Final = struct.Struct(">I")
THUMBNAIL, PICTURE = b"t", b"p"
MAX_SIDE_PX: Final = 2048
"""Of a thumbnail, which is small: a header that says more would have us decode for seconds."""
MAX_PIXELS: Final = 64_000_000
MIN_SIDE_PX: Final = 10
CPU_S: Final = MappingProxyType({THUMBNAIL: 1, PICTURE: 10})
MEMORY_BYTES: Final = 1 << 30  # beyond what the libraries take; a progressive JPEG of MAX_PIXELS needs 600 MB
MANY: Final = f"more than {MAX_PIXELS // 1_000_000} million pixels"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What came of decoding. `problem`: why it is no picture that can be used; empty where it is one.

    `fingerprint` (of a thumbnail) are the bytes of a `Fingerprint`. `broke`: it was worse than unreadable, the child had to be replaced.
    """

    problem: str = ""
    height_px: int = 0
    width_px: int = 0
    fingerprint: bytes = b""
    broke: bool = False


def serve(line: socket.socket) -> None:
    """Answer until the other side is gone."""
    line.sendall(ANSWER.pack(0))  # ready
    while header := _received(line, REQUEST.size):
        kind, size = REQUEST.unpack(header)
        content = _received(line, size)
        _allow(CPU_S[kind])
        try:
            seen = _thumbnail(content) if kind == THUMBNAIL else _picture(content)
        except MemoryError:
            seen = Seen(problem="it takes too much memory to decode")
        answer = msgspec.msgpack.encode(seen)
        line.sendall(ANSWER.pack(len(answer)) + answer)


def main() -> None:
    """`python -m edgecase_cloud.decoder_process FD`, as `decoding.Decoder` starts it; FD is its end of a socket pair."""
    import cv2
    import numpy as np
    from PIL import Image

    from edgecase_models.fingerprint import Fingerprint

    cv2.setNumThreads(1)
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # sizes are held against limits of our own before anything is decoded
    Fingerprint.of(np.zeros((60, 80), np.uint8))  # all that is loaded late is there before the limits count
    _limit()
    with contextlib.suppress(ConnectionError), socket.socket(fileno=int(sys.argv[1])) as line:
        serve(line)


def _thumbnail(jpeg: bytes) -> Seen:
    """The brightness of a small JPEG, as its fingerprint."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from edgecase_models.fingerprint import Fingerprint

    if not jpeg:
        return Seen(problem="there is none")
    try:
        with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
            width, height = picture.size
            if max(width, height) > MAX_SIDE_PX:
                return Seen(problem=f"{width} × {height} pixels are no thumbnail")
            picture.draft("L", None)  # colours are not even decoded
            grey = np.asarray(picture.convert("L"))
    except UnidentifiedImageError:
        return Seen(problem="not a JPEG that can be decoded")
    except (OSError, SyntaxError, ValueError) as error:
        return Seen(problem=f"not a JPEG that can be decoded: {error}"[:200])
    return Seen(height_px=height, width_px=width, fingerprint=Fingerprint.of(grey).to_bytes())


def _picture(content: bytes) -> Seen:
    """A frame, decoded with the library that reads it for training, all of it."""
    import cv2
    import numpy as np

    if not content:
        return Seen(problem="it is empty")
    if content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[-64:]:
        return Seen(problem="the JPEG is cut off")
    width, height = _announced(content)
    if width * height > MAX_PIXELS:
        return Seen(problem=f"{width} × {height} are {MANY}")
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        return Seen(problem=f"{MANY}, or too much memory" if "PIXELS" in str(error) else "it takes too much to decode")
    if picture is None:
        return Seen(problem="not a picture that can be decoded")
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        return Seen(problem=f"too small ({width} × {height} pixels)")
    return Seen(height_px=int(height), width_px=int(width))


def _announced(content: bytes) -> tuple[int, int]:
    """Width and height as the header says; 0 × 0 where this library does not know the format, but the other may."""
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError):
        return 0, 0


def _limit() -> None:
    """No more memory than this, no file, no core dump. The time is given anew with every request."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEMORY_BYTES
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))


def _allow(seconds: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))


def _received(line: socket.socket, size: int) -> bytes:
    """So many bytes; none where the other side is gone."""
    content = bytearray()
    while len(content) < size:
        piece = line.recv(min(1 << 20, size - len(content)))
        if not piece:
            return b""
        content += piece
    return bytes(content)


if __name__ == "__main__":
    main()
