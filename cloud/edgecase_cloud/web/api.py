"""The JSON API under /api/v1: everything the pages show and do, for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Query
from sqlalchemy.orm import Session

from edgecase_cloud import review, review_queue, reviewable
from edgecase_cloud.catalogue import Bundle, Dataset, Job, JobState, ObjectClass, Review
from edgecase_cloud.services import Services
from edgecase_cloud.web import fleet, schemas
from edgecase_cloud.web.problems import MEDIA_TYPE, Problem
from edgecase_cloud.web.services import Web, reading

router = APIRouter(prefix="/api/v1")

MAX_PAGE: Final = 200
MAX_WAITING_JOBS: Final = 20
ANY_STATE: Final = "any"

Text = Annotated[str, Query(max_length=200)]
JobId = Annotated[int, Path(ge=1, le=schemas.MAX_INT)]
FrameId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": schemas.ProblemOut, "content": {MEDIA_TYPE: {}}} for status in (404, 409, 422)
}


def queue_filter(
    services: Web,
    review_state: Annotated[Review | str, Query(alias="review", max_length=20)] = Review.OPEN,
    device: Text = "",
    camera: Text = "",
    cls: Annotated[str, Query(alias="class", max_length=200)] = "",
    strategy: Text = "",
    model: Text = "",
    min_score: Annotated[str, Query(max_length=20)] = "",
    order: review_queue.Order = review_queue.Order.BATCH,
) -> review_queue.QueueFilter:
    """The filter that a URL's query describes; empty values ask for everything."""
    return review_queue.QueueFilter(
        review=_state(str(review_state)),
        device=device,
        camera=camera,
        cls=_class_index(services, cls),
        strategy=strategy,
        model_digest=model,
        min_score=_score(min_score),
        order=order,
    )


Wanted = Annotated[review_queue.QueueFilter, Depends(queue_filter)]


@router.get("/summary", response_model=schemas.SummaryOut)
def summary(services: Web) -> fleet.Summary:
    """The circle at a glance."""
    with reading(services) as session:
        return fleet.summary(session)


@router.get("/queue", response_model=schemas.QueueOut, responses=PROBLEMS)
def queue(
    services: Web,
    wanted: Wanted,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    offset: Annotated[int, Query(ge=0, le=schemas.MAX_INT)] = 0,
) -> review_queue.QueuePage:
    """Frames whose picture has arrived: the batch, the most doubtful, or the newest first.

    `review` is open, accepted, corrected, rejected, context (sent along with a pick, not to be labelled) or any.
    """
    with reading(services) as session:
        return review_queue.queue(session, wanted, limit=limit, offset=offset)


@router.get("/frames/{frame_id}", response_model=schemas.FrameOut, responses=PROBLEMS)
def frame(services: Web, frame_id: FrameId) -> review.FrameDetail:
    """One frame with its boxes, reasons and answers."""
    with reading(services) as session:
        return detail(session, frame_id)


@router.post("/frames/{frame_id}/annotation", response_model=schemas.SavedOut, responses=PROBLEMS)
def annotate(services: Web, frame_id: FrameId, answer: schemas.AnnotationIn) -> schemas.SavedOut:
    """Answer a frame. 409 where someone else answered since `revision`: nothing is written and `current` says what they said."""
    with services.catalogue.session.begin() as session:
        try:
            outcome = review.save_annotation(
                session,
                frame_id,
                revision=answer.revision,
                verdict=answer.verdict,
                boxes=[box.label() for box in answer.boxes],
                author=answer.author,
                now=datetime.now(UTC),
            )
        except review.NotReviewable as error:
            raise Problem(404, str(error)) from error
    match outcome:
        case review.InvalidAnnotation(message):
            raise Problem(422, message)
        case review.StaleRevision() as stale:
            current = schemas.AnswerOut.model_validate(stale.current).model_dump(mode="json") if stale.current else None
            raise Problem(409, stale.message, {"revision": stale.revision, "current": current})
    boxes = [schemas.LabelBoxOut.model_validate(box) for box in outcome.boxes]
    return schemas.SavedOut(frame_id=frame_id, revision=outcome.revision, review=outcome.review, boxes=boxes)


@router.get("/classes", response_model=list[schemas.ClassOut])
def classes(services: Web) -> list[ObjectClass]:
    """The class table; indices never change."""
    with reading(services) as session:
        return list(session.scalars(sa.select(ObjectClass).order_by(ObjectClass.index)))


@router.get("/devices", response_model=list[schemas.DeviceOut])
def devices(services: Web) -> list[fleet.DeviceView]:
    """Every device with what it last reported."""
    with reading(services) as session:
        return list(fleet.device_views(session))


@router.get("/datasets", response_model=list[schemas.DatasetOut])
def datasets(services: Web) -> list[Dataset]:
    """Every dataset version, newest first."""
    with reading(services) as session:
        return all_datasets(session)


@router.get("/bundles", response_model=list[schemas.BundleOut])
def bundles(services: Web) -> list[Bundle]:
    """Every packed model, newest first."""
    with reading(services) as session:
        return all_bundles(session)


@router.get("/jobs", response_model=list[schemas.JobOut])
def jobs(services: Web, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50) -> list[Job]:
    """Jobs, newest first."""
    with reading(services) as session:
        return all_jobs(session, limit)


@router.get("/jobs/{job_id}", response_model=schemas.JobOut, responses=PROBLEMS)
def job(services: Web, job_id: JobId) -> Job:
    """One job."""
    with reading(services) as session:
        return the_job(session, job_id)


@router.post("/jobs", response_model=schemas.JobOut, status_code=201, responses=PROBLEMS)
def start_job(services: Web, wanted: schemas.JobIn) -> Job:
    """Queue work for the learning worker."""
    from edgecase_cloud import learner, retrain

    with reading(services) as session:
        waiting = session.scalar(sa.select(sa.func.count()).select_from(Job).where(Job.state == JobState.QUEUED)) or 0
    if waiting >= MAX_WAITING_JOBS:
        raise Problem(409, f"{waiting} jobs wait already; let the learning worker get through them first")
    try:
        return learner.submit(services.catalogue, wanted.request)
    except retrain.RequestError as error:
        raise Problem(422, str(error)) from error


def detail(session: Session, frame_id: str) -> review.FrameDetail:
    """One frame, or a 404."""
    try:
        return review.frame_detail(session, frame_id)
    except review.NotReviewable as error:
        raise Problem(404, str(error)) from error


def the_job(session: Session, job_id: int) -> Job:
    """One job, or a 404."""
    found = session.get(Job, job_id)
    if found is None:
        raise Problem(404, f"there is no job {job_id}")
    return found


def all_jobs(session: Session, limit: int) -> list[Job]:
    """The newest jobs."""
    return list(session.scalars(sa.select(Job).order_by(Job.id.desc()).limit(limit)))


def all_datasets(session: Session) -> list[Dataset]:
    """Every dataset version, newest first."""
    return list(session.scalars(sa.select(Dataset).order_by(Dataset.created_at.desc(), Dataset.id)))


def all_bundles(session: Session) -> list[Bundle]:
    """Every packed model, newest first."""
    return list(session.scalars(sa.select(Bundle).order_by(Bundle.created_at.desc(), Bundle.digest)))


def _state(value: str) -> Review | None:
    if value == ANY_STATE:
        return None
    try:
        return Review(value or Review.OPEN)
    except ValueError as error:
        raise Problem(422, f"review is {value!r}; it can be {', '.join(Review)} or {ANY_STATE}") from error


def _score(value: str) -> float | None:
    try:
        return float(value) if value else None
    except ValueError as error:
        raise Problem(422, f"min_score is {value!r}; it must be a number") from error


def _class_index(services: Services, name: str) -> int | None:
    if not name:
        return None
    with reading(services) as session:
        names = reviewable.class_names(session)
    if name not in names:
        raise Problem(422, f"class {name!r} is not in the class table; it holds {', '.join(names) or 'nothing yet'}")
    return names.index(name)
