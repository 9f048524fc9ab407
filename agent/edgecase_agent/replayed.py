"""What came of a replay: one JSON document, and beside it what its report is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecase_agent.capture import Errors, FrameErrors, Objects
from edgecase_models import wire

RANK: Final = "rank"
DISPLACED: Final = "less doubtful than others of its window"


class Figure(msgspec.Struct, frozen=True):
    """A share in [0, 1], and what as many random picks would reach in expectation; None for a share of nothing."""

    value: float | None
    by_chance: float | None


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """What the picks among the labelled frames show; context frames, which nobody labels, do not count.

    `precision`: of the picks, how many fail. `failures`, `severe`: of the frames that fail, and that fail severely (two errors or more),
    how many were picked. `errors`: of all errors, how many lie in picks. `missed_objects`: of the objects that some frame misses, how many
    a pick shows missed; None where the truth does not say which object is which.
    """

    picks: int
    precision: Figure
    failures: Figure
    severe: Figure
    errors: Figure
    missed_objects: Figure


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that was kept. `at_s` counts from the recording's first frame; `trigger` is what picked it: `rank`, `audit`, `context`,
    `missed`, `disagreement`, `novelty`, or `campaign:` and its name. `context_of` is the index of the pick that it lies beside.
    """

    frame_index: int
    at_s: float
    captured_at: datetime
    trigger: str
    score: float
    reasons: list[wire.Reason]
    size_bytes: int
    expected_boxes: float
    context_of: int | None = None
    false_negatives: int | None = None
    false_positives: int | None = None


class PolicyReplay(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy made of the recording. Every frame that was judged is kept, or counted once in `skipped` by why it was let go.

    `allowed_frames` is what its budget comes to in the recording's time. `expected_boxes`: to be drawn by whoever labels what was kept.
    `near_duplicates`: of the picks, the share that has another within 10 frames; None where frames lie a second apart, as a folder's do.
    `second_looks_ms` is what they took, in all.
    """

    name: str
    digest: str
    budget: str
    allowed_frames: float
    kept: int
    failed: int
    by_trigger: dict[str, int]
    by_reason: dict[str, int]
    skipped: dict[str, int]
    bytes_kept: int
    expected_boxes: float
    near_duplicates: float | None
    second_looks: int
    second_looks_ms: float
    captured: Captured | None
    notes: list[str]
    picks: list[Pick]


class TruthFound(msgspec.Struct, frozen=True, kw_only=True):
    """The truth, and how the detector stands against it at its operating point, at an IoU of 0.5 and above."""

    name: str
    classes: list[str]
    labelled_frames: int
    objects: int
    false_negatives: int
    false_positives: int
    failures: int
    severe: int
    missed_objects: int | None


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The document. `recorded_s` is the recording's own time, `took_s` the replay's. `failed` frames could not be looked at.

    `jpeg_bytes` is what all frames weigh as the JPEGs that would be sent: every `jpeg_sample_every`-th is encoded and stands for the rest.
    `share`: of the frames, in the place of every policy's budget; None where each has its own.
    """

    v: int = 1
    source: str
    model: str
    model_digest: str
    operating_point: float
    calibrated: bool
    frames: int
    failed: int
    problem: str
    recorded_s: float
    took_s: float
    detect_ms: float
    jpeg_bytes: int
    jpeg_sample_every: int
    share: float | None
    truth: TruthFound | None
    policies: list[PolicyReplay]

    def to_json(self) -> bytes:
        """Indented, for people too."""
        return msgspec.json.format(msgspec.json.encode(self))


@dataclass(frozen=True, eq=False, slots=True)
class Still:
    """A frame that some policy kept, in small, with what was seen and what was there. The picture is as it would be sent: redacted where
    the settings ask for it, and empty where its pixels would stay on the device.
    """

    thumbnail_jpeg: bytes
    hw_px: tuple[int, int]
    boxes: tuple[wire.Box, ...]
    objects: Objects | None
    errors: FrameErrors | None


@dataclass(frozen=True, eq=False)
class Recorded:
    """The document, the stills of its picks by frame index, and N numbers of each kind for the plots.

    `at_s` (N,) and, for each policy in its order, `scores` (N,), NaN where it gave none; `labelled` (N,) are the frames that `errors`, M of
    them, speak of.
    """

    document: Replayed
    names: tuple[str, ...]
    stills: dict[int, Still]
    at_s: NDArray[np.float64]
    scores: tuple[NDArray[np.float64], ...]
    labelled: NDArray[np.bool_]
    errors: Errors | None
