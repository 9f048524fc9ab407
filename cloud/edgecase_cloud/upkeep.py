"""What goes on in the background: pictures are looked at, expired ones let go, and orders to forget carried out to their end."""

from __future__ import annotations

import threading
from typing import Final

import structlog

from edgecase_cloud import forgetting, inspection, retention
from edgecase_cloud.decoding import decoder
from edgecase_cloud.services import Services
from edgecase_cloud.store import StoreError
from edgecase_models import wire

_POLL_S: Final = 0.5
_AWAY_S: Final = 5.0

log = structlog.get_logger()


class Upkeep:
    """One unit of each kind of work at a time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._applied = False
        self._resting: set[str] = set()

    def step(self) -> bool:
        """Whether there may be more to do at once. Raises `StoreError` where the store is away."""
        if not self._applied:
            retention.apply(self._services)
            self._applied = True
        for audit in forgetting.carry_out(self._services, wire.now):
            log.info("frames forgotten", **audit.detail)
        expired = retention.expire(self._services, wire.now())
        looked_at = inspection.look_at_pictures(self._services, decoder(), resting=self._resting)
        return expired == retention.AT_ONCE or looked_at == inspection.AT_ONCE


def run(services: Services, stop: threading.Event, *, poll_s: float = _POLL_S) -> None:
    """Keep at it until `stop` is set."""
    upkeep = Upkeep(services)
    while not stop.is_set():
        rest_s = poll_s
        try:
            rest_s = 0.0 if upkeep.step() else poll_s
        except StoreError as error:
            log.warning("upkeep waits", error=str(error))
            rest_s = _AWAY_S
        except Exception:  # the loop's own
            log.exception("upkeep goes on after an error")
            rest_s = _AWAY_S
        stop.wait(rest_s)
