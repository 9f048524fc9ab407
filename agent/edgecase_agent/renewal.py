"""The device's certificate, kept from ending while the device runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from edgecase_agent.enroll import Denied, Unreachable, ask, opened
from edgecase_agent.identity import Identity, IdentityError, fingerprint
from edgecase_agent.update import NotDue, Offline, Refused
from edgecase_models.enrolment import RENEWALS, RenewalRequest

_LOOK_S: Final = 60.0
_LONGEST_REST_S: Final = 300.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Renewed:
    """Another certificate is in force."""

    until: datetime
    name = "renewed"

    @property
    def why(self) -> str:
        """Until when."""
        return f"until {self.until:%Y-%m-%d %H:%M} UTC"


class Renewal:
    """Keeps the certificate from ending: from two thirds of its life on, `step` asks the hub for another one, for the same key.

    What stands connected stays so; the next connection shows the new certificate.
    """

    def __init__(self, who: Identity, hub_url: str) -> None:
        self._who = who
        self._hub_url = hub_url
        self._next_s = -math.inf
        self._failures = 0
        self.problem = ""  # what a person has to put right

    def step(self, now: datetime, monotonic_s: float) -> NotDue | Renewed | Offline | Refused:
        """Do what is due. After any failure the present certificate stays, and it is asked again later."""
        if monotonic_s < self._next_s:
            return NotDue(self._next_s - monotonic_s)
        try:
            valid = self._who.validity()
            if now < valid.renew_at:
                early_s = min(_LOOK_S, (valid.renew_at - now).total_seconds())
                self._next_s = monotonic_s + early_s
                self.problem = valid.problem(now)
                return Refused(self.problem) if self.problem else NotDue(early_s)
            answer = ask(self._hub_url, RENEWALS, RenewalRequest(csr=self._who.request()))
            said, _ = opened(answer, fingerprint(self._who.authority()))
            valid = self._who.renewed(said.certificate, now)
        except Unreachable as error:
            self._failures += 1
            self._next_s = monotonic_s + min(_LONGEST_REST_S, 2.0 ** min(self._failures, 10))
            self.problem = valid.problem(now)
            log.warning("certificate not renewed yet", reason=str(error))
            return Offline(str(error))
        except (Denied, IdentityError) as error:
            self._next_s = monotonic_s + _LOOK_S
            if str(error) != self.problem:
                log.error("certificate not renewed", reason=str(error))  # noqa: TRY400
            self.problem = str(error)
            return Refused(self.problem)
        # By our own count, too: with a clock that is ahead every certificate seems to be due.
        self._next_s = monotonic_s + (valid.renew_at - valid.begins).total_seconds()
        self._failures, self.problem = 0, ""
        log.info("certificate renewed", until=valid.ends.isoformat())
        return Renewed(valid.ends)
