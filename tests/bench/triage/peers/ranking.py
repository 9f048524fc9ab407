"""The highest scores: of the whole stream once it is over, or of each window as it closes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.triage.looks import Stream
from bench.triage.peers.peer import ScoreOf, scores_of


@dataclass(frozen=True)
class TopK:
    """The `budget` highest scores of the whole pool; of equals, the earlier."""

    name: str
    score: ScoreOf
    streaming: bool = False

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        ranked = np.argsort(-scores_of(stream, self.score), kind="stable")
        return sorted(int(index) for index in ranked[:budget])


@dataclass(frozen=True)
class WindowTopK:
    """The highest scores of each window of `window` frames, at the budget's own pace; what a window cannot spend it carries over."""

    name: str
    score: ScoreOf
    window: int = 120
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        scores = scores_of(stream, self.score)
        picks: list[int] = []
        for start in range(0, len(scores), self.window):
            inside = scores[start : start + self.window]
            due = budget * (start + len(inside)) // len(scores) - len(picks)
            ranked = np.argsort(-inside, kind="stable")
            picks += sorted(start + int(place) for place in ranked[:due])
        return picks
