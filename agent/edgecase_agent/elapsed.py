"""Time that only goes forward, for what may be spent over days: no clock that is wrong or is set gives it twice, and none stops it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import msgspec

from edgecase_agent.frames import boot_id

BELIEVED_FROM_S: Final = 1_735_689_600.0  # 2025: a clock before this software was written was never set
STEADY_S: Final = 120.0
MOST_AWAY_S: Final = 31 * 86_400.0
_STEP_S: Final = 60.0


def boottime_s() -> float:
    """Since the boot, standby included where the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True)
class Reading:
    """What the clocks show: which boot, how long it lasts, and the wall clock, which may be wrong."""

    boot: str
    boottime_s: float
    wall_s: float

    @classmethod
    def now(cls) -> Reading:
        return cls(boot_id(), boottime_s(), time.time())


class ElapsedState(msgspec.Struct, frozen=True, kw_only=True):
    """As it is stored. `wall_s` was believed at `wall_at_s` of elapsed time; `settled`: the time before this boot is counted."""

    elapsed_s: float = 0.0
    boot: str = ""
    boottime_s: float = 0.0
    wall_s: float | None = None
    wall_at_s: float = 0.0
    settled: bool = False


class Elapsed:
    """Seconds since it began. Within a boot the wall clock has no say. How long the device was off only the wall clock can tell: it is
    asked once a boot, when it has shown a year that can be and has gone evenly for two minutes, and believed for up to 31 days.
    """

    def __init__(self, state: ElapsedState | None = None) -> None:
        self._state = ElapsedState() if state is None else state
        self._offset_s: float | None = None
        self._steady_from_s = 0.0

    def advance(self, reading: Reading) -> float:
        """Let time pass; what has elapsed."""
        last = self._state
        same_boot = reading.boot == last.boot
        elapsed_s = last.elapsed_s + (max(0.0, reading.boottime_s - last.boottime_s) if same_boot else 0.0)
        settled = same_boot and last.settled
        wall_s, wall_at_s = last.wall_s, last.wall_at_s
        if self._believed(reading):
            if not settled and wall_s is not None:
                away_s = (reading.wall_s - wall_s) - (elapsed_s - wall_at_s)
                elapsed_s += min(MOST_AWAY_S, max(0.0, away_s))
            wall_s, wall_at_s, settled = reading.wall_s, elapsed_s, True
        self._state = ElapsedState(
            elapsed_s=elapsed_s,
            boot=reading.boot,
            boottime_s=max(reading.boottime_s, last.boottime_s) if same_boot else reading.boottime_s,
            wall_s=wall_s,
            wall_at_s=wall_at_s,
            settled=settled,
        )
        return elapsed_s

    @property
    def state(self) -> ElapsedState:
        """What a restart goes on from."""
        return self._state

    def _believed(self, reading: Reading) -> bool:
        offset_s = reading.wall_s - reading.boottime_s
        if self._offset_s is None or abs(offset_s - self._offset_s) > _STEP_S:
            self._steady_from_s = reading.boottime_s
        self._offset_s = offset_s
        return reading.wall_s >= BELIEVED_FROM_S and reading.boottime_s - self._steady_from_s >= STEADY_S
