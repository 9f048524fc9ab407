"""A line to the cloud and a way to the store without a network, for tests that set the clock themselves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from edgecase_agent.transfer import Answer, Upload
from edgecase_agent.uplink import Idle, Moment, Outcome, Uplink
from edgecase_models import wire

START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class QuietLine:
    """What is published is kept; what is to be received is put into `inbox`. `answer` may answer each message at once."""

    connected: bool = True
    session: str = "one"
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    inbox: deque[wire.Down] = field(default_factory=deque)
    answer: Callable[[wire.Up], wire.Down | None] | None = None

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:  # noqa: ARG002
        if not self.connected:
            return False
        self.sent.append((topic, payload))
        reply = self.answer(wire.decode_up(payload)) if self.answer else None
        if reply is not None:
            self.inbox.append(reply)
        return True

    def receive(self) -> wire.Down | None:
        return self.inbox.popleft() if self.inbox else None

    def messages(self, kind: type) -> list[wire.Up]:
        """What was published of one kind."""
        return [message for _, payload in self.sent if isinstance(message := wire.decode_up(payload), kind)]


@dataclass
class Porter:
    """Uploads that are answered at once by `put`; at most `at_once`, or held back with `holding`."""

    put: Callable[[Upload], Answer]
    at_once: int = 2
    holding: bool = False
    started: list[Upload] = field(default_factory=list)
    _done: deque[Upload] = field(default_factory=deque)

    @property
    def free(self) -> bool:
        return len(self._done) < self.at_once

    def start(self, upload: Upload) -> None:
        self.started.append(upload)
        self._done.append(upload)

    def finished(self) -> Answer | None:
        return self.put(self._done.popleft()) if self._done and not self.holding else None


@dataclass
class Clock:
    """Time that passes when told."""

    monotonic_s: float = 1000.0
    wall: datetime = START
    boot: str = "boot"

    def now(self) -> Moment:
        return Moment(self.wall, self.monotonic_s, self.boot)

    def pass_s(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall += timedelta(seconds=seconds)


def work(uplink: Uplink, clock: Clock, *, at_most: int = 10_000) -> list[str]:
    """Step until there is nothing to do at this moment; what was done."""
    done: list[str] = []
    for _ in range(at_most):
        outcome: Outcome = uplink.step(clock.now())
        if isinstance(outcome, Idle):
            return done
        done.append(outcome.what)
    raise AssertionError(f"no end of work after {at_most} steps: {done[-10:]}")
