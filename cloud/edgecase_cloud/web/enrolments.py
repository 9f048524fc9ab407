"""Where devices ask for their certificates: with a token the first time, with their key from then on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from edgecase_cloud import devices
from edgecase_cloud.audit import Audit
from edgecase_cloud.web import schemas
from edgecase_cloud.web.problems import MEDIA_TYPE, Problem
from edgecase_cloud.web.services import Web
from edgecase_models import enrolment

router = APIRouter()

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": schemas.ProblemOut, "content": {MEDIA_TYPE: {}}} for status in (403, 422, 503)
}


def audit_of(request: Request) -> Audit:
    """Where this application records refusals."""
    return cast("Audit", request.app.state.audit)


Audited = Annotated[Audit, Depends(audit_of)]


@router.post(enrolment.ENROLMENTS, response_model=schemas.EnrolmentOut, responses=PROBLEMS)
def enrol(services: Web, audit: Audited, asked: schemas.EnrolmentIn) -> Response:
    """A certificate for a token. Asked again with the same key, the same device gets its answer again."""
    request = enrolment.EnrolmentRequest(secret=asked.secret, csr=asked.csr)
    return _answered(audit, lambda now: devices.enrol(services, request, _root(services), now))


@router.post(enrolment.RENEWALS, response_model=schemas.EnrolmentOut, responses=PROBLEMS)
def renew(services: Web, audit: Audited, asked: schemas.RenewalIn) -> Response:
    """Another certificate for a key whose present one is good."""
    request = enrolment.RenewalRequest(csr=asked.csr)
    return _answered(audit, lambda now: devices.renew(services, request, _root(services), now))


def _answered(audit: Audit, ask: Callable[[datetime], enrolment.Answer]) -> Response:
    now = datetime.now(UTC)
    try:
        answer = ask(now)
    except devices.Denied as denied:
        audit.refused(denied.refusal, now)
        raise Problem(403, denied.detail) from denied
    return Response(msgspec.json.encode(answer), media_type="application/json", headers={"cache-control": "no-store"})


def _root(services: Web) -> bytes:
    from edgecase_cloud import release

    try:
        return release.ensure_repository(services.settings).trust_root()
    except release.ReleaseError as error:
        raise Problem(503, f"there is nothing for a device to trust: {error}") from error
