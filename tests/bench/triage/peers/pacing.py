"""Thresholds on a score, set so that about the right share of the stream passes: SBAD, a quantile tracker, scikit-activeml's BIQF."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

import numpy as np

from bench.triage.looks import Stream
from bench.triage.peers.peer import ScoreOf, real_package, scores_of


@dataclass(frozen=True)
class Sbad:
    """Stream-based active distillation (Manjah et al., CVPRW 2023): a percentile of the warm-up's scores, then the first that exceed it.

    The percentile is the budget's share of what follows the warm-up. The original prefers *confident* frames because a teacher labels
    them; here a person does, so the score is one of doubt.
    """

    name: str
    score: ScoreOf
    warm_up: int = 720
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        scores = scores_of(stream, self.score)
        first = min(self.warm_up, len(scores) // 4)
        if not first:
            return []
        threshold = np.quantile(scores[:first], max(0.0, 1 - budget / (len(scores) - first)))
        above = np.flatnonzero(scores[first:] > threshold)[:budget]
        return [first + int(place) for place in above]


@dataclass(frozen=True)
class QuantileTracker:
    """A threshold that follows the (1 − ρ) quantile: τ ← τ + η·(1[S > τ] − ρ), with S the score's rank among the last `window` frames.

    For any sequence the share that passes comes to ρ as (1 + η)/(η·T) (Angelopoulos et al., "Conformal PID Control", arXiv 2307.16895).
    No cap stands behind it.
    """

    name: str
    score: ScoreOf
    rate: float = 0.05
    window: int = 512
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        share = budget / max(len(stream.looks), 1)
        threshold = 1 - share
        recent: deque[float] = deque(maxlen=self.window)
        ordered: list[float] = []
        picks: list[int] = []
        for index, score in enumerate(scores_of(stream, self.score).tolist()):
            rank = bisect_left(ordered, score) / len(ordered) if ordered else 0.0
            if len(recent) == self.window:
                del ordered[bisect_left(ordered, recent[0])]
            recent.append(score)
            insort(ordered, score)
            passed = rank > threshold
            threshold += self.rate * (passed - share)
            if passed:
                picks.append(index)
        return picks


@dataclass(frozen=True)
class Biqf:
    """scikit-activeml's `BalancedIncrementalQuantileFilter` (Kottke et al. 2015), the package itself with its own defaults."""

    name: str
    score: ScoreOf
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:  # noqa: ARG002
        budgets = real_package("skactiveml.stream.budgetmanager", "scikit-activeml")
        manager = budgets.BalancedIncrementalQuantileFilter(budget=min(1.0, budget / max(len(stream.looks), 1)))
        picks: list[int] = []
        for index, score in enumerate(scores_of(stream, self.score)):
            utility = np.array([score])
            queried = manager.query_by_utility(utility)
            manager.update(utility[:, None], queried, utility)
            if len(queried):
                picks.append(index)
        return picks
