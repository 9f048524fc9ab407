"""Labelled streams without a picture: hand-made looks, and a street of numbers in which some scenes are hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclass_replace

import numpy as np
from numpy.typing import NDArray

from bench.triage.looks import Look, Stream
from edgecase_models.detections import Detections
from edgecase_models.fingerprint import Fingerprint

NAMES = ("car", "person", "bicycle")
OPERATING_POINT = 0.4
FPS = 10.0
HW_PX = (360, 640)
Truth = tuple[Sequence[float], int, int]
"""A box of the truth: x1, y1, x2, y2; class; track."""


@dataclass(frozen=True, eq=False)
class SeenWithMore(Detections):
    """Detections as a model gives them that has outputs for all probabilities and for pooled features."""

    probabilities: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> SeenWithMore:
        probabilities = None if self.probabilities is None else self.probabilities[keep]
        return SeenWithMore(
            self.boxes_xyxy_px[keep], self.scores[keep], self.classes[keep], probabilities, self.features
        )


def a_look(
    index: int = 0,
    seen: Detections | None = None,
    truth: Sequence[Truth] = (),
    *,
    scene: int = 0,
    second: Detections | None = None,
    hard: Sequence[bool] = (),
    size_bytes: int = 1000,
    fingerprint: Fingerprint | None = None,
) -> Look:
    """One frame, made by hand; nothing seen unless said."""
    return Look(
        index=index,
        scene=scene,
        condition="day",
        at_s=index / FPS,
        hw_px=HW_PX,
        seen=Detections.empty() if seen is None else seen,
        shifted=second,
        flipped=second,
        size_bytes=size_bytes,
        fingerprint=fingerprint or Fingerprint(index, np.full((24, 32), index % 255, np.uint8)),
        truth_boxes_xyxy_px=np.array([box for box, _, _ in truth], np.float32).reshape(-1, 4),
        truth_classes=np.array([kind for _, kind, _ in truth], np.int64),
        truth_tracks=np.array([track for _, _, track in truth], np.int64),
        truth_hard=np.array(hard or [False] * len(truth), np.bool_),
    )


def a_stream(looks: Sequence[Look], operating_point: float = OPERATING_POINT) -> Stream:
    return Stream("by hand", 0, tuple(looks), operating_point, NAMES, FPS)


def spliced(before: Stream, after: Stream, at: int) -> Stream:
    """A stream that is the first up to frame `at` and the second from there on."""
    return dataclass_replace(before, looks=before.looks[:at] + after.looks[at:])


def synthetic(
    seed: int, frames: int = 1200, scene_frames: int = 60, *, features: bool = False, second: bool = False
) -> Stream:
    """Scenes of a few moving objects; in a scene of doubt scores sink and objects are lost. Every seventh scene is empty.

    With `features`, detections also carry class probabilities and 32 features that tell the scene and its doubt.
    """
    chance = np.random.default_rng(seed)
    looks: list[Look] = []
    while len(looks) < frames:
        scene = len(looks) // scene_frames
        count = 0 if scene % 7 == 6 else int(chance.integers(1, 6))
        looks += _scene(chance, len(looks), min(scene_frames, frames - len(looks)), scene, count, features, second)
    return Stream("synthetic", seed, tuple(looks), OPERATING_POINT, NAMES, FPS)


def _scene(
    chance: np.random.Generator, start: int, frames: int, scene: int, count: int, features: bool, second: bool
) -> list[Look]:
    doubt = float(chance.beta(0.7, 1.5))
    place = chance.normal(size=32)
    light = int(chance.integers(20, 220))
    corners = chance.uniform((0, 0), (500, 250), size=(count, 2))
    sides = chance.uniform(20, 100, size=(count, 2))
    speeds = chance.normal(0, 1, size=(count, 2))
    classes = chance.integers(0, len(NAMES), size=count)
    tracks = scene * 100 + np.arange(count)
    looks = []
    for step in range(frames):
        truth = np.concatenate([corners, corners + sides], axis=1) + np.tile(speeds, 2) * step
        seen = _detections(chance, truth, classes, doubt, place if features else None)
        again = _detections(chance, truth, classes, doubt, place if features else None) if second else None
        cells = np.clip(light + chance.normal(0, 3, (24, 32)), 0, 255).astype(np.uint8)
        index = start + step
        looks.append(
            Look(
                index, scene, "day", index / FPS, HW_PX, seen, again, again, int(20_000 + 10_000 * doubt),
                Fingerprint(int(chance.integers(2**63)), cells), truth.astype(np.float32), classes, tracks, np.zeros(len(tracks), np.bool_),
            )
        )  # fmt: skip
    return looks


def _detections(
    chance: np.random.Generator,
    truth: NDArray[np.float64],
    classes: NDArray[np.int64],
    doubt: float,
    place: NDArray[np.float64] | None,
) -> Detections:
    junk = int(chance.poisson(2 + 4 * doubt))
    boxes = np.concatenate([truth + chance.normal(0, 2, truth.shape), _boxes(chance, junk)])
    scores = np.concatenate(
        [np.clip(0.9 - 0.7 * doubt + chance.normal(0, 0.15, len(truth)), 0.03, 0.99), chance.beta(1, 8, junk) + 0.03]
    )
    kinds = np.concatenate([classes, chance.integers(0, len(NAMES), junk)])
    order = np.argsort(-scores)
    boxes, scores, kinds = boxes[order], np.clip(scores[order], 0, 1), kinds[order]
    if place is None:
        return Detections(boxes, scores, kinds)
    probabilities = chance.uniform(0, 0.03, (len(scores), len(NAMES)))
    probabilities[np.arange(len(scores)), kinds] = scores
    mood = np.concatenate([place[:31], [5 * doubt]]) + chance.normal(0, 0.1, 32)
    return SeenWithMore(boxes, scores, kinds, probabilities.astype(np.float32), mood.astype(np.float32))


def _boxes(chance: np.random.Generator, count: int) -> NDArray[np.float64]:
    corners = chance.uniform((0, 0), (500, 250), size=(count, 2))
    return np.concatenate([corners, corners + chance.uniform(20, 100, size=(count, 2))], axis=1)
