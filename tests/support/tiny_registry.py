"""The hub's half of enrolling over real HTTP, with a real authority, which can be made to answer as an attacker or a broken hub would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization

from edgecase_cloud.authority import Authority, key_digest, requested_key
from edgecase_models import wire
from edgecase_models.enrolment import RENEWALS, Answer, Enrolled, Token
from support.http_server import serving

Reply = tuple[int, bytes]


@dataclass
class Registry:
    """Certifies one key, whoever asks first. `alter` changes what is said before it is signed, `reply` what is answered after that."""

    authority: Authority
    url: str = ""
    life: timedelta = timedelta(days=30)
    clock: Callable[[], datetime] = wire.now
    secret: str = "0f" * 20
    key: str = ""
    asked: list[str] = field(default_factory=list)
    alter: Callable[[Enrolled], Enrolled] = lambda said: said
    reply: Callable[[bytes], Reply] = lambda answer: (200, answer)

    @property
    def token(self) -> str:
        return str(Token(self.secret, self.authority.digest))

    def deny(self, why: str) -> None:
        self.reply = lambda _answer: (403, msgspec.json.encode({"detail": why}))

    def answer(self, path: str, asked: dict[str, Any]) -> Reply:
        self.asked.append(path)
        key = requested_key(asked["csr"])
        known = self.key in {"", key_digest(key)} and (path == RENEWALS or asked["secret"] == self.secret)
        if not known:
            return 403, msgspec.json.encode({"detail": "this token was used already"})
        self.key = key_digest(key)
        certificate = self.authority.for_device(key, "cam-1", "0", self.life, self.clock())
        said = Enrolled(
            device="cam-1",
            certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            authority=self.authority.pem.decode(),
            root='{"signed": {}}',
            mqtt_host="127.0.0.1",
            mqtt_port=8701,
        )
        content = msgspec.json.encode(self.alter(said))
        answer = Answer(enrolled=content.decode(), signature=self.authority.sign(content))
        return self.reply(msgspec.json.encode(answer))


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"]))
        status, content = self.registry.answer(self.path, msgspec.json.decode(asked))
        with contextlib.suppress(ConnectionError):  # who asked is gone
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@contextlib.contextmanager
def running_registry(folder: Path) -> Iterator[Registry]:
    """A hub that enrols, on a free loopback port."""
    registry = Registry(Authority(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": registry}))
    with serving(server) as registry.url:
        yield registry
