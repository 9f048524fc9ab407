"""Answers the label queue from the simulation's truth, within a budget of frames: the one part that a person plays in the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np

from edgecase_models.boxes import iou_matrix
from edgecase_models.detections import Detections
from edgecase_models.street import CLASSES, Street, Truth

AUTHOR = "oracle"
SAME_IOU = 0.8


class Oracle:
    """A labeller with perfect sight. It takes the queue in its own order, the batch first, as a person would be shown it."""

    def __init__(self, hub: httpx.Client, streets: Mapping[str, Street], budget_frames: int) -> None:
        self._hub = hub
        self._streets = streets
        self.budget_frames = budget_frames
        self.spent_frames = 0
        self.labelled_boxes = 0

    @property
    def done(self) -> bool:
        return self.spent_frames >= self.budget_frames

    def step(self, at_most: int) -> int:
        """Answer up to `at_most` open frames; how many were answered."""
        wanted = min(at_most, self.budget_frames - self.spent_frames)
        if wanted <= 0:
            return 0
        page = self._hub.get("/api/v1/queue", params={"review": "open", "order": "batch", "limit": wanted})
        page.raise_for_status()
        items = page.json()["items"]
        if not items:
            return 0
        index_of = {row["name"]: row["index"] for row in self._hub.get("/api/v1/classes").raise_for_status().json()}
        for item in items:
            answer = self._answer(item, index_of)
            self._hub.post(f"/api/v1/frames/{item['id']}/annotation", json=answer).raise_for_status()
            self.spent_frames += 1
            self.labelled_boxes += len(answer["boxes"])
        return len(items)

    def _answer(self, item: Mapping[str, Any], index_of: Mapping[str, int]) -> dict[str, Any]:
        truth = self._streets[item["device"]].truth(item["frame_index"])
        to_table = [index_of.get(name, -1) for name in CLASSES]
        seen = [c for c in item["candidates"] if c["score"] >= item["operating_point"]]
        if _alike(truth, seen, to_table):
            boxes = [{key: c[key] for key in ("cls", "x1", "y1", "x2", "y2")} | {"origin": "model"} for c in seen]
            verdict = "accepted"
        else:
            verdict = "corrected"
            boxes = [
                dict(zip(("x1", "y1", "x2", "y2"), (round(float(v), 1) for v in box), strict=True))
                | {"cls": to_table[cls], "origin": "human"}
                for box, cls in zip(truth.boxes_xyxy_px, truth.classes, strict=True)
            ]
        return {"revision": item["revision"], "verdict": verdict, "boxes": boxes, "author": AUTHOR}


def _alike(truth: Truth, seen: list[Mapping[str, Any]], to_table: list[int]) -> bool:
    """Whether a labeller would leave the model's boxes as they are."""
    if len(seen) != len(truth.classes):
        return False
    if not seen:
        return True
    boxes = Detections.of(
        [(c["x1"], c["y1"], c["x2"], c["y2"]) for c in seen], [c["score"] for c in seen], [c["cls"] for c in seen]
    )
    classes = np.array(to_table, np.int32)[truth.classes]
    fits = (iou_matrix(truth.boxes_xyxy_px, boxes.boxes_xyxy_px) >= SAME_IOU) & (
        classes[:, None] == boxes.classes[None]
    )
    return bool(fits.any(axis=1).all() and fits.any(axis=0).all())
