"""A local HTTP store that answers PUT as it is told: by the rules of S3, or by a script of statuses."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.http_server import serving

RESET = -1  # break the connection in the middle of the body
SILENT = -2  # take the body and never answer
EARLY = -3  # answer 403 without reading the body, and close


@dataclass
class Store:
    """`script` holds the statuses (or RESET, SILENT, EARLY) of the next PUTs; when it is empty the rules of S3 hold."""

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    script: deque[tuple[int, str]] = field(default_factory=deque)
    puts: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    away: bool = False

    def url(self, key: str) -> str:
        """Where to PUT the object."""
        return f"http://127.0.0.1:{self.port}/{key}"

    def sha256(self, key: str) -> str:
        """Of the object, or '' where there is none."""
        return hashlib.sha256(self.objects[key]).hexdigest() if key in self.objects else ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def do_PUT(self) -> None:
        store, key = self.store, self.path.lstrip("/")
        store.puts.append(key)
        store.headers.append({name.lower(): value for name, value in self.headers.items()})
        status, code = store.script.popleft() if store.script else (503, "") if store.away else (0, "")
        length = int(self.headers["Content-Length"])
        if status == RESET:
            self.rfile.read(length // 2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            self.close_connection = True
            self.connection.close()
            return
        if status == EARLY:
            self._answer(403, "AccessDenied")
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if status == SILENT:
            threading.Event().wait(5)
            self.close_connection = True
            return
        if len(body) < length:  # the sender died in the middle: no store keeps half an object
            self.close_connection = True
            return
        if status == 0:
            status, code = (412, "PreconditionFailed") if key in store.objects else (200, "")
            store.objects.setdefault(key, body)
        self._answer(status, code, hashlib.md5(body).hexdigest())

    def _answer(self, status: int, code: str, etag: str = "") -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode() if code else b""
        self.send_response(status)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


class _Server(ThreadingHTTPServer):
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a test broke."""


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    """A store on a free loopback port."""
    store = Store()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
    store.port = server.server_address[1]
    with serving(server):
        yield store
