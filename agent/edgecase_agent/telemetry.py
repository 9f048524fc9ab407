"""What the vehicle tells of itself: a small JSON file that other software replaces; what is stale or broken is as good as untold."""

from __future__ import annotations

import errno
import math
import re
import stat
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from edgecase_models import wire
from edgecase_models.facts import TELEMETRY, Fact, Facts, Kind

MAX_BYTES: Final = 65_536
MAX_OTHERS: Final = 64
_READ_EVERY_S: Final = 0.1
_OTHERS: Final = "telemetry"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NOTHING: Final[Facts] = MappingProxyType({})


class TelemetryError(ValueError):
    """A file that is no telemetry; nothing is taken from it."""


class TelemetryCounts(msgspec.Struct, frozen=True):
    """How the file was, since the start.

    `read` contents were taken over; `broken` could not be, or the file went missing; `stale` ones grew too old. Each is counted once.
    `refused` values of the wrong type or out of their bounds were left out of what was read.
    """

    read: int = 0
    broken: int = 0
    stale: int = 0
    refused: int = 0


class Telemetry:
    """The facts of one file, looked at ten times a second at most, and read only where it was replaced.

    The file's own time tells how old it is; a file from the future, after a clock was set back, is as stale as an old one.
    """

    def __init__(self, path: Path, max_age_s: float) -> None:
        self._path = path
        self._max_age_s = max_age_s
        self._looked_s = -math.inf
        self._missing = False
        self._identity: tuple[int, int, int] | None = None
        self._written_s = -math.inf
        self._facts = _NOTHING
        self._stale = False
        self._counts = TelemetryCounts()
        self._problem = ""

    @property
    def counts(self) -> TelemetryCounts:
        """How the file was, since the start."""
        return self._counts

    @property
    def problem(self) -> str:
        """What was last wrong with it, empty where nothing was."""
        return self._problem

    def facts(self, now_s: float) -> Facts:
        """What is known at `now_s`, in seconds of the wall clock; nothing where the file is missing, broken or too old."""
        if not 0 <= now_s - self._looked_s < _READ_EVERY_S:
            self._looked_s = now_s
            self._look()
        if abs(now_s - self._written_s) <= self._max_age_s:
            return self._facts
        if self._facts and not self._stale:
            self._stale = True
            self._counts = msgspec.structs.replace(self._counts, stale=self._counts.stale + 1)
            self._problem = f"{self._path}: not replaced for {self._max_age_s:g} s"
        return _NOTHING

    def _look(self) -> None:
        try:
            found = self._path.stat()
            identity = (found.st_mtime_ns, found.st_ino, found.st_size)
            if identity == self._identity:
                return
            content = _content(self._path, found.st_mode)
        except OSError as error:
            if not self._missing:
                self._broken(str(error.strerror))
            self._missing, self._identity = True, None
            return
        self._missing, self._identity, self._written_s, self._stale = False, identity, found.st_mtime, False
        try:
            self._facts, refused = parse(content)
        except TelemetryError as error:
            self._broken(str(error))
            return
        before = self._counts
        self._counts = msgspec.structs.replace(before, read=before.read + 1, refused=before.refused + len(refused))
        self._problem = f"{self._path}: {refused[0]}" if refused else ""

    def _broken(self, why: str) -> None:
        self._facts = _NOTHING
        self._counts = msgspec.structs.replace(self._counts, broken=self._counts.broken + 1)
        self._problem = f"{self._path}: {why}"


def _content(path: Path, mode: int) -> bytes:
    if not stat.S_ISREG(mode):  # a pipe would let us wait for its writer
        raise OSError(errno.EINVAL, "not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def parse(content: bytes) -> tuple[Facts, list[str]]:
    """The facts of a telemetry file, and a sentence on each value that was left out; `TelemetryError` where it is none.

    Keys that `facts.TELEMETRY` does not know come together as the map `telemetry`, the first `MAX_OTHERS` of them.
    """
    if len(content) > MAX_BYTES:
        raise TelemetryError(f"more than {MAX_BYTES:,} bytes")
    try:
        given = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise TelemetryError(f"no JSON object: {error}") from error
    facts: dict[str, object] = {}
    others: dict[str, object] = {}
    refused = []
    for name, value in given.items():
        fact = TELEMETRY.get(name)
        if fact is not None and name != _OTHERS:
            taken = _taken(fact, value)
            into = facts
        else:
            taken = value if _is_plain(name, value) and len(others) < MAX_OTHERS else None
            into = others
        if taken is None:
            refused.append(f"{name[:64]!r} was left out: {_wanted(fact)}")
        else:
            into[name] = taken
    return MappingProxyType(facts | {_OTHERS: others}), refused


def position_of(facts: Facts, decimals: int | None) -> wire.Position | UnsetType:
    """Where the vehicle is, rounded to be told to others; left out where it is unknown, and where `decimals` is None."""
    latitude, longitude = facts.get("latitude_deg"), facts.get("longitude_deg")
    if decimals is None or not isinstance(latitude, float) or not isinstance(longitude, float):
        return UNSET
    return wire.Position(round(latitude, decimals), round(longitude, decimals), decimals)


def _taken(fact: Fact, value: object) -> object | None:
    """The value in the fact's type; None where it is of another or out of bounds."""
    match fact.kind:
        case Kind.DOUBLE if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if fact.low <= value <= fact.high else None
        case Kind.BOOL if isinstance(value, bool):
            return value
        case Kind.STRING if isinstance(value, str):
            return value if len(value) <= 64 else None
        case Kind.STRING if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return str(value)
    return None


def _wanted(fact: Fact | None) -> str:
    if fact is None or fact.kind is Kind.OPEN:
        return f"not one of {MAX_OTHERS} names of letters, digits and _ with a number, a text or a truth value"
    return f"not a {fact.kind}" + (f" from {fact.low:g} to {fact.high:g}" if fact.kind is Kind.DOUBLE else "")


def _is_plain(name: str, value: object) -> bool:
    if not _NAME.fullmatch(name):
        return False
    if isinstance(value, str):
        return len(value) <= 200
    return isinstance(value, bool | int | float) and abs(value) < 2**63
