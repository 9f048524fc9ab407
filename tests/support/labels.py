"""Frames with answers, as devices and people leave them: in a catalogue, with their pictures in a store."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np

from edgecase_cloud import datasets
from edgecase_cloud.catalogue import Annotation, Base, Catalogue, Delivery, Device, Frame, Review
from edgecase_cloud.store import NotFound

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
L = TypeVar("L", bound="Labels")


def jpeg(seed: int, width: int = 64, height: int = 48) -> bytes:
    """A picture that is like no other."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (width, height)))[1].tobytes()


class Objects(Protocol):
    """The object store, as far as labels need it."""

    def get(self, key: str) -> bytes: ...

    def put(self, key: str, content: bytes) -> object: ...


class Memory(dict[str, bytes]):
    """Objects in memory, for tests that are not about the store."""

    def get(self, key: str) -> bytes:  # type: ignore[override]
        if key not in self:
            raise NotFound(key)
        return self[key]

    def put(self, key: str, content: bytes) -> None:
        self[key] = content


class Labels:
    """Adds frames and answers to a catalogue that knows the devices cam-1 and cam-2."""

    def __init__(self, data: Path, catalogue: Catalogue, store: Objects) -> None:
        self.data = data
        self.catalogue = catalogue
        self.store = store

    @classmethod
    def empty(cls: type[L], data: Path, *classes: str) -> L:
        """A catalogue of its own in `data` with this class table, and a store in memory."""
        catalogue = Catalogue.in_folder(data)
        Base.metadata.create_all(catalogue.engine)
        datasets.add_classes(catalogue, classes)
        with catalogue.session.begin() as session:
            session.add_all([Device(id=name, added_at=START) for name in ("cam-1", "cam-2")])
        return cls(data, catalogue, Memory())

    def frame(
        self,
        number: int,
        boxes: list[tuple[int, float, float, float, float]] | None = None,
        *,
        review: Review = Review.CORRECTED,
        at_s: float = 0,
        device: str = "cam-1",
        content: bytes | None = None,
        sha256: str | None = None,
        size_px: tuple[int, int] = (64, 48),
    ) -> str:
        """A frame that was delivered and answered."""
        content = jpeg(number) if content is None else content
        frame_id, key = f"{number:032x}", f"frames/{device}/{number}.jpg"
        self.store.put(key, content)
        with self.catalogue.session.begin() as session:
            session.add(
                Frame(
                    id=frame_id,
                    device_id=device,
                    camera="front",
                    frame_index=number,
                    captured_at=START + timedelta(seconds=at_s),
                    offered_at=START,
                    delivery=Delivery.ACKNOWLEDGED,
                    key=key,
                    sha256=sha256 or hashlib.sha256(content).hexdigest(),
                    size_bytes=len(content),
                    width_px=size_px[0],
                    height_px=size_px[1],
                    media_type="image/jpeg",
                    model_digest="0" * 64,
                    score=0.5,
                    reasons=[],
                    boxes=[],
                    review=Review.OPEN,
                )
            )
        if review is not Review.OPEN:
            self.answer(frame_id, boxes if boxes is not None else [(0, 8, 8, 24, 40)], review=review)
        return frame_id

    def answer(
        self, frame_id: str, boxes: list[tuple[int, float, float, float, float]], *, review: Review = Review.CORRECTED
    ) -> None:
        """One more annotation of a frame."""
        with self.catalogue.session.begin() as session:
            frame = session.get_one(Frame, frame_id)
            frame.revision += 1
            frame.review = review
            rows = [dict(zip(("cls", "x1", "y1", "x2", "y2"), box, strict=True), origin="human") for box in boxes]
            session.add(
                Annotation(
                    frame_id=frame_id,
                    revision=frame.revision,
                    verdict=review,
                    boxes=rows,
                    author="test",
                    created_at=START,
                )
            )
