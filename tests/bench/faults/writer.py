"""A device's capturing half for the bench: puts known bytes into the real spool and writes down, apart from it, what was promised.

The ledger lies outside the device's disk and is synced line by line: what stands in it was said by `put` before anything happened to the
device.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgecase_agent.encode import jpeg
from edgecase_agent.frames import boot_id
from edgecase_agent.spool import Spool
from edgecase_models import wire
from support.frames import a_meta

WIDTH_PX, HEIGHT_PX = 64, 48
_SEGMENT_BYTES = 65_533


class Promise(msgspec.Struct, frozen=True):
    """What `put` said of one frame, and how long it took to say so."""

    frame_id: str
    sha256: str
    outcome: str
    took_ms: float
    at_s: float


@cache
def _small_picture() -> bytes:
    shades = np.linspace(0, 255, HEIGHT_PX * WIDTH_PX * 3).reshape(HEIGHT_PX, WIDTH_PX, 3)
    return jpeg(shades.astype(np.uint8), 85)


def unique_jpeg(size_bytes: int) -> bytes:
    """A picture that any decoder takes and that no other equals: random bytes travel in its comments."""
    picture = _small_picture()
    comments = b""
    while (missing := size_bytes - len(picture) - len(comments)) > 4:
        content = os.urandom(min(missing - 4, _SEGMENT_BYTES))
        comments += b"\xff\xfe" + (len(content) + 2).to_bytes(2, "big") + content
    return picture[:2] + comments + picture[2:]


def describe(score: float, **changes: Any) -> Any:
    """What watch would say of such a frame now."""
    return a_meta(
        score,
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        captured_at=wire.now(),
        boot_id=boot_id(),
        monotonic_ns=time.monotonic_ns(),
        **changes,
    )


def promises(ledger: Path) -> list[Promise]:
    """Every whole line of a ledger."""
    lines = ledger.read_bytes().split(b"\n")[:-1] if ledger.exists() else []
    return [msgspec.json.decode(line, type=Promise) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spool", type=Path)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--every-s", type=float, default=0.1)
    parser.add_argument("--size-bytes", type=int, default=20_000)
    parser.add_argument("--quota-bytes", type=int, default=2_000_000_000)
    parser.add_argument("--frames", type=int, default=sys.maxsize, help="then it ends")
    parser.add_argument("--ballast-bytes", type=int, default=1 << 20)
    parser.add_argument("--prepared", type=int, default=0, help="so many pictures are made before the first is put")
    asked = parser.parse_args()
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    chance = random.Random()
    descriptor = os.open(asked.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if os.lseek(descriptor, 0, os.SEEK_END):
        os.write(descriptor, b"\n" if asked.ledger.read_bytes()[-1:] != b"\n" else b"")
    pictures = [unique_jpeg(asked.size_bytes) for _ in range(asked.prepared)]
    with Spool(asked.spool, asked.quota_bytes, putting=True, ballast_bytes=asked.ballast_bytes) as spool:
        for _ in range(asked.frames):
            if ended:
                break
            began_s = time.perf_counter()
            content = pictures.pop() if pictures else unique_jpeg(asked.size_bytes)
            meta = describe(round(chance.random(), 4))
            start_s = time.perf_counter()
            result = spool.put(content, meta)
            took_ms = (time.perf_counter() - start_s) * 1e3
            digest = hashlib.sha256(content).hexdigest()
            promise = Promise(meta.frame_id, digest, result.outcome, round(took_ms, 3), time.time())
            os.write(descriptor, msgspec.json.encode(promise) + b"\n")
            os.fsync(descriptor)
            if (rest_s := began_s + asked.every_s - time.perf_counter()) > 0:
                time.sleep(rest_s)


if __name__ == "__main__":
    main()
