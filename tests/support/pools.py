"""Frames to choose a batch from: a pool of scenes with known repeats, cameras, classes and light."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from edgecase_cloud.pool import Candidate
from edgecase_models.fingerprint import CELLS_HW, Fingerprint

START = datetime(2026, 3, 4, 5, tzinfo=UTC)
MODEL = "a" * 64


def frame_id(number: int) -> str:
    return hashlib.sha256(f"frame {number}".encode()).hexdigest()[:32]


def look(seed: int, luma: int = 120, spread: int = 40) -> Fingerprint:
    """A fingerprint that is like no other seed's, of about this brightness."""
    chance = np.random.default_rng(seed)
    cells = np.clip(chance.integers(luma - spread, luma + spread + 1, CELLS_HW), 0, 255).astype(np.uint8)
    return Fingerprint(int(chance.integers(0, 2**63)), cells)


def candidate(number: int, **changes: Any) -> Candidate:
    """A light frame of the gate's camera with one sure car, unlike any other."""
    given: dict[str, Any] = {
        "id": frame_id(number),
        "device": "gate",
        "camera": "front",
        "taken_at": START + timedelta(seconds=number),
        "score": 1.0,
        "strategies": ("ede",),
        "classes": [3],
        "scores": [0.8],
        "model_digest": MODEL,
        "fingerprint": look(number),
        "features": None,
    }
    given |= changes
    given["classes"], given["scores"] = np.array(given["classes"], np.int64), np.array(given["scores"], np.float64)
    return Candidate(**given)


def crowd(count: int, seed: int = 0, features: int = 0, **changes: Any) -> list[Candidate]:
    """Frames of three cameras with random scores and boxes of six classes, class c half as frequent as c - 1."""
    chance = np.random.default_rng(seed)
    share = 0.5 ** np.arange(6)
    found = []
    for number in range(count):
        boxes = int(chance.integers(1, 12))
        given: dict[str, Any] = {
            "device": f"cam-{number % 3}",
            "score": float(chance.gamma(2.0)),
            "classes": chance.choice(6, boxes, p=share / share.sum()),
            "scores": chance.beta(0.7, 1.4, boxes),
            "fingerprint": look(seed * 100_000 + number, luma=int(chance.choice([30, 120], p=[0.2, 0.8])), spread=25),
            "features": chance.normal(size=features).astype(np.float32) if features else None,
        }
        found.append(candidate(seed * 100_000 + number, **given | changes))
    return found
