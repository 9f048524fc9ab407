"""What is known of a thumbnail: the same of the same picture, different of different ones, and nothing dangerous of hostile bytes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_cloud.thumbnail import MAX_SIDE_PX, fingerprint
from edgecase_models.fingerprint import Fingerprint
from support import circle


def scene(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (9, 16, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (320, 180), interpolation=cv2.INTER_CUBIC))


def seen(picture: np.ndarray, quality: int = 80) -> Fingerprint:
    found = fingerprint(circle.jpeg(picture, quality))
    assert found is not None
    return found


def test_a_picture_is_known_again_through_noise_and_another_quality() -> None:
    picture = scene(1)
    noisy = np.clip(picture + np.random.default_rng(2).normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    assert seen(picture).repeats(seen(noisy, 50), 4, 6)
    assert not seen(picture).repeats(seen(scene(3)), 4, 6)


@pytest.mark.parametrize("shade", [5, 128, 250])
def test_its_cells_are_the_brightness(shade: int) -> None:
    assert seen(np.full((180, 320, 3), shade, np.uint8)).cells.mean() == pytest.approx(shade, abs=1.5)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xd9", b"GIF89a", b"\xff\xd8\xff" * 5000], ids=len)
def test_what_is_no_jpeg_has_none(content: bytes) -> None:
    assert fingerprint(content) is None


def test_a_thumbnail_that_was_cut_off_has_none() -> None:
    assert fingerprint(circle.jpeg(scene(1))[:2000]) is None


def test_a_header_that_claims_a_huge_picture_is_not_believed() -> None:
    whole = bytearray(circle.jpeg(scene(1)))
    start = whole.index(b"\xff\xc0") + 5
    for side in (MAX_SIDE_PX + 1, 65_000):
        whole[start : start + 4] = side.to_bytes(2, "big") * 2
        assert fingerprint(bytes(whole)) is None


@given(st.data())
def test_no_bytes_break_it(data: st.DataObject) -> None:
    whole = bytearray(circle.plain_jpeg())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    fingerprint(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
