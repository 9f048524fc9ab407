"""Who was turned away, and why: refusals end as events of the catalogue, and nobody can fill it with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
import structlog

from edgecase_cloud.catalogue import Catalogue, Event

BURST: Final = 20
EVERY_S: Final = 60.0
"""Of one kind and reason so many are recorded at once, then one each `EVERY_S`; it tells how many came between."""

log = structlog.get_logger()


class Refused(StrEnum):
    """What was refused; the kind of an event."""

    CERTIFICATE = "certificate refused"
    TOPIC = "forged topic"
    UNKNOWN = "unknown device"
    TOKEN = "token refused"  # noqa: S105
    REQUEST = "request refused"
    RENEWAL = "renewal refused"


class Changed(StrEnum):
    """What became of a device; the kind of an event."""

    ADDED = "device added"
    ENROLLED = "device enrolled"
    RENEWED = "certificate renewed"
    REVOKED = "device revoked"


KINDS: Final = (*Refused, *Changed)
"""What the audit log shows of the events."""


@dataclass(frozen=True)
class Refusal:
    """One refusal. `subject` is who it is said to be; `proven`: by a certificate or a token of ours."""

    kind: Refused
    subject: str
    reason: str
    detail: dict[str, Any]
    proven: bool = False


@dataclass
class _Allowance:
    left: float
    at_s: float
    unsaid: int = 0


class Audit:
    """Records refusals. What a stranger can say of himself opens no allowance of its own, so their number is bounded."""

    def __init__(self, catalogue: Catalogue, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._catalogue = catalogue
        self._monotonic_s = monotonic_s
        self._allowances: dict[tuple[str, ...], _Allowance] = {}
        self._lock = threading.Lock()

    def refused(self, refusal: Refusal, now: datetime) -> bool:
        """Record it, or count it where there were too many like it; whether it was recorded."""
        unsaid = self._unsaid(refusal)
        if unsaid is None:
            return False
        detail = {"reason": refusal.reason, **refusal.detail} | ({"unsaid_before": unsaid} if unsaid else {})
        log.warning(refusal.kind.value, subject=refusal.subject, **detail)
        with self._catalogue.writing.begin() as session:
            session.add(Event(at=now, kind=refusal.kind.value, subject=refusal.subject[:200], detail=detail))
        return True

    def _unsaid(self, refusal: Refusal) -> int | None:
        """How many of its like were left out before it; None where it is to be left out, too."""
        key = (refusal.kind, refusal.reason, refusal.subject if refusal.proven else "")
        now_s = self._monotonic_s()
        with self._lock:
            known = self._allowances.setdefault(key, _Allowance(BURST, now_s))
            known.left = min(BURST, known.left + (now_s - known.at_s) / EVERY_S)
            known.at_s = now_s
            if known.left < 1:
                known.unsaid += 1
                return None
            known.left -= 1
            unsaid, known.unsaid = known.unsaid, 0
            return unsaid


def latest(catalogue: Catalogue, most: int, kinds: Sequence[str] = KINDS) -> Sequence[Event]:
    """The newest events of these kinds, the newest last."""
    wanted = sa.select(Event).where(Event.kind.in_([str(kind) for kind in kinds])).order_by(Event.id.desc())
    with catalogue.session() as session:
        return session.scalars(wanted.limit(most)).all()[::-1]
