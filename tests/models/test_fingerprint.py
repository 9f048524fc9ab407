"""A picture is known again through noise; something small that comes into it makes it another; what is stored comes back."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecase_models.fingerprint import CELLS_HW, Fingerprint

BITS, LEVELS = 4, 6


def scene(seed: int = 0, height: int = 180, width: int = 320) -> NDArray[np.int16]:
    """Large patches of brightness."""
    patches = np.random.default_rng(seed).integers(30, 220, (9, 16))
    return np.kron(patches, np.ones((height // 9, width // 16))).astype(np.int16)


def seen(picture: NDArray[np.int16], noise: int) -> Fingerprint:
    """Through sensor noise of its own."""
    noisy = picture + np.random.default_rng(noise).normal(0, 4, picture.shape)
    return Fingerprint.of(np.clip(noisy, 0, 255).astype(np.uint8))


def test_a_scene_is_known_again_through_its_noise_and_another_is_not() -> None:
    assert seen(scene(), 1).repeats(seen(scene(), 2), BITS, LEVELS)
    assert not seen(scene(), 1).repeats(seen(scene(1), 1), BITS, LEVELS)


def test_a_small_object_on_a_fixed_camera_is_something_new() -> None:
    visited = scene()
    visited[100:130, 150:163] = 10  # a person of 13 by 30 pixels
    one, other = seen(scene(), 1), seen(visited, 2)
    assert (one.dhash ^ other.dhash).bit_count() <= BITS  # the hash alone would not have noticed
    assert not one.repeats(other, BITS, LEVELS)


@pytest.mark.parametrize(("apart", "same"), [(LEVELS, True), (LEVELS + 1, False), (250, False)])
def test_cells_are_held_against_each_other_in_both_directions(apart: int, same: bool) -> None:
    dark, light = np.zeros(CELLS_HW, np.uint8), np.zeros(CELLS_HW, np.uint8)
    light[3, 5] = apart
    one, other = Fingerprint(0, dark), Fingerprint(0, light)
    assert one.repeats(other, BITS, LEVELS) is other.repeats(one, BITS, LEVELS) is same


def test_a_gate_of_minus_one_bits_is_open() -> None:
    grey = Fingerprint.of(np.full((48, 64), 90, np.uint8))
    assert not grey.repeats(grey, -1, 255)


def test_what_is_stored_is_what_comes_back() -> None:
    found = seen(scene(4), 1)
    again = Fingerprint.from_bytes(found.to_bytes())
    assert again.dhash == found.dhash
    assert (again.cells == found.cells).all()
    assert len(found.to_bytes()) == 776
