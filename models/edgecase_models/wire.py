"""The messages between a device and the cloud, each with its version; what cannot be read raises `WireError`."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from edgecase_models.detections import Detections, DetectionsError
from edgecase_models.keys import check_keys

VERSION: Final = 1
ROOT: Final = f"edgecase/{VERSION}"
MAX_PAYLOAD_BYTES: Final = 100_000
MAX_BOXES: Final = 300
MAX_FEATURES: Final = 256
MAX_FEATURE_SCALE: Final = 1e6
MAX_PARTS: Final = 16

T = TypeVar("T")

DEVICE_ID: Final = re.compile(r"[a-z0-9_-]{1,64}")

DeviceId = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]
FrameId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Text = Annotated[str, Meta(max_length=200)]
UploadId = Annotated[str, Meta(min_length=1, max_length=1024)]
PartBytes = Annotated[int, Meta(ge=1, le=64_000_000)]


class WireError(ValueError):
    """A message that cannot be trusted; drop it and count it."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=False):
    """Every message says its version; unknown fields are ignored, so that fields can be added within a version."""

    v: int = VERSION


class Reason(msgspec.Struct, frozen=True):
    """Why a frame was kept: the query strategy, what it measured and what it was held against.

    `propensity` is the known probability of a random pick, 1.0 for a pick by rank. `rank` is the share of recent frames that score lower,
    `model_digest` the second member's that gave the score; both are left out where there is none, as for the frame's own model.
    """

    strategy: Text
    score: float
    threshold: float
    propensity: float = 1.0
    rank: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    model_digest: Digest | UnsetType = UNSET


class Box(msgspec.Struct, frozen=True, array_like=True):
    """One detection: class index, score, and x1, y1, x2, y2 in pixels of the frame that is sent."""

    cls: Annotated[int, Meta(ge=0, le=65535)]
    score: Annotated[float, Meta(ge=0, le=1)]
    x1: float
    y1: float
    x2: float
    y2: float


class Features(msgspec.Struct, frozen=True):
    """What the model's own layers make of the whole picture, one byte a dimension: a value is its signed code times `scale`.

    Standardised (the bundle's mean taken off, divided by its deviation), so that a cosine tells like from unlike; only
    features of one and the same model can be compared.
    """

    codes: Annotated[bytes, Meta(min_length=1, max_length=MAX_FEATURES)]
    scale: float


Side = Annotated[int, Meta(ge=0, le=20_000)]


class Area(msgspec.Struct, frozen=True, array_like=True):
    """A part of the picture: x1, y1, x2, y2 in whole pixels of the frame."""

    x1: Side
    y1: Side
    x2: Side
    y2: Side


class Redaction(msgspec.Struct, frozen=True, kw_only=True):
    """What the device made unseen before it stored the frame.

    `mode`: `blur` or `drop`; `method`: how it was made unseen. `count` areas were, `boxes` are the largest of them. They were found by the
    model of `model_digest`, left out where only the frame's own was asked, and by that as `classes`. `withheld` says why the pixels stay
    on the device; the frame is offered for what is known of it, and the answer to it is a decline.
    """

    mode: Text
    method: Text
    count: Count
    boxes: Annotated[list[Area], Meta(max_length=MAX_BOXES)]
    classes: Annotated[list[Text], Meta(max_length=1000)] = []
    model_digest: Digest | UnsetType = UNSET
    withheld: Text | UnsetType = UNSET


class Position(msgspec.Struct, frozen=True):
    """Where the frame was taken, rounded on the device to so many `decimals` of a degree."""

    latitude_deg: Annotated[float, Meta(ge=-90, le=90)]
    longitude_deg: Annotated[float, Meta(ge=-180, le=180)]
    decimals: Annotated[int, Meta(ge=0, le=15)]


class Offer(Message, frozen=True, kw_only=True, tag="offer"):
    """Device -> cloud: a frame lies in the spool. The pixels follow when they are granted.

    `boxes` hold candidates too; those that score `operating_point` or more are what the device reports as detections. `context_of` names
    the frame that this one lies beside and was sent for; left out for a frame that is worth a label itself.
    `features` is left out where the model gives none, `redaction` where pictures leave as they are, `position` where it is unknown or
    not to be told. `recorded`: `captured_at` is the recording's own time, not the device's clock.
    """

    device: DeviceId
    frame_id: FrameId
    camera: Text
    frame_index: Count
    captured_at: datetime
    boot_id: Text
    monotonic_ns: Count
    sha256: Digest
    size_bytes: Annotated[int, Meta(ge=1, le=64_000_000)]
    width_px: Annotated[int, Meta(ge=1, le=20_000)]
    height_px: Annotated[int, Meta(ge=1, le=20_000)]
    model_digest: Digest
    classes: Annotated[list[Text], Meta(max_length=1000)]
    score: float
    reasons: Annotated[list[Reason], Meta(max_length=16)]
    boxes: Annotated[list[Box], Meta(max_length=MAX_BOXES)]
    operating_point: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    media_type: Text = "image/jpeg"
    thumbnail_jpeg: Annotated[bytes, Meta(max_length=24_000)] = b""
    context_of: FrameId | UnsetType = UNSET
    features: Features | UnsetType = UNSET
    redaction: Redaction | UnsetType = UNSET
    position: Position | UnsetType = UNSET
    recorded: bool | UnsetType = UNSET


class Parts(msgspec.Struct, frozen=True):
    """How a large frame may be sent in parts of `part_bytes`, the last one shorter: part i by a PUT to `urls[i]`, in any order, each again
    if need be. A grant for the same `upload_id` goes on from the parts that are there.
    """

    upload_id: UploadId
    part_bytes: PartBytes
    urls: Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(min_length=1, max_length=MAX_PARTS)]


class PartsDone(msgspec.Struct, frozen=True):
    """The parts that the store has taken, from the first on: the ETag of each, as the store gave it."""

    upload_id: UploadId
    part_bytes: PartBytes
    etags: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=MAX_PARTS)] = []


class Grant(Message, frozen=True, kw_only=True, tag="grant"):
    """Cloud -> device: PUT the frame to `url` with exactly these headers, before `expires_at`; or, where `parts` is given, in parts."""

    frame_id: FrameId
    url: Annotated[str, Meta(max_length=4096)]
    headers: dict[str, str]
    key: Annotated[str, Meta(max_length=1024)]
    expires_at: datetime
    parts: Parts | UnsetType = UNSET


class Decline(Message, frozen=True, kw_only=True, tag="decline"):
    """Cloud -> device: the pixels are not wanted; let the frame go."""

    frame_id: FrameId
    reason: Text


class Stored(Message, frozen=True, kw_only=True, tag="stored"):
    """Device -> cloud: the store answered the PUT. Not a receipt: the cloud checks the object first.

    `parts`: the frame went in parts, and all are there; the cloud puts them together.
    """

    device: DeviceId
    frame_id: FrameId
    key: Annotated[str, Meta(max_length=1024)]
    sha256: Digest
    parts: PartsDone | UnsetType = UNSET


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """Cloud -> device: the object is checked and its row committed. The only receipt; the spool lets go."""

    frame_id: FrameId
    sha256: Digest


class Reject(Message, frozen=True, kw_only=True, tag="reject"):
    """Cloud -> device: this frame can never be taken; set it aside and show it."""

    frame_id: FrameId
    reason: Text


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """Where every frame that was kept is: kept = acknowledged + spooled + evicted + rejected + declined + lost_local."""

    kept: Count = 0
    offered: Count = 0
    uploaded: Count = 0
    acknowledged: Count = 0
    spooled: Count = 0
    evicted: Count = 0
    rejected: Count = 0
    declined: Count = 0
    lost_local: Count = 0

    @property
    def holds(self) -> bool:
        """True when no kept frame is unaccounted for."""
        ended = self.acknowledged + self.evicted + self.rejected + self.declined + self.lost_local
        return self.kept == ended + self.spooled


class Status(Message, frozen=True, kw_only=True, tag="status"):
    """Device -> cloud, retained; the broker sends it with `online` false as the device's last will.

    `policy_digest`: the policy in force, be it the device's own or one over the air. `policy_problem`: why the one over the air is not.
    `run` names the process that speaks, at random, `monotonic_ns` is its clock since the boot `boot_id`: two runs that are alive at once
    are two devices with one identity. A last will has none of the three.
    `waits_for`: what pictures wait for (a window, a budget), left out while nothing holds them up. `last_event`: the newest event of the
    spool, as a frame that was evicted, rejected or lost.
    """

    device: DeviceId
    online: bool
    session: Text
    at: datetime
    agent_version: Text = ""
    running_digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    update: Text = ""
    frames_seen: Count = 0
    frames_skipped: Count = 0
    frames_per_s: float = 0.0
    jpeg_bytes_seen: Count = 0
    bytes_sent: Count = 0
    spool_bytes: Count = 0
    balance: Balance = Balance()
    policy_digest: Digest | UnsetType = UNSET
    policy_problem: Text | UnsetType = UNSET
    run: Text | UnsetType = UNSET
    boot_id: Text | UnsetType = UNSET
    monotonic_ns: Count | UnsetType = UNSET
    waits_for: Text | UnsetType = UNSET
    last_event: Text | UnsetType = UNSET


class Poke(Message, frozen=True, kw_only=True, tag="poke"):
    """Cloud -> device, retained: look for a release. It carries no authority; the signed metadata does.

    `policy` is another number whenever a policy was published or withdrawn; left out before the first.
    """

    release: Count
    policy: Count | UnsetType = UNSET


Up = Offer | Stored | Status
Down = Grant | Decline | Ack | Reject | Poke

_ENCODER: Final = msgspec.json.Encoder()
_UP: Final[msgspec.json.Decoder[Up]] = msgspec.json.Decoder(Up)
_DOWN: Final[msgspec.json.Decoder[Down]] = msgspec.json.Decoder(Down)


def up_topic(device: str, message: type[Up] | str) -> str:
    """`edgecase/1/up/<device>/<kind>`: only `device` may publish here."""
    return f"{ROOT}/up/{_known_device(device)}/{_kind(message)}"


def down_topic(device: str, message: type[Down] | str) -> str:
    """`edgecase/1/down/<device>/<kind>`: only `device` may read here."""
    return f"{ROOT}/down/{_known_device(device)}/{_kind(message)}"


def device_of(topic: str) -> str:
    """The device whose topic this is, or `WireError`."""
    parts = topic.split("/")
    if len(parts) != 5 or parts[:2] != ROOT.split("/") or parts[2] not in {"up", "down"}:
        raise WireError(f"topic {topic[:80]!r} is not {ROOT}/up|down/<device>/<kind>")
    return _known_device(parts[3])


def encode(message: Up | Down) -> bytes:
    """JSON, at most `MAX_PAYLOAD_BYTES` long; `WireError` where it cannot be that small."""
    payload = _ENCODER.encode(message)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"{type(message).__name__} of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    return payload


def decode_up(payload: bytes) -> Up:
    """A message from a device, every bound checked, or `WireError`."""
    message = _decode(_UP, payload)
    if isinstance(message, Offer):
        _check_offer(message)
    elif isinstance(message, Status):
        _check_aware(message.at)
    return message


def decode_down(payload: bytes) -> Down:
    """A message from the cloud, every bound checked, or `WireError`."""
    message = _decode(_DOWN, payload)
    if isinstance(message, Grant):
        _check_aware(message.expires_at)
    return message


def boxes_of(detections: Detections) -> list[Box]:
    """Detections as they travel: the best `MAX_BOXES`, rounded to 1/10 px and 1/10,000 of score."""
    best = detections[np.argsort(-detections.scores, kind="stable")[:MAX_BOXES]]
    return [
        Box(int(c), round(float(s), 4), *(round(float(x), 1) for x in box))
        for box, s, c in zip(best.boxes_xyxy_px, best.scores, best.classes, strict=True)
    ]


def detections_of(boxes: list[Box]) -> Detections:
    """The inverse of `boxes_of`; `WireError` where a box ends before it begins."""
    try:
        return Detections.of(
            [(b.x1, b.y1, b.x2, b.y2) for b in boxes], [b.score for b in boxes], [b.cls for b in boxes]
        )
    except DetectionsError as error:
        raise WireError(str(error)) from error


def features_of(values: NDArray[np.float32]) -> Features:
    """Pooled features (D,) as they travel, D from 1 to `MAX_FEATURES`; `WireError` where there are more or one cannot be told."""
    flat = np.asarray(values, np.float64)
    if flat.ndim != 1 or not 1 <= flat.size <= MAX_FEATURES:
        raise WireError(f"features have shape {flat.shape}; a message takes (1,) to ({MAX_FEATURES},)")
    scale = float(np.abs(flat).max()) / 127
    if not scale < MAX_FEATURE_SCALE:  # also where it is not a number
        raise WireError(f"a feature is not finite, or beyond {127 * MAX_FEATURE_SCALE:g}")
    scale = scale or 1.0
    return Features(np.round(flat / scale).astype(np.int8).tobytes(), scale)


def values_of(features: Features) -> NDArray[np.float32]:
    """The inverse of `features_of`, (D,), to within half of `scale`."""
    return (np.frombuffer(features.codes, np.int8) * features.scale).astype(np.float32)


def now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


def _kind(message: type[Up | Down] | str) -> str:
    return message if isinstance(message, str) else message.__name__.lower()


def _known_device(device: str) -> str:
    if not DEVICE_ID.fullmatch(device):
        raise WireError(f"device id {device[:80]!r} is not 1 to 64 of a-z, 0-9, '_' and '-'")
    return device


def _decode(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"message of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    try:
        message = decoder.decode(payload)
        check_keys(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise WireError(f"message cannot be read: {error}") from error
    version = getattr(message, "v", None)
    if version != VERSION:
        raise WireError(f"message has version {version}; this side speaks {VERSION}")
    return message


def _check_offer(offer: Offer) -> None:
    _check_aware(offer.captured_at)
    if not math.isfinite(offer.score) or any(
        not (math.isfinite(r.score) and math.isfinite(r.threshold) and 0 < r.propensity <= 1) for r in offer.reasons
    ):
        raise WireError(f"frame {offer.frame_id}: a score is not finite or a propensity is not in (0, 1]")
    if offer.features is not UNSET and not 0 < offer.features.scale < MAX_FEATURE_SCALE:
        raise WireError(f"frame {offer.frame_id}: the scale of its features is not in (0, {MAX_FEATURE_SCALE:g})")
    for area in () if offer.redaction is UNSET else offer.redaction.boxes:
        if not (area.x1 <= area.x2 <= offer.width_px and area.y1 <= area.y2 <= offer.height_px):
            raise WireError(f"frame {offer.frame_id}: a redacted area lies outside the picture")
    for box in offer.boxes:
        if not (0 <= box.x1 <= box.x2 <= offer.width_px and 0 <= box.y1 <= box.y2 <= offer.height_px):
            raise WireError(f"frame {offer.frame_id}: a box lies outside the picture")
        if offer.classes and box.cls >= len(offer.classes):
            raise WireError(f"frame {offer.frame_id}: class {box.cls} is not among {len(offer.classes)} class names")


def _check_aware(moment: datetime) -> None:
    if moment.tzinfo is None:
        raise WireError("a time has no zone; send UTC as in 2026-01-31T12:00:00Z")
