"""A frame as one file: the picture, and behind it what is known of it. So the file alone tells what it is, whatever became of the database.

Behind the picture stand the description (`FrameMeta` as JSON) and a footer of fixed length with both lengths, the picture's sha256, and a
checksum over all of it but the picture. Whoever shows pictures reads up to the picture's end and no further.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from edgecase_agent.frames import FrameMeta

_FOOTER: Final = struct.Struct(">QI32sI8s")  # picture's length, description's, picture's sha256, checksum, magic
_MAGIC: Final = b"edgefrm1"
_MAX_DESCRIPTION_BYTES: Final = 4_000_000
_CHUNK_BYTES: Final = 1 << 20


class Damaged(Exception):
    """A frame's file is not what was written; it cannot be sent."""


@dataclass(frozen=True)
class Described:
    """What a file says of itself."""

    meta: FrameMeta
    sha256: str
    size_bytes: int  # of the picture


def pack(jpeg: bytes, meta: FrameMeta) -> tuple[Described, bytes]:
    """What the file of a frame is to say, and its content."""
    description, digest = msgspec.json.encode(meta), hashlib.sha256(jpeg).digest()
    checksum = _checksum(len(jpeg), digest, description)
    footer = _FOOTER.pack(len(jpeg), len(description), digest, checksum, _MAGIC)
    return Described(meta, digest.hex(), len(jpeg)), b"".join((jpeg, description, footer))


def describe(path: Path) -> Described:
    """Read what stands behind the picture, or `Damaged`; the picture's own bytes are not looked at."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _FOOTER.size))
            size_bytes, length, digest, checksum, magic = _FOOTER.unpack(file.read(_FOOTER.size))
            if magic != _MAGIC or length > _MAX_DESCRIPTION_BYTES or size_bytes + length + _FOOTER.size != end:
                raise Damaged(f"{path.name}: it is torn, or no frame")
            file.seek(size_bytes)
            description = file.read(length)
    except OSError as error:
        raise Damaged(f"{path.name}: it cannot be read ({error.strerror})") from error
    except struct.error as error:
        raise Damaged(f"{path.name}: it is torn, or no frame") from error
    if checksum != _checksum(size_bytes, digest, description):
        raise Damaged(f"{path.name}: its description is not what was written")
    try:
        meta = msgspec.json.decode(description, type=FrameMeta)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Damaged(f"{path.name}: its description cannot be read: {error}") from error
    if path.stem != meta.frame_id:
        raise Damaged(f"{path.name}: it describes frame {meta.frame_id}")
    return Described(meta, digest.hex(), size_bytes)


def sha256_of(path: Path, size_bytes: int) -> str:
    """Of the picture, which is the first `size_bytes`; raises `OSError`."""
    with path.open("rb") as file:
        return _digest(file, size_bytes)


class Stretch(io.RawIOBase):
    """A stretch of an open file, from its beginning to its end; closing it closes the file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        file.seek(start)
        self._file = file
        self._start = start
        self._left = length

    def integrity(self) -> dict[str, str]:
        """The header by which a store tells whether what it got is what was sent; nothing may have been read before."""
        digest = hashlib.md5(usedforsecurity=False)  # what S3 checks of a part; the whole is held against its sha256
        left = self._left
        while chunk := self._file.read(min(_CHUNK_BYTES, left)):
            digest.update(chunk)
            left -= len(chunk)
        self._file.seek(self._start)
        return {"Content-MD5": base64.b64encode(digest.digest()).decode()}

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self._file.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_checked(path: Path, sha256: str, size_bytes: int, start: int, length: int) -> Stretch:
    """A stretch of the picture, after the whole picture was found right; `Damaged` otherwise.

    What was opened stays readable when the file goes.
    """
    try:
        file = path.open("rb")
        found = _digest(file, size_bytes)
    except OSError as error:
        raise Damaged(f"{path.name}: it cannot be read ({error.strerror})") from error
    if found != sha256:
        file.close()
        raise Damaged(f"{path.name}: its picture is not what was written (sha256 differs)")
    return Stretch(file, start, length)


def _digest(file: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(min(_CHUNK_BYTES, size_bytes)):
        digest.update(chunk)
        size_bytes -= len(chunk)
    return digest.hexdigest()


def _checksum(size_bytes: int, digest: bytes, description: bytes) -> int:
    return zlib.crc32(description, zlib.crc32(digest, zlib.crc32(size_bytes.to_bytes(8, "big"))))
