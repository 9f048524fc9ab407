"""The pages: the same facts as the API, laid out for people. A page's state is its URL."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlencode

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from edgecase_cloud import review_queue, reviewable
from edgecase_cloud.catalogue import Bundle, Event, Job, Review
from edgecase_cloud.web import fleet, outcome, schemas
from edgecase_cloud.web.api import (
    FrameId,
    JobId,
    Wanted,
    all_bundles,
    all_datasets,
    all_jobs,
    detail,
    the_job,
)
from edgecase_cloud.web.services import Web, reading
from edgecase_cloud.web.templates import TEMPLATES

router = APIRouter(include_in_schema=False)

PAGE_SIZE: Final = 48
FILTER_KEYS: Final = ("review", "device", "camera", "class", "strategy", "model", "min_score", "order")
DEFAULTS: Final = {"review": "open", "order": "batch"}


@router.get("/")
def overview(services: Web, request: Request) -> Response:
    """The circle at a glance."""
    with reading(services) as session:
        page = review_queue.queue(session, review_queue.QueueFilter(), limit=6)
        events = session.scalars(sa.select(Event).order_by(Event.id.desc()).limit(8)).all()
        context = {
            "summary": fleet.summary(session),
            "page": page,
            "classes": reviewable.class_names(session),
            "events": events,
        }
        return _render(request, session, "overview.html", context)


@router.get("/queue")
def queue(
    services: Web,
    request: Request,
    wanted: Wanted,
    offset: Annotated[int, Query(ge=0, le=schemas.MAX_INT)] = 0,
) -> Response:
    """The frames that wait, as a grid."""
    with reading(services) as session:
        page = review_queue.queue(session, wanted, limit=PAGE_SIZE, offset=offset)
        context = {
            "page": page,
            "facets": review_queue.facets(session),
            "classes": reviewable.class_names(session),
            "filters": filters_of(request),
            "query": query_of(request),
            "arrived": review_queue.count(session, review_queue.QueueFilter(review=None)),
        }
        return _render(request, session, "queue.html", context)


@router.get("/queue/next")
def next_frame(services: Web, request: Request, wanted: Wanted, after: str | None = None) -> Response:
    """On to the next frame of the queue."""
    with reading(services) as session:
        found = review_queue.next_frame(session, wanted, after)
    return _to(found, request)


@router.get("/queue/previous")
def previous_frame(services: Web, request: Request, wanted: Wanted, before: str) -> Response:
    """Back to the frame before."""
    with reading(services) as session:
        found = review_queue.previous_frame(session, wanted, before)
    return _to(found or before, request)


@router.get("/frames/{frame_id}")
def frame(services: Web, request: Request, wanted: Wanted, frame_id: FrameId) -> Response:
    """One frame in the box editor."""
    with reading(services) as session:
        found = detail(session, frame_id)
        upcoming = review_queue.next_frame(session, wanted, frame_id)
        query = query_of(request)
        context = {
            "detail": found,
            "item": found.frame,
            "outdated": _outdated(session, found.frame.model_digest),
            "query": query,
            "left_here": review_queue.count(session, wanted),
            "data": {
                **schemas.FrameOut.model_validate(found).model_dump(mode="json"),
                "model_boxes": [_plain(box) for box in reviewable.model_boxes(found.frame)],
                "next": f"/queue/next?{urlencode({'after': frame_id})}{query and '&' + query}",
                "previous": f"/queue/previous?{urlencode({'before': frame_id})}{query and '&' + query}",
                "upcoming": f"/api/v1/frames/{upcoming}/image" if upcoming else None,
            },
        }
        return _render(request, session, "frame.html", context)


@router.get("/devices")
def devices(services: Web, request: Request) -> Response:
    """What every device reports."""
    with reading(services) as session:
        return _render(request, session, "devices.html", {"devices": fleet.device_views(session)})


@router.get("/datasets")
def datasets(services: Web, request: Request) -> Response:
    """Dataset versions."""
    with reading(services) as session:
        context = {
            "datasets": [(row, outcome.described(row.summary)) for row in all_datasets(session)],
            "labelled": review_queue.counts(session).labelled,
        }
        return _render(request, session, "datasets.html", context)


@router.get("/jobs")
def jobs(services: Web, request: Request) -> Response:
    """What the learning worker does and did."""
    with reading(services) as session:
        rows = [(row, outcome.stage_progress(row)) for row in all_jobs(session, 50)]
        return _render(request, session, "jobs.html", {"jobs": rows, "labelled": review_queue.counts(session).labelled})


@router.get("/jobs/{job_id}")
def job(services: Web, request: Request, job_id: JobId) -> Response:
    """One job with the gate's report."""
    with reading(services) as session:
        row: Job = the_job(session, job_id)
        context = {
            "job": row,
            "stages": outcome.stage_progress(row),
            "gate": _gate_of(session, row),
            "losses": outcome.losses(row.result),
            "facts": outcome.facts(row.result),
            "request_facts": outcome.facts(row.request),
        }
        return _render(request, session, "job.html", context)


@router.get("/releases")
def releases(services: Web, request: Request) -> Response:
    """Bundles, released or not, and who runs which."""
    with reading(services) as session:
        devices = fleet.device_views(session)
        rows = [(row, fleet.runners(devices, row.digest), outcome.gate_view(row.gate)) for row in all_bundles(session)]
        known = {row.digest for row, _, _ in rows}
        strangers = [d for d in devices if d.running_digest and d.running_digest not in known]
        return _render(request, session, "releases.html", {"bundles": rows, "strangers": strangers, "devices": devices})


@router.get("/favicon.ico")
def favicon() -> Response:
    """What browsers ask for beside anything that is no page."""
    return RedirectResponse("/static/mark.svg", 308)


def filters_of(request: Request) -> dict[str, str]:
    """The filter as the URL has it, with the defaults filled in."""
    return {key: request.query_params.get(key) or DEFAULTS.get(key, "") for key in FILTER_KEYS}


def query_of(request: Request) -> str:
    """The filter as a query string without what is default anyway: the part of the URL that travels from page to page."""
    return urlencode([(key, value) for key, value in filters_of(request).items() if value != DEFAULTS.get(key, "")])


def _outdated(session: Session, digest: str) -> tuple[int, int] | None:
    """This model's release and the newest, where that is another; a model that was never released here is none to compare."""
    own = session.scalar(sa.select(Bundle.release).where(Bundle.digest == digest))
    newest = session.scalar(sa.select(sa.func.max(Bundle.release)))
    return None if own is None or newest is None or own == newest else (own, newest)


def _gate_of(session: Session, job: Job) -> outcome.GateView | None:
    """The gate's report of a job: in its result, or with the bundle that it made."""
    report = job.result.get("gate")
    if not isinstance(report, dict):
        bundle = session.get(Bundle, str(job.result.get("candidate_digest", "")))
        report = bundle.gate if bundle is not None else {}
    return outcome.gate_view(report)


def _to(frame_id: str | None, request: Request) -> RedirectResponse:
    path, query = f"/frames/{frame_id}" if frame_id else "/queue", query_of(request)
    return RedirectResponse(f"{path}?{query}" if query else path, 303)


def _plain(box: reviewable.LabelBox) -> dict[str, Any]:
    return schemas.LabelBoxOut.model_validate(box).model_dump(mode="json")


def _render(request: Request, session: Session, name: str, context: dict[str, Any]) -> Response:
    waiting = review_queue.count(session, review_queue.QueueFilter(review=Review.OPEN))
    return TEMPLATES.TemplateResponse(
        request, name, {"waiting": waiting, "here": request.url.path, **context}, headers={"cache-control": "no-store"}
    )
