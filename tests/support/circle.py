"""A cloud with something in it, for tests of the queue and the pages: real catalogue, real JPEGs, pictures of the simulated street."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from sqlalchemy.orm import Session

from edgecase_cloud import migrations, settings
from edgecase_cloud.catalogue import (
    Bundle,
    Catalogue,
    Dataset,
    Delivery,
    Device,
    Event,
    Frame,
    Job,
    JobState,
    ObjectClass,
    Review,
)
from edgecase_cloud.services import Services
from edgecase_cloud.store import NotFound
from edgecase_models.street import CLASSES, Street, StreetSpec

WIDTH, HEIGHT = 640, 360
START = datetime(2026, 3, 4, 17, 30, tzinfo=UTC)
STARTER = hashlib.sha256(b"starter").hexdigest()


@dataclass(frozen=True)
class FolderStore:
    """The store's reading half over a folder."""

    folder: Path

    def get(self, key: str) -> bytes:
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{key}: no such object") from error

    def put(self, key: str, content: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@cache
def _empty_catalogue() -> bytes:
    with TemporaryDirectory() as folder:
        catalogue = Catalogue.in_folder(Path(folder))
        migrations.upgrade(catalogue)
        catalogue.close()
        return (Path(folder) / "catalogue.db").read_bytes()


def services_in(data: Path) -> Services:
    """Settings, an up-to-date catalogue and a folder for a store."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "catalogue.db").exists():
        (data / "catalogue.db").write_bytes(_empty_catalogue())
    catalogue = Catalogue.in_folder(data)
    migrations.upgrade(catalogue)
    return Services(settings.load(data), catalogue, FolderStore(data / "objects"))  # type: ignore[arg-type]


def jpeg(picture: Any, quality: int = 88) -> bytes:
    """An RGB picture as a JPEG."""
    done, buffer = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return buffer.tobytes()


@cache
def plain_jpeg(shade: int = 90) -> bytes:
    """A grey picture with a bright car-shaped spot."""
    picture = np.full((HEIGHT, WIDTH, 3), shade, np.uint8)
    cv2.rectangle(picture, (200, 120), (360, 240), (220, 220, 60), -1)
    return jpeg(picture)


def add_classes(session: Session, names: Sequence[str] = CLASSES) -> None:
    session.add_all(ObjectClass(index=i, name=name) for i, name in enumerate(names))


def add_device(session: Session, device: str = "gate", **changes: Any) -> Device:
    known: dict[str, Any] = {
        "id": device,
        "added_at": START,
        "online": True,
        "session": "",
    }
    row = Device(**(known | changes))
    session.add(row)
    session.flush()
    return row


def frame_id(number: int) -> str:
    return hashlib.sha256(f"frame {number}".encode()).hexdigest()[:32]


def add_frame(services: Services, session: Session, number: int, picture: bytes | None = None, **changes: Any) -> Frame:
    """A frame that has arrived, its picture in the store. Two sure boxes and one unlikely one unless told otherwise."""
    content = plain_jpeg() if picture is None else picture
    known: dict[str, Any] = {
        "id": frame_id(number),
        "device_id": "gate",
        "camera": "front",
        "frame_index": number,
        "captured_at": START + timedelta(seconds=number),
        "offered_at": START + timedelta(seconds=number + 1),
        "acknowledged_at": START + timedelta(seconds=number + 2),
        "delivery": Delivery.ACKNOWLEDGED,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "media_type": "image/jpeg",
        "model_digest": STARTER,
        "score": 0.5,
        "reasons": [{"strategy": "ede", "score": 0.5, "threshold": 0.4, "propensity": 1.0}],
        "boxes": [
            [3, 0.83, 200.0, 120.0, 360.0, 240.0],
            [0, 0.41, 60.0, 100.0, 100.0, 200.0],
            [5, 0.17, 440.0, 90.0, 560.0, 200.0],
        ],
        "thumbnail_jpeg": b"",
        "review": Review.OPEN,
        "revision": 0,
    }
    row = Frame(**(known | changes))
    row.key = row.key or f"frames/{row.device_id}/{row.captured_at:%Y-%m-%d}/{row.id}.jpg"
    if row.delivery == Delivery.ACKNOWLEDGED:
        services.store.put(row.key, content)
    session.add(row)
    session.flush()
    return row


def fill(services: Services, frames: int = 36) -> None:
    """The whole circle in the middle of its work: three devices, frames by day, dusk, night and rain, a training that runs."""
    with services.catalogue.session.begin() as session:
        add_classes(session)
        for number, (device, kept, lost, online) in enumerate(
            (("gate-north", 61, 0, True), ("gate-south", 48, 0, True), ("van-7", 22, 1, False))
        ):
            add_device(session, device, **_reported(device, kept, lost, online, number))
        for number in range(frames):
            _street_frame(services, session, number)
        _learnt(session)


SCENES = (
    ("gate-north", "sim://street?seed=3&scene=day"),
    ("gate-south", "sim://street?seed=5&scene=night-rain&pose=junction"),
    ("van-7", "sim://street?seed=8&scene=dusk&pose=dash"),
    ("gate-north", "sim://street?seed=3&scene=night"),
)


@cache
def _street(uri: str) -> Street:
    return Street(StreetSpec.from_uri(uri))


def _street_frame(services: Services, session: Session, number: int) -> None:
    device, uri = SCENES[number % len(SCENES)]
    picture, truth = _street(uri).frame(30 + 17 * number)
    chance = np.random.default_rng(number)
    boxes = []
    for cls, box in zip(truth.classes, truth.boxes_xyxy_px, strict=True):
        score = float(np.clip(chance.beta(2.2, 2.0), 0.04, 0.97))
        x1, y1, x2, y2 = np.clip(box + chance.normal(0, 1.5, 4), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        if x2 - x1 > 3 and y2 - y1 > 3:
            boxes.append([int(cls), round(score, 4), *(round(float(v), 1) for v in (x1, y1, x2, y2))])
    boxes.sort(key=lambda box: -box[1])
    ede = round(sum(1 - b[1] if b[1] >= 0.25 else b[1] for b in boxes), 3)
    reasons = [{"strategy": "ede", "score": ede, "threshold": 2.1, "propensity": 1.0}]
    if number % 5 == 1:
        reasons.append({"strategy": "committee", "score": ede + 0.4, "threshold": 2.0, "propensity": 1.0})
    if number % 7 == 3:
        reasons = [{"strategy": "audit", "score": ede, "threshold": 0.0, "propensity": 0.012}, *reasons]
    small = cv2.resize(picture, (320, 180), interpolation=cv2.INTER_AREA)
    add_frame(
        services,
        session,
        number,
        jpeg(picture),
        device_id=device,
        camera="front" if device == "van-7" else "main",
        captured_at=datetime.now(UTC) - timedelta(minutes=3 * number + 1),
        score=ede,
        reasons=reasons,
        boxes=boxes,
        thumbnail_jpeg=jpeg(small, 80),
    )


def _reported(device: str, kept: int, lost: int, online: bool, number: int) -> dict[str, Any]:
    acknowledged, spooled, declined = kept - 7, 4, 3 - lost
    return {
        "online": online,
        "last_seen_at": datetime.now(UTC) - timedelta(seconds=4 if online else 5400),
        "running_digest": STARTER if device == "van-7" else hashlib.sha256(b"release 2").hexdigest(),
        "status": {
            "frames_per_s": 9.7 - number,
            "frames_seen": 4120 + 313 * number,
            "jpeg_bytes_seen": 311_000_000 + 10_000_000 * number,
            "bytes_sent": 4_700_000 - 700_000 * number,
            "spool_bytes": 310_000,
            "update": "up to date" if online else "",
            "agent_version": "0.1.0",
            "balance": {
                "kept": kept,
                "offered": kept - 1,
                "uploaded": acknowledged,
                "acknowledged": acknowledged,
                "spooled": spooled,
                "declined": declined,
                "lost_local": lost,
            },
        },
    }


def _learnt(session: Session) -> None:
    now = datetime.now(UTC)
    base, labelled, golden = (hashlib.sha256(name).hexdigest() for name in (b"base", b"labelled", b"golden"))
    counts = {"car": 913, "person": 402, "bicycle": 188, "truck": 96, "bus": 51, "motorcycle": 44}
    for id_, name, kind, pictures in (
        (base, "base", "base", 480),
        (golden, "golden", "golden", 120),
        (labelled, "labelled", "labelled", 62),
    ):
        session.add(
            Dataset(
                id=id_,
                name=name,
                kind=kind,
                created_at=now - timedelta(hours=2 if kind != "labelled" else 1),
                path=f"datasets/{id_}",
                pictures=pictures,
                boxes=sum(counts.values()) * pictures // 480,
                summary={
                    "splits": {"train": pictures * 4 // 5, "val": pictures // 5}
                    if kind != "golden"
                    else {"test": pictures},
                    "classes": {name: n * pictures // 480 for name, n in counts.items()},
                    "conditions": {
                        "day": pictures // 2,
                        "night": pictures // 4,
                        "night-rain": pictures // 8,
                        "dusk": pictures // 8,
                    },
                    "devices": {"gate-north": pictures // 2, "gate-south": pictures // 3, "van-7": pictures // 6},
                },
            )
        )
    session.flush()
    second = hashlib.sha256(b"release 2").hexdigest()
    session.add(
        Bundle(
            digest=STARTER,
            name="street",
            version="1",
            release=1,
            created_at=now - timedelta(hours=5),
            released_at=now - timedelta(hours=5),
            path=f"bundles/{STARTER}.tar",
            dataset_id=base,
            parent_digest=None,
            gate={},
        )
    )
    session.flush()
    session.add(
        Bundle(
            digest=second,
            name="street",
            version="2",
            release=2,
            created_at=now - timedelta(minutes=48),
            released_at=now - timedelta(minutes=47),
            path=f"bundles/{second}.tar",
            dataset_id=labelled,
            parent_digest=STARTER,
            gate=GATE,
        )
    )
    session.add(
        Job(
            kind="retrain",
            state=JobState.DONE,
            created_at=now - timedelta(hours=1),
            started_at=now - timedelta(minutes=59),
            finished_at=now - timedelta(minutes=47),
            request={"epochs": 12, "release": True},
            stage="release",
            progress=1.0,
            result={
                "attempts": 1,
                "dataset_id": labelled,
                "labelled_pictures": 62,
                "replayed_pictures": 150,
                "epochs": [
                    {"epoch": n, "losses": {"box": 1.4 / n**0.4, "cls": 2.2 / n**0.6, "dfl": 0.9}} for n in range(1, 13)
                ],
                "train_seconds": 402.7,
                "candidate_digest": second,
                "incumbent_digest": STARTER,
                "gate": GATE,
                "passed": True,
                "released": True,
                "release": 2,
            },
            error="",
        )
    )
    session.flush()
    session.add(
        Job(
            kind="retrain",
            state=JobState.FAILED,
            created_at=now - timedelta(minutes=20),
            started_at=now - timedelta(minutes=20),
            finished_at=now - timedelta(minutes=19),
            request={"epochs": 12},
            stage="train",
            progress=0.4,
            result={},
            error="training stopped at epoch 5: the disk is full; free 2 GB and start it again",
        )
    )
    session.flush()
    session.add(
        Job(
            kind="retrain",
            state=JobState.RUNNING,
            created_at=now - timedelta(minutes=3),
            started_at=now - timedelta(minutes=3),
            finished_at=None,
            request={"epochs": 12, "release": True},
            stage="train",
            progress=0.55,
            result={},
            error="",
        )
    )
    session.add_all(
        [
            Event(
                at=now - timedelta(minutes=47),
                kind="release",
                subject=second,
                detail={"release": 2, "name": "street", "version": "2"},
            ),
            Event(
                at=now - timedelta(minutes=19),
                kind="job",
                subject="2",
                detail={"state": "failed", "error": "the disk is full"},
            ),
            Event(
                at=now - timedelta(minutes=9),
                kind="incident",
                subject="van-7",
                detail={"reason": "the object differs from its offer"},
            ),
        ]
    )


def _scored(base: float, counts: dict[str, int], spread: Sequence[float]) -> dict[str, Any]:
    return {
        name: {
            "map50_95": round(base + d, 5),
            "map50": round(min(base + d + 0.2, 1), 5),
            "count": n,
            "pictures": n // 3,
        }
        for (name, n), d in zip(counts.items(), spread, strict=True)
    }


def _side(
    digest: str, version: str, base: float, classes: Sequence[float], conditions: Sequence[float]
) -> dict[str, Any]:
    counts = {"person": 402, "bicycle": 121, "motorcycle": 24, "car": 913, "bus": 51, "truck": 96}
    return {
        "digest": digest,
        "name": "street",
        "version": version,
        "size_bytes": 10_700_000,
        "run_ms": 21.4,
        "map50_95": base,
        "map50": base + 0.2,
        "per_class": _scored(base, counts, classes),
        "per_condition": _scored(
            base, {"day": 620, "dusk": 240, "night": 410, "night-rain": 330, "fog": 21}, conditions
        ),
    }


GATE: dict[str, Any] = {
    "passed": True,
    "reasons": ["overall mAP50-95 0.341 -> 0.478 (+0.137)"],
    "rules": {"min_gain": 0.005, "max_drop_condition": 0.02, "max_drop_class": 0.03, "min_objects": 30},
    "incumbent": _side(STARTER, "1", 0.341, (0.01, -0.06, -0.11, 0.16, 0.1, 0.04), (0.24, 0.1, -0.16, -0.22, -0.05)),
    "candidate": _side(
        hashlib.sha256(b"release 2").hexdigest(),
        "2",
        0.478,
        (0.0, -0.05, -0.09, 0.12, 0.07, -0.02),
        (0.1, 0.05, -0.03, -0.07, -0.08),
    ),
    "latency_ratio": 1.0,
    "golden": [
        {
            "id": "a" * 64,
            "name": "golden",
            "pictures": 120,
            "incumbent": {"map50_95": 0.341},
            "candidate": {"map50_95": 0.478},
        },
        {
            "id": "b" * 64,
            "name": "golden-night",
            "pictures": 60,
            "incumbent": {"map50_95": 0.15},
            "candidate": {"map50_95": 0.43},
        },
    ],
    "aside": [],
}
