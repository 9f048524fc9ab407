"""What a person says of a frame. An answer given without having seen the newest one is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from edgecase_cloud.catalogue import Annotation, Delivery, Frame, Review
from edgecase_cloud.reviewable import (
    ARRIVED,
    MIN_SIDE_PX,
    Answer,
    Candidate,
    LabelBox,
    Origin,
    QueueItem,
    answer_of,
    answers_of,
    class_names,
    item_of,
    model_boxes,
    newest_answers,
    rounded,
    standings_of,
)

MAX_BOXES: Final = 300
MAX_AUTHOR_CHARACTERS: Final = 64
MAX_STILLS: Final = 201  # a pick and the most that a policy lets be sent beside it
CONTEXT: Final = "context"  # the strategy of a frame that lies beside a pick; its score is the seconds between them
VERDICTS: Final = (Review.ACCEPTED, Review.CORRECTED, Review.REJECTED)


class NotReviewable(LookupError):
    """There is no such frame, or its picture has not arrived."""


@dataclass(frozen=True)
class Still:
    """A frame of a strip, taken `after_s` seconds after the pick, negative before it."""

    id: str
    after_s: float


@dataclass(frozen=True)
class FrameDetail:
    """Everything the editor needs of one frame; `history` has the newest answer first.

    `strip`: the pick and what was sent beside it, in the order of time, this frame among them; empty where nothing was sent beside it.
    """

    frame: QueueItem
    key: str
    size_bytes: int
    acknowledged_at: datetime
    history: tuple[Answer, ...]
    classes: tuple[str, ...]
    strip: tuple[Still, ...]


@dataclass(frozen=True)
class Saved:
    """The answer is in the catalogue as this revision."""

    revision: int
    review: Review
    boxes: tuple[LabelBox, ...]


@dataclass(frozen=True)
class StaleRevision:
    """Someone answered meanwhile; nothing was written. `current` is what they said."""

    seen: int
    revision: int
    current: Answer | None

    @property
    def message(self) -> str:
        who = f"{self.current.author} {self.current.verdict} it" if self.current else "it was changed"
        return (
            f"this page saw revision {self.seen}, but {who} meanwhile (revision {self.revision}); look again, then save"
        )


@dataclass(frozen=True)
class InvalidAnnotation:
    """The answer breaks a rule; nothing was written."""

    message: str


def frame_detail(session: Session, frame_id: str) -> FrameDetail:
    """One frame with every answer; `NotReviewable` where there is none to look at."""
    row = _arrived(session, frame_id)
    history = tuple(answer_of(a) for a in session.scalars(answers_of([frame_id])))
    return FrameDetail(
        frame=item_of(row, history[0] if history else None, standings_of(session, [frame_id]).get(frame_id)),
        key=row.key,
        size_bytes=row.size_bytes,
        acknowledged_at=row.acknowledged_at or row.offered_at,
        history=history,
        classes=class_names(session),
        strip=_strip(session, row),
    )


def save_annotation(
    session: Session,
    frame_id: str,
    *,
    revision: int,
    verdict: Review,
    boxes: Sequence[LabelBox],
    author: str,
    now: datetime,
) -> Saved | StaleRevision | InvalidAnnotation:
    """Write an answer to the frame as it was at `revision`; `NotReviewable` where there is no such frame.

    Of several answers to one revision exactly one is saved. ACCEPTED takes the model's boxes at its operating point as they are
    (`boxes` is empty or names just these), CORRECTED takes `boxes`, REJECTED has none.
    """
    row = _arrived(session, frame_id)
    item = item_of(row, None)
    decided = decide(item, verdict, boxes, author, len(class_names(session)))
    if isinstance(decided, InvalidAnnotation):
        return decided
    taken = session.execute(
        sa.update(Frame)
        .where(Frame.id == frame_id, Frame.revision == revision, ARRIVED)
        .values(revision=revision + 1, review=verdict)
        .execution_options(synchronize_session=False)
    )
    if taken.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE has one
        session.expire(row)
        return StaleRevision(revision, row.revision, newest_answers(session, [frame_id]).get(frame_id))
    session.add(
        Annotation(
            frame_id=frame_id,
            revision=revision + 1,
            verdict=verdict,
            boxes=[_as_json(box) for box in decided],
            author=author.strip(),
            created_at=now,
        )
    )
    session.flush()
    session.expire(row)
    return Saved(revision + 1, verdict, decided)


def decide(
    item: QueueItem, verdict: Review, boxes: Sequence[LabelBox], author: str, class_count: int
) -> tuple[LabelBox, ...] | InvalidAnnotation:
    """The boxes that this answer stands for, or the rule it breaks."""
    if verdict not in VERDICTS:
        return InvalidAnnotation(f"verdict {verdict!r} is none of {', '.join(VERDICTS)}")
    if not author.strip() or len(author.strip()) > MAX_AUTHOR_CHARACTERS or not author.isprintable():
        return InvalidAnnotation(f"the author must be a name of 1 to {MAX_AUTHOR_CHARACTERS} printable characters")
    if len(boxes) > MAX_BOXES:
        return InvalidAnnotation(f"{len(boxes)} boxes exceed {MAX_BOXES} in one picture")
    if verdict is Review.REJECTED:
        return () if not boxes else InvalidAnnotation("a rejected frame has no boxes; send none, or correct it instead")
    if verdict is Review.ACCEPTED:
        own = model_boxes(item)
        if boxes and not _same(own, boxes):
            return InvalidAnnotation(
                "accepted means the model's boxes as they are; these differ: send them as corrected"
            )
        return own
    for number, box in enumerate(boxes, 1):
        if problem := _problem(box, item, class_count):
            return InvalidAnnotation(f"box {number}: {problem}")
    return tuple(rounded(box) for box in boxes)


def _strip(session: Session, row: Frame) -> tuple[Still, ...]:
    pick = row.context_of or row.id
    rows = session.execute(
        sa.select(Frame.id, Frame.reasons, Frame.boot_id, Frame.monotonic_ns, Frame.recorded)
        .where(ARRIVED, (Frame.id == pick) | (Frame.context_of == pick), Frame.device_id == row.device_id)
        .order_by(Frame.id != pick, Frame.id)
        .limit(MAX_STILLS)
    )
    found = rows.all()
    picked = next((each for each in found if each.id == pick), None)
    stills = [Still(each.id, 0.0 if each.id == pick else _seconds_from_pick(each, picked)) for each in found]
    return tuple(sorted(stills, key=lambda still: (still.after_s, still.id))) if len(stills) > 1 else ()


def _seconds_from_pick(still: Any, pick: Any) -> float:
    """By the clock that nobody sets, where both have it; else as the device said."""
    if pick is not None and still.boot_id and still.boot_id == pick.boot_id and not (still.recorded or pick.recorded):
        return float(still.monotonic_ns - pick.monotonic_ns) / 1e9
    return next((float(each["score"]) for each in still.reasons if each["strategy"] == CONTEXT), 0.0)


def _arrived(session: Session, frame_id: str) -> Frame:
    row = session.get(Frame, frame_id)
    if row is None:
        raise NotReviewable(f"there is no frame {frame_id}")
    if row.delivery != Delivery.ACKNOWLEDGED:
        raise NotReviewable(f"the picture of frame {frame_id} has not arrived ({row.delivery}); come back later")
    return row


def _as_json(box: LabelBox) -> dict[str, Any]:
    return {"cls": box.cls, "x1": box.x1, "y1": box.y1, "x2": box.x2, "y2": box.y2, "origin": box.origin.value}


def _problem(box: LabelBox, item: QueueItem, class_count: int) -> str:
    """Empty where the box can be kept."""
    if not 0 <= box.cls < class_count:
        return f"class {box.cls} is none of the {class_count} in the class table"
    if not all(math.isfinite(v) for v in (box.x1, box.y1, box.x2, box.y2)):
        return "a side is not a number"
    if box.x2 - box.x1 < MIN_SIDE_PX or box.y2 - box.y1 < MIN_SIDE_PX:
        return f"less than {MIN_SIDE_PX:g} pixel wide or high"
    near = rounded(box)
    if not (near.x1 >= 0 and near.y1 >= 0 and near.x2 <= item.width_px and near.y2 <= item.height_px):
        return f"reaches out of the picture of {item.width_px} × {item.height_px} pixels"
    if box.origin is Origin.MODEL and not any(_alike(box, c) for c in item.candidates):
        return "is said to be the model's own, but the model did not give it; its origin is 'edited' or 'human'"
    return ""


def _alike(box: LabelBox, other: Candidate | LabelBox) -> bool:
    return box.cls == other.cls and all(
        abs(a - b) <= 0.11 for a, b in ((box.x1, other.x1), (box.y1, other.y1), (box.x2, other.x2), (box.y2, other.y2))
    )


def _same(own: Sequence[LabelBox], sent: Sequence[LabelBox]) -> bool:
    left = list(own)
    for box in sent:
        partner = next((b for b in left if _alike(box, b)), None)
        if partner is None:
            return False
        left.remove(partner)
    return not left
