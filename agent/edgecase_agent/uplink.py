"""From the spool to the cloud: offer, grant, PUT, stored, ack. Nothing but the ack lets a frame go, and everything may be repeated.

A frame that is granted in parts is PUT part by part; the spool knows which parts the store has, so that a restart goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import inf
from random import Random
from typing import Final, Protocol

import msgspec
import structlog

from edgecase_agent.bandwidth import Bandwidth
from edgecase_agent.elapsed import Reading, boottime_s
from edgecase_agent.frames import boot_id
from edgecase_agent.spool import Damaged, Spool
from edgecase_agent.spool_rows import Entry, State
from edgecase_agent.transfer import Answer, Meaning, Upload
from edgecase_models import wire

FIRST_DEADLINE_S: Final = 3.0
LAST_DEADLINE_S: Final = 30.0
JITTER: Final = 0.3
MAX_REST_S: Final = 300.0
_POLL_S: Final = 0.2
_FLUSH_EVERY_S: Final = 60.0
_TRIES_WHILE_OTHERS_ARE_ANSWERED: Final = 5
_TRIES: Final = 10
_REFUSALS: Final = 2
_PART_BYTES: Final = 8_000_000  # no single request is expected to be longer

log = structlog.get_logger()


class Link(Protocol):
    """The line to the broker."""

    @property
    def connected(self) -> bool: ...

    @property
    def session(self) -> str:
        """Names the present connection."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand over a message at QoS 1; False where nothing was handed over."""

    def receive(self) -> wire.Down | None:
        """The next message, if any."""


class Uploads(Protocol):
    """The way to the store."""

    @property
    def free(self) -> bool: ...

    def start(self, upload: Upload) -> None: ...

    def finished(self) -> Answer | None: ...


@dataclass(frozen=True)
class Moment:
    """Now: `wall` to compare with what others wrote (and perhaps wrong), `monotonic_s` since the `boot` for every deadline of ours."""

    wall: datetime
    monotonic_s: float
    boot: str = ""

    @classmethod
    def now(cls) -> Moment:
        return cls(wire.now(), boottime_s(), boot_id())

    @property
    def reading(self) -> Reading:
        """The same, as what measures days reads it."""
        return Reading(self.boot, self.monotonic_s, self.wall.timestamp())


@dataclass(frozen=True)
class Worked:
    """One unit of work was done; there may be more."""

    what: str
    frame_id: str = ""


@dataclass(frozen=True)
class Idle:
    """There is nothing to do before `wait_s` have passed or something arrives."""

    wait_s: float


Outcome = Worked | Idle


class _Phase(StrEnum):
    OFFERED = "offered"  # waiting for grant or decline
    GRANTED = "granted"  # waiting for its turn
    UPLOADING = "uploading"
    STORED = "stored"  # waiting for the ack


@dataclass
class _Flight:
    """A frame in the window. Its facts are in the spool; what is here may be forgotten."""

    entry: Entry
    phase: _Phase
    begun_s: float
    deadline_s: float
    grant: wire.Grant | None = None
    good_until_s: float = 0.0  # the grant's end on our clock
    tries: int = 0  # in this phase
    refusals: int = 0  # "this can never succeed", said by the store
    expired: int = 0  # grants that the store did not take
    repeated: int = 0  # grants that came after the upload
    etags: list[str] = field(default_factory=list)  # of the parts that the store has

    @property
    def parts(self) -> wire.Parts | None:
        """How it goes in parts; None where it goes whole, as where the parts of a grant do not make the picture."""
        parts = msgspec.UNSET if self.grant is None else self.grant.parts
        if parts is msgspec.UNSET or len(parts.urls) != -(-self.entry.size_bytes // parts.part_bytes):
            return None
        return parts

    @property
    def stretch(self) -> tuple[int, int]:
        """Where what is sent next begins in the picture, and its length: 0 where the store has every part."""
        if self.parts is None:
            return 0, self.entry.size_bytes
        start = len(self.etags) * self.parts.part_bytes
        return start, max(0, min(self.parts.part_bytes, self.entry.size_bytes - start))


class Uplink:
    """One frame at most once on its way, at most `window` at a time; `step` does one unit of work and never waits.

    Deadlines double from 3 s to 30 s with ±30 % of jitter. A frame that is not answered while others are, or for too long, leaves the
    window to the rest and comes back later. While the store is away a single frame probes it, with full jitter up to 5 min.
    What `bandwidth` holds up waits in its order: neither is it offered, nor does a smaller one overtake it.
    """

    def __init__(
        self,
        device: str,
        spool: Spool,
        link: Link,
        uploads: Uploads,
        *,
        status: Callable[[datetime, str], wire.Status],
        poked: Callable[[wire.Poke], None],
        bandwidth: Bandwidth | None = None,
        window: int = 16,
        status_every_s: float = 5.0,
        redacted_only: bool = False,
        chance: Random | None = None,
    ) -> None:
        """`redacted_only`: frames that were kept before anything was to be redacted are set aside, and stay here."""
        self._device = device
        self._spool = spool
        self._link = link
        self._uploads = uploads
        self._status = status
        self._poked = poked
        self._bandwidth = bandwidth or Bandwidth.unlimited()
        self._window = window
        self._status_every_s = status_every_s
        self._redacted_only = redacted_only
        self._chance = chance or Random()  # noqa: S311  (jitter, no secret)
        self._flights: dict[str, _Flight] = {}
        self._session = ""
        self._status_due_s = 0.0
        self._flush_due_s = 0.0
        self._answered_s = 0.0
        self._store_failures = 0
        self._store_rests_until_s = 0.0
        self.waits_for = ""
        """What holds pictures up, in words; empty while nothing does."""
        spool.wake_all()

    @property
    def in_flight(self) -> int:
        """Frames in the window."""
        return len(self._flights)

    def step(self, now: Moment) -> Outcome:
        """Do the most urgent unit of work."""
        self._bandwidth.advance(now.reading)
        if (message := self._link.receive()) is not None:
            return self._received(message, now)
        if (answer := self._uploads.finished()) is not None:
            return self._uploaded(answer, now)
        if self._link.connected:
            if self._session != self._link.session:
                self._connected(now)
            if now.monotonic_s >= self._status_due_s:
                return self._report(now)
            if (late := self._most_overdue(now)) is not None and not self._bandwidth.too_fast:
                return self._again(late, now)
        if (ready := self._next_upload(now)) is not None:
            if not self._held_up(ready.stretch[1]):
                return self._upload(ready, now)
        elif self._link.connected and len(self._flights) < self._window and not self._bandwidth.too_fast:
            next_up = self._spool.due(1, now.monotonic_s, self._flights.keys())
            if next_up and (
                next_up[0].state is State.STORED
                or not self._held_up(min(next_up[0].size_bytes, _PART_BYTES), self._ahead_bytes)
            ):
                return self._begin(next_up[0], now)
            if not next_up and not self._flights:
                self._tell("")
        return Idle(self._wait_s(now))

    @property
    def _ahead_bytes(self) -> int:
        """Of pictures that were offered and are not on their way yet."""
        ahead = [flight for flight in self._flights.values() if flight.phase in {_Phase.OFFERED, _Phase.GRANTED}]
        return sum(flight.stretch[1] for flight in ahead)

    def _held_up(self, size_bytes: int, ahead_bytes: int = 0) -> bool:
        """Whether so many bytes of a picture have to wait."""
        self._tell(self._bandwidth.refusal(size_bytes, ahead_bytes))
        return bool(self.waits_for)

    def _tell(self, reason: str) -> None:
        """A wait is logged once when it begins and once when it ends."""
        if bool(reason) != bool(self.waits_for):
            log.info("pictures wait" if reason else "pictures go on", for_=reason or self.waits_for)
        self.waits_for = reason

    # ---- messages ----------------------------------------------------------------------------------------------

    def _received(self, message: wire.Down, now: Moment) -> Outcome:
        if isinstance(message, wire.Poke):
            self._poked(message)
            return Worked("poked")
        self._answered_s = now.monotonic_s
        if isinstance(message, wire.Grant):
            return self._granted(message, now)
        if isinstance(message, wire.Ack):
            return self._acknowledged(message)
        self._flights.pop(message.frame_id, None)
        if isinstance(message, wire.Decline):
            self._spool.declined(message.frame_id, message.reason)
            return Worked("declined", message.frame_id)
        if self._spool.rejected(message.frame_id, message.reason):
            log.warning("frame rejected by the cloud", frame_id=message.frame_id, reason=message.reason)
        return Worked("rejected", message.frame_id)

    def _granted(self, grant: wire.Grant, now: Moment) -> Outcome:
        flight = self._flights.get(grant.frame_id)
        if flight is None or flight.phase is _Phase.UPLOADING:
            return Worked("late grant", grant.frame_id)
        if flight.phase is _Phase.STORED:
            # The answer to a repeated offer, or the cloud does not find the object: if so, it says it again.
            flight.repeated += 1
            if flight.repeated < 2:
                return Worked("late grant", grant.frame_id)
        if not self._spool.granted(grant.frame_id, grant):
            del self._flights[grant.frame_id]
            return Worked("grant for a frame that is gone", grant.frame_id)
        # A grant that seems to have ended before it came is tried all the same: our clock may be wrong, the store knows.
        lifetime_s = _lifetime_s(grant, now)
        flight.phase, flight.grant = _Phase.GRANTED, grant
        flight.etags = [] if grant.parts is msgspec.UNSET else self._etags(grant.frame_id)
        flight.good_until_s = now.monotonic_s + lifetime_s if lifetime_s > 0 else inf
        flight.deadline_s, flight.tries, flight.repeated = now.monotonic_s, 0, 0
        return Worked("granted", grant.frame_id)

    def _acknowledged(self, ack: wire.Ack) -> Outcome:
        flight = self._flights.get(ack.frame_id)
        entry = self._spool.entry(ack.frame_id) if flight is None else flight.entry
        if entry is not None and entry.sha256 != ack.sha256:
            log.error("ack for other bytes ignored", frame_id=ack.frame_id, ours=entry.sha256, theirs=ack.sha256)
            return Worked("ack for other bytes", ack.frame_id)
        self._flights.pop(ack.frame_id, None)
        self._spool.acknowledged(ack.frame_id)
        return Worked("acknowledged", ack.frame_id)

    # ---- uploads -----------------------------------------------------------------------------------------------

    def _next_upload(self, now: Moment) -> _Flight | None:
        if not self._uploads.free or now.monotonic_s < self._store_rests_until_s:
            return None
        uploading = any(flight.phase is _Phase.UPLOADING for flight in self._flights.values())
        if self._store_failures and uploading:
            return None  # one probe is enough
        ready = [
            flight
            for flight in self._flights.values()
            if flight.phase is _Phase.GRANTED and flight.deadline_s <= now.monotonic_s
        ]
        return min(ready, key=lambda flight: flight.tries, default=None)

    def _upload(self, flight: _Flight, now: Moment) -> Outcome:
        entry, grant = flight.entry, flight.grant
        if grant is None or now.monotonic_s >= flight.good_until_s:
            return self._ask_anew(flight, now, "grant expired")
        start, length = flight.stretch
        if not length:
            return self._all_stored(flight, now)
        self._bandwidth.hold(entry.frame_id, length)
        try:
            body = self._spool.open(entry, start, length)
        except Damaged as error:
            self._bandwidth.settle(entry.frame_id, 0)
            return self._lost(entry, error)
        flight.phase = _Phase.UPLOADING
        url, headers = grant.url, grant.headers
        if flight.parts is not None:
            url, headers = flight.parts.urls[len(flight.etags)], body.integrity()
        self._uploads.start(Upload(entry.frame_id, body, length, url, headers))
        return Worked("uploading", entry.frame_id)

    def _uploaded(self, answer: Answer, now: Moment) -> Outcome:
        self._spool.sent(answer.sent_bytes)
        self._bandwidth.settle(answer.frame_id, answer.sent_bytes)
        self._store_answered(answer, now)
        flight = self._flights.get(answer.frame_id)
        if flight is None or flight.phase is not _Phase.UPLOADING:
            return Worked("late upload", answer.frame_id)
        if answer.meaning is Meaning.STORED and flight.parts is not None:
            return self._part_stored(flight, answer.etag, now)
        if answer.meaning in {Meaning.STORED, Meaning.EXISTS}:
            return self._all_stored(flight, now)
        if answer.meaning is Meaning.REFUSED:
            flight.refusals += 1
            if flight.refusals >= _REFUSALS:
                return self._rejected(flight.entry, f"the store refused it: {answer.detail}")
        if answer.meaning in {Meaning.REFUSED, Meaning.EXPIRED}:
            return self._ask_anew(flight, now, answer.detail)
        flight.phase = _Phase.GRANTED
        flight.tries += 1
        if flight.tries >= _TRIES_WHILE_OTHERS_ARE_ANSWERED:
            return self._set_back(flight, now, answer.detail)
        return Worked("upload failed", answer.frame_id)

    def _part_stored(self, flight: _Flight, etag: str, now: Moment) -> Outcome:
        assert flight.parts is not None
        flight.etags.append(etag)
        flight.phase, flight.deadline_s, flight.tries = _Phase.GRANTED, now.monotonic_s, 0
        done = wire.PartsDone(flight.parts.upload_id, flight.parts.part_bytes, flight.etags)
        if not self._spool.part_stored(flight.entry.frame_id, done):
            del self._flights[flight.entry.frame_id]
            return Worked("stored a part of a frame that is gone", flight.entry.frame_id)
        return Worked("stored a part", flight.entry.frame_id)

    def _all_stored(self, flight: _Flight, now: Moment) -> Outcome:
        if not self._spool.stored(flight.entry.frame_id):
            del self._flights[flight.entry.frame_id]
            return Worked("stored a frame that is gone", flight.entry.frame_id)
        flight.phase, flight.tries = _Phase.STORED, 0
        return self._say_stored(flight, now)

    def _etags(self, frame_id: str) -> list[str]:
        """Of the parts that the store has of the upload that is granted now."""
        entry = self._spool.entry(frame_id)
        return [] if entry is None or entry.parts is None else entry.parts.etags

    def _store_answered(self, answer: Answer, now: Moment) -> None:
        if answer.meaning is not Meaning.UNAVAILABLE:
            if self._store_failures:
                log.info("store is back", after_failures=self._store_failures)
            self._store_failures, self._store_rests_until_s = 0, 0.0
            return
        if not self._store_failures:
            log.warning("store does not take pictures; they wait in the spool", reason=answer.detail)
        self._store_failures += 1
        limit_s = min(MAX_REST_S, 2.0 ** min(self._store_failures, 10))
        self._store_rests_until_s = now.monotonic_s + self._chance.uniform(0, limit_s)

    def _ask_anew(self, flight: _Flight, now: Moment, reason: str) -> Outcome:
        """Back to the offer, for a new grant: at once the first time, then ever later."""
        flight.phase, flight.grant, flight.tries = _Phase.OFFERED, None, 0
        flight.expired += 1
        if flight.expired == 1:
            return self._offer(flight, now)
        if flight.expired > _TRIES_WHILE_OTHERS_ARE_ANSWERED:
            return self._set_back(flight, now, reason)
        flight.deadline_s = now.monotonic_s + self._deadline_s(flight.expired)
        return Worked(f"new grant wanted: {reason}", flight.entry.frame_id)

    # ---- requests ----------------------------------------------------------------------------------------------

    def _begin(self, entry: Entry, now: Moment) -> Outcome:
        if self._redacted_only and entry.state is not State.STORED:
            try:
                if self._spool.meta(entry).redaction is msgspec.UNSET:
                    return self._rejected(entry, "it was kept before privacy was set, so that it is not redacted")
            except Damaged as error:
                return self._lost(entry, error)
        etags = [] if entry.parts is None else entry.parts.etags
        flight = _Flight(entry, _Phase.OFFERED, now.monotonic_s, now.monotonic_s, entry.grant, etags=etags)
        self._flights[entry.frame_id] = flight
        if entry.attempts == 0 and entry.state is State.STORED and entry.grant is not None:
            flight.phase = _Phase.STORED
            return self._say_stored(flight, now)
        if entry.attempts == 0 and entry.state is State.GRANTED:
            flight.phase = _Phase.GRANTED
            flight.good_until_s = now.monotonic_s + (_lifetime_s(entry.grant, now) if entry.grant else 0)
            return Worked("grant resumed", entry.frame_id)
        return self._offer(flight, now)

    def _again(self, flight: _Flight, now: Moment) -> Outcome:
        others_answered = self._answered_s > flight.begun_s
        if flight.tries >= (_TRIES_WHILE_OTHERS_ARE_ANSWERED if others_answered else _TRIES):
            return self._set_back(flight, now, f"no answer to {flight.phase}")
        return self._offer(flight, now) if flight.phase is _Phase.OFFERED else self._say_stored(flight, now)

    def _offer(self, flight: _Flight, now: Moment) -> Outcome:
        entry = flight.entry
        try:
            meta = self._spool.meta(entry)
        except Damaged as error:
            return self._lost(entry, error)
        offer = meta.offer(self._device, entry.sha256, entry.size_bytes)
        try:
            try:
                payload = wire.encode(offer)
            except wire.WireError:
                payload = wire.encode(msgspec.structs.replace(offer, thumbnail_jpeg=b""))
        except wire.WireError as error:
            return self._rejected(entry, f"it cannot be offered: {error}")
        if not self._spool.offered(entry.frame_id):
            del self._flights[entry.frame_id]
            return Worked("evicted meanwhile", entry.frame_id)
        return self._request(flight, now, wire.up_topic(self._device, wire.Offer), payload)

    def _say_stored(self, flight: _Flight, now: Moment) -> Outcome:
        entry, grant = flight.entry, flight.grant
        stored = wire.Stored(
            device=self._device,
            frame_id=entry.frame_id,
            key="" if grant is None else grant.key,
            sha256=entry.sha256,
            parts=msgspec.UNSET
            if flight.parts is None or not flight.etags
            else wire.PartsDone(flight.parts.upload_id, flight.parts.part_bytes, flight.etags),
        )
        return self._request(flight, now, wire.up_topic(self._device, wire.Stored), wire.encode(stored))

    def _request(self, flight: _Flight, now: Moment, topic: str, payload: bytes) -> Outcome:
        if not self._link.publish(topic, payload):
            flight.deadline_s = now.monotonic_s + 1.0
            return Worked("line is down", flight.entry.frame_id)
        self._said(payload)
        flight.deadline_s = now.monotonic_s + self._deadline_s(flight.tries)
        flight.tries += 1
        return Worked(f"said {flight.phase}", flight.entry.frame_id)

    def _deadline_s(self, tries: int) -> float:
        plain_s = min(LAST_DEADLINE_S, FIRST_DEADLINE_S * 2.0**tries)
        return plain_s * self._chance.uniform(1 - JITTER, 1 + JITTER)

    # ---- ends --------------------------------------------------------------------------------------------------

    def _set_back(self, flight: _Flight, now: Moment, reason: str) -> Outcome:
        """Leave the window to the others; the frame comes back later and begins with an offer."""
        frame_id = flight.entry.frame_id
        del self._flights[frame_id]
        rest_s = min(MAX_REST_S, 30.0 * 2.0 ** min(flight.entry.attempts, 5)) * self._chance.uniform(0.5, 1)
        self._spool.failed(frame_id, now.monotonic_s + rest_s)
        log.warning("frame set back", frame_id=frame_id, reason=reason, rest_s=round(rest_s))
        return Worked("set back", frame_id)

    def _lost(self, entry: Entry, error: Damaged) -> Outcome:
        self._flights.pop(entry.frame_id, None)
        if not self._spool.lost(entry.frame_id, str(error)):
            return Worked("evicted meanwhile", entry.frame_id)
        log.error("frame lost on this disk", frame_id=entry.frame_id, reason=str(error))
        return Worked("lost", entry.frame_id)

    def _rejected(self, entry: Entry, reason: str) -> Outcome:
        self._flights.pop(entry.frame_id, None)
        self._spool.rejected(entry.frame_id, reason)
        log.warning("frame set aside", frame_id=entry.frame_id, reason=reason)
        return Worked("rejected", entry.frame_id)

    # ---- the line ----------------------------------------------------------------------------------------------

    def _connected(self, now: Moment) -> None:
        """A new connection: what was asked on the old one may never be answered, so all of it is asked again."""
        self._session = self._link.session
        self._status_due_s = now.monotonic_s
        for flight in self._flights.values():
            if flight.phase in {_Phase.OFFERED, _Phase.STORED}:
                flight.deadline_s, flight.tries, flight.begun_s = now.monotonic_s, 0, now.monotonic_s

    def _report(self, now: Moment) -> Outcome:
        self._status_due_s = now.monotonic_s + max(self._status_every_s, self._bandwidth.report_every_s)
        payload = wire.encode(self._status(now.wall, self._session))
        if self._link.publish(wire.up_topic(self._device, wire.Status), payload, retain=True):
            self._said(payload)
        if now.monotonic_s >= self._flush_due_s:  # every report would wear a memory card
            self._flush_due_s = now.monotonic_s + _FLUSH_EVERY_S
            self._spool.flush()
        return Worked("reported")

    def _said(self, payload: bytes) -> None:
        self._spool.sent(len(payload))
        self._bandwidth.said(len(payload))

    def _most_overdue(self, now: Moment) -> _Flight | None:
        late = min(self._asking(), key=lambda flight: flight.deadline_s, default=None)
        return late if late is not None and late.deadline_s <= now.monotonic_s else None

    def _asking(self) -> list[_Flight]:
        """What waits for an answer, and is asked again; nothing is offered while no picture may be sent."""
        asking = {_Phase.STORED} if self._bandwidth.refusal(1) else {_Phase.OFFERED, _Phase.STORED}
        return [flight for flight in self._flights.values() if flight.phase in asking]

    def _wait_s(self, now: Moment) -> float:
        """Until the next deadline, but no longer than new frames of another process may wait to be seen."""
        if not self._link.connected:
            return _POLL_S
        deadlines = [] if self._bandwidth.too_fast else [flight.deadline_s for flight in self._asking()]
        until_s = min((*deadlines, self._status_due_s)) - now.monotonic_s
        return min(_POLL_S, max(0.0, until_s))

    def forget(self) -> None:
        """Begin anew from what the spool says: for when a step could not write down what it did."""
        self._flights.clear()

    def settle(self, now: Moment) -> None:
        """Note what uploads came to, before the process ends."""
        while (answer := self._uploads.finished()) is not None:
            self._uploaded(answer, now)
        self._spool.flush()
        self._bandwidth.close()


def _lifetime_s(grant: wire.Grant, now: Moment) -> float:
    return (grant.expires_at - now.wall).total_seconds()
