"""Rules that look at one frame's boxes and say yes or no: Roboflow Inference and KubeEdge Sedna."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.triage.looks import Look, Stream
from bench.triage.peers.peer import Peer
from bench.triage.peers.scores import EPSILON, close_to_threshold, lightly_objectness, sedna_ibt

MINUTE_S: Final = 60
DAY_S: Final = 86_400


@dataclass(frozen=True)
class CloseToThreshold:
    """Roboflow Inference's `close_to_threshold` with limits: at least `minimum` boxes near the threshold, then a coin, then the counters.

    Counters belong to the minute and the day of the clock, first come, first served. A user of it knows the budget and the frame rate, and
    sets the day's limit to the budget and the minute's to the budget's own pace.
    """

    epsilon: float = EPSILON
    minimum: int = 1
    probability: float = 0.5
    name: str = "Roboflow close_to_threshold"
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:
        per_minute = math.ceil(budget * MINUTE_S * stream.fps / max(len(stream.looks), 1))
        minutes, days = Counter[int](), Counter[int]()
        picks: list[int] = []
        for look, coin in zip(stream.looks, rng.random(len(stream.looks)), strict=True):
            if close_to_threshold(look, stream, self.epsilon) < self.minimum or coin >= self.probability:
                continue
            minute, day = int(look.at_s // MINUTE_S), int(look.at_s // DAY_S)
            if minutes[minute] < per_minute and days[day] < budget:
                minutes[minute] += 1
                days[day] += 1
                picks.append(look.index)
        return picks


@dataclass(frozen=True)
class SednaThreshold:
    """Sedna's threshold filter: hard where the mean score of the reported boxes is below `threshold`. It knows no budget."""

    threshold: float = 0.5
    name: str = "Sedna threshold"
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        return [look.index for look in stream.looks if self._is_hard(look, stream)]

    def _is_hard(self, look: Look, stream: Stream) -> bool:
        return lightly_objectness(look, stream) > 1 - self.threshold


@dataclass(frozen=True)
class SednaIbt:
    """Sedna's image-box threshold: hard where the share of the reported boxes at or below `threshold_box` is at least 1 − `threshold_img`.

    It knows no budget.
    """

    threshold_img: float = 0.5
    threshold_box: float = 0.5
    name: str = "Sedna IBT"
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        return [look.index for look in stream.looks if self._is_hard(look, stream)]

    def _is_hard(self, look: Look, stream: Stream) -> bool:
        reports = bool((look.seen.scores >= stream.operating_point).any())
        return reports and sedna_ibt(look, stream, self.threshold_box) >= 1 - self.threshold_img


@dataclass(frozen=True)
class Thinned:
    """A peer that knows no budget, brought to it afterwards by an even chance for each of its picks: kinder than a disk that fills up."""

    peer: Peer
    streaming: bool = False

    @property
    def name(self) -> str:
        return f"{self.peer.name}, thinned"

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:
        picks = self.peer.pick(stream, budget, rng)
        if len(picks) <= budget:
            return picks
        return sorted(int(pick) for pick in rng.choice(picks, budget, replace=False))
