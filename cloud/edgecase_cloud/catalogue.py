"""What the cloud knows: devices, frames, annotations, datasets, jobs and releases, as rows that outlive any process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, UniqueConstraint, event
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

ADOPTED: Final = ""
"""The model digest of a frame that is known by its object alone: which model saw what in it, its device has yet to say."""
FRONT: Final = 2**31 - 1
LATER: Final = 0
LAST: Final = -1
"""Places in the label queue, the greater the further in front: down from FRONT the batch, then what waits, then what repeats another."""


class UtcDateTime(sa.TypeDecorator[datetime]):
    """An aware UTC time, also on SQLite, which keeps no zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored; use aware UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Delivery(StrEnum):
    """How far a frame has come; `DELIVERY_MOVES` says where it may go from there."""

    OFFERED = "offered"
    GRANTED = "granted"
    ACKNOWLEDGED = "acknowledged"
    DECLINED = "declined"
    REJECTED = "rejected"
    EXPIRED = (
        "expired"  # it was acknowledged and kept for as long as frames are kept; the row stays, the picture is gone
    )


DELIVERY_MOVES: Final = MappingProxyType(
    {
        Delivery.OFFERED: frozenset({Delivery.GRANTED, Delivery.DECLINED}),
        Delivery.GRANTED: frozenset({Delivery.ACKNOWLEDGED, Delivery.REJECTED}),
        Delivery.ACKNOWLEDGED: frozenset({Delivery.EXPIRED}),
        Delivery.DECLINED: frozenset[Delivery](),
        Delivery.REJECTED: frozenset[Delivery](),
        Delivery.EXPIRED: frozenset[Delivery](),
    }
)


class Review(StrEnum):
    """What a person said of a frame: OPEN until it is accepted as it is, corrected, or rejected as not worth a label.

    CONTEXT: sent along to be seen beside a pick. Nobody is asked for an answer; one that is given counts like any other.
    """

    OPEN = "open"
    ACCEPTED = "accepted"
    CORRECTED = "corrected"
    REJECTED = "rejected"
    CONTEXT = "context"


class JobState(StrEnum):
    """QUEUED -> RUNNING -> DONE | FAILED."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Choice(sa.TypeDecorator[StrEnum]):
    """One member of an enumeration, kept as its value; anything else is an error on the way in and on the way out."""

    impl = String(16)
    cache_ok = True

    def __init__(self, choices: type[StrEnum]) -> None:
        super().__init__()
        self.choices = choices

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else self.choices(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:  # noqa: ARG002
        return None if value is None else self.choices(value)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Device(Base):
    """A device that was added, how it is enrolled (see `devices.standing`), and what it last reported of itself."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    added_at: Mapped[datetime]
    enrolment: Mapped[str] = mapped_column(String(32), default="")  # stands in the subject of its certificates
    token_sha256: Mapped[str] = mapped_column(String(64), default="", index=True)
    token_expires_at: Mapped[datetime | None]
    key_sha256: Mapped[str] = mapped_column(
        String(64), default="", index=True
    )  # of the public key; empty until it enrols
    certificate_expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    online: Mapped[bool] = mapped_column(default=False)
    session: Mapped[str] = mapped_column(default="")
    last_seen_at: Mapped[datetime | None]
    running_digest: Mapped[str] = mapped_column(default="")
    status: Mapped[dict[str, Any]] = mapped_column(default=dict)  # the last wire.Status, as JSON
    runs: Mapped[list[Any]] = mapped_column(default=list, server_default=sa.text("'[]'"))  # `twins.Run` as JSON objects
    shared_at: Mapped[datetime | None]  # when two devices were last seen to share this identity


def strategies_of(reasons: Iterable[Mapping[str, Any]]) -> str:
    """The strategies that gave the reasons, each once, sorted, one a line."""
    return "\n".join(sorted({str(reason["strategy"]) for reason in reasons}))


_UNSEEN: Final = sa.text("problem IS NULL")


class Frame(Base):
    """A frame that a device offered. The row exists before the object; ACKNOWLEDGED means that the object was checked."""

    __tablename__ = "frames"
    __table_args__ = (
        Index("ix_frames_device_id_offered_at", "device_id", "offered_at"),
        Index("ix_frames_context_of", "context_of"),
        # The three orders of the queue, each answered from its index alone: a row is long, with its thumbnail in front of its state.
        Index("ix_frames_place", "delivery", "review", "place", "score", "id"),
        Index("ix_frames_score", "delivery", "score", "review", "id"),
        Index("ix_frames_taken_at", "delivery", "taken_at", "review", "id"),
        # What the queue can be filtered by is counted from this one alone.
        Index("ix_frames_origin", "delivery", "device_id", "camera", "model_digest", "strategies"),
        Index("ix_frames_boot", "device_id", "boot_id", "monotonic_ns"),
        Index("ix_frames_acknowledged_at", "delivery", "acknowledged_at"),
        Index("ix_frames_unseen", "delivery", sqlite_where=_UNSEEN, postgresql_where=_UNSEEN),
    )
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    camera: Mapped[str]
    frame_index: Mapped[int] = mapped_column(BigInteger)
    captured_at: Mapped[datetime]  # as the device's clock said
    # As far as can be told, in the order of `monotonic_ns` within a boot: what frames are sorted and shown by (`clocks`).
    taken_at: Mapped[datetime] = mapped_column(
        default=lambda context: context.get_current_parameters()["captured_at"],
        server_default=sa.text("'1970-01-01 00:00:00.000000'"),
    )
    recorded: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # the time is the recording's own
    boot_id: Mapped[str] = mapped_column(
        default=""
    )  # with monotonic_ns: the order that a wrong wall clock cannot change
    monotonic_ns: Mapped[int] = mapped_column(BigInteger, default=0)
    offered_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    delivery: Mapped[Delivery] = mapped_column(Choice(Delivery))
    delivery_reason: Mapped[str] = mapped_column(default="")
    key: Mapped[str] = mapped_column(default="")
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int]
    width_px: Mapped[int]
    height_px: Mapped[int]
    media_type: Mapped[str]
    model_digest: Mapped[str] = mapped_column(String(64))
    score: Mapped[float]
    reasons: Mapped[list[Any]]  # wire.Reason as JSON objects
    strategies: Mapped[str] = mapped_column(  # follows from `reasons`, which never change
        default=lambda context: strategies_of(context.get_current_parameters()["reasons"]), server_default=sa.text("''")
    )
    context_of: Mapped[str | None] = mapped_column(
        String(32)
    )  # the pick, on the same device, beside which this one lies
    boxes: Mapped[list[Any]]  # [class index in the catalogue's class table, score, x1, y1, x2, y2] in pixels
    operating_point: Mapped[float] = mapped_column(default=0.25)  # boxes that score less are candidates only
    thumbnail_jpeg: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    # wire.Redaction, NULL where pictures leave the device as they are; wire.Position, NULL where it is not told
    redaction: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    position: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    problem: Mapped[str | None]  # why the picture cannot be used; None until it was looked at, empty where it can
    review: Mapped[Review] = mapped_column(Choice(Review), default=Review.OPEN)
    revision: Mapped[int] = mapped_column(default=0)  # counts annotations; a save must name the one it has seen
    # In the label queue, the greater the further in front. A frame keeps its place when it is answered; others are counted on from there.
    place: Mapped[int] = mapped_column(default=LATER, server_default=sa.text(str(LATER)))


class Look(Base):
    """What a batch is chosen by besides a frame's own row, worked out once. The newest has the greatest id."""

    __tablename__ = "looks"
    id: Mapped[int] = mapped_column(primary_key=True)
    frame_id: Mapped[str] = mapped_column(ForeignKey("frames.id"), unique=True)
    fingerprint: Mapped[bytes] = mapped_column(
        LargeBinary, default=b""
    )  # `Fingerprint`; empty where no thumbnail can be read
    problem: Mapped[str] = mapped_column(default="", server_default=sa.text("''"))  # why it cannot
    features: Mapped[bytes] = mapped_column(
        LargeBinary, default=b""
    )  # wire.Features: int8, empty where the model gives none
    features_scale: Mapped[float] = mapped_column(default=0.0)


class Standing(Base):
    """Why a frame of the batch stands where it stands (see `batch.Pick`), or which frame it repeats. Stays when it is answered."""

    __tablename__ = "standings"
    frame_id: Mapped[str] = mapped_column(ForeignKey("frames.id"), primary_key=True)
    rank: Mapped[int]  # 1 is the first of the batch; 0 for a repeat
    value: Mapped[float] = mapped_column(default=0.0)
    score: Mapped[float] = mapped_column(default=0.0)
    distance: Mapped[float | None]  # None where nothing was picked or answered before
    typicality: Mapped[float] = mapped_column(default=0.0)
    cost_s: Mapped[float] = mapped_column(default=0.0)
    quota: Mapped[str] = mapped_column(String(16), default="")
    propensity: Mapped[float] = mapped_column(default=1.0)
    reason: Mapped[str]
    repeats: Mapped[str | None] = mapped_column(String(32))  # the frame that stands for it


class Annotation(Base):
    """One answer to one frame; the newest revision counts, older ones stay."""

    __tablename__ = "annotations"
    __table_args__ = (UniqueConstraint("frame_id", "revision"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    frame_id: Mapped[str] = mapped_column(ForeignKey("frames.id"), index=True)
    revision: Mapped[int]
    verdict: Mapped[Review] = mapped_column(Choice(Review))
    boxes: Mapped[list[Any]]  # {"cls", "x1", "y1", "x2", "y2", "origin": "model" | "edited" | "human"} in pixels
    author: Mapped[str]
    created_at: Mapped[datetime]


class ObjectClass(Base):
    """The class table: indices are given once, in order, and never change or go."""

    __tablename__ = "classes"
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(unique=True)


class Dataset(Base):
    """An immutable dataset version; its id is the digest of its manifest."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))  # "base" (imported), "labelled" (from annotations) or "golden"
    created_at: Mapped[datetime]
    path: Mapped[str]  # relative to the data folder
    pictures: Mapped[int]
    boxes: Mapped[int]
    summary: Mapped[dict[str, Any]]  # counts per split, class, condition and device


class Job(Base):
    """Work for the learning worker: `retrain` runs dataset -> training -> export -> gate -> release."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[JobState] = mapped_column(Choice(JobState), default=JobState.QUEUED, index=True)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    request: Mapped[dict[str, Any]]
    stage: Mapped[str] = mapped_column(default="")  # "dataset", "train", "export", "gate", "release"
    progress: Mapped[float] = mapped_column(default=0.0)  # of the stage, 0 to 1
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str] = mapped_column(default="")


class Bundle(Base):
    """A packed model. The incumbent is the newest released one."""

    __tablename__ = "bundles"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    release: Mapped[int | None] = mapped_column(unique=True)  # monotonic, given when it is signed and published
    created_at: Mapped[datetime]
    released_at: Mapped[datetime | None]
    path: Mapped[str]  # relative to the data folder
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    parent_digest: Mapped[str | None] = mapped_column(String(64))
    gate: Mapped[dict[str, Any]] = mapped_column(default=dict)  # the gate's report


class Event(Base):
    """Append-only: who did what, and what went wrong (incidents, dead letters, forged topics)."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(32), index=True)
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]


class Forgetting(Base):
    """An order to forget frames, and what came of it. An order for a stretch of time also holds for frames that are offered later."""

    __tablename__ = "forgettings"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    device: Mapped[str] = mapped_column(default="")
    taken_from: Mapped[datetime | None]
    taken_to: Mapped[datetime | None]
    frame_id: Mapped[str] = mapped_column(default="")
    # What was found on the way and must not be forgotten itself before all is done: {"datasets": […], "models": […]}
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    done_at: Mapped[datetime | None]


class Forgotten(Base):
    """A frame that is to be forgotten, or is: offered again, it is declined. Nothing but its id is kept."""

    __tablename__ = "forgotten"
    frame_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    forgetting_id: Mapped[int] = mapped_column(ForeignKey("forgettings.id"), index=True)


class Catalogue:
    """The database behind a URL.

    `session.begin()` gives a transaction that commits on leaving and rolls back on an error. `writing.begin()` is for
    what reads first and writes what follows from it: no other process writes in between (SQLite: BEGIN IMMEDIATE).
    Never wait for a network inside it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _durable_sqlite)
            event.listen(self.engine, "begin", _take_the_write_lock)
        self.session: sessionmaker[Session] = sessionmaker(self.engine, expire_on_commit=False)
        self.writing: sessionmaker[Session] = sessionmaker(
            self.engine.execution_options(edgecase_writing=True), expire_on_commit=False
        )

    @classmethod
    def in_folder(cls, data: Path) -> Catalogue:
        """The embedded SQLite catalogue of a data folder."""
        return cls(f"sqlite:///{data / 'catalogue.db'}")

    def close(self) -> None:
        self.engine.dispose()


def _durable_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _take_the_write_lock(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("edgecase_writing"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
