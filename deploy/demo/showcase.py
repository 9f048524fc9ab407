"""Pictures for the report: the most doubtful frames, what both models see on held-out streets, and each device's timeline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from plots import Span, Track
from report import Kept, Pair, drawn

from edgecase_models.boxes import iou_matrix
from edgecase_models.bundle import Bundle
from edgecase_models.detections import Detections
from edgecase_models.evaluate import Sample, samples_from_folder
from edgecase_models.street import StreetSpec

CANDIDATE_FLOOR = 0.1


def most_doubtful(hub: httpx.Client, count: int) -> list[Kept]:
    """The frames with the highest scores, no two of the same five seconds of a device."""
    page = hub.get("/api/v1/queue", params={"review": "any", "order": "score", "limit": 60}).raise_for_status().json()
    classes = [row["name"] for row in hub.get("/api/v1/classes").raise_for_status().json()]
    chosen: list[Kept] = []
    taken: set[tuple[str, int]] = set()
    for item in page["items"]:
        moment = (item["device"], int(datetime.fromisoformat(item["captured_at"]).timestamp()) // 5)
        if moment in taken or len(chosen) == count:
            continue
        taken.add(moment)
        jpeg = hub.get(f"/api/v1/frames/{item['id']}/image").raise_for_status().content
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None, "the cloud has checked it"
        picture = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
        boxes = Detections.of(
            [(c["x1"], c["y1"], c["x2"], c["y2"]) for c in item["candidates"]],
            [c["score"] for c in item["candidates"]],
            [c["cls"] for c in item["candidates"]],
        )
        reasons = ", ".join(f"{reason['strategy']} {reason['score']:.2f}" for reason in item["reasons"])
        caption = f"{item['device']}, frame {item['frame_index']}: {reasons}"
        chosen.append(Kept(drawn(picture, boxes, classes, CANDIDATE_FLOOR), caption))
    return chosen


def before_after(folder: Path, incumbent: Path, candidate: Path, count: int) -> list[Pair]:
    """Held-out frames on which the two models' numbers of right boxes differ most, one a condition first."""
    old, new = Bundle.open(incumbent), Bundle.open(candidate)
    detectors = old.detector(), new.detector()
    rows = []
    for sample in samples_from_folder(folder, "val"):
        picture = sample.rgb()
        before, after = (detector.detect(picture) for detector in detectors)
        gained = _right(sample, after.above(new.thresholds.score), detectors[1].names) - _right(
            sample, before.above(old.thresholds.score), detectors[0].names
        )
        caption = f"{sample.condition}: {len(sample.classes)} objects, {gained:+d} found"
        views = [
            drawn(picture, seen, eye.names, eye.thresholds.score)
            for seen, eye in zip((before, after), detectors, strict=True)
        ]
        rows.append((gained, sample.condition, Pair(views[0], views[1], caption)))
    rows.sort(key=lambda row: -row[0])
    best: list[Pair] = []
    for condition in dict.fromkeys(condition for _, condition, _ in rows):
        best += [row[2] for row in rows if row[1] == condition][:2]
    return best[:count]


def tracks_of(hub: httpx.Client, streets: dict[str, StreetSpec], swaps: dict[str, float]) -> list[Track]:
    """Each device's conditions and kept frames over the street's own time."""
    tracks = []
    for device, spec in streets.items():
        items: list[dict[str, Any]] = []
        while True:
            query: dict[str, str | int] = {
                "review": "any",
                "order": "time",
                "device": device,
                "limit": 200,
                "offset": len(items),
            }
            page = hub.get("/api/v1/queue", params=query).raise_for_status().json()
            items += page["items"]
            if not page["items"] or len(items) >= page["total"]:
                break
        kept = sorted((spec.second(item["frame_index"]), float(item["score"])) for item in items)
        end_s = max([second for second, _ in kept] + [swaps.get(device, 0.0)], default=1.0) + 5
        tracks.append(Track(device, _spans(spec, end_s), kept, swaps.get(device)))
    return tracks


def _spans(spec: StreetSpec, end_s: float) -> Sequence[Span]:
    seconds = [step * 0.5 for step in range(int(end_s * 2))]
    spans = []
    for condition, stretch in groupby(seconds, key=lambda second: spec.moment(int(second * spec.fps)).condition):
        inside = list(stretch)
        spans.append(Span(inside[0], inside[-1] + 0.5, condition))
    return spans


def _right(sample: Sample, seen: Detections, names: Sequence[str]) -> int:
    """Truth boxes that a detection of their class covers."""
    if not len(seen) or not sample.classes:
        return 0
    classes = np.array([names[index] for index in seen.classes])
    fits = (iou_matrix(sample.boxes_xyxy_px, seen.boxes_xyxy_px) >= 0.5) & (
        np.array(sample.classes)[:, None] == classes[None]
    )
    return int(fits.any(axis=1).sum())
