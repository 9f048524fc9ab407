"""When pictures may go over the line, and how fast: upload windows, bytes a day and a month, less on a metered line, bytes a second."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from datetime import time as time_of_day
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

from edgecase_agent.allowance import Allowance, Limits
from edgecase_agent.elapsed import BELIEVED_FROM_S, Reading

CELLULAR: Final = ("wwan*", "wwp*", "ppp*", "rmnet*", "ccmni*")
"""Names of interfaces that are modems."""
_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_LOOK_EVERY_S: Final = 10.0
_REPORT_S: Final = 60.0
_REPORT_WITHOUT_BYTES_S: Final = 300.0
_MOST_FILE_BYTES: Final = 64
_PROC_NET: Final = Path("/proc/net")

Metering = Literal["auto", "yes", "no"]


class BandwidthError(ValueError):
    """A rule that cannot be followed; the message names it and its cure."""


@dataclass(frozen=True)
class Window:
    """A stretch of each day in local time, over midnight where it ends before it begins."""

    start: time_of_day
    end: time_of_day

    @classmethod
    def read(cls, text: str) -> Window:
        """From `22:00-06:00`, or `BandwidthError`."""
        found = _WINDOW.fullmatch(text)
        if found is None or found.group(1, 2) == found.group(3, 4):
            raise BandwidthError(f'"{text}" is no stretch of a day; write it as in "22:00-06:00"')
        first_hour, first_minute, last_hour, last_minute = map(int, found.groups())
        return cls(time_of_day(first_hour, first_minute), time_of_day(last_hour, last_minute))

    def holds(self, at: time_of_day) -> bool:
        """The beginning is part of it, the end is not."""
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


class Metered:
    """Whether the line costs by the byte. In `auto` a file says so that the vehicle's software keeps (`yes` or `no`), or, where none is
    named, the interface of the default route does by its name. A file that cannot be read means yes, the dearer guess.
    """

    def __init__(self, how: Metering = "auto", file: Path | None = None, proc_net: Path = _PROC_NET) -> None:
        self._how = how
        self._file = file
        self._proc_net = proc_net
        self._looked_s = -_LOOK_EVERY_S
        self._is = how == "yes"

    def now(self, boottime_s: float) -> bool:
        """Looked up every ten seconds at most."""
        if self._how == "auto" and not 0 <= boottime_s - self._looked_s < _LOOK_EVERY_S:
            self._looked_s = boottime_s
            self._is = self._told() if self._file is not None else self._by_modem()
        return self._is

    def _told(self) -> bool:
        assert self._file is not None
        try:
            with self._file.open("rb") as file:
                return file.read(_MOST_FILE_BYTES).strip() != b"no"
        except OSError:
            return True

    def _by_modem(self) -> bool:
        interface = default_interface(self._proc_net)
        return interface is not None and any(fnmatchcase(interface, name) for name in CELLULAR)


def default_interface(proc_net: Path = _PROC_NET) -> str | None:
    """The interface of the default route with the lowest metric; IPv6's where IPv4 has none, None where there is none."""
    routes: list[tuple[int, str]] = []
    for line in _lines(proc_net / "route")[1:]:
        fields = line.split()
        if len(fields) >= 8 and (fields[1], fields[7]) == ("00000000", "00000000"):
            routes.append((int(fields[6]), fields[0]))
    for line in [] if routes else _lines(proc_net / "ipv6_route"):
        fields = line.split()
        if len(fields) >= 10 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            routes.append((int(fields[5], 16), fields[9]))
    return min(routes)[1] if routes else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


class Pace:
    """At most `bytes_per_s` on average, in portions of a quarter of a second; what is idle saves up no more than one second's worth.

    Safe to use from several threads, which share the rate.
    """

    def __init__(
        self,
        bytes_per_s: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at_s = clock() - 1.0  # the moment from which what was taken is paid

    def take(self, size_bytes: int) -> int:
        """Wait one's turn; how many of `size_bytes` may go now."""
        portion = min(size_bytes, max(1, self._bytes_per_s // 4))
        wait_s = self._owe(portion)
        if wait_s > 0:
            self._sleep(wait_s)
        return portion

    def spend(self, size_bytes: int) -> None:
        """Bytes that do not wait: others wait for them."""
        self._owe(size_bytes)

    @property
    def owes(self) -> bool:
        """Whether more has gone than the rate allows up to now."""
        with self._lock:
            return self._free_at_s > self._clock()

    def _owe(self, size_bytes: int) -> float:
        with self._lock:
            now_s = self._clock()
            self._free_at_s = max(self._free_at_s, now_s - 1.0) + size_bytes / self._bytes_per_s
            return self._free_at_s - now_s


class Bandwidth:
    """What the uplink asks before it sends a picture, and tells of whatever it has sent.

    A wait is a state with a reason, no error: frames stay in the spool in their order. A clock that was never set tells no time of
    day, and windows then count as open.
    """

    def __init__(
        self,
        allowance: Allowance,
        *,
        windows: Sequence[Window] = (),
        metered: Metered | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._allowance = allowance
        self._windows = windows
        self._metered = metered or Metered("no")
        self._pace = pace
        self._local: time_of_day | None = None

    @classmethod
    def unlimited(cls) -> Bandwidth:
        """Everything at once, and nothing is written down."""
        return cls(Allowance(Path(), Limits(), Reading.now()))

    def advance(self, reading: Reading) -> None:
        """Let time pass."""
        known = reading.wall_s >= BELIEVED_FROM_S
        self._local = datetime.fromtimestamp(reading.wall_s).astimezone().time() if known and self._windows else None
        self._allowance.advance(reading, metered=self._metered.now(reading.boottime_s))

    def refusal(self, size_bytes: int, ahead_bytes: int = 0) -> str:
        """Why a picture of so many bytes waits, with others ahead of it; empty where it may go."""
        if self._local is not None and not any(window.holds(self._local) for window in self._windows):
            opens = min(self._windows, key=lambda window: _until(window.start, self._local))
            return f"the upload window that opens at {opens.start:%H:%M}"
        return self._allowance.refusal(size_bytes, ahead_bytes)

    @property
    def report_every_s(self) -> float:
        """How often at most to report where bytes are counted: a report costs them as well."""
        if not self._allowance.is_limited:
            return 0.0
        return _REPORT_WITHOUT_BYTES_S if self._allowance.refusal(1) else _REPORT_S

    @property
    def too_fast(self) -> bool:
        """Whether to wait a moment before more is said."""
        return self._pace is not None and self._pace.owes

    def hold(self, frame_id: str, size_bytes: int) -> None:
        """Before a picture, or a part of it, is sent."""
        self._allowance.hold(frame_id, size_bytes)

    def settle(self, frame_id: str, sent_bytes: int) -> None:
        """What of it went over the line."""
        self._allowance.settle(frame_id, sent_bytes)

    def said(self, size_bytes: int) -> None:
        """A message went over the line."""
        self._allowance.spend(size_bytes)
        if self._pace is not None:
            self._pace.spend(size_bytes)

    def close(self) -> None:
        """Settle the accounts before the process ends."""
        self._allowance.close()


def _until(start: time_of_day, at: time_of_day | None) -> int:
    at = at or start
    return ((start.hour - at.hour) * 60 + start.minute - at.minute) % (24 * 60)
