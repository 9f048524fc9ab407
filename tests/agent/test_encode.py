"""What is sent looks like what the detector saw, in as few bytes as were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from edgecase_agent.encode import THUMBNAIL_BYTES, jpeg, thumbnail
from edgecase_agent.source import open_source
from edgecase_models.detector import Planes
from support.clips import squares, write_clip


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("height", "width"), [(128, 192), (129, 133)])
def test_a_kept_frame_has_the_colours_that_the_detector_saw(
    tmp_path: Path, height: int, width: int, full_range: bool
) -> None:
    codec = "ffv1" if height % 2 else "libx264"
    path = write_clip(tmp_path / "a.mkv", [squares(1, height, width)], codec=codec, full_range=full_range)
    (frame,) = open_source(str(path))
    assert isinstance(frame.picture, Planes)
    assert frame.picture.full_range is full_range
    sent = simplejpeg.decode_jpeg(jpeg(frame.picture, 95))
    assert sent.shape == (height, width, 3)
    assert np.abs(sent.astype(int) - frame.picture.rgb()).mean() < 3


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 48), (32, 47), (33, 47)])
def test_what_lies_behind_a_picture_in_memory_does_not_go_into_its_jpeg(height: int, width: int) -> None:
    def plane(rows: int, columns: int, behind: int) -> np.ndarray:
        memory = np.full(rows * columns + 4096, behind, np.uint8)
        memory[: rows * columns] = np.random.default_rng(0).integers(0, 256, rows * columns)
        return memory[: rows * columns].reshape(rows, columns)

    half = (height + 1) // 2, (width + 1) // 2
    sent = {
        jpeg(Planes(plane(height, width, behind), plane(*half, behind), plane(*half, behind), full_range=True))
        for behind in (0, 255)
    }
    assert len(sent) == 1


def test_an_rgb_frame_is_sent_in_its_own_colours() -> None:
    picture = squares(0)
    assert np.abs(simplejpeg.decode_jpeg(jpeg(picture, 95)).astype(int) - picture).mean() < 3


def test_a_lower_quality_takes_fewer_bytes() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    assert len(jpeg(picture, 40)) < len(jpeg(picture, 85)) < len(jpeg(picture, 95))


@pytest.mark.parametrize("shape", [(1080, 1920), (2160, 3840), (64, 4000), (9, 7), (1, 1)])
def test_a_thumbnail_of_any_picture_fits_the_offer(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    small = thumbnail(noise)
    assert 0 < len(small) <= THUMBNAIL_BYTES
    assert max(simplejpeg.decode_jpeg(small).shape) <= 320


def test_a_thumbnail_keeps_the_shape_and_the_colours(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", [squares(1, 360, 640)], codec="libx264")
    (frame,) = open_source(str(path))
    small = simplejpeg.decode_jpeg(thumbnail(frame.picture))
    assert small.shape == (180, 320, 3)
    assert np.abs(small.astype(int) - squares(1, 360, 640)[::2, ::2]).mean() < 6
