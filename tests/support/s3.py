"""A real S3 server (SeaweedFS, as the cloud runs it) on a free loopback port.

    with running_s3(tmp_path) as server:
        server.store.put("a", b"b")          # an ObjectStore with the bucket made
        grant = server.store.presign_put("k", len(content), sha256)
        put(grant, content)                  # as a device does: (status, body)

or, as a fixture of the whole session: `s3`; give each test keys of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from edgecase_cloud import processes, weed
from edgecase_cloud.store import ObjectStore, PutGrant, StoreError
from edgecase_models import wire
from support.wait import until

HOST = "127.0.0.1"
LARGE = bytes(8_100_000)
"""More than goes in one part."""


def put(grant: PutGrant, content: bytes, **headers: str) -> tuple[int, str]:
    """PUT as a device does; the status and, for a refusal, what the store said. `headers` replace those of the grant."""
    request = urllib.request.Request(grant.url, data=content, method="PUT", headers={**grant.headers, **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def put_parts(parts: wire.Parts, content: bytes, numbers: Iterable[int] | None = None) -> wire.PartsDone:
    """PUT these parts as a device does, or all."""
    etags = []
    for number in range(len(parts.urls)) if numbers is None else numbers:
        part = content[number * parts.part_bytes :][: parts.part_bytes]
        request = urllib.request.Request(
            parts.urls[number],
            part,
            {"Content-Type": "", "Content-MD5": base64.b64encode(hashlib.md5(part).digest()).decode()},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            etags.append(answer.headers["ETag"])
    return wire.PartsDone(parts.upload_id, parts.part_bytes, etags)


def in_parts(grant: wire.Grant, content: bytes) -> wire.PartsDone:
    """All that a grant takes in parts."""
    assert grant.parts is not msgspec.UNSET
    return put_parts(grant.parts, content)


def anonymous(url: str, method: str = "GET", content: bytes | None = None) -> int:
    """The status that somebody without any key gets."""
    request = urllib.request.Request(url, data=content, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@dataclass
class S3Server:
    """A weed process; it may be killed and started again on the same port and folder."""

    folder: Path
    port: int = field(default_factory=lambda: processes.free_port(HOST))
    host: str = HOST
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.keys = weed.keys(self.folder / "keys")
        self.store = ObjectStore(self.url, self.keys.access_key, self.keys.secret_key)

    @property
    def url(self) -> str:
        """The S3 endpoint."""
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "store.log"

    def start(self) -> None:
        """Returns when the bucket is there. A server that ends by itself, as over a port that was taken meanwhile, is started again."""
        for _ in range(3):
            command = weed.command(self.folder / "store", self.keys, host=self.host, s3_port=self.port)
            environment = {**os.environ, "HOME": str(self.folder)}
            self.process = processes.start(command, log=self.log, folder=self.folder / "store", environment=environment)
            try:
                until(lambda: self._ready() or self._ended(), within_s=45, what="store to take the bucket")
            except AssertionError as error:
                raise AssertionError(f"{error}; {self.log.read_text(errors='replace')[-3000:]}") from None
            if not self._ended():
                return
        raise AssertionError(f"the store ends at once: {self.log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """End it in order (SIGTERM)."""
        if self.process is not None:
            processes.stop(self.process, 10)
            self.process = None

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _ready(self) -> bool:
        try:
            self.store.ensure_bucket()
        except StoreError:
            return False
        return True


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """A store with its bucket, stopped at the end."""
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One store for all tests that do not stop it."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server
