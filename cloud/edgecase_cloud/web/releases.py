"""The signed releases as files: TUF metadata and targets, for devices. Nothing here is secret and nothing here is trusted blindly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import FileResponse

from edgecase_cloud.web.problems import Problem
from edgecase_cloud.web.services import Web

router = APIRouter(prefix="/tuf")

SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
MAX_DEPTH: Final = 6


@router.head("/metadata/{name:path}", include_in_schema=False)
@router.get("/metadata/{name:path}", response_class=FileResponse)
def metadata(services: Web, name: str) -> FileResponse:
    """A metadata file: root, targets, delegations, snapshot or timestamp."""
    return FileResponse(
        released_file(services.settings.data / "releases" / "metadata", name),
        media_type="application/json",
        headers={"cache-control": "no-cache"},
    )


@router.head("/targets/{path:path}", include_in_schema=False)
@router.get("/targets/{path:path}", response_class=FileResponse)
def targets(services: Web, path: str) -> FileResponse:
    """A target file; ranges are served, so that a broken download goes on where it stopped."""
    return FileResponse(
        released_file(services.settings.data / "releases" / "targets", path),
        media_type="application/octet-stream",
        headers={"cache-control": "no-cache"},
    )


def released_file(folder: Path, path: str) -> Path:
    """The file `path` inside `folder`; a `Problem` 404 for anything that leads out of it, links included."""
    segments = path.split("/")
    found = folder.joinpath(*segments)
    if (
        len(segments) > MAX_DEPTH
        or not all(SEGMENT.fullmatch(s) for s in segments)
        or not found.is_file()
        or not found.resolve().is_relative_to(folder.resolve())
    ):
        raise Problem(404, f"no release file {path[:200]!r}")
    return found
