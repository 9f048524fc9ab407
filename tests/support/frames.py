"""Frames for tests of the spool and the uplink: a few hundred honest bytes each."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from edgecase_agent.frames import FrameMeta, new_frame_id
from edgecase_models import wire

MODEL_DIGEST = hashlib.sha256(b"model").hexdigest()


def a_picture(seed: int = 0, size_bytes: int = 500) -> bytes:
    """Bytes that begin like a JPEG and differ by seed."""
    body = hashlib.sha256(str(seed).encode()).digest()
    return (b"\xff\xd8\xff\xe0" + body * (size_bytes // 32 + 1))[:size_bytes]


def a_meta(score: float = 0.5, **changes: Any) -> FrameMeta:
    """A frame's description with an id of its own."""
    known = {
        "frame_id": new_frame_id(),
        "camera": "front",
        "frame_index": 7,
        "captured_at": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "boot_id": "boot",
        "monotonic_ns": 123,
        "width_px": 640,
        "height_px": 360,
        "model_digest": MODEL_DIGEST,
        "classes": ["car", "person"],
        "score": score,
        "reasons": [wire.Reason("least_confidence", score, 0.4)],
        "boxes": [wire.Box(0, 0.4, 1, 2, 30, 40)],
    }
    return FrameMeta(**(known | changes))
