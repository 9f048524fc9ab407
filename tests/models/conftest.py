"""Detectors for the ground floor's tests: the tiny golden one, and what can be made of it where `onnx` is installed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from support.tiny_onnx import GOLDEN


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A raw-head detector of two classes that sees red (0) and green (1) cells of 16 pixels in a 128 × 128 input."""
    return GOLDEN


@pytest.fixture
def squares() -> np.ndarray:
    """A red square at (16, 32)-(32, 48) and a green one at (96, 64)-(112, 80) in a 128 × 128 picture."""
    picture = np.zeros((128, 128, 3), np.uint8)
    cv2.rectangle(picture, (16, 32), (31, 47), (255, 0, 0), -1)
    cv2.rectangle(picture, (96, 64), (111, 79), (0, 255, 0), -1)
    return picture
