"""How many bytes may go over the line in a day and in a month. What was sent counts, whatever becomes of the process or the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from edgecase_agent import durable
from edgecase_agent.budget import Cap, Spent
from edgecase_agent.elapsed import Elapsed, ElapsedState, Reading
from edgecase_agent.spool import DiskFull
from edgecase_models.policy import PERIODS_S

_AHEAD_BYTES: Final = 65_536

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """Bytes, None for no limit. The last counts what goes over a metered line only."""

    per_day: int | None = None
    per_month: int | None = None
    metered_per_day: int | None = None

    def items(self) -> list[tuple[str, int, float]]:
        """Name, bytes and period of each that is set."""
        periods = {
            "day": (self.per_day, "day"),
            "month": (self.per_month, "month"),
            "metered": (self.metered_per_day, "day"),
        }
        return [(name, limit, PERIODS_S[period]) for name, (limit, period) in periods.items() if limit is not None]


class AllowanceState(msgspec.Struct, frozen=True, kw_only=True):
    """As it is stored: what was spent, and what may have been spent since (`ahead`), `metered` or not."""

    v: Literal[1] = 1
    clock: ElapsedState = ElapsedState()
    spent: dict[str, list[Spent]] = {}
    ahead: int = 0
    metered: bool = False


class Allowance:
    """Bytes that were sent and bytes that may be, in any 24 hours and any 30 days of `Elapsed` time.

    Before anything is sent it is written down as spent, some way ahead for the small messages; what came of it is settled after. So a
    kill at any moment counts too much by that little, and never too little. Where nothing is limited, nothing is written.
    Raises `DiskFull` where it cannot be written down.
    """

    def __init__(self, path: Path, limits: Limits, reading: Reading) -> None:
        """A file that cannot be understood gives nothing again: all of it counts as spent at this moment."""
        self._path = path
        self._metered = False
        self._held: dict[str, int] = {}
        self._unsaved = 0
        self._ahead = 0
        state, broken = self._read(path) if limits.items() else (AllowanceState(), False)
        self._clock = Elapsed(state.clock)
        self._caps = {name: Cap(limit, period_s, state.spent.get(name, ())) for name, limit, period_s in limits.items()}
        self.advance(reading, metered=state.metered)
        for cap in self._in_force():
            cap.charge(cap.limit if broken else state.ahead)

    def advance(self, reading: Reading, *, metered: bool) -> None:
        """Let time pass, on a line that is metered or not."""
        if metered != self._metered:
            self._metered, self._ahead = metered, 0  # what is sent from here on is written down anew
        elapsed_s = self._clock.advance(reading)
        for cap in self._caps.values():
            cap.advance(elapsed_s)

    @property
    def is_limited(self) -> bool:
        """Whether anything limits what is sent now."""
        return bool(self._named_in_force())

    def refusal(self, size_bytes: int, ahead_bytes: int = 0) -> str:
        """Why so many bytes may not be sent now, and before them those ahead; empty where they may.

        More than nine tenths of a limit go when nine tenths are left, lest they wait for ever; what is too much is paid back after.
        """
        taken = sum(self._held.values()) + ahead_bytes
        for name, cap in self._named_in_force().items():
            if cap.available - taken < max(1, min(size_bytes, cap.limit * 9 // 10)):
                period = "day on a metered line" if name == "metered" else name
                return f"bytes: {cap.limit / 1e6:g} MB a {period}, {max(0, cap.available) / 1e6:.1f} MB left"
        return ""

    def hold(self, name: str, size_bytes: int) -> None:
        """Before so many bytes are sent under this name."""
        self._held[name] = size_bytes
        self._keep_ahead()

    def settle(self, name: str, sent_bytes: int) -> None:
        """What of it went over the line, whatever the answer was."""
        self._held.pop(name, None)
        self.spend(sent_bytes)

    def spend(self, size_bytes: int) -> None:
        """Small messages go whether there is room or not, and count."""
        for cap in self._in_force():
            cap.charge(size_bytes)
        self._unsaved += size_bytes
        self._keep_ahead()

    def close(self) -> None:
        """Settle everything: a start after this goes on exactly here."""
        self._held.clear()
        self._save(0)

    def _keep_ahead(self) -> None:
        owed = self._unsaved + sum(self._held.values())
        if owed > self._ahead:
            tightest = min((cap.limit for cap in self._caps.values()), default=0)
            self._save(sum(self._held.values()) + min(_AHEAD_BYTES, tightest // 100))

    def _save(self, ahead: int) -> None:
        if not self._caps:
            return
        spent = {name: cap.spent() for name, cap in self._caps.items()}
        state = AllowanceState(clock=self._clock.state, spent=spent, ahead=ahead, metered=self._metered)
        try:
            durable.replace(self._path, msgspec.json.encode(state))
        except OSError as error:
            if durable.is_full(error):
                raise DiskFull from error
            raise
        self._ahead, self._unsaved = ahead, 0

    def _named_in_force(self) -> Mapping[str, Cap]:
        return {name: cap for name, cap in self._caps.items() if name != "metered" or self._metered}

    def _in_force(self) -> list[Cap]:
        return list(self._named_in_force().values())

    @staticmethod
    def _read(path: Path) -> tuple[AllowanceState, bool]:
        try:
            return msgspec.json.decode(path.read_bytes(), type=AllowanceState), False
        except FileNotFoundError:
            return AllowanceState(), False
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("what was sent is not known; all that may be counts as sent", path=str(path), cause=str(error))
            return AllowanceState(metered=True), True
