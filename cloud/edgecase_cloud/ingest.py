"""From a device's word to a checked row: a frame is acknowledged only when its object was seen and its row committed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, cast

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, load_only

from edgecase_cloud import clocks, durable, twins
from edgecase_cloud.audit import Audit, Refusal, Refused
from edgecase_cloud.catalogue import (
    ADOPTED,
    DELIVERY_MOVES,
    Delivery,
    Device,
    Event,
    Forgetting,
    Forgotten,
    Frame,
    Look,
    ObjectClass,
    Review,
    UtcDateTime,
    strategies_of,
)
from edgecase_cloud.decoder_process import Seen
from edgecase_cloud.decoding import Decoder, decoder
from edgecase_cloud.forgetting import REASON
from edgecase_cloud.label_queue import look_of
from edgecase_cloud.pool import AUDIT
from edgecase_cloud.repeats import Likeness
from edgecase_cloud.services import Services
from edgecase_cloud.store import PART_BYTES, ObjectInfo, Unreachable
from edgecase_models import wire
from edgecase_models.fingerprint import Fingerprint
from edgecase_models.wire import WireError

EXTENSIONS: Final = {"image/jpeg": "jpg"}
REMEMBERED: Final = 2000
"""So many of the fleet's latest frames a new one is compared with where duplicates are declined."""
PARTS_WAIT: Final = timedelta(days=14)
"""So long an upload in parts may rest: a device that may send little a day needs its time."""
_EXCERPT_BYTES: Final = 500
_DISTRUST: Final = timedelta(minutes=10)
_QUESTIONS_AT_ONCE: Final = 4  # to the store

# What is asked for every message, put together once and of tables: classes would take longer to ask than to answer.
_IDS: Final[sa.BindParameter[Any]] = sa.bindparam("ids", expanding=True)
_frames, _looks = Frame.__table__.c, Look.__table__.c
_devices, _forgotten, _orders = Device.__table__.c, Forgotten.__table__.c, Forgetting.__table__.c
_DEVICES: Final = sa.select(_devices.id).where(_devices.id.in_(_IDS))
_LOOKED_AT: Final = sa.select(_looks.frame_id).where(_looks.frame_id.in_(_IDS))
_FORGOTTEN: Final = sa.select(_forgotten.frame_id).where(_forgotten.frame_id.in_(_IDS))
_FRAMES: Final = (
    sa.select(Frame)
    .where(Frame.id.in_(_IDS))
    .options(
        load_only(
            Frame.device_id,
            Frame.key,
            Frame.sha256,
            Frame.size_bytes,
            Frame.media_type,
            Frame.model_digest,
            Frame.delivery,
            Frame.delivery_reason,
        )
    )
)
_SAME_PICTURE: Final = (
    sa.select(_frames.id)
    .where(
        _frames.sha256 == sa.bindparam("sha256"),
        _frames.delivery == Delivery.ACKNOWLEDGED,
        _frames.review != Review.CONTEXT,
        _frames.id != sa.bindparam("frame"),
    )
    .limit(1)
)
_TAKEN_AT: Final[sa.BindParameter[datetime]] = sa.bindparam("taken_at", type_=UtcDateTime)
_ORDER_TO_FORGET: Final = (
    sa.select(_orders.id)
    .where(
        _orders.taken_from <= _TAKEN_AT,
        _orders.taken_to > _TAKEN_AT,
        sa.or_(_orders.device == "", _orders.device == sa.bindparam("device")),
    )
    .limit(1)
)

log = structlog.get_logger()


@dataclass(frozen=True)
class Reply:
    """A message for a device."""

    device: str
    message: wire.Down


@dataclass(frozen=True)
class Incident:
    """Something that must not happen, and what the device is told of it."""

    frame_id: str
    reason: str
    detail: dict[str, Any]


class _Frame(msgspec.Struct):
    """As much of a message that cannot be read as is needed to name the frame that it was about."""

    frame_id: wire.FrameId


class _Held(NamedTuple):
    """What the catalogue holds on the frames that some messages are about. Of rows it has read what decides, not what is long."""

    session: Session
    frames: Mapping[str, Frame]
    forgotten: Set[str]


Outcome = Frame | wire.Down | Incident | None
"""A frame stands for what a device is told of it as it stands, which is worked out after the commit."""


@dataclass
class _Case:
    """One message on its way, with what was found out before the catalogue is written: that takes time, and others wait meanwhile."""

    topic: str
    payload: bytes
    device: str = ""
    message: wire.Up | None = None
    seen: Seen | None = None  # the thumbnail of an offer, where the frame's look is not known
    found: ObjectInfo | None = None  # the object of a frame that is said to be stored
    outcome: Outcome = None
    answer: list[Reply] | Exception = field(default_factory=list)

    @property
    def subject(self) -> str:
        """The frame it is about; empty where it is about none."""
        return "" if self.message is None or isinstance(self.message, wire.Status) else self.message.frame_id


class Ingest:
    """Judges messages. Every answer may be asked for again: all of it is idempotent by frame id.

    A frame id belongs to the device and the bytes that it was first offered with. Another device or other bytes under
    the same id are an incident, never an overwrite.

    A row says that a frame is here only after `make_durable` has returned: a power cut between the two would leave a row without its
    object, and the device be told to let go. What was put before this began, the store may know of and not have any more: it is read.
    """

    def __init__(
        self,
        services: Services,
        pictures: Decoder | None = None,
        *,
        make_durable: Callable[[], None] = durable.trust_the_kernel,
    ) -> None:
        self._settings = services.settings
        self._catalogue = services.catalogue
        self._store = services.store
        self._pictures = pictures or decoder()
        self._audit = Audit(services.catalogue)
        self._class_index: dict[str, int] = {}
        self._distrusted: dict[str, datetime] = {}
        self._make_durable = make_durable
        self._began_at = wire.now().replace(microsecond=0)  # as objects are dated
        self._asking = ThreadPoolExecutor(_QUESTIONS_AT_ONCE, "store")

    def handle(self, topic: str, payload: bytes, now: datetime) -> list[Reply]:
        """What to answer to one message. Raises what `handle_all` gives in place of an answer."""
        (answer,) = self.handle_all([(topic, payload)], now)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def handle_all(self, messages: Sequence[tuple[str, bytes]], now: datetime) -> list[list[Reply] | Exception]:
        """What to answer to each message, or the error in its place; everything that answers say is committed when this returns.

        `Unreachable` says that the store or the catalogue cannot be asked now: nothing happened, hand that message in again.
        """
        cases = [_Case(topic, payload) for topic, payload in messages]
        for case in cases:
            self._guarded(case, now, lambda case: self._read(case, now))
        admitted = self._admitted([case for case in cases if case.message is not None], now)
        for together in _apart(admitted):
            self._judge(together, now)
        return [case.answer for case in cases]

    def set_aside(self, topic: str, payload: bytes, error: Exception, now: datetime) -> list[Reply]:
        """Record a message that cannot be used; for a frame that can never be read, tell its device.

        Only an unreadable message is told of: one that this side tripped over may be read after a repair.
        """
        try:
            device = wire.device_of(topic)
        except WireError:
            device = ""
        detail = {
            "topic": topic[:200],
            "error": f"{type(error).__name__}: {error}"[:1000],
            "size_bytes": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
            "begins": payload[:_EXCERPT_BYTES].decode("ascii", "backslashreplace"),
        }
        with self._catalogue.writing.begin() as session:
            session.add(Event(at=now, kind="dead letter", subject=device, detail=detail))
            known = session.get(Device, device) is not None
        log.warning("message set aside", device=device, error=detail["error"])
        frame_id = _frame_id(payload)
        if not (known and frame_id and isinstance(error, WireError)):
            return []
        return [Reply(device, wire.Reject(frame_id=frame_id, reason=f"cannot be read: {error}"[:200]))]

    # One message, or many

    def _guarded(self, case: _Case, now: datetime, work: Callable[[_Case], None]) -> None:
        """Do what concerns one message; whatever it trips over is its own."""
        try:
            try:
                work(case)
            except WireError as error:
                case.answer = self.set_aside(case.topic, case.payload, error, now)
        except OperationalError as error:
            case.answer = _no_catalogue(error)
        except durable.StorageFailed:
            raise
        except Exception as error:  # noqa: BLE001 (its caller's: it is tried again, and set aside in the end)
            case.answer = error

    def _read(self, case: _Case, now: datetime) -> None:
        device, message = wire.device_of(case.topic), wire.decode_up(case.payload)
        if message.device != device:
            claims = {"claims": message.device, "type": type(message).__name__}
            self._audit.refused(Refusal(Refused.TOPIC, device, "claims another device", claims, proven=True), now)
        else:
            case.device, case.message = device, message

    def _admitted(self, cases: Sequence[_Case], now: datetime) -> list[_Case]:
        """Those of devices that were added."""
        if not cases:  # the loop comes by five times a second, whether or not anything arrived
            return []
        try:
            with self._catalogue.session() as session:
                known = set(session.scalars(_DEVICES, {"ids": list({case.device for case in cases})}))
        except OperationalError as error:
            for case in cases:
                case.answer = _no_catalogue(error)
            return []

        def refuse(case: _Case) -> None:
            said = {"type": type(case.message).__name__}
            self._audit.refused(Refusal(Refused.UNKNOWN, case.device, "not added", said), now)

        for case in cases:
            if case.device not in known:
                self._guarded(case, now, refuse)
        return [case for case in cases if case.device in known]

    def _judge(self, cases: Sequence[_Case], now: datetime) -> None:
        """Give messages about different frames their answers, all in one transaction.

        Where one of them trips, nothing of it happened, and each is judged in a transaction of its own: the others need not suffer.
        """

        try:
            if len(cases) > 1:
                self._judge_at_once(cases, now)
                return
        except OperationalError as error:
            for case in cases:
                case.answer = _no_catalogue(error)
            return
        except durable.StorageFailed:
            raise
        except Exception:  # noqa: BLE001 (the one that trips trips again below)
            for case in cases:
                case.answer = []
        for case in cases:
            self._guarded(case, now, lambda case: self._judge_at_once([case], now))

    def _judge_at_once(self, cases: Sequence[_Case], now: datetime) -> None:
        self._prepare(cases, now)
        going_on = [case for case in cases if case.answer == []]
        if any(case.found is not None for case in going_on):
            self._make_durable()
        if going_on:
            self._write(going_on, now)
        for case in going_on:
            self._guarded(case, now, lambda case: self._tell(case, now))

    def _prepare(self, cases: Sequence[_Case], now: datetime) -> None:
        """Look at thumbnails and, meanwhile, into the store. Where that is away, what was not asked yet need not be."""
        with self._catalogue.session() as session:
            held = _held(session, [case for case in cases if isinstance(case.message, wire.Stored)])
            offered = [case.subject for case in cases if isinstance(case.message, wire.Offer)]
            looked_at = set(session.scalars(_LOOKED_AT, {"ids": offered})) if offered else set()
        said = [(case, case.message) for case in cases if isinstance(case.message, wire.Stored)]
        asked = [(case, self._asking.submit(self._found, stored, held)) for case, stored in said]
        for case in cases:
            if isinstance(case.message, wire.Offer) and case.subject not in looked_at and case.seen is None:
                case.seen = self._seen(case.message, now)
        unreachable: Unreachable | None = None
        for case, found in asked:
            if unreachable is not None and found.cancelled():
                case.answer = unreachable
                continue
            try:
                case.found = found.result()
            except Unreachable as error:
                case.answer = unreachable = error
                for _, other in asked:
                    other.cancel()

    def _write(self, cases: Sequence[_Case], now: datetime) -> None:
        with self._catalogue.writing.begin() as session:
            held = _held(session, cases)
            for case in cases:
                outcome: Outcome = None
                match case.message:
                    case wire.Offer() as offer:
                        outcome = self._offered(held, offer, case.seen, now)
                    case wire.Stored() as stored:
                        outcome = self._stored(held, stored, case.found, now)
                    case wire.Status() as status:
                        _reported(session, status=status, now=now)
                if isinstance(outcome, Incident):
                    said = {"device": case.device, "reason": outcome.reason, **outcome.detail}
                    _record(session, now, "incident", outcome.frame_id, said)
                case.outcome = outcome

    def _tell(self, case: _Case, now: datetime) -> None:
        outcome = case.outcome
        if isinstance(outcome, Frame):
            outcome = self._standing(outcome, now)
        elif isinstance(outcome, Incident):
            outcome = wire.Reject(frame_id=outcome.frame_id, reason=outcome.reason)
        case.answer = [] if outcome is None else [Reply(case.device, outcome)]

    # Offer

    def _seen(self, offer: wire.Offer, now: datetime) -> Seen:
        """What its thumbnail shows.

        One that broke the decoder cost seconds: for some minutes none of that device's are decoded, or it could hold up the fleet.
        """
        if now < self._distrusted.get(offer.device, now):
            return Seen(problem="not decoded, since another thumbnail of this device broke the decoder")
        seen = self._pictures.thumbnail(offer.thumbnail_jpeg)
        if seen.broke:
            self._distrusted[offer.device] = now + _DISTRUST
        return seen

    def _offered(self, held: _Held, offer: wire.Offer, seen: Seen | None, now: datetime) -> Outcome:
        session, row = held.session, held.frames.get(offer.frame_id)
        session.flush()  # it is judged by what the messages before it left
        look = None
        if seen is not None:
            look = look_of(offer.frame_id, seen, None if offer.features is msgspec.UNSET else offer.features)
            if seen.broke:
                said = {"device": offer.device, "reason": f"thumbnail: {seen.problem}"}
                _record(session, now, "broken picture", offer.frame_id, said)
        if row is None:
            if offer.frame_id in held.forgotten:
                return wire.Decline(frame_id=offer.frame_id, reason=REASON)
            with session.no_autoflush:  # one INSERT with the decision in it
                row = Frame(id=offer.frame_id, offered_at=now, delivery=Delivery.OFFERED, delivery_reason="")
                self._fill(session, row, offer)
                clocks.place(session, row)
                if order := _order_to_forget(session, row):
                    session.add(Forgotten(frame_id=row.id, forgetting_id=order))
                    return wire.Decline(frame_id=row.id, reason=REASON)
                self._decide(session, row, look, now)
                _insert(session, row)
        elif conflict := _conflict(row, offer):
            return conflict
        elif row.model_digest == ADOPTED:  # its object was there before its row: now its device says what is in it
            self._fill(session, row, offer)
            row.problem = None  # it is looked at again, now that it is known what was announced
            clocks.place(session, row)
        if look is not None:
            _insert(session, look)
        return row

    def _fill(self, session: Session, row: Frame, offer: wire.Offer) -> None:
        """Write what the offer says into the row."""
        try:
            captured_at = offer.captured_at.astimezone(UTC)
        except OverflowError as error:
            raise WireError(f"frame {offer.frame_id}: its time is outside the calendar in UTC") from error
        if offer.media_type not in EXTENSIONS:
            raise WireError(f"media type {offer.media_type!r} is not taken; send {', '.join(EXTENSIONS)}")
        if offer.boxes and not offer.classes:
            raise WireError(f"frame {offer.frame_id}: boxes without class names")
        index = self._indices(session, offer.classes)
        row.device_id = offer.device
        row.camera = offer.camera
        row.frame_index = offer.frame_index
        row.captured_at = captured_at
        row.recorded = offer.recorded is True
        row.boot_id = offer.boot_id
        row.monotonic_ns = offer.monotonic_ns
        row.key = row.key or f"frames/{offer.device}/{captured_at:%Y-%m-%d}/{row.id}.{EXTENSIONS[offer.media_type]}"
        row.sha256 = offer.sha256
        row.size_bytes = offer.size_bytes
        row.width_px = offer.width_px
        row.height_px = offer.height_px
        row.media_type = offer.media_type
        row.model_digest = offer.model_digest
        row.score = offer.score
        row.reasons = msgspec.to_builtins(offer.reasons)
        row.strategies = strategies_of(row.reasons)
        row.context_of = None if offer.context_of is msgspec.UNSET else offer.context_of
        if not row.revision:
            row.review = Review.OPEN if row.context_of is None else Review.CONTEXT
        row.boxes = [[index[offer.classes[b.cls]], b.score, b.x1, b.y1, b.x2, b.y2] for b in offer.boxes]
        row.operating_point = offer.operating_point
        row.thumbnail_jpeg = offer.thumbnail_jpeg
        row.redaction = _plain(offer.redaction)
        row.position = _plain(offer.position)

    def _decide(self, session: Session, row: Frame, look: Look | None, now: datetime) -> None:
        """Whether the fleet wants the pixels of a new frame, and the device gives them."""
        if row.redaction is not None and "withheld" in row.redaction:
            _move(row, Delivery.DECLINED, f"its pixels stay on the device: {row.redaction['withheld']}"[:200])
        elif refusal := self._has_enough(session, row, now) or self._is_duplicate(session, row, look):
            _move(row, Delivery.DECLINED, refusal)
        else:
            _move(row, Delivery.GRANTED)

    def _has_enough(self, session: Session, row: Frame, now: datetime) -> str:
        if twin := session.scalar(_SAME_PICTURE, {"sha256": row.sha256, "frame": row.id}):
            return f"the same picture is here already as {twin}"
        cap = self._settings.max_frames_per_device_per_day
        if cap is None:
            return ""
        today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        granted = sa.select(sa.func.count()).where(
            Frame.device_id == row.device_id,
            Frame.offered_at >= today,
            Frame.id != row.id,
            Frame.delivery.in_([Delivery.GRANTED, Delivery.ACKNOWLEDGED]),
        )
        return f"{cap} frames of this device were taken today" if (session.scalar(granted) or 0) >= cap else ""

    def _is_duplicate(self, session: Session, row: Frame, look: Look | None) -> str:
        """Why a frame that shows what a lately taken one shows is not wanted, where duplicates are declined.

        One that is more doubtful is wanted; so is one of a device's audit, since a sample without its repeats would be none, and one that
        lies beside a pick, which it resembles. Nobody labels the latter, so it makes no other frame a duplicate.
        """
        audit = any(reason["strategy"] == AUDIT for reason in row.reasons)
        context = row.review == Review.CONTEXT
        if not self._settings.decline_duplicates or audit or context or look is None or not look.fingerprint:
            return ""
        lately = (
            sa.select(Frame.id, Look.fingerprint)
            .join(Look)
            .where(
                Frame.delivery.in_([Delivery.GRANTED, Delivery.ACKNOWLEDGED]),
                (Frame.score >= row.score) | (Frame.review != Review.OPEN),
                Frame.review != Review.CONTEXT,
                Look.fingerprint != b"",
            )
            .order_by(Look.id.desc())
            .limit(REMEMBERED)
        )
        mine, likeness = Fingerprint.from_bytes(look.fingerprint), Likeness()
        for twin in session.execute(lately):
            if mine.repeats(Fingerprint.from_bytes(twin.fingerprint), likeness.bits, likeness.levels):
                return f"it shows what {twin.id} shows"
        return ""

    def _standing(self, row: Frame, now: datetime) -> wire.Down:
        """What a device is told of a frame that is known, whenever it asks."""
        match row.delivery:
            case Delivery.ACKNOWLEDGED | Delivery.EXPIRED:
                return wire.Ack(frame_id=row.id, sha256=row.sha256)
            case Delivery.DECLINED:
                return wire.Decline(frame_id=row.id, reason=row.delivery_reason)
            case Delivery.REJECTED:
                return wire.Reject(frame_id=row.id, reason=row.delivery_reason)
            case Delivery.OFFERED | Delivery.GRANTED:
                return self._granted(row, now)

    def _granted(self, row: Frame, now: datetime) -> wire.Grant:
        """A large frame may come in parts, too. The store is asked for that, so never inside a transaction.

        Uploads of the same device that nobody has gone on with for long are dropped on the occasion.
        """
        lifetime_s = self._settings.grant_s
        url, headers = self._store.presign_put(
            row.key, row.size_bytes, row.sha256, media_type=row.media_type, expires_s=lifetime_s
        )
        expires_at = now + timedelta(seconds=lifetime_s)
        grant = wire.Grant(frame_id=row.id, url=url, headers=headers, key=row.key, expires_at=expires_at)
        if row.size_bytes <= PART_BYTES:
            return grant
        self._store.give_up_parts(f"frames/{row.device_id}/", now - PARTS_WAIT)
        parts = self._store.parts(row.key, row.size_bytes, media_type=row.media_type, expires_s=lifetime_s)
        return msgspec.structs.replace(grant, parts=parts)

    def _indices(self, session: Session, names: Sequence[str]) -> dict[str, int]:
        """The indices of class names; names never seen before are appended to the table."""
        if all(name in self._class_index for name in names):
            return self._class_index
        known = {row.name: row.index for row in session.scalars(sa.select(ObjectClass))}
        self._class_index = dict(known)  # only what is committed: this transaction may still be rolled back
        for name in names:
            if name not in known:
                if not name.strip():
                    raise WireError("a class has no name")
                if len(known) >= self._settings.max_classes:
                    raise WireError(f"the class table is full with {len(known)} names; {name!r} is not among them")
                known[name] = max(known.values(), default=-1) + 1
                session.add(ObjectClass(index=known[name], name=name))
        return known

    # Stored

    def _found(self, stored: wire.Stored, held: _Held) -> ObjectInfo | None:
        """The object of a frame that waits for it; None where there is none yet, or none is waited for."""
        row = held.frames.get(stored.frame_id)
        if row is None:
            if stored.frame_id in held.forgotten and is_key_of(stored.key, stored.device, stored.frame_id):
                self._store.delete([stored.key])  # it was granted before, and is there now
                if stored.parts is not msgspec.UNSET:
                    self._store.give_up_parts(stored.key)
            return None
        if row.delivery is not Delivery.GRANTED or _conflict(row, stored):
            return None
        found = self._store.head(row.key)
        if found is None and stored.parts is not msgspec.UNSET and self._store.put_together(row.key, stored.parts):
            found = self._store.head(row.key)
        if found is None or self._began_at <= found.modified_at <= wire.now():
            return found
        if self._store.holds(row.key, row.size_bytes, row.sha256):
            return found
        self._store.delete([row.key])  # it says so where the store is away; else the device puts it again
        log.warning("object put again", frame_id=row.id, reason="what the store has under its key is not what was put")
        return None

    def _stored(self, held: _Held, stored: wire.Stored, found: ObjectInfo | None, now: datetime) -> Outcome:
        row = held.frames.get(stored.frame_id)
        if row is None:
            if stored.frame_id in held.forgotten:
                return wire.Decline(frame_id=stored.frame_id, reason=REASON)
            # The catalogue is older than the device's memory; its next offer mends that.
            _record(held.session, now, "unknown frame", stored.frame_id, {"device": stored.device})
            return None
        if conflict := _conflict(row, stored):
            return conflict
        if found is None:
            return row
        if (found.size_bytes, found.sha256) != (row.size_bytes, row.sha256):
            reason = "the object in the store is not what was offered"
            if row.delivery is Delivery.GRANTED:
                _move(row, Delivery.REJECTED, reason)
            offered = {"size_bytes": row.size_bytes, "sha256": row.sha256}
            return Incident(row.id, reason, {"offered": offered, "found": msgspec.to_builtins(found)})
        if row.delivery is Delivery.GRANTED:
            _move(row, Delivery.ACKNOWLEDGED)
            row.acknowledged_at = now
        return row


def _apart(cases: Iterable[_Case]) -> Iterator[list[_Case]]:
    """Stretches in which no two are about the same frame: the later one is judged by what the earlier one left."""
    together: list[_Case] = []
    subjects: set[str] = set()
    for case in cases:
        if case.subject in subjects:
            yield together
            together, subjects = [], set()
        together.append(case)
        if case.subject:
            subjects.add(case.subject)
    if together:
        yield together


def _held(session: Session, cases: Sequence[_Case]) -> _Held:
    subjects = [case.subject for case in cases if case.subject]
    frames = {row.id: row for row in session.scalars(_FRAMES, {"ids": subjects})} if subjects else {}
    unknown = [subject for subject in subjects if subject not in frames]
    return _Held(session, frames, set(session.scalars(_FORGOTTEN, {"ids": unknown})) if unknown else set())


def _insert(session: Session, row: Frame | Look) -> None:
    """Write a new row, in a quarter of the time that it would take to have the session keep it in view."""
    values = {name: value for name, value in vars(row).items() if not name.startswith("_")}
    session.connection().execute(sa.insert(cast("sa.Table", type(row).__table__)), values)


def _record(session: Session, now: datetime, kind: str, subject: str, detail: dict[str, Any]) -> None:
    log.warning(kind, subject=subject, **detail)
    session.add(Event(at=now, kind=kind, subject=subject, detail=detail))


def _no_catalogue(error: OperationalError) -> Unreachable:
    return Unreachable(f"the catalogue cannot be written now: {error.orig}")


def _reported(session: Session, *, status: wire.Status, now: datetime) -> None:
    """What a device says of itself. A last will of an earlier session, and an older report, change nothing newer.

    Where it shows that two devices share the identity (`twins`), that is told: once as an event, and on the row for as long as it is so.
    """
    row = session.get_one(Device, status.device)
    report = msgspec.to_builtins(status)
    if report == row.status or (not status.online and row.session not in {"", status.session}):
        return  # told again by a broker that keeps it, or by a session that another has followed
    will = not status.online and row.status and status.at <= datetime.fromisoformat(row.status["at"])
    if will and not row.online:
        return
    row.online = status.online
    row.last_seen_at = now
    if will:  # it was written when the session began: what it counts is older than what is known
        row.status = {**row.status, "online": False}
        return
    row.session = status.session
    row.running_digest = status.running_digest or row.running_digest
    row.status = report
    runs, other = twins.heard(msgspec.convert(row.runs, list[twins.Run]), status, now)
    row.runs = msgspec.to_builtins(runs)
    if other is None:
        return
    if not twins.is_flagged(row.shared_at, now):
        detail = {"reason": "two runs of its agent are alive", "runs": msgspec.to_builtins([other, runs[-1]])}
        session.add(Event(at=now, kind="shared identity", subject=row.id, detail=detail))
        log.warning("two devices share an identity", device=row.id, **detail)
    row.shared_at = now


def _order_to_forget(session: Session, row: Frame) -> int | None:
    """The order to forget the stretch of time that a frame was taken in, if there is one."""
    return session.scalar(_ORDER_TO_FORGET, {"taken_at": row.taken_at, "device": row.device_id})


def is_key_of(key: str, device: str, frame_id: str) -> bool:
    """Whether an object under this key can be that frame of that device."""
    return key.startswith(f"frames/{device}/") and key.rpartition("/")[2].partition(".")[0] == frame_id


def _conflict(row: Frame, message: wire.Offer | wire.Stored) -> Incident | None:
    """Another device, other bytes or another key under a known frame id."""
    said: dict[str, object] = {"device_id": message.device, "sha256": message.sha256}
    if isinstance(message, wire.Offer):
        said["size_bytes"] = message.size_bytes
    else:
        said["key"] = message.key
    different = {name: value for name, value in said.items() if getattr(row, name) != value}
    if not different:
        return None
    reason = f"frame id is known with another {' and '.join(sorted(different))}"
    return Incident(row.id, reason, {"known": {name: getattr(row, name) for name in different}, "said": different})


def _move(row: Frame, to: Delivery, reason: str = "") -> None:
    if to not in DELIVERY_MOVES[row.delivery]:
        raise AssertionError(f"frame {row.id} cannot go from {row.delivery} to {to}")
    row.delivery = to
    row.delivery_reason = reason


def _plain(part: msgspec.Struct | msgspec.UnsetType) -> dict[str, Any] | None:
    """An optional part of an offer as the catalogue keeps it: JSON, or NULL."""
    return None if part is msgspec.UNSET else msgspec.to_builtins(part)


def _frame_id(payload: bytes) -> str | None:
    if len(payload) > 4 * wire.MAX_PAYLOAD_BYTES:
        return None
    try:
        return msgspec.json.decode(payload, type=_Frame).frame_id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
