"""Frames of a window drawn at random, spread over its length: each stretch of it (a stratum) yields as many as any other, or one more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Stratum(Generic[T]):
    seen: int = 0
    drawn: list[T] = field(default_factory=list)


class Draws(Generic[T]):
    """Of each stratum a reservoir (Vitter 1985, algorithm R), so that every frame of it is held with the same probability.

    `most` are held, and fewer than `strata` more. What comes after the last stratum belongs to it: a window may last longer than it was
    thought to.
    """

    def __init__(self, most: int, strata: int, stratum_s: float, chance: random.Random) -> None:
        self._strata: list[_Stratum[T]] = [_Stratum() for _ in range(min(strata, most))]
        self._each = -(-most // len(self._strata)) if self._strata else 0
        self._stratum_s = max(stratum_s, 1e-3)
        self._chance = chance

    def __len__(self) -> int:
        return sum(len(stratum.drawn) for stratum in self._strata)

    def __iter__(self) -> Iterator[T]:
        return (item for stratum in self._strata for item in stratum.drawn)

    def offer(self, item: T, passed_s: float) -> bool:
        """Take a frame, `passed_s` seconds after the window began; whether it is held now, perhaps in the place of another."""
        if not self._strata:
            return False
        stratum = self._strata[min(int(passed_s / self._stratum_s), len(self._strata) - 1)]
        stratum.seen += 1
        if len(stratum.drawn) < self._each:
            stratum.drawn.append(item)
            return True
        place = self._chance.randrange(stratum.seen)
        if place < self._each:
            stratum.drawn[place] = item
            return True
        return False

    def choose(self, count: int) -> list[tuple[T, float]]:
        """`count` of them at most, equally many of each stratum, and one more of some that are drawn by lot; with each its propensity,
        the probability with which a frame of its stratum is chosen.
        """
        strata = [stratum for stratum in self._strata if stratum.drawn]
        if not strata:
            return []
        least, more = divmod(count, len(strata))
        luck = more / len(strata)
        lucky = set(self._chance.sample(range(len(strata)), more))
        chosen: list[tuple[T, float]] = []
        for number, stratum in enumerate(strata):
            held = len(stratum.drawn)
            propensity = ((1 - luck) * min(least, held) + luck * min(least + 1, held)) / stratum.seen
            drawn = self._chance.sample(stratum.drawn, min(least + (number in lucky), held))
            chosen += [(item, propensity) for item in drawn]
        return chosen
