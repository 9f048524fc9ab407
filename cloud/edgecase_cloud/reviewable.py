"""A frame as a person reviews it: what the model saw, why it was kept, and what was answered. Read from rows, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud import catalogue, clocks
from edgecase_cloud.catalogue import Annotation, Delivery, Frame, ObjectClass, Review

MIN_SIDE_PX: Final = 1.0
ARRIVED: Final = Frame.delivery == Delivery.ACKNOWLEDGED


class Origin(StrEnum):
    """Who drew a box: the model as it stands, the model and then a person, or a person."""

    MODEL = "model"
    EDITED = "edited"
    HUMAN = "human"


@dataclass(frozen=True)
class Candidate:
    """A box that the model gave, down to its candidate floor; in pixels of the frame."""

    cls: int
    score: float
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class LabelBox:
    """A box of an answer; in pixels of the frame."""

    cls: int
    x1: float
    y1: float
    x2: float
    y2: float
    origin: Origin


@dataclass(frozen=True)
class Reason:
    """Why the device kept the frame; see `edgecase_models.wire.Reason`."""

    strategy: str
    score: float
    threshold: float
    propensity: float


@dataclass(frozen=True)
class Answer:
    """One revision of what a person said of a frame."""

    revision: int
    verdict: Review
    boxes: tuple[LabelBox, ...]
    author: str
    created_at: datetime


@dataclass(frozen=True)
class Standing:
    """Why a frame stands where it stands in the label queue, and by what it was chosen; see `batch.Pick`.

    `rank` is 0 where it `repeats` another frame; `quota` says what served it: best, class, camera, condition, audit or lot.
    """

    rank: int
    value: float
    score: float
    distance: float | None
    typicality: float
    cost_s: float
    quota: str
    propensity: float
    reason: str
    repeats: str | None


@dataclass(frozen=True)
class Area:
    """A part of the picture, in whole pixels of the frame."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Redaction:
    """What the device made unseen in the frame; see `edgecase_models.wire.Redaction`."""

    mode: str
    method: str
    count: int
    boxes: tuple[Area, ...]
    classes: tuple[str, ...]
    model_digest: str | None


@dataclass(frozen=True)
class Position:
    """Where the frame was taken, as far as the device tells; see `edgecase_models.wire.Position`."""

    latitude_deg: float
    longitude_deg: float
    decimals: int


@dataclass(frozen=True)
class QueueItem:
    """A frame as the queue and the editor show it.

    `captured_at` is what its device's clock said, `taken_at` what is made of it (`clocks`). `problem`: why its picture cannot be decoded.
    """

    id: str
    device: str
    camera: str
    frame_index: int
    captured_at: datetime
    taken_at: datetime
    width_px: int
    height_px: int
    sha256: str
    model_digest: str
    operating_point: float
    score: float
    reasons: tuple[Reason, ...]
    candidates: tuple[Candidate, ...]
    review: Review
    revision: int
    answer: Answer | None
    context_of: str | None = None
    standing: Standing | None = None
    redaction: Redaction | None = None
    position: Position | None = None
    problem: str = ""

    @property
    def clock_wrong(self) -> bool:
        """Whether the device's clock was not believed."""
        return clocks.is_wrong(self.captured_at, self.taken_at)


def class_names(session: Session) -> tuple[str, ...]:
    """The class table, by index."""
    return tuple(session.scalars(sa.select(ObjectClass.name).order_by(ObjectClass.index)))


def model_boxes(item: QueueItem) -> tuple[LabelBox, ...]:
    """What the model says at its operating point; boxes under a pixel wide or high are none."""
    return tuple(
        rounded(LabelBox(c.cls, c.x1, c.y1, c.x2, c.y2, Origin.MODEL))
        for c in item.candidates
        if c.score >= item.operating_point and min(c.x2 - c.x1, c.y2 - c.y1) >= MIN_SIDE_PX
    )


def answers_of(frame_ids: Iterable[str]) -> sa.Select[Annotation]:
    """The answers to these frames, each frame's newest first."""
    return (
        sa.select(Annotation)
        .where(Annotation.frame_id.in_(list(frame_ids)))
        .order_by(Annotation.frame_id, Annotation.revision.desc())
    )


def newest_answers(session: Session, frame_ids: Sequence[str]) -> dict[str, Answer]:
    """Each frame's newest answer, by the frame's id."""
    newest: dict[str, Answer] = {}
    for row in session.scalars(answers_of(frame_ids)) if frame_ids else ():
        newest.setdefault(row.frame_id, answer_of(row))
    return newest


def standings_of(session: Session, frame_ids: Sequence[str]) -> dict[str, Standing]:
    """What is known of these frames' standing, by the frame's id; frames behind the batch have none."""
    rows = session.scalars(sa.select(catalogue.Standing).where(catalogue.Standing.frame_id.in_(frame_ids)))
    names = [each.name for each in fields(Standing)]
    return {row.frame_id: Standing(**{name: getattr(row, name) for name in names}) for row in rows}


def item_of(row: Frame, answer: Answer | None, standing: Standing | None = None) -> QueueItem:
    """The frame of a row."""
    return QueueItem(
        id=row.id,
        device=row.device_id,
        camera=row.camera,
        frame_index=row.frame_index,
        captured_at=row.captured_at,
        taken_at=row.taken_at,
        width_px=row.width_px,
        height_px=row.height_px,
        sha256=row.sha256,
        model_digest=row.model_digest,
        operating_point=row.operating_point,
        score=row.score,
        reasons=tuple(
            Reason(str(r["strategy"]), float(r["score"]), float(r["threshold"]), float(r.get("propensity", 1.0)))
            for r in row.reasons
        ),
        candidates=tuple(Candidate(int(b[0]), *(float(v) for v in b[1:6])) for b in row.boxes),
        review=Review(row.review),
        revision=row.revision,
        answer=answer,
        context_of=row.context_of,
        standing=standing,
        redaction=None if row.redaction is None else _redaction_of(row.redaction),
        position=None if row.position is None else Position(**row.position),
        problem=row.problem or "",
    )


def _redaction_of(stored: dict[str, Any]) -> Redaction:
    return Redaction(
        mode=stored["mode"],
        method=stored["method"],
        count=stored["count"],
        boxes=tuple(Area(*box) for box in stored["boxes"]),
        classes=tuple(stored["classes"]),
        model_digest=stored.get("model_digest"),
    )


def answer_of(row: Annotation) -> Answer:
    """The answer of a row."""
    boxes = tuple(LabelBox(b["cls"], b["x1"], b["y1"], b["x2"], b["y2"], Origin(b["origin"])) for b in row.boxes)
    return Answer(row.revision, Review(row.verdict), boxes, row.author, row.created_at)


def rounded(box: LabelBox) -> LabelBox:
    """The box to a tenth of a pixel."""
    return replace(box, x1=round(box.x1, 1), y1=round(box.y1, 1), x2=round(box.x2, 1), y2=round(box.y2, 1))
