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

from edgecase_cloud.catalogue import DELIVERY_MOVES, Delivery, Event, Frame
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


def test_every_dead_letter_of_this_file_can_be_shown_as_json(parts: Services) -> None:
    with parts.catalogue.session() as session:
        events = session.scalars(sa.select(Event)).all()
    msgspec.json.encode([event.detail for event in events])
    json.dumps([event.detail for event in events], allow_nan=False)
