"""The web application, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from edgecase_cloud.audit import Audit
from edgecase_cloud.services import Services
from edgecase_cloud.web import api, enrolments, health, pages, pictures, problems, releases
from edgecase_cloud.web.security import Guard

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
STATIC: Final = Path(__file__).parent / "static"


class Fresh(StaticFiles):
    """Files that the browser asks about each time: a page never runs with another version's script."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


def create_app(services: Services, hosts: Sequence[str] = ()) -> FastAPI:
    """The application over a catalogue and a store. It answers to loopback names, the settings' host and `hosts` only."""
    app = FastAPI(
        title="edgecase",
        summary="The cloud's side of the circle: frames, answers, datasets, jobs and releases.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.services = services
    app.state.audit = Audit(services.catalogue)
    problems.install(app)
    for part in (api, enrolments, pictures, releases, health, pages):
        app.include_router(part.router)
    app.mount("/static", Fresh(directory=STATIC), name="static")
    app.add_middleware(Guard)
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, services.settings.host, *hosts], www_redirect=False
    )
    return app
