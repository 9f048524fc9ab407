"""Whether the web answers, and whether what it needs does."""

from __future__ import annotations

import sqlalchemy as sa
import structlog
from fastapi import APIRouter
from pydantic import BaseModel

from edgecase_cloud.web.problems import Problem
from edgecase_cloud.web.services import Web, reading

router = APIRouter()
log = structlog.get_logger()


class HealthOut(BaseModel):
    """Fine; otherwise the answer is a problem document."""

    status: str = "ok"


@router.get("/healthz")
def healthz() -> HealthOut:
    """The process answers."""
    return HealthOut()


@router.get("/readyz")
def readyz(services: Web) -> HealthOut:
    """The catalogue answers, too."""
    try:
        with reading(services) as session:
            session.execute(sa.text("SELECT count(*) FROM frames WHERE 0 = 1"))
    except sa.exc.SQLAlchemyError as error:
        log.warning("catalogue does not answer", error=str(error))
        raise Problem(503, "the catalogue does not answer; see the web log") from error
    return HealthOut()
