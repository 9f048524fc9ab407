"""Errors as the web tells them: RFC 9457 problem documents to programs, a page to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from edgecase_cloud.web.headers import HEADERS

MEDIA_TYPE: Final = "application/problem+json"
PROGRAM_PATHS: Final = ("/api/", "/tuf/", "/healthz", "/readyz", "/static/")

log = structlog.get_logger()


@dataclass
class Problem(Exception):
    """Why a request was not answered, and what to do; `extra` are further members of the document."""

    status: int
    detail: str
    extra: dict[str, Any] = field(default_factory=dict)

    def response(self, path: str) -> Response:
        """The problem document."""
        title = HTTPStatus(self.status).phrase
        content = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
        return JSONResponse(
            content | {"instance": path} | self.extra,
            self.status,
            headers={"cache-control": "no-store"},
            media_type=MEDIA_TYPE,
        )


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document, or a page where a person asked."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _crash)


def _answer(request: Request, problem: Problem) -> Response:
    if request.url.path.startswith(PROGRAM_PATHS):
        return problem.response(request.url.path)
    return _page(request, problem)


def _page(request: Request, problem: Problem) -> Response:
    from edgecase_cloud.web.templates import TEMPLATES

    context = {
        "here": request.url.path,
        "waiting": 0,
        "title": HTTPStatus(problem.status).phrase,
        "detail": problem.detail,
    }
    return TEMPLATES.TemplateResponse(request, "error.html", context, status_code=problem.status)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _answer(request, error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _usual(error.status_code)
    response = _answer(request, Problem(error.status_code, detail))
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"at": ".".join(str(p) for p in e["loc"]), "message": e["msg"]} for e in error.errors()]
    detail = "; ".join(f"{e['at']}: {e['message']}" for e in errors[:5])
    return _answer(request, Problem(422, detail, {"errors": errors}))


async def _crash(request: Request, error: Exception) -> Response:
    log.error("request failed", path=request.url.path, exc_info=error)
    response = _answer(request, Problem(500, "this request failed here; the web log has the trace"))
    response.headers.update(HEADERS)  # this handler runs outside the guard, which sets them otherwise
    return response


def _usual(status: int) -> str:
    return {
        404: "there is nothing at this address",
        405: "this address does not take this method",
    }.get(status, HTTPStatus(status).phrase.lower())
