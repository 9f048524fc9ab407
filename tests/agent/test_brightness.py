"""A frozen picture is known again, also after a codec; a small object on a fixed camera is not taken for a repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecase_agent.brightness import fingerprint
from edgecase_agent.selection import Rules
from edgecase_agent.source import open_source
from support.clips import squares, write_clip

RULES = Rules()


def repeats(a: np.ndarray, b: np.ndarray) -> bool:
    return fingerprint(a).repeats(fingerprint(b), RULES.repeat_bits, RULES.repeat_levels)


def scene(seed: int = 0, height: int = 360, width: int = 640) -> np.ndarray:
    """Large smooth patches with sensor noise of its own."""
    chance = np.random.default_rng(seed)
    patches = chance.integers(30, 220, (9, 16, 3), np.uint8)
    return np.kron(patches, np.ones((height // 9, width // 16, 1))).astype(np.int16)


def noisy(picture: np.ndarray, seed: int) -> np.ndarray:
    return np.clip(picture + np.random.default_rng(seed).normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def test_a_parked_camera_repeats_itself_through_its_noise() -> None:
    assert repeats(noisy(scene(), 1), noisy(scene(), 2))


def test_a_small_object_on_a_fixed_camera_is_something_new() -> None:
    visited = scene().copy()
    visited[200:260, 300:325] = 10  # a person of 25 by 60 pixels
    one, other = fingerprint(noisy(scene(), 1)), fingerprint(noisy(visited, 2))
    assert (one.dhash ^ other.dhash).bit_count() <= RULES.repeat_bits  # the hash alone would not have noticed
    assert not one.repeats(other, RULES.repeat_bits, RULES.repeat_levels)


def test_a_frozen_stream_is_known_again_after_its_codec(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [squares(3, 240, 320)] * 10, codec="libx264")
    prints = [fingerprint(frame.picture) for frame in open_source(str(path))]
    assert all(prints[0].repeats(other, RULES.repeat_bits, RULES.repeat_levels) for other in prints)


def test_planes_and_pixels_of_any_size_have_a_fingerprint() -> None:
    for shape in ((1, 1, 3), (7, 5, 3), (50, 70, 3), (1081, 1921, 3)):
        grey = np.full(shape, 90, np.uint8)
        assert repeats(grey, grey)
