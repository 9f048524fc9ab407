"""What every request must pass: a body of bounded size, no write from another site, and headers that bind the browser."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgecase_cloud.web.headers import HEADERS
from edgecase_cloud.web.problems import Problem

MAX_BODY_BYTES: Final = 256_000
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def cross_site(method: str, headers: Headers) -> bool:
    """True for a write that a page of another site makes a browser send.

    The rules of Go 1.25's `http.CrossOriginProtection`: `Sec-Fetch-Site` where the browser sends it, else `Origin` held against
    `Host`; a request with neither comes from no browser.
    """
    if method in SAFE_METHODS:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


class Guard:
    """The ASGI layer in front of every route."""

    def __init__(self, app: ASGIApp, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if cross_site(scope["method"], headers):
            refusal = Problem(403, "a page of another site must not write here; open this page itself and save again")
            await refusal.response(scope["path"])(scope, receive, _bound(send))
            return
        body = await _body(receive, headers, self.max_body_bytes)
        if body is None:
            refusal = Problem(413, f"the request exceeds {self.max_body_bytes} bytes")
            await refusal.response(scope["path"])(scope, receive, _bound(send))
            return
        await self.app(scope, _replayed(body, receive), _bound(send))


async def _body(receive: Receive, headers: Headers, limit_bytes: int) -> bytes | None:
    """The whole body, or None where it is larger than allowed or says so."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit_bytes:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _bound(send: Send) -> Send:
    async def bound(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return bound
