"""A frame that was kept: who it is, when and where it was seen, and why it is worth a label."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from edgecase_models import wire

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class FrameMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that watch knows of a frame beside its pixels; what an offer says of it, field by field.

    `score` and `priority` order frames: the highest priority is sent first, within it the highest score; the lowest goes
    first when the disk is full. `captured_at` is aware UTC; `boot_id` and `monotonic_ns` order frames where the wall clock lies.
    """

    frame_id: str
    camera: str
    frame_index: int
    captured_at: datetime
    boot_id: str
    monotonic_ns: int
    width_px: int
    height_px: int
    model_digest: str
    classes: list[str]
    score: float
    reasons: list[wire.Reason]
    boxes: list[wire.Box]
    operating_point: float = 0.25
    media_type: str = "image/jpeg"
    thumbnail_jpeg: bytes = b""
    priority: int = 0
    context_of: wire.FrameId | UnsetType = UNSET
    features: wire.Features | UnsetType = UNSET
    redaction: wire.Redaction | UnsetType = UNSET
    position: wire.Position | UnsetType = UNSET
    recorded: bool = False

    def offer(self, device: str, sha256: str, size_bytes: int) -> wire.Offer:
        """The message that offers this frame to the cloud."""
        return wire.Offer(
            device=device,
            frame_id=self.frame_id,
            camera=self.camera,
            frame_index=self.frame_index,
            captured_at=self.captured_at,
            boot_id=self.boot_id,
            monotonic_ns=self.monotonic_ns,
            sha256=sha256,
            size_bytes=size_bytes,
            width_px=self.width_px,
            height_px=self.height_px,
            model_digest=self.model_digest,
            classes=self.classes,
            score=self.score,
            reasons=self.reasons,
            boxes=self.boxes,
            operating_point=self.operating_point,
            media_type=self.media_type,
            thumbnail_jpeg=self.thumbnail_jpeg,
            context_of=self.context_of,
            features=self.features,
            redaction=self.redaction,
            position=self.position,
            recorded=self.recorded or UNSET,
        )


def new_frame_id(now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> str:
    """A UUID of version 7 (RFC 9562, section 5.7) as 32 hexadecimal digits: 48 bits of time, 74 of chance.

    Ids made later sort later while the clock runs forward; they differ whatever the clock does.
    """
    chance = secrets.randbits(74)
    value = (now_ms() & (2**48 - 1)) << 80 | 0x7 << 76 | (chance >> 62) << 64 | 0b10 << 62 | (chance & (2**62 - 1))
    return f"{value:032x}"


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The kernel's id of this boot, within which `monotonic_ns` can be compared; a random one where there is none."""
    try:
        return _BOOT_ID.read_text().strip().replace("-", "")
    except OSError:
        return secrets.token_hex(16)
