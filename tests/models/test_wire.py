"""What leaves is what arrives; what cannot be trusted is a WireError, quickly, and never anything else."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_models import wire
from edgecase_models.detections import Detections

GOLDEN = Path(__file__).parents[1] / "golden" / "wire-v1.json"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def offer(**changes: Any) -> wire.Offer:
    given: dict[str, Any] = {
        "device": "cam-1",
        "frame_id": "0123456789abcdef0123456789abcdef",
        "camera": "front",
        "frame_index": 7,
        "captured_at": AT,
        "boot_id": "b",
        "monotonic_ns": 12,
        "sha256": "a" * 64,
        "size_bytes": 1000,
        "width_px": 640,
        "height_px": 360,
        "model_digest": "b" * 64,
        "classes": ["person", "car"],
        "score": 0.75,
        "reasons": [wire.Reason("uncertainty", 0.75, 0.5), wire.Reason("audit", 0.0, 0.0, 0.01)],
        "boxes": [wire.Box(1, 0.4, 10.0, 20.0, 30.5, 40.0)],
        "thumbnail_jpeg": b"\xff\xd8\xff",
    }
    return wire.Offer(**given | changes)


WITH_FEATURES = offer(features=wire.Features(b"\x7f\x00\x81\x05", 0.25))
OF_A_COMMITTEE = offer(
    reasons=[
        wire.Reason("c_ede", 0.75, 0.5, rank=0.9),
        wire.Reason("disagreement", 2.0, 1.0, 0.01, 0.9, "c" * 64),
        wire.Reason("campaign:night", 0.75, 0.0, rank=0.0),
    ]
)
BESIDE_A_PICK = offer(reasons=[wire.Reason("context", -1.5, 0.0)], score=0.0, context_of="f" * 32)
POLICED = wire.Status(
    device="cam-1", online=True, session="s", at=AT, policy_digest="d" * 64, policy_problem="policy: it needs features"
)
REDACTED = offer(
    redaction=wire.Redaction(
        mode="blur",
        method="fill",
        count=2,
        boxes=[wire.Area(0, 16, 48, 64), wire.Area(600, 320, 640, 360)],
        classes=["person"],
        model_digest="e" * 64,
    )
)
WITHHELD = offer(
    thumbnail_jpeg=b"",
    redaction=wire.Redaction(mode="drop", method="fill", count=0, boxes=[], withheld="it shows what must not be seen"),
)
PLACED = offer(position=wire.Position(48.14, 11.58, 2))
LATER: dict[str, wire.Up | wire.Down] = {
    "Offer with features": WITH_FEATURES,
    "Offer of a committee": OF_A_COMMITTEE,
    "Offer beside a pick": BESIDE_A_PICK,
    "Status with a policy": POLICED,
    "Poke for a policy": wire.Poke(release=4, policy=2),
    "Offer of a redacted frame": REDACTED,
    "Offer of a frame without its pixels": WITHHELD,
    "Offer with a position": PLACED,
    "Grant in parts": wire.Grant(
        frame_id="0" * 32,
        url="http://127.0.0.1/x",
        headers={"content-length": "9"},
        key="k",
        expires_at=AT,
        parts=wire.Parts("u", 8_000_000, ["http://127.0.0.1/x?1", "http://127.0.0.1/x?2"]),
    ),
    "Stored in parts": wire.Stored(
        device="cam-1",
        frame_id="0" * 32,
        key="k",
        sha256="a" * 64,
        parts=wire.PartsDone("u", 8_000_000, ['"e1"', '"e2"']),
    ),
    "Status of one that waits": wire.Status(
        device="cam-1",
        online=True,
        session="s",
        at=AT,
        waits_for="the upload window that opens at 22:00",
        last_event="evicted",
    ),
}
"""What was added to version 1 after its first publication: golden files are only ever added to."""

MESSAGES: list[wire.Up | wire.Down] = [
    offer(),
    wire.Stored(device="cam-1", frame_id="0" * 32, key="frames/cam-1/x.jpg", sha256="a" * 64),
    wire.Status(
        device="cam-1", online=True, session="s", at=AT, balance=wire.Balance(kept=3, acknowledged=2, spooled=1)
    ),
    wire.Grant(frame_id="0" * 32, url="http://127.0.0.1/x", headers={"content-length": "1"}, key="k", expires_at=AT),
    wire.Decline(frame_id="0" * 32, reason="duplicate"),
    wire.Ack(frame_id="0" * 32, sha256="a" * 64),
    wire.Reject(frame_id="0" * 32, reason="other bytes under this id"),
    wire.Poke(release=4),
]


def decode(message: wire.Up | wire.Down, payload: bytes) -> wire.Up | wire.Down:
    return wire.decode_up(payload) if isinstance(message, wire.Up) else wire.decode_down(payload)


@pytest.mark.parametrize("message", [*MESSAGES, *LATER.values()], ids=lambda message: type(message).__name__)
def test_what_leaves_is_what_arrives(message: wire.Up | wire.Down) -> None:
    assert decode(message, wire.encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_version_1_is_read_and_written_as_it_was_first_published(message: wire.Up | wire.Down) -> None:
    golden = json.loads(GOLDEN.read_text())[type(message).__name__]
    assert json.loads(wire.encode(message)) == golden
    assert decode(message, json.dumps(golden | {"a_later_field": 1}).encode()) == message


@pytest.mark.parametrize("name", LATER)
def test_fields_that_came_later_are_read_and_written_as_they_were_first_published(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    assert json.loads(wire.encode(LATER[name])) == golden
    assert decode(LATER[name], json.dumps(golden).encode()) == LATER[name]


def test_a_receiver_that_does_not_know_the_later_fields_reads_the_rest() -> None:
    for message in (WITH_FEATURES, OF_A_COMMITTEE, BESIDE_A_PICK, REDACTED, WITHHELD, PLACED):
        content = json.loads(wire.encode(message))
        content = {
            key: value
            for key, value in content.items()
            if key not in {"features", "context_of", "redaction", "position"}
        }
        content["reasons"] = [
            {key: value for key, value in reason.items() if key not in {"rank", "model_digest"}}
            for reason in content["reasons"]
        ]
        old = wire.decode_up(json.dumps(content).encode())
        assert isinstance(old, wire.Offer)
        assert (old.context_of, old.features) == (msgspec.UNSET, msgspec.UNSET)
        assert [(r.strategy, r.score, r.threshold, r.propensity) for r in old.reasons] == [
            (r.strategy, r.score, r.threshold, r.propensity) for r in message.reasons
        ]
        assert {(r.rank, r.model_digest) for r in old.reasons} == {(msgspec.UNSET, msgspec.UNSET)}


@pytest.mark.parametrize(
    "change",
    [
        {"device": "../x"},
        {"device": "site/cam+1"},
        {"device": "a" * 65},
        {"device": "cam\u202e"},
        {"device": "cam\n"},
        {"frame_id": "../../etc/passwd"},
        {"frame_id": "0" * 31},
        {"sha256": "A" * 64},
        {"size_bytes": 0},
        {"size_bytes": 10**9},
        {"size_bytes": 1.5},
        {"width_px": 20_001},
        {"captured_at": "2026-01-02T03:04:05"},
        {"captured_at": 12},
        {"score": None},
        {"score": "NaN"},
        {"reasons": [{"strategy": "x", "score": 1, "threshold": 1, "propensity": 0}]},
        {"reasons": [{"strategy": "x", "score": 1, "threshold": 1, "propensity": 2}]},
        {"boxes": [[0, 0.5, -1, 0, 5, 5]]},
        {"boxes": [[0, 0.5, 6, 0, 5, 5]]},
        {"boxes": [[0, 0.5, 0, 0, 641, 5]]},
        {"boxes": [[0, 1.5, 0, 0, 5, 5]]},
        {"boxes": [[9, 0.5, 0, 0, 5, 5]]},
        {"boxes": [[0, 0.5, 0, 0, 5]]},
        {"boxes": [[0, 0.5, 0, 0, 5, 5]] * 10_000},
        {"thumbnail_jpeg": "not base64!"},
        {"reasons": [{"strategy": "x", "score": 1, "threshold": 1, "rank": 1.5}]},
        {"reasons": [{"strategy": "x", "score": 1, "threshold": 1, "rank": -0.1}]},
        {"reasons": [{"strategy": "x", "score": 1, "threshold": 1, "model_digest": ""}]},
        {"reasons": [{"strategy": "x", "score": 1, "threshold": 1, "model_digest": "c" * 63}]},
        {"reasons": [{"strategy": "x", "score": 1, "threshold": 1}] * 17},
        {"context_of": ""},
        {"context_of": "../../etc/passwd"},
        {"features": None},
        {"features": {"codes": "not base64!", "scale": 1.0}},
        {"features": {"codes": "", "scale": 1.0}},
        {"features": {"codes": "AAAA" * 86, "scale": 1.0}},
        {"features": {"codes": "AAAA", "scale": 0.0}},
        {"features": {"codes": "AAAA", "scale": -1.0}},
        {"features": {"codes": "AAAA", "scale": 1e7}},
        {"features": {"codes": "AAAA"}},
        {"redaction": {"mode": "blur", "method": "fill", "count": 1, "boxes": [[0, 0, 641, 5]]}},
        {"redaction": {"mode": "blur", "method": "fill", "count": 1, "boxes": [[9, 0, 5, 5]]}},
        {"redaction": {"mode": "blur", "method": "fill", "count": 1, "boxes": [[0.5, 0, 5, 5]]}},
        {"redaction": {"mode": "blur", "method": "fill", "count": 1, "boxes": [[0, 0, 5, 5]] * 301}},
        {"redaction": {"mode": "blur", "method": "fill", "boxes": []}},
        {"redaction": {"mode": "blur", "method": "fill", "count": 0, "boxes": [], "withheld": "x" * 201}},
        {"position": {"latitude_deg": 90.1, "longitude_deg": 0.0, "decimals": 1}},
        {"position": {"latitude_deg": 0.0, "longitude_deg": -180.1, "decimals": 1}},
        {"position": {"latitude_deg": 0.0, "longitude_deg": 0.0, "decimals": -1}},
        {"v": 2},
        {"type": "ack"},
    ],
    ids=str,
)
def test_an_offer_out_of_bounds_is_refused(change: dict) -> None:
    payload = json.dumps(json.loads(wire.encode(offer())) | change).encode()
    with pytest.raises(wire.WireError):
        wire.decode_up(payload)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e309", "-1e309"])
@pytest.mark.parametrize("place", ['"score":0.75', "10.0", '"threshold":0.5'])
def test_numbers_that_are_none_are_refused(number: str, place: str) -> None:
    plain = wire.encode(offer()).decode()
    assert place in plain
    wrong = plain.replace(place, f"{place.rpartition(':')[0]}{':' if ':' in place else ''}{number}", 1)
    with pytest.raises(wire.WireError):
        wire.decode_up(wrong.encode())


@pytest.mark.parametrize("number", [301, 10_000])
def test_more_boxes_than_a_message_may_have_are_refused(number: int) -> None:
    plain = json.loads(wire.encode(offer()))
    with pytest.raises(wire.WireError):
        wire.decode_up(json.dumps(plain | {"boxes": [[0, 0.5, 1, 1, 9, 9]] * number}, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "name", ["", "../x", "site/cam+1", "cam\x001", "\u202ecam", "c" * 65, "c" * 300, "Cam-1", "cam 1", "#", "cam-1\n"]
)
def test_a_name_that_could_mean_something_else_is_no_device_and_no_frame(name: str) -> None:
    plain = json.loads(wire.encode(offer()))
    for key in ("device", "frame_id"):
        with pytest.raises(wire.WireError):
            wire.decode_up(json.dumps(plain | {key: name}).encode())
    with pytest.raises(wire.WireError):
        wire.up_topic(name, wire.Offer)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[" * 90_000,
        b'{"type":' * 10_000,
        b"\xff\xfe",
        b"{" + b" " * 200_000 + b"}",
        b'{"type":"offer","type":"poke"}',
    ],
    ids=lambda payload: f"{len(payload)} bytes",
)
def test_hostile_payloads_are_refused(payload: bytes) -> None:
    for read in (wire.decode_up, wire.decode_down):
        with pytest.raises(wire.WireError):
            read(payload)


@pytest.mark.parametrize(
    ("read", "payload"),
    [
        (wire.decode_up, wire.encode(offer()).replace(b'"sha256":', b'"sha256":"' + b"b" * 64 + b'","sha256":')),
        (wire.decode_up, wire.encode(offer()).replace(b'"threshold":', b'"threshold":0.1,"threshold":')),
        (wire.decode_up, wire.encode(offer())[:-1] + b',"later":{"a":1,"a":2}}'),
        (wire.decode_down, b'{"type":"ack","v":1,"frame_id":"%b","frame_id":"%b","sha256":"%b"}' % (b"a" * 32, b"b" * 32, b"c" * 64)),
    ],
)  # fmt: skip
def test_a_message_that_says_the_same_key_twice_is_refused(read: Callable[[bytes], object], payload: bytes) -> None:
    with pytest.raises(wire.WireError, match=r"key '\w+' occurs twice"):
        read(payload)


@settings(max_examples=150)
@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for read in (wire.decode_up, wire.decode_down):
        try:
            read(payload)
        except wire.WireError:
            continue


@given(st.sampled_from(MESSAGES), st.data())
def test_a_changed_byte_is_read_or_refused(message: wire.Up | wire.Down, data: st.DataObject) -> None:
    payload = bytearray(wire.encode(message))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(wire.WireError):
        decode(message, bytes(payload))


def test_a_message_too_long_for_any_broker_is_not_sent() -> None:
    with pytest.raises(wire.WireError, match="exceeds"):
        wire.encode(offer(classes=["x" * 200] * 999))


@pytest.mark.parametrize(
    "topic",
    ["", "edgecase/1/up/cam", "edgecase/2/up/cam/offer", "edgecase/1/up/CAM/offer", "edgecase/1/side/c/x", "a/b/c/d/e"],
)
def test_a_foreign_topic_is_refused(topic: str) -> None:
    with pytest.raises(wire.WireError):
        wire.device_of(topic)


def test_topics_name_the_device() -> None:
    assert wire.device_of(wire.up_topic("cam-1", wire.Offer)) == "cam-1"
    assert wire.down_topic("cam-1", "+") == "edgecase/1/down/cam-1/+"
    with pytest.raises(wire.WireError):
        wire.up_topic("+", wire.Offer)


def test_detections_travel_best_first_and_at_most_300() -> None:
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 50, (400, 2))
    detections = Detections(np.concatenate([corner, corner + 5], 1), rng.uniform(0, 1, 400), np.zeros(400))
    back = wire.detections_of(wire.boxes_of(detections))
    assert len(back) == wire.MAX_BOXES
    assert back.scores == pytest.approx(np.sort(detections.scores)[::-1][:300], abs=1e-4)
    with pytest.raises(wire.WireError):
        wire.detections_of([wire.Box(0, 0.5, 5, 0, 1, 1)])


def test_features_travel_to_within_half_a_step() -> None:
    values = np.random.default_rng(1).normal(size=256).astype(np.float32)
    sent = wire.features_of(values)
    assert len(sent.codes) == 256
    assert np.abs(wire.values_of(sent) - values).max() <= sent.scale * 0.501
    assert wire.values_of(wire.features_of(np.zeros(4, np.float32))).tolist() == [0.0] * 4
    assert len(wire.encode(offer(features=sent))) - len(wire.encode(offer())) < 420


@pytest.mark.parametrize(
    "values",
    [np.zeros(0), np.zeros(257), np.zeros((2, 2)), np.array([np.nan]), np.array([np.inf]), np.array([1e9])],
    ids=["none", "too many", "a matrix", "no number", "infinite", "huge"],
)
def test_features_that_cannot_travel_are_refused(values: np.ndarray) -> None:
    with pytest.raises(wire.WireError):
        wire.features_of(values)


def test_the_balance_names_every_frame() -> None:
    assert wire.Balance(kept=6, acknowledged=1, spooled=1, evicted=1, rejected=1, declined=1, lost_local=1).holds
    assert not wire.Balance(kept=2, acknowledged=1).holds


if __name__ == "__main__":
    GOLDEN.write_text(
        json.dumps(
            {
                **{type(m).__name__: json.loads(msgspec.json.encode(m)) for m in MESSAGES},
                **{name: json.loads(msgspec.json.encode(message)) for name, message in LATER.items()},
            },
            indent=1,
        )
        + "\n"
    )
