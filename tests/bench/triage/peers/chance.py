"""The two baselines that are hard to beat: random and evenly spaced frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.triage.looks import Stream


@dataclass(frozen=True)
class Random:
    """Every set of `budget` frames is as likely as any other, drawn in one pass (selection sampling; Knuth, TAOCP 2, algorithm S)."""

    name: str = "random"
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:
        total = len(stream.looks)
        picks: list[int] = []
        for index, draw in enumerate(rng.random(total)):
            if draw * (total - index) < budget - len(picks):
                picks.append(index)
        return picks


@dataclass(frozen=True)
class Uniform:
    """Frames at equal distances, from a random first one on."""

    name: str = "uniform"
    streaming: bool = True

    def pick(self, stream: Stream, budget: int, rng: np.random.Generator) -> list[int]:
        total = len(stream.looks)
        count = min(budget, total)
        return [int((place + phase) * total / count) for phase in [rng.random()] for place in range(count)]
