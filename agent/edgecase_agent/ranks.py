"""Where a score stands among those of late."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque


class Ranks:
    """The last `window` scores in order; what they weigh does not grow."""

    def __init__(self, window: int = 512) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []

    def rank(self, value: float) -> float:
        """The share of recent scores below this one, 0 for the first; it is then one of them."""
        below = bisect_left(self._sorted, value) / len(self._sorted) if self._sorted else 0.0
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(value)
        insort(self._sorted, value)
        return below
