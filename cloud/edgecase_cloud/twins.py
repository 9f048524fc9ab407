"""Two devices with one identity, as after an SD card was copied: told from one that starts again, reconnects, or is heard late."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from edgecase_models import wire

PACE: Final = timedelta(seconds=15)
TOGETHER: Final = timedelta(seconds=60)
LATELY: Final = timedelta(minutes=10)
REMEMBERED: Final = timedelta(days=1)
"""So long a device stays flagged after two were last seen at once."""
_RUNS: Final = 8


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a device's uplink, as far as it was heard without a break: from `since` to `last`, on this side's clock.

    `since_ns` and `last_ns` are the device's monotonic clock at these moments.
    """

    run: str
    boot_id: str
    agent_version: str
    since: datetime
    since_ns: int
    last: datetime
    last_ns: int


def heard(runs: Sequence[Run], status: wire.Status, now: datetime) -> tuple[list[Run], Run | None]:
    """The runs after this status, and the other run that is alive together with the one that sent it, if there is one.

    A process names its run by chance, so a run that has ended never speaks again. A device that starts again, only its agent or all of it,
    gives one run after the other; one that reconnects goes on with the same. So two runs that are alive at once are two devices.

    That a run is *heard* does not show that it is alive: messages are repeated, held back while this side is away, and come days late.
    What shows it is that its monotonic clock goes on as the clock here does, within `PACE` since the stretch began. A message out of pace
    begins a new stretch; one that is older than what was heard before says nothing. Two runs are alive together when their stretches
    overlap by `TOGETHER`. The late messages of a run that has ended could do that only by coming as slowly as they were sent, all equally
    late, while those of its successor came in time; but all of them come through one queue.

    Last wills name no run and say nothing. A copy of a machine's memory has the same run, an agent of an earlier version none: those
    are not told apart.
    """
    if not (isinstance(status.run, str) and isinstance(status.monotonic_ns, int)):
        return list(runs), None
    others = [each for each in runs if each.run != status.run and now - each.last < REMEMBERED]
    before = next((each for each in runs if each.run == status.run), None)
    if before is not None and status.monotonic_ns <= before.last_ns:
        return list(runs), None
    mine = _went_on(before, status, now)
    together = [
        each
        for each in others
        if now - each.last < LATELY and min(each.last, mine.last) - max(each.since, mine.since) >= TOGETHER
    ]
    kept = sorted(others, key=lambda each: each.last)[-(_RUNS - 1) :]
    return [*kept, mine], together[-1] if together else None


def is_flagged(shared_at: datetime | None, now: datetime) -> bool:
    """Whether two devices were seen to share this identity lately."""
    return shared_at is not None and now - shared_at < REMEMBERED


def _went_on(before: Run | None, status: wire.Status, now: datetime) -> Run:
    assert isinstance(status.run, str)
    assert isinstance(status.monotonic_ns, int)
    if before is not None:
        ran = timedelta(microseconds=(status.monotonic_ns - before.since_ns) // 1000)
        if abs(ran - (now - before.since)) <= PACE:
            return msgspec.structs.replace(before, last=now, last_ns=status.monotonic_ns)
    return Run(
        run=status.run,
        boot_id=status.boot_id if isinstance(status.boot_id, str) else "",
        agent_version=status.agent_version,
        since=now,
        since_ns=status.monotonic_ns,
        last=now,
        last_ns=status.monotonic_ns,
    )
