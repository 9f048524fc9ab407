"""What the broker refused, read from its log: nothing else tells of a connection that failed in the handshake."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgecase_cloud.audit import Refusal, Refused
from edgecase_models import wire

_READ_BYTES: Final = 1 << 18
_LINE: Final = re.compile(
    r"\[(?P<pid>\d+)\] \S+ \S+ \[(?:ERR|DBG)\] (?P<host>\S+):\d+ - (?P<connection>[mc]id:\d+) - "
    r'(?:"(?:[^"\\]|\\.)*" - )?(?P<said>.*)'
)
_CAUSES: Final = {
    "client didn't provide a certificate": "no certificate",
    "certificate has expired": "expired",
    "signed by unknown authority": "another authority",
    "first record does not look like a TLS handshake": "no TLS",
}
_UNTOLD: Final = (
    "EOF",
    "connection reset",
    "i/o timeout",
    "broken pipe",
)  # a line that broke, or a look whether the port is open


class Reader:
    """Turns lines into refusals. It remembers whose a connection is while it lasts, since a refused message is told without that.

    A stranger can put line breaks into the name on a certificate of his own making, so that only lines of the broker's process
    count, whose number he does not know; and what he says of himself is never taken for proven.
    """

    def __init__(self) -> None:
        self._users: dict[str, str] = {}

    def read(self, line: str, pid: int) -> Refusal | None:
        """The refusal that a line tells of, if it does."""
        found = _LINE.match(line)
        if found is None or int(found["pid"]) != pid:
            return None
        connection, said, where = found["connection"], found["said"], {"address": found["host"]}
        if said.startswith("Using DistinguishedNameMatch"):
            self._users[connection] = _device_of(said)
        elif said.startswith("Client connection closed"):
            self._users.pop(connection, None)
        elif said.startswith("User in cert"):
            return Refusal(Refused.CERTIFICATE, _device_of(said), "revoked or replaced", where, proven=True)
        elif said.startswith(("Publish Violation", "Subscription Violation")):
            return self._forged(connection, said, where)
        elif said.startswith("TLS handshake error: "):
            return _handshake(said.removeprefix("TLS handshake error: "), where)
        elif connection.startswith("cid") and said.startswith("authentication error"):
            return Refusal(Refused.CERTIFICATE, "", "not by MQTT", where)
        return None

    def restarted(self) -> None:
        """Connections are counted anew."""
        self._users.clear()

    def _forged(self, connection: str, said: str, where: dict[str, str]) -> Refusal:
        what, _, subject = said.partition(" - Subject ")
        topic = subject.partition(", SID ")[0].strip('"').replace(".", "/")[:200]
        reason = "publish" if what.startswith("Publish") else "subscribe"
        return Refusal(Refused.TOPIC, self._users.get(connection, ""), reason, where | {"topic": topic}, proven=True)


class BrokerLog:
    """Follows the log from where it ends now, and lets it begin anew beyond `max_bytes`: a stranger can make it grow."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        found = path.stat() if path.exists() else None
        self._at, self._inode = (0, 0) if found is None else (found.st_size, found.st_ino)
        self._pid = 0
        self._reader = Reader()
        self._rest = b""

    def step(self, pid: int) -> Iterator[Refusal]:
        """What the broker, which is process `pid`, refused since the last time."""
        if pid != self._pid:
            self._pid = pid
            self._reader.restarted()
        for line in self._lines():
            refusal = self._reader.read(line, pid)
            if refusal is not None:
                yield refusal

    def _lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode:  # another one, begun at a start of the broker
                    self._at, self._inode, self._rest = 0, found.st_ino, b""
                file.seek(self._at)
                read = file.read(_READ_BYTES)
        except FileNotFoundError:
            return []
        self._at += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        self._rest = self._rest[-_READ_BYTES:]
        behind = found.st_size - self._at
        if found.st_size > self._max_bytes and (behind <= 0 or behind > self._max_bytes):
            os.truncate(self._path, 0)  # the broker appends, so that it goes on at the new end
            self._at = 0
        return [line.decode(errors="replace") for line in lines]


def _handshake(said: str, where: dict[str, str]) -> Refusal | None:
    if any(cause in said for cause in _UNTOLD):
        return None
    reason = next((reason for cause, reason in _CAUSES.items() if cause in said), "handshake failed")
    detail = where | ({"said": said[:200]} if reason == "handshake failed" else {})
    return Refusal(Refused.CERTIFICATE, _device_of(said), reason, detail)


def _device_of(said: str) -> str:
    """The device that a subject names, or claims to name; empty where it names none."""
    found = re.search(r"(?:SERIALNUMBER=[0-9a-f]*,)?CN=([^,\" ]*)", said)
    return found[1] if found is not None and wire.DEVICE_ID.fullmatch(found[1]) else ""
