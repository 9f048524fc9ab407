"""The pixels: bytes from the store as they are, held against their digest, never as anything but image/jpeg.

What cannot be decoded here no browser is asked to decode either: such bytes can be saved, and are no picture.
"""

from __future__ import annotations

import hashlib
from typing import Final

import sqlalchemy as sa
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from edgecase_cloud.catalogue import Frame, Look
from edgecase_cloud.services import Services
from edgecase_cloud.store import NotFound, StoreError, Unreachable
from edgecase_cloud.web.api import FrameId, detail
from edgecase_cloud.web.problems import Problem
from edgecase_cloud.web.services import Web, reading

router = APIRouter(prefix="/api/v1/frames/{frame_id}")

JPEG: Final = "image/jpeg"
BYTES: Final = "application/octet-stream"
POLICY: Final = {
    "cache-control": "private, max-age=31536000, immutable",
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
}


class PictureOut(Response):
    """A JPEG."""

    media_type = JPEG


@router.get("/image", response_class=PictureOut)
def image(services: Web, request: Request, frame_id: FrameId) -> Response:
    """The frame as the device sent it, byte for byte."""
    with reading(services) as session:
        found = detail(session, frame_id)
    digest = found.frame.sha256
    if unchanged := _unchanged(request, digest):
        return unchanged
    data = _fetched(services, found.key)
    if hashlib.sha256(data).hexdigest() != digest:
        raise Problem(502, f"the store's object {found.key} is not what was acknowledged; restore it from a backup")
    kind, place = (BYTES, "attachment") if found.frame.problem else (JPEG, "inline")
    name = f"{found.frame.device}-{frame_id}.jpg"
    headers = {**POLICY, "etag": f'"{digest}"', "content-disposition": f'{place}; filename="{name}"'}
    return Response(data, media_type=kind, headers=headers)


@router.get("/thumbnail", response_class=PictureOut)
def thumbnail(services: Web, request: Request, frame_id: FrameId) -> Response:
    """The small picture that came with the offer; the frame itself where there was none."""
    with reading(services) as session:
        row = session.get(Frame, frame_id)
        unusable = session.scalar(sa.select(Look.problem).where(Look.frame_id == frame_id))
    if row is None:
        raise Problem(404, f"there is no frame {frame_id}")
    data = row.thumbnail_jpeg
    if not data or unusable:
        return RedirectResponse(f"/api/v1/frames/{frame_id}/image", 307)
    digest = hashlib.sha256(data).hexdigest()
    return _unchanged(request, digest) or PictureOut(data, headers={**POLICY, "etag": f'"{digest}"'})


def _fetched(services: Services, key: str) -> bytes:
    """The object, or a `Problem` that says whose it is: gone for good, away for now, or refused."""
    try:
        return services.store.get(key)
    except NotFound as error:
        raise Problem(502, f"the store has lost {key}; restore it from a backup") from error
    except Unreachable as error:
        raise Problem(503, f"the store does not answer ({error}); try again in a moment") from error
    except StoreError as error:
        raise Problem(502, f"the store refuses: {error}") from error


def _unchanged(request: Request, digest: str) -> Response | None:
    known = {tag.strip().removeprefix("W/").strip('"') for tag in request.headers.get("if-none-match", "").split(",")}
    if digest not in known:
        return None
    return Response(status_code=304, headers={**POLICY, "etag": f'"{digest}"'})
