"""What judging costs a device: time for each frame, and memory that does not grow.

    python -m bench.triage.cost     under a minute

A frame has 300 candidates with the probabilities of 80 classes and 256 features, at 1080p. Time is the processor's, whatever else runs.
"""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import cv2
import numpy as np

from bench.report import Report, Row
from bench.triage.stream import STARTER
from edgecase_agent.committee import Cascade, Detecting, View
from edgecase_agent.context import Passed
from edgecase_agent.judge import Committee, Judge, Shown
from edgecase_agent.rules import Rules
from edgecase_agent.scoring import Calibration, ClassWeights, identity
from edgecase_agent.selection import Candidate, Selection
from edgecase_agent.source import Picture
from edgecase_models.bundle import Bundle
from edgecase_models.detections import Detections
from edgecase_models.detector import StagesMs
from edgecase_models.fingerprint import Fingerprint

CANDIDATES: Final = 300
CLASSES: Final = 80
HW_PX: Final = (1080, 1920)
RULES: Final = Rules(budget={"frames": {"hour": 1800, "day": 40_000}, "bytes": {"day": 20e9}, "boxes": {"month": 1e8}})
LONG: Final = Rules(budget={"frames": {"hour": 60}, "bytes": {"day": 200e6}, "boxes": {"month": 1e6}})
SINCE: Final = datetime(2026, 1, 1, tzinfo=UTC)
FEW_MS, MOST_BYTES, GROWTH_BYTES = 5.0, 32e6, 64e3


class _Played:
    """A detector that saw everything already."""

    stride_px = 32
    stages_ms = StagesMs(0.0, 20.0, 0.0)
    names = tuple(f"class {index}" for index in range(CLASSES))


@dataclass(frozen=True)
class _Model:
    detector: Detecting
    calibration: Calibration
    digest: str = "a" * 64
    names: tuple[str, ...] = _Played.names
    operating_point: float = 0.25
    difficulty: ClassWeights | None = None


class _Another:
    """A second member that sees each time what was seen some frames before."""

    def __init__(self, frames: list[Detections]) -> None:
        self._frames = frames
        self._looks = 0

    def look(self, picture: Picture, incumbent: Detecting) -> View:  # noqa: ARG002
        self._looks += 1
        return View(self._frames[self._looks % len(self._frames)], (0.0, 0.0, float(HW_PX[1]), float(HW_PX[0])))


def rows() -> list[Row]:
    """Time and memory, each with its bar."""
    cv2.setNumThreads(1)
    frames = crowded(120)
    one, _ = judged(frames, None, 600)
    both, judge = judged(frames, Committee(Cascade(1.0, 1.0), _Another(frames)), 300)
    begun, ended = grown(10_000, 1_000_000)
    return [
        Row("judging a frame, median", float(np.median(one)), "ms", bar=FEW_MS, at_most=True),
        Row("judging a frame, 95 % of them", float(np.percentile(one, 95)), "ms"),
        Row("judging a frame that two members saw, median", float(np.median(both)), "ms"),
        Row("state besides the window", weight(judge) / 1e6, "MB", bar=MOST_BYTES / 1e6, at_most=True),
        Row("growth from frame 10⁴ to 10⁶", (ended - begun) / 1e3, "kB", bar=GROWTH_BYTES / 1e3, at_most=True),
        Row(
            "growth of all memory over 2,000 frames",
            leaked(1600, 3600) / 1e3,
            "kB",
            bar=GROWTH_BYTES / 1e3,
            at_most=True,
        ),
    ]


# ---- time ----------------------------------------------------------------------------------------------------------


def crowded(count: int, seed: int = 0) -> list[Detections]:
    """Frames of moving objects, each of which has its candidates; scores as a detector gives them, most of them low."""
    chance = np.random.default_rng(seed)
    corners, sides = chance.uniform(0, (1700, 900), (CANDIDATES, 2)), chance.uniform(20, 200, (CANDIDATES, 2))
    speeds, classes = chance.normal(0, 3, (CANDIDATES, 2)), chance.integers(0, CLASSES, CANDIDATES)
    frames = []
    for index in range(count):
        at = corners + speeds * index + chance.normal(0, 1, corners.shape)
        scores = np.clip(chance.beta(1, 4, CANDIDATES), 0.03, 1).astype(np.float32)
        probabilities = (chance.random((CANDIDATES, CLASSES)) * 0.03).astype(np.float32)
        probabilities[np.arange(CANDIDATES), classes] = scores
        best = np.argsort(-scores)
        seen = Detections(
            np.concatenate([at, at + sides], axis=1)[best], scores[best], classes[best], probabilities[best]
        )
        frames.append(_with_features(seen, chance.normal(size=256).astype(np.float32)))
    return frames


def _with_features(seen: Detections, features: Any) -> Detections:
    return Detections(seen.boxes_xyxy_px, seen.scores, seen.classes, seen.probabilities, features)


def judged(frames: list[Detections], committee: Committee | None, count: int) -> tuple[list[float], Judge[int]]:
    """Milliseconds that each frame took, and the judge as it is then. The first 300 frames fill its memory."""
    table = Bundle.open(STARTER).calibration
    model = _Model(_Played(), identity if table is None else table)  # type: ignore[arg-type]
    judge = Judge(Selection[int](RULES), committee=committee)
    picture = np.random.default_rng(0).integers(0, 255, (*HW_PX, 3), np.uint8)
    took_ms = []
    for index in range(300 + count):
        at = SINCE + timedelta(seconds=index / 10)
        start_s = time.process_time()
        judge.judge(Shown(index, picture, at, HW_PX), model, frames[index % len(frames)])
        judge.selection.close(at.timestamp(), lambda _: 100_000)
        took_ms.append((time.process_time() - start_s) * 1e3)
    return took_ms[300:], judge


# ---- memory --------------------------------------------------------------------------------------------------------


def grown(begin: int, end: int) -> tuple[int, int]:
    """What a selection weighs after so many frames and after so many more, ten frames a second, one in twenty doubtful.

    Forty days of one frame an hour go before, so that every account and memory is as full as it gets.
    """
    chance = np.random.default_rng(1)
    prints = [Fingerprint(int(dhash), np.zeros((24, 32), np.uint8)) for dhash in chance.integers(0, 2**63, 500)]
    doubts, features = chance.random((500, 8)), chance.normal(size=(500, 256)).astype(np.float32)
    calm = Candidate(0, np.zeros(0), np.zeros(0, np.int64), "ede", partial(prints.__getitem__, 0))
    selection = Selection[int](LONG)
    weights = []
    now_s = SINCE.timestamp()
    for index in range(-960, end):
        now_s += 3600.0 if index < 0 else 0.1
        candidate = calm
        if index < 0 or index % 20 == 0:
            place, tracks = index % 500, np.arange(8) + 8 * (index + 960) + 1
            looks = partial(prints.__getitem__, place)
            candidate = Candidate(index, doubts[place], tracks, "ede", looks, boxes=8.0, features=features[place])
        selection.offer(candidate, now_s)
        selection.close(now_s, lambda _: 50_000)
        if index + 1 in (begin, end):
            weights.append(weight(selection))
    return weights[0], weights[1]


def leaked(begin: int, end: int) -> int:
    """What all of Python's memory grew by between these frames, of a dozen candidates each; every second one comes an hour later."""
    chance = np.random.default_rng(2)
    frames = [
        Detections.of([(x, 50, x + 40, 90) for x in row], np.linspace(0.9, 0.1, 12).tolist(), list(range(12)))
        for row in chance.uniform(0, 500, (97, 12)).tolist()
    ]
    tracemalloc.start()
    model = _Model(_Played(), identity)  # type: ignore[arg-type]
    judge = Judge(Selection[int](RULES), committee=Committee(Cascade(0.2, 0.01), _Another(frames)))
    picture = np.zeros((96, 128, 3), np.uint8)
    traced = []
    for index in range(end):
        at = SINCE + timedelta(seconds=index / 10, hours=index // 2)
        judge.judge(Shown(index, picture, at, (96, 128)), model, frames[index % len(frames)])
        judge.selection.close(at.timestamp(), lambda _: 1000)
        if index + 1 in (begin, end):
            gc.collect()
            traced.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return traced[1] - traced[0]


_NO_STATE: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, Detections, Candidate, Passed)


def weight(root: object) -> int:
    """Bytes of everything that can be reached from `root`, but for code and for the frames of the window."""
    seen: set[int] = set()
    open_, total = deque([root]), 0
    while open_:
        one = open_.pop()
        if id(one) in seen or isinstance(one, _NO_STATE):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one) + (one.nbytes if isinstance(one, np.ndarray) and one.base is not None else 0)
        open_.extend(_parts(one))
    return total


def _parts(one: object) -> Iterable[object]:
    if isinstance(one, Mapping):
        yield from one.keys()
        yield from one.values()
    elif isinstance(one, list | tuple | set | frozenset | deque):
        yield from one
    yield from getattr(one, "__dict__", {}).values()
    for kind in type(one).__mro__:
        for name in getattr(kind, "__slots__", ()):
            yield getattr(one, name, None)


def main() -> int:
    report = Report(
        "triage-cost", "What judging costs: 300 candidates, 80 classes, 256 features, 1080p; time of one processor"
    )
    for row in rows():
        report.add(row)
    report.close()
    return 0 if all(row.ok is not False for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
