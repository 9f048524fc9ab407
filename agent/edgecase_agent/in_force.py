"""The policy in force: the accepted one over the air, else the device's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import structlog

from edgecase_agent.judge import Judge
from edgecase_agent.orders import PolicyFile
from edgecase_agent.rules import RulesError
from edgecase_agent.selection import SelectionState
from edgecase_agent.watch import Shot
from edgecase_models.bundle import BundleError
from edgecase_models.detector import DetectorError
from edgecase_models.policy import Policy, PolicyError

log = structlog.get_logger()

UNUSABLE: Final = (PolicyError, RulesError, BundleError, DetectorError)

Make = Callable[[Policy, SelectionState | None], Judge[Shot]]
"""Puts a policy to work, going on from what was spent, None at a start. Raises what is in `UNUSABLE`."""


class InForce:
    """`start` follows a policy, `poll` looks whether another is to be followed, and `judge` follows that one.

    It depends on the stored policy and the device's own, and on nothing that came before, so that a restart changes nothing.
    """

    def __init__(
        self,
        own: Policy,
        make: Make,
        file: PolicyFile | None = None,
        *,
        poll_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`file`: where a policy over the air lies; None where none is followed."""
        self._own = own
        self._make = make
        self._file = file
        self._poll_s = poll_s
        self._clock = clock
        self._next_s = -math.inf
        self._version: object = None
        self.policy = own
        self.failure = ""

    def start(self) -> Judge[Shot]:
        """What judges from the first frame on. Raises what is in `UNUSABLE` where only the device's own policy is left and cannot be."""
        self.poll()
        judge = self.judge(None)
        return self._make(self._own, None) if judge is None else judge

    def poll(self) -> bool:
        """Called between two frames; True where another policy is laid down, or none any more."""
        if self._file is None or self._clock() < self._next_s:
            return False
        self._next_s = self._clock() + self._poll_s
        version = self._file.version()
        changed = version != self._version
        self._version = version
        return changed

    def judge(self, spent: SelectionState | None) -> Judge[Shot] | None:
        """What judges by the policy that is to be followed, or by the device's own where that one cannot be; `failure` says why.

        None where that cannot be either: the policy in force stays.
        """
        self.failure = ""
        try:
            content = None if self._file is None else self._file.content()
            if content is not None:
                return self._followed(Policy.from_json(content), spent)
        except UNUSABLE as error:
            self._failed(f"the policy over the air: {error}")
        try:
            return self._followed(self._own, spent)
        except UNUSABLE as error:
            self._failed(f"the settings: {error}")
            return None

    def _followed(self, policy: Policy, spent: SelectionState | None) -> Judge[Shot]:
        judge = self._make(policy, spent)
        self.policy = policy
        log.info("policy followed", policy=policy.name, digest=policy.digest)
        return judge

    def _failed(self, failure: str) -> None:
        self.failure = failure
        log.warning("policy not followed", reason=failure)
