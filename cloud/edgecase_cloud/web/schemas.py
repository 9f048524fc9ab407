"""The JSON of the API, both ways; these models make the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgecase_cloud import review, reviewable
from edgecase_cloud.catalogue import JobState, Review
from edgecase_cloud.devices import Standing
from edgecase_models.enrolment import MAX_REQUEST_CHARACTERS

MAX_INT = 2**31 - 1
FrameId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Csr = Annotated[str, Field(max_length=MAX_REQUEST_CHARACTERS)]


class Out(BaseModel):
    """An answer, read from the attributes of a row or a frozen record."""

    model_config = ConfigDict(from_attributes=True)


class CandidateOut(Out):
    """A box the model gave, in pixels of the frame."""

    cls: int
    score: float
    x1: float
    y1: float
    x2: float
    y2: float


class ReasonOut(Out):
    """Why the device kept the frame, and the same in words."""

    strategy: str
    score: float
    threshold: float
    propensity: float


class LabelBoxOut(Out):
    """A box of an answer, in pixels of the frame."""

    cls: int
    x1: float
    y1: float
    x2: float
    y2: float
    origin: reviewable.Origin


class AnswerOut(Out):
    """One revision of what a person said."""

    revision: int
    verdict: Review
    boxes: list[LabelBoxOut]
    author: str
    created_at: datetime


class AreaOut(Out):
    """A part of the picture, in whole pixels of the frame."""

    x1: int
    y1: int
    x2: int
    y2: int


class RedactionOut(Out):
    """What the device made unseen before it stored the frame: `count` areas, `boxes` being the largest of them."""

    mode: str
    method: str
    count: int
    boxes: list[AreaOut]
    classes: list[str]
    model_digest: str | None


class PositionOut(Out):
    """Where the frame was taken, rounded on the device to so many decimals of a degree."""

    latitude_deg: float
    longitude_deg: float
    decimals: int


class QueueItemOut(Out):
    """A frame of the queue."""

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
    reasons: list[ReasonOut]
    candidates: list[CandidateOut]
    review: Review
    revision: int
    answer: AnswerOut | None
    context_of: str | None
    standing: reviewable.Standing | None
    redaction: RedactionOut | None
    position: PositionOut | None
    problem: str


class QueueOut(Out):
    """A stretch of the queue. `left` counts the open frames under the same filter."""

    items: list[QueueItemOut]
    total: int
    left: int
    offset: int
    limit: int


class FrameOut(Out):
    """One frame with every answer it was given, newest first, and the `strip` of what was sent beside it."""

    frame: QueueItemOut
    key: str
    size_bytes: int
    acknowledged_at: datetime
    history: list[AnswerOut]
    classes: list[str]
    strip: list[review.Still]


class BoxIn(BaseModel):
    """A box of an answer, in pixels of the frame."""

    model_config = ConfigDict(extra="forbid")

    cls: Annotated[int, Field(ge=0, le=MAX_INT)]
    x1: float
    y1: float
    x2: float
    y2: float
    origin: reviewable.Origin = reviewable.Origin.HUMAN

    def label(self) -> reviewable.LabelBox:
        """The same as a value of `review`."""
        return reviewable.LabelBox(self.cls, self.x1, self.y1, self.x2, self.y2, self.origin)


class AnnotationIn(BaseModel):
    """An answer to the frame as it was at `revision`."""

    model_config = ConfigDict(extra="forbid")

    revision: Annotated[int, Field(ge=0, le=MAX_INT)]
    verdict: Literal[Review.ACCEPTED, Review.CORRECTED, Review.REJECTED]
    boxes: Annotated[list[BoxIn], Field(max_length=review.MAX_BOXES)] = []
    author: Annotated[str, Field(min_length=1, max_length=review.MAX_AUTHOR_CHARACTERS)]


class SavedOut(Out):
    """The revision under which the answer was saved."""

    frame_id: str
    revision: int
    review: Review
    boxes: list[LabelBoxOut]


class ProblemOut(BaseModel):
    """An RFC 9457 problem document; `current` is the newest answer where this one came too late."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    current: AnswerOut | None = None
    revision: int | None = None


class ClassOut(Out):
    """A row of the class table."""

    index: int
    name: str


class DeviceOut(Out):
    """A device with what it last reported of itself."""

    id: str
    added_at: datetime
    standing: Standing
    certificate_expires_at: datetime | None
    online: bool
    last_seen_at: datetime | None
    running_digest: str
    running_release: int | None
    frames_per_s: float
    frames_seen: int
    bytes_sent: int
    jpeg_bytes_seen: int
    spool_bytes: int
    update: str
    agent_version: str
    balance: dict[str, int]
    balance_holds: bool
    shared_at: datetime | None
    waits_for: str
    last_event: str


class EnrolmentIn(BaseModel):
    """`edgecase_models.enrolment.EnrolmentRequest`."""

    secret: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    csr: Csr


class RenewalIn(BaseModel):
    """`edgecase_models.enrolment.RenewalRequest`."""

    csr: Csr


class EnrolmentOut(BaseModel):
    """`edgecase_models.enrolment.Answer`: who the device is, in JSON, and the authority's signature of it, in base64."""

    enrolled: str
    signature: str


class DatasetOut(Out):
    """An immutable dataset version."""

    id: str
    name: str
    kind: str
    created_at: datetime
    pictures: int
    boxes: int
    summary: dict[str, Any]


class JobIn(BaseModel):
    """Work for the learning worker."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["retrain"]
    request: Annotated[dict[str, Any], Field(max_length=64)] = {}


class JobOut(Out):
    """Work, how far it is, and what came of it."""

    id: int
    kind: str
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    request: dict[str, Any]
    stage: str
    progress: float
    result: dict[str, Any]
    error: str


class BundleOut(Out):
    """A packed model; one with a `release` is signed and published."""

    digest: str
    name: str
    version: str
    release: int | None
    created_at: datetime
    released_at: datetime | None
    dataset_id: str | None
    parent_digest: str | None
    gate: dict[str, Any]


class SummaryOut(Out):
    """The circle at a glance."""

    frames: dict[str, int]
    review: dict[str, int]
    labelled: int
    bytes: dict[str, int]
    devices: list[DeviceOut]
    dataset: DatasetOut | None
    job: JobOut | None
    release: BundleOut | None
