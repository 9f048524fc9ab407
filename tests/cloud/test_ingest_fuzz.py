"""Ingest under whatever a device may send: only our own errors, and a catalogue that keeps its word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from edgecase_cloud.catalogue import DELIVERY_MOVES, Delivery, Device, Event, Frame, Look
from edgecase_cloud.ingest import Ingest, Reply
from edgecase_cloud.services import Services
from edgecase_models import wire
from support.cloud import NOW, Shot, make_services, shot
from support.s3 import S3Server

FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OFFER: dict[str, Any] = json.loads(wire.encode(shot().offer))
KINDS = ("offer", "stored", "status")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["../x", "site/cam+1", "\x00", "\u202e", "a" * 300, "NaN", "1e309", "0" * 32, "0" * 64])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Services]:
    made = make_services(tmp_path_factory.mktemp("fuzz"), s3.store, "cam-1", "cam-2")
    yield made
    made.catalogue.close()


def check(replies: list[Reply]) -> None:
    """Every reply can be read by a device and goes to one that exists."""
    for reply in replies:
        assert reply.device in {"cam-1", "cam-2"}
        wire.decode_down(wire.encode(reply.message))


@FUZZ
@given(
    topic=st.text(max_size=60) | st.sampled_from([f"edgecase/1/up/cam-1/{kind}" for kind in KINDS]), payload=st.binary()
)
def test_any_bytes_on_any_topic_raise_nothing(parts: Services, topic: str, payload: bytes) -> None:
    check(Ingest(parts).handle(topic, payload, NOW))


@FUZZ
@given(changes=st.dictionaries(st.sampled_from([*OFFER, "extra"]), values, max_size=3), kind=st.sampled_from(KINDS))
def test_any_value_in_any_field_raises_nothing(parts: Services, changes: dict[str, Any], kind: str) -> None:
    frame = shot()
    message = {
        **json.loads(wire.encode(frame.offer)),
        "type": kind,
        "key": "k",
        "online": True,
        "session": "s",
        "at": "x",
    }
    payload = json.dumps({**message, "at": message["captured_at"], **changes}).encode()
    check(Ingest(parts).handle(f"edgecase/1/up/cam-1/{kind}", payload, NOW))


@FUZZ
@given(cut=st.integers(0, 2000), flipped=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_torn_or_flipped_offer_raises_nothing(parts: Services, cut: int, flipped: int, bit: int) -> None:
    payload = bytearray(wire.encode(shot().offer))
    payload[flipped % len(payload)] ^= 1 << bit
    check(Ingest(parts).handle("edgecase/1/up/cam-1/offer", bytes(payload[: max(cut, 1)]), NOW))


class Fleet(RuleBasedStateMachine):
    """Two devices, some frames with ids and contents that collide, every message at any time and any number of times."""

    parts: Services
    ids = st.integers(0, 3)
    contents = st.integers(0, 2)
    devices = st.sampled_from(["cam-1", "cam-2"])

    @initialize()
    def begin(self) -> None:
        self.ingest = Ingest(self.parts)
        self.frames = [shot() for _ in range(4)]
        self.bytes = [shot().content for _ in range(3)]
        self.first: dict[str, tuple[str, str]] = {}
        self.states: dict[str, Delivery] = {}
        self.acknowledged: set[str] = set()

    def frame(self, frame: int, content: int, device: str) -> Shot:
        return shot(device, self.bytes[content], frame_id=self.frames[frame].id)

    def tell(self, message: wire.Offer | wire.Stored) -> None:
        for reply in self.ingest.handle(wire.up_topic(message.device, type(message)), wire.encode(message), NOW):
            assert reply.device == message.device
            if isinstance(reply.message, wire.Ack):
                assert reply.message.sha256 == message.sha256
                self.acknowledged.add(message.frame_id)

    @rule(frame=ids, content=contents, device=devices)
    def offer(self, frame: int, content: int, device: str) -> None:
        self.tell(self.frame(frame, content, device).offer)

    @rule(frame=ids, content=contents, device=devices)
    def stored(self, frame: int, content: int, device: str) -> None:
        said = self.frame(frame, content, device)
        key = f"frames/{device}/2026-03-04/{said.id}.jpg"
        self.tell(wire.Stored(device=device, frame_id=said.id, key=key, sha256=said.offer.sha256))

    @rule(frame=ids, content=contents, device=devices)
    def upload(self, frame: int, content: int, device: str) -> None:
        key = f"frames/{device}/2026-03-04/{self.frames[frame].id}.jpg"
        if self.parts.store.head(key) is None:
            self.parts.store.put(key, self.bytes[content])

    @invariant()
    def keeps_its_word(self) -> None:
        if not hasattr(self, "frames"):
            return
        with self.parts.catalogue.session() as session:
            rows = session.scalars(sa.select(Frame).where(Frame.id.in_([frame.id for frame in self.frames]))).all()
        for row in rows:
            assert self.first.setdefault(row.id, (row.device_id, row.sha256)) == (row.device_id, row.sha256)
            before = self.states.get(row.id, Delivery.OFFERED)
            assert row.delivery == before or row.delivery in DELIVERY_MOVES[before]
            self.states[row.id] = row.delivery
            if row.delivery is Delivery.ACKNOWLEDGED:
                found = self.parts.store.head(row.key)
                assert found is not None
                assert (found.sha256, found.size_bytes) == (row.sha256, row.size_bytes)
        assert self.acknowledged <= {row.id for row in rows if row.delivery is Delivery.ACKNOWLEDGED}


def test_duplicated_reordered_and_conflicting_messages_never_break_the_word_of_the_catalogue(parts: Services) -> None:
    machine = type("OverRealServers", (Fleet,), {"parts": parts})
    run_state_machine_as_test(machine, settings=settings(max_examples=8, stateful_step_count=20, deadline=None))


CONTENTS = [shot().content for _ in range(3)]


def message_of(kind: str, frame_id: str, content: int, device: str) -> tuple[str, bytes]:
    """Topic and payload of a message of this kind."""
    said = shot(device, CONTENTS[content], frame_id=frame_id)
    message: wire.Up = said.offer
    match kind:
        case "stored":
            message = wire.Stored(device=device, frame_id=frame_id, key=key_of(frame_id), sha256=said.offer.sha256)
        case "status":
            message = wire.Status(device=device, online=True, session=str(content), at=NOW, running_digest="b" * 64)
        case "strange":  # it can be read, and is refused only when its row is made
            message = shot(device, media_type="image/bmp").offer
        case "garbage":
            return wire.up_topic(device, wire.Offer), b"{" * (content + 1)
    return wire.up_topic("cam-2" if kind == "forged" else device, type(message)), wire.encode(message)


def key_of(frame_id: str) -> str:
    return f"frames/cam-1/2026-03-04/{frame_id}.jpg"


messages = st.tuples(
    st.sampled_from(["offer", "offer", "stored", "stored", "status", "strange", "garbage", "forged"]),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(["cam-1", "cam-2", "cam-9"]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(messages, max_size=16), stored=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2))))
def test_many_messages_at_once_are_judged_as_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory,
    s3: S3Server,
    said: list[tuple[str, int, int, str]],
    stored: set[tuple[int, int]],
) -> None:
    folder, ids = tmp_path_factory.mktemp("pair"), [shot().id for _ in range(4)]
    (folder / "one").mkdir()
    (folder / "many").mkdir()
    one, many = (make_services(folder / name, s3.store, "cam-1", "cam-2") for name in ("one", "many"))
    for frame, content in stored:
        s3.store.put(key_of(ids[frame]), CONTENTS[content])
    hears = [message_of(kind, ids[frame], content, device) for kind, frame, content, device in said]
    ingest = Ingest(one)
    singly = [ingest.handle(topic, payload, NOW) for topic, payload in hears]
    together = Ingest(many).handle_all(hears, NOW)
    assert [plain(answer) for answer in together] == [plain(answer) for answer in singly]
    assert rows(many) == rows(one)
    one.catalogue.close()
    many.catalogue.close()


def plain(answer: list[Reply] | Exception) -> object:
    """An answer without the signature in its URL."""
    assert isinstance(answer, list)
    return [{**msgspec.to_builtins(reply.message), "url": "", "to": reply.device} for reply in answer]


def rows(parts: Services) -> list[list[str]]:
    """All that the catalogue holds, apart from the numbers of rows: messages that cannot be read are recorded first."""
    with parts.catalogue.session() as session:
        found = [session.execute(sa.select(kind.__table__)).mappings().all() for kind in (Frame, Look, Device, Event)]
    numbered = [[{**row, "id": None if isinstance(row["id"], int) else row["id"]} for row in table] for table in found]
    return [sorted(map(repr, table)) for table in numbered]


def test_every_dead_letter_of_this_file_can_be_shown_as_json(parts: Services) -> None:
    with parts.catalogue.session() as session:
        events = session.scalars(sa.select(Event)).all()
    msgspec.json.encode([event.detail for event in events])
    json.dumps([event.detail for event in events], allow_nan=False)
