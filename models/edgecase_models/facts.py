"""What a campaign's condition may speak of: the facts of one frame, each with its type, its unit and its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from edgecase_models.detections import Detections

Facts = Mapping[str, object]
"""Name to value, those that are known of one frame."""


class Kind(StrEnum):
    """The type of a fact, in CEL's words."""

    BOOL = "bool"
    INT = "int"
    DOUBLE = "double"
    STRING = "string"
    STRINGS = "list(string)"
    COUNTS = "map(string, int)"
    SCORES = "map(string, double)"
    OPEN = "map(string, dyn)"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. A number lies from `low` to `high`."""

    kind: Kind
    meaning: str
    low: float = -np.inf
    high: float = np.inf


SEEN: Final[Mapping[str, Fact]] = MappingProxyType(
    {
        "classes": Fact(Kind.STRINGS, "classes that are reported, each once"),
        "candidates": Fact(Kind.STRINGS, "classes of all candidates, down to the lowest score that is kept"),
        "counts": Fact(Kind.COUNTS, "objects reported, by class; 0 for the classes that are not"),
        "score": Fact(Kind.DOUBLE, "the best score of all candidates, 0 without any", 0, 1),
        "scores": Fact(Kind.SCORES, "the best score of each class, 0 for those without a candidate"),
        "luma": Fact(Kind.DOUBLE, "mean brightness", 0, 255),
        "contrast": Fact(Kind.DOUBLE, "standard deviation of the brightness", 0, 255),
        "hour": Fact(Kind.INT, "hour of the day, UTC", 0, 23),
        "weekday": Fact(Kind.INT, "day of the week, UTC, Monday is 1 and Sunday 7", 1, 7),
        "camera": Fact(Kind.STRING, "the camera's name"),
        "device": Fact(Kind.STRING, "the device's id"),
        "width_px": Fact(Kind.INT, "width of the picture", 1, 20_000),
        "height_px": Fact(Kind.INT, "height of the picture", 1, 20_000),
        "ede": Fact(Kind.DOUBLE, "expected detection errors", 0),
        "disagreement": Fact(Kind.DOUBLE, "objects that only one member of the committee reports", 0),
        "novelty": Fact(Kind.DOUBLE, "how unlike the kept frames it is", 0),
        "missed": Fact(Kind.DOUBLE, "how much speaks for an object that was overlooked", 0),
    }
)
"""What the device knows of a frame by itself; a fact that was not computed for a frame is absent."""

TELEMETRY: Final[Mapping[str, Fact]] = MappingProxyType(
    {
        "speed_mps": Fact(Kind.DOUBLE, "speed over ground", -50, 150),
        "latitude_deg": Fact(Kind.DOUBLE, "north is positive", -90, 90),
        "longitude_deg": Fact(Kind.DOUBLE, "east is positive", -180, 180),
        "heading_deg": Fact(Kind.DOUBLE, "clockwise from north", 0, 360),
        "yaw_rate_dps": Fact(Kind.DOUBLE, "degrees per second, clockwise is positive", -360, 360),
        "acceleration_mps2": Fact(Kind.DOUBLE, "forward is positive", -100, 100),
        "gear": Fact(Kind.STRING, "as the vehicle names it: P, R, N, D, 1"),
        "wipers": Fact(Kind.BOOL, "whether they wipe"),
        "headlights": Fact(Kind.BOOL, "whether they are on"),
        "temperature_c": Fact(Kind.DOUBLE, "outside air", -90, 80),
        "telemetry": Fact(Kind.OPEN, "everything else that the vehicle gives"),
    }
)
"""What only the vehicle knows; absent where it does not tell."""

FACTS: Final[Mapping[str, Fact]] = MappingProxyType({**SEEN, **TELEMETRY})


def seen(detections: Detections, names: Sequence[str], operating_point: float) -> dict[str, object]:
    """The facts that detections give: `classes`, `candidates`, `counts`, `score`, `scores`.

    `names` are the model's classes by index; detections from `operating_point` on are reported.
    """
    reported = detections.classes[detections.scores >= operating_point]
    counts = np.bincount(reported, minlength=len(names)).tolist()
    best = np.zeros(len(names), np.float32)
    np.maximum.at(best, detections.classes, detections.scores)
    found = np.bincount(detections.classes, minlength=len(names)).tolist()
    return {
        "classes": [name for name, count in zip(names, counts, strict=True) if count],
        "candidates": [name for name, count in zip(names, found, strict=True) if count],
        "counts": dict(zip(names, counts, strict=True)),
        "score": float(detections.scores.max(initial=0)),
        "scores": dict(zip(names, best.tolist(), strict=True)),
    }
