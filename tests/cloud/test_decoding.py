"""Pictures from devices: what is made of good ones, what of each kind of bad one, and that none of them harms more than a child."""

from __future__ import annotations

import io
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecase_cloud.decoder_process import MAX_SIDE_PX, Seen
from edgecase_cloud.decoding import COMMAND, Decoder, DecoderError, decoder
from edgecase_models.fingerprint import Fingerprint
from support import circle
from support.wait import until


def scene(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (9, 16, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (320, 180), interpolation=cv2.INTER_CUBIC))


def seen(picture: np.ndarray, quality: int = 80) -> Fingerprint:
    found = decoder().thumbnail(circle.jpeg(picture, quality))
    assert not found.problem
    return Fingerprint.from_bytes(found.fingerprint)


@pytest.fixture
def fresh() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def encoded(width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 90).save(file, "JPEG", **options)
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A small JPEG whose header says that it is large."""
    whole = bytearray(circle.plain_jpeg())
    start = whole.index(b"\xff\xc0") + 5
    whole[start : start + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(whole)


# Thumbnails


def test_a_picture_is_known_again_through_noise_and_another_quality() -> None:
    picture = scene(1)
    noisy = np.clip(picture + np.random.default_rng(2).normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    assert seen(picture).repeats(seen(noisy, 50), 4, 6)
    assert not seen(picture).repeats(seen(scene(3)), 4, 6)


@pytest.mark.parametrize("shade", [5, 128, 250])
def test_its_cells_are_the_brightness(shade: int) -> None:
    assert seen(np.full((180, 320, 3), shade, np.uint8)).cells.mean() == pytest.approx(shade, abs=1.5)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "there is none"),
        (b"\xff\xd8\xff\xd9", "not a JPEG"),
        (b"GIF89a", "not a JPEG"),
        (b"\xff\xd8\xff" * 5000, "not a JPEG"),
        (circle.jpeg(scene(1))[:2000], "truncated"),
        (claiming(MAX_SIDE_PX + 1, 10), "no thumbnail"),
        (claiming(65_000, 65_000), "no thumbnail"),
    ],
    ids=["none", "hollow", "gif", "markers", "cut off", "wide", "huge"],
)
def test_a_thumbnail_that_is_none_says_why(content: bytes, problem: str) -> None:
    found = decoder().thumbnail(content)
    assert problem in found.problem
    assert (found.fingerprint, found.broke) == (b"", False)


@given(st.data())
def test_no_bytes_break_it(data: st.DataObject) -> None:
    whole = bytearray(circle.plain_jpeg())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert not decoder().thumbnail(content).broke
    assert not decoder().picture(content).broke


# Frames


def exif_bomb() -> bytes:
    """A JPEG whose EXIF block points at itself, with counts that would fill any memory."""
    entry = b"\x01\x12\x00\x02\xff\xff\xff\xff\x00\x00\x00\x08"
    block = b"Exif\0\0MM\0*\x00\x00\x00\x08\xff\xff" + entry * 5000
    plain = circle.plain_jpeg()
    return plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]


def png_bomb() -> bytes:
    """Few bytes that decode to 1.2 GB."""
    chunks = [
        (b"IHDR", (20_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"),
        (b"IDAT", zlib.compress(bytes(60_001) * 2000)),
    ]
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (encoded(1, 1), "too small (1 × 1 pixels)"),
        (claiming(20_000, 20_000), "20000 × 20000 are more than 64 million pixels"),
        (png_bomb(), "20000 × 20000 are more than 64 million pixels"),
        (circle.plain_jpeg()[:-100], "the JPEG is cut off"),
        (b"\xff\xd8" + b"<html><script>alert(1)</script>" * 50 + b"\xff\xd9", "not a picture that can be decoded"),
    ],
    ids=["0 bytes", "1×1", "20,000×20,000", "png bomb", "truncated", "html"],
)
def test_a_frame_that_cannot_be_used_says_why(content: bytes, problem: str) -> None:
    assert decoder().picture(content) == Seen(problem=problem)


@pytest.mark.parametrize("content", [circle.plain_jpeg(), exif_bomb()], ids=["plain", "exif bomb"])
def test_a_frame_that_is_one_is_measured(content: bytes) -> None:
    assert decoder().picture(content) == Seen(height_px=circle.HEIGHT, width_px=circle.WIDTH)


# The child


def pid(of: Decoder) -> int:
    assert of._child is not None
    return of._child.pid


def test_a_picture_that_takes_too_long_costs_its_child_and_the_next_gets_another(fresh: Decoder) -> None:
    """Hundreds of refinements of one picture: little to send, long to decode."""
    small = encoded(2000, 2000, progressive=True)
    scan = small.index(b"\xff\xda", small.index(b"\xff\xda") + 2)
    fresh.thumbnail(circle.plain_jpeg())
    first = pid(fresh)
    bomb = small[:scan] + small[scan:-2] * 300 + small[-2:]
    found = fresh.thumbnail(bomb)
    assert (found.problem, found.broke) == ("it takes more than 1 s of computing to decode", True)
    assert fresh.thumbnail(circle.plain_jpeg()).problem == ""
    assert pid(fresh) != first


def test_a_child_that_is_killed_by_others_costs_no_picture(fresh: Decoder) -> None:
    fresh.picture(circle.plain_jpeg())
    os.kill(pid(fresh), signal.SIGKILL)
    assert fresh.picture(circle.plain_jpeg()).problem == ""


def child(body: str) -> Decoder:
    """A decoder whose child is ready, reads a header, and then does this."""
    code = f"import os, socket, sys, time; line = socket.socket(fileno=int(sys.argv[1])); line.sendall(bytes(4)); line.recv(5); {body}"
    return Decoder((sys.executable, "-c", code), wall_s=0.3)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("os.abort()", "broke the decoder twice (the last one ended with -6)"),
        ("time.sleep(60)", "not decoded within 0.3 s"),
    ],
    ids=["crash", "hang"],
)
def test_a_picture_that_crashes_or_hangs_its_child_is_to_blame(body: str, problem: str) -> None:
    made = child(body)
    found = made.picture(b"poison")
    assert problem in found.problem
    assert found.broke
    assert made._child is None


def test_a_child_that_cannot_start_is_no_fault_of_a_picture() -> None:
    with pytest.raises(DecoderError, match="does not start"):
        Decoder((sys.executable, "-c", "raise SystemExit(3)")).picture(circle.plain_jpeg())


def test_a_child_ends_with_its_parent_and_takes_no_more_memory_than_it_may(fresh: Decoder) -> None:
    fresh.picture(circle.plain_jpeg())
    limits = {
        line[:25].strip(): line[26:].split()[0]
        for line in Path(f"/proc/{pid(fresh)}/limits").read_text().splitlines()[1:]
    }
    assert int(limits["Max address space"]) < 6 << 30
    assert (limits["Max file size"], limits["Max core file size"]) == ("0", "0")
    assert fresh._line is not None
    number = pid(fresh)
    fresh._line.close()  # as the kernel does when this process dies
    until(lambda: fresh._child is not None and fresh._child.poll() is not None, what=f"child {number} to end")


def test_threads_take_turns(fresh: Decoder) -> None:
    pictures = [circle.plain_jpeg(shade) for shade in range(20, 240, 20)] * 3
    one_by_one = [fresh.thumbnail(each) for each in pictures]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(fresh.thumbnail, pictures)) == one_by_one
    assert len({each.fingerprint for each in one_by_one}) == len(pictures) // 3


def test_what_the_child_is_told_of_this_process_is_little() -> None:
    assert COMMAND[1] == "-P"
    os.environ["EDGECASE_SECRET"] = "s"
    made = Decoder()
    try:
        made.picture(circle.plain_jpeg())
        assert b"EDGECASE_SECRET" not in Path(f"/proc/{pid(made)}/environ").read_bytes()
    finally:
        made.close()
        del os.environ["EDGECASE_SECRET"]
