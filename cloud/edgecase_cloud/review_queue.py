"""The review queue: which frames wait for a person, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from edgecase_cloud.catalogue import Delivery, Frame, Review
from edgecase_cloud.reviewable import ARRIVED, QueueItem, item_of, newest_answers, standings_of


class Order(StrEnum):
    """The batch to label first, in its order; or the frame that its device found most doubtful, or the newest.

    Behind the batch stands what is not in it, the most doubtful first, and behind that what only repeats another frame.
    """

    BATCH = "batch"
    SCORE = "score"
    TIME = "time"


@dataclass(frozen=True)
class QueueFilter:
    """Which frames, in which order. Empty fields ask for everything; `review` None asks for every state.

    `cls` asks for frames in which the model sees an object of that class at or above `class_score`.
    """

    review: Review | None = Review.OPEN
    device: str = ""
    camera: str = ""
    cls: int | None = None
    class_score: float = 0.1
    strategy: str = ""
    model_digest: str = ""
    min_score: float | None = None
    order: Order = Order.BATCH


@dataclass(frozen=True)
class QueuePage:
    """A stretch of the queue: `total` frames match the filter, `left` of those that match it in any state are open."""

    items: tuple[QueueItem, ...]
    total: int
    left: int
    offset: int
    limit: int


@dataclass(frozen=True)
class Facets:
    """What the frames at hand can be filtered by, each with its number of frames, most first."""

    devices: tuple[tuple[str, int], ...]
    cameras: tuple[tuple[str, int], ...]
    strategies: tuple[tuple[str, int], ...]
    models: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Counts:
    """Frames by how far they came (`delivery`) and, of those that arrived, by what was said of them (`review`)."""

    delivery: dict[Delivery, int] = field(default_factory=dict)
    review: dict[Review, int] = field(default_factory=dict)

    @property
    def labelled(self) -> int:
        """Frames that can teach: accepted and corrected ones."""
        return self.review.get(Review.ACCEPTED, 0) + self.review.get(Review.CORRECTED, 0)


def queue(session: Session, wanted: QueueFilter, *, limit: int, offset: int = 0) -> QueuePage:
    """Frames that match, in order; only such whose picture has arrived."""
    page = sa.select(Frame.id).where(*_matching(session, wanted)).order_by(*_ordering(wanted.order))
    ids = session.scalars(page.limit(limit).offset(offset)).all()  # from an index; only then the rows, which are long
    rows = {row.id: row for row in session.scalars(_rows(ids))}
    answers = newest_answers(session, [row.id for row in rows.values() if row.revision])
    standings = standings_of(session, ids)
    total = count(session, wanted)
    return QueuePage(
        items=tuple(item_of(rows[each], answers.get(each), standings.get(each)) for each in ids),
        total=total,
        left=total if wanted.review is Review.OPEN else count(session, _in_state(wanted, Review.OPEN)),
        offset=offset,
        limit=limit,
    )


def count(session: Session, wanted: QueueFilter) -> int:
    """How many frames match."""
    return session.scalar(sa.select(sa.func.count()).select_from(Frame).where(*_matching(session, wanted))) or 0


def counts(session: Session) -> Counts:
    """All frames, by delivery and by review."""
    delivery = session.execute(sa.select(Frame.delivery, sa.func.count()).group_by(Frame.delivery)).all()
    review = session.execute(sa.select(Frame.review, sa.func.count()).where(ARRIVED).group_by(Frame.review)).all()
    return Counts({Delivery(k): n for k, n in delivery}, {Review(k): n for k, n in review})


def facets(session: Session) -> Facets:
    """What the arrived frames can be filtered by; from an index that holds it all."""
    devices, cameras, models, strategies = (Counter[str]() for _ in range(4))
    for device, camera, model, n in _grouped(session, Frame.device_id, Frame.camera, Frame.model_digest):
        devices[device] += n
        cameras[camera] += n
        models[model] += n
    for names, n in _grouped(session, Frame.strategies):
        strategies.update(dict.fromkeys(filter(None, names.split("\n")), n))
    return Facets(*(_most_first(each) for each in (devices, cameras, strategies, models)))


def _grouped(session: Session, *columns: Any) -> Sequence[Any]:
    """How many arrived frames have which values."""
    return session.execute(sa.select(*columns, sa.func.count()).where(ARRIVED).group_by(*columns)).all()


def _most_first(counted: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counted.items(), key=lambda each: (-each[1], each[0])))


def next_frame(session: Session, wanted: QueueFilter, after: str | None) -> str | None:
    """The frame behind `after` in the queue; at its end the first that is left; None when nothing but `after` is.

    `after` need not match the filter any more: having been answered, it keeps its place.
    """
    matching = _matching(session, wanted)
    ordering = _ordering(wanted.order)
    anchor = None if after is None else session.get(Frame, after)
    if anchor is not None:
        behind = sa.select(Frame.id).where(*matching, _behind(wanted.order, anchor)).order_by(*ordering).limit(1)
        found = session.scalar(behind)
        if found is not None:
            return found
        matching = [*matching, Frame.id != anchor.id]
    return session.scalar(sa.select(Frame.id).where(*matching).order_by(*ordering).limit(1))


def previous_frame(session: Session, wanted: QueueFilter, before: str) -> str | None:
    """The frame in front of `before` that was asked for, whatever was said of it: the way back to the answer just given."""
    anchor = session.get(Frame, before)
    if anchor is None:
        return None
    return session.scalar(
        sa.select(Frame.id)
        .where(
            *_matching(session, _in_state(wanted, None)), Frame.review != Review.CONTEXT, _ahead(wanted.order, anchor)
        )
        .order_by(*_reversed(wanted.order))
        .limit(1)
    )


def _matching(session: Session, wanted: QueueFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [ARRIVED]
    if wanted.review is not None:
        found.append(Frame.review == wanted.review)
    for column, value in (
        (Frame.device_id, wanted.device),
        (Frame.camera, wanted.camera),
        (Frame.model_digest, wanted.model_digest),
    ):
        if value:
            found.append(column == value)
    if wanted.min_score is not None:
        found.append(Frame.score >= wanted.min_score)
    if wanted.cls is not None:
        box = _elements(session, Frame.boxes)
        of_class = (box.c.value[0].as_integer() == wanted.cls) & (box.c.value[1].as_float() >= wanted.class_score)
        found.append(sa.exists(sa.select(sa.literal(1)).select_from(box).where(of_class)))
    if wanted.strategy:
        reason = _elements(session, Frame.reasons)
        of_strategy = reason.c.value["strategy"].as_string() == wanted.strategy
        found.append(sa.exists(sa.select(sa.literal(1)).select_from(reason).where(of_strategy)))
    return found


def _elements(session: Session, column: Any) -> sa.TableValuedAlias:
    """The entries of a JSON array as rows with the column `value`."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    function = sa.func.json_each(column) if sqlite else sa.func.json_array_elements(column)
    return function.table_valued(sa.column("value", sa.JSON), joins_implicitly=True)


def _in_state(wanted: QueueFilter, review: Review | None) -> QueueFilter:
    return replace(wanted, review=review)


def _rows(ids: Sequence[str]) -> sa.Select[Frame]:
    return sa.select(Frame).where(Frame.id.in_(ids)).options(defer(Frame.thumbnail_jpeg))


@dataclass(frozen=True)
class _Key:
    """One column of an order, and whether the order goes down it."""

    column: sa.orm.InstrumentedAttribute[Any]
    falls: bool

    def ordered(self, *, back: bool = False) -> sa.ColumnElement[Any]:
        return self.column.desc() if self.falls is not back else self.column.asc()

    def beyond(self, anchor: Frame, *, back: bool) -> sa.ColumnElement[bool]:
        value = getattr(anchor, self.column.key)
        further: sa.ColumnElement[bool] = self.column < value if self.falls is not back else self.column > value
        return further


_KEYS: Final = MappingProxyType(
    {
        Order.BATCH: (_Key(Frame.place, True), _Key(Frame.score, True), _Key(Frame.id, False)),
        Order.SCORE: (_Key(Frame.score, True), _Key(Frame.id, False)),
        Order.TIME: (_Key(Frame.taken_at, True), _Key(Frame.id, False)),
    }
)


def _ordering(order: Order) -> tuple[sa.ColumnElement[Any], ...]:
    return tuple(key.ordered() for key in _KEYS[order])


def _reversed(order: Order) -> tuple[sa.ColumnElement[Any], ...]:
    return tuple(key.ordered(back=True) for key in _KEYS[order])


def _behind(order: Order, anchor: Frame) -> sa.ColumnElement[bool]:
    return _beyond(order, anchor, back=False)


def _ahead(order: Order, anchor: Frame) -> sa.ColumnElement[bool]:
    return _beyond(order, anchor, back=True)


def _beyond(order: Order, anchor: Frame, *, back: bool) -> sa.ColumnElement[bool]:
    """What stands behind the anchor, or in front of it: further in the first column in which the two differ."""
    *outer, last = _KEYS[order]
    found = last.beyond(anchor, back=back)
    for key in reversed(outer):
        same = key.column == getattr(anchor, key.column.key)
        found = key.beyond(anchor, back=back) | (same & found)
    return found
