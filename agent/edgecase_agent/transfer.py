"""Pixels to the store: one PUT per frame, or per part of a large one, to the granted address, and what its answer means."""

from __future__ import annotations

import io
import queue
import re
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from edgecase_agent.bandwidth import Pace

_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_ANSWER_BYTES: Final = 16_384
_BLOCK_BYTES: Final = 1 << 18
_NEVER: Final = frozenset({400, 405, 411, 413, 414, 415, 422, 431, 501})
_EXPIRED_CODES: Final = frozenset({"ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired", "NoSuchUpload"})
_PASSING_CODES: Final = frozenset({"RequestTimeout", "IncompleteBody", "SlowDown", "OperationAborted"})
_OURS: Final = frozenset({"content-length", "transfer-encoding", "host", "connection"})


class Body(Protocol):
    """What is read through once and closed."""

    def read(self, size: int = -1, /) -> bytes | None: ...

    def close(self) -> None: ...


class Meaning(StrEnum):
    """What an answer of the store means for the frame."""

    STORED = "stored"
    EXISTS = "exists"  # 412: an object has this key already; the cloud must say whether it is ours
    EXPIRED = "expired"  # the grant is no longer good: ask for a new one
    REFUSED = "refused"  # this request can never succeed
    UNAVAILABLE = "unavailable"  # try again later


@dataclass(frozen=True)
class Upload:
    """One frame, or a part of it, and where it goes; `body` is open at its first byte and is closed by whoever sends it."""

    frame_id: str
    body: Body
    size_bytes: int
    url: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What became of an upload; `sent_bytes` went over the network whatever the answer. `etag`: as the store names what it took."""

    frame_id: str
    meaning: Meaning
    detail: str
    sent_bytes: int
    etag: str = ""


def meaning_of(status: int, code: str) -> Meaning:
    """What an HTTP status with an S3 error code means for the frame that was sent."""
    if 200 <= status < 300:
        return Meaning.STORED
    if status == 412:
        return Meaning.EXISTS
    if status in {401, 403} or code in _EXPIRED_CODES:
        return Meaning.EXPIRED
    if status in _NEVER and code not in _PASSING_CODES:
        return Meaning.REFUSED
    return Meaning.UNAVAILABLE


class HttpStore:
    """PUT over urllib3, which the trust client brings along anyway. Connections are kept; nothing is retried here."""

    def __init__(self, *, connect_s: float = 10.0, answer_s: float = 60.0, pace: Pace | None = None) -> None:
        self._pace = pace
        self._timeout = urllib3.Timeout(connect=connect_s, read=answer_s)  # while sending, connect_s bounds each stall
        self._pools: dict[str, urllib3.PoolManager] = {}

    def put(self, upload: Upload) -> Answer:
        """Send it and say what became of it; never raises for the network or the store."""
        body = _Counted(upload.body, self._pace)
        headers = {name: value for name, value in upload.headers.items() if name.lower() not in _OURS}
        headers["Content-Length"] = str(upload.size_bytes)
        try:
            if not upload.url.startswith(("http://", "https://")):
                raise ValueError("the granted address is none")  # noqa: TRY301
            response = self._pool(upload.url).request(
                "PUT",
                upload.url,
                body=body,
                headers=headers,
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = response.read(_ANSWER_BYTES)
            finally:
                response.drain_conn() if response.status < 300 else response.close()
        except (HTTPError, OSError, ValueError) as error:
            return Answer(upload.frame_id, Meaning.UNAVAILABLE, _reason(error), body.read_bytes)
        finally:
            upload.body.close()
        found = _CODE.search(content)
        code = found.group(1).decode() if found else ""
        return Answer(
            upload.frame_id,
            meaning_of(response.status, code),
            f"HTTP {response.status} {code}".strip(),
            body.read_bytes,
            response.headers.get("ETag", ""),
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Through the proxy that the environment names for this address, if any; never for loopback."""
        address = urlsplit(url)
        host = address.hostname or ""
        proxy = urllib.request.getproxies().get(address.scheme, "")
        if host in {"localhost", "127.0.0.1", "::1"} or urllib.request.proxy_bypass(host):
            proxy = ""
        if proxy not in self._pools:
            options = {"maxsize": 8, "blocksize": _BLOCK_BYTES}
            self._pools[proxy] = (
                urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)  # type: ignore[arg-type]
            )
        return self._pools[proxy]


class Transfers:
    """A few uploads at once, each in a thread, so that a slow link holds up neither messages nor status."""

    def __init__(self, put: Callable[[Upload], Answer], *, at_once: int, wake: Callable[[], None]) -> None:
        self._put = put
        self._wake = wake
        self._todo: queue.SimpleQueue[Upload | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
        self._running = 0
        self._threads = [threading.Thread(target=self._work, name=f"upload-{i}", daemon=True) for i in range(at_once)]
        for thread in self._threads:
            thread.start()

    @property
    def free(self) -> bool:
        """Whether an upload would begin at once."""
        return self._running < len(self._threads)

    def start(self, upload: Upload) -> None:
        """Begin an upload; its answer comes out of `finished`."""
        self._running += 1
        self._todo.put(upload)

    def finished(self) -> Answer | None:
        """The next answer, if one is there; what an upload raised is raised here."""
        try:
            answer = self._done.get_nowait()
        except queue.Empty:
            return None
        self._running -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self, within_s: float) -> None:
        """Wait for what is running, so that it is not sent twice; what is not done in time is sent again after a restart."""
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(within_s / len(self._threads))

    def _work(self) -> None:
        while (upload := self._todo.get()) is not None:
            try:
                self._done.put(self._put(upload))
            except Exception as error:  # noqa: BLE001
                self._done.put(error)
            self._wake()


class _Counted(io.RawIOBase):
    """Reads through, at the pace that is set, and counts what was read."""

    def __init__(self, file: Body, pace: Pace | None) -> None:
        self._file = file
        self._pace = pace
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._pace is not None:
            size = self._pace.take(_BLOCK_BYTES if size < 0 else size)
        chunk = self._file.read(size) or b""
        self.read_bytes += len(chunk)
        return chunk


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return re.sub(r"<[^>]*>[:,]? ?", "", str(cause)).strip(" ()'") or type(error).__name__
