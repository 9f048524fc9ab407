"""The frames just before and just after a pick, which show a labeller what moved: kept with it, and paid for like it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_MOST_HELD: Final = 256


@dataclass(frozen=True, eq=False, slots=True)
class Beside(Generic[T]):
    """A frame that lies `offset_s` from its pick, negative before it."""

    item: T
    pick: T
    offset_s: float


@dataclass(eq=False, slots=True)
class _Passed(Generic[T]):
    item: T
    at_s: float
    given: bool = False


@dataclass(eq=False, slots=True)
class _Waiting(Generic[T]):
    """A pick that waits for the frames after it."""

    pick: T
    at_s: float
    left: int


class Context(Generic[T]):
    """Every so often a frame that passes by is held for `window_s`, since it may turn out to lie beside a pick.

    At most `frames` on each side, from within `before_s` and `after_s` seconds, evenly spread. `hold` makes of a frame what is held: a
    camera's picture may be large, its JPEG is small. At most 256 are held. A frame goes with one pick, and no pick is another's context.
    """

    def __init__(
        self, frames: int, before_s: float, after_s: float, window_s: float, hold: Callable[[T], T] = lambda item: item
    ) -> None:
        self._frames = frames
        self._before_s, self._after_s = before_s, after_s
        spans = [span_s for span_s in (before_s, after_s) if span_s > 0]
        self._wanted = bool(frames and spans)
        self._step_s = min(spans) / frames if self._wanted else 0.0
        self._held_s = window_s + before_s + after_s
        self._hold = hold
        self._passed: deque[_Passed[T]] = deque(maxlen=_MOST_HELD)
        self._waiting: list[_Waiting[T]] = []

    def pass_by(self, item: T, now_s: float) -> list[Beside[T]]:
        """A frame of the stream; what of it goes with an earlier pick."""
        if not self._wanted:
            return []
        while self._passed and not 0 <= now_s - self._passed[0].at_s <= self._held_s:
            self._passed.popleft()
        if self._passed and 0 <= now_s - self._passed[-1].at_s < self._step_s * (1 - 1e-6):
            return []
        passed = _Passed(self._hold(item), now_s)
        self._passed.append(passed)
        self._waiting = [one for one in self._waiting if one.left and 0 <= now_s - one.at_s <= self._after_s]
        for one in self._waiting:
            if now_s > one.at_s:
                one.left -= 1
                passed.given = True
                return [Beside(passed.item, one.pick, now_s - one.at_s)]
        return []

    def around(self, pick: T, at_s: float) -> list[Beside[T]]:
        """The frames beside a pick that passed already; those to come are waited for."""
        if not self._wanted:
            return []
        free = [one for one in self._passed if one.item is not pick and not one.given]
        before = [one for one in free if 0 < at_s - one.at_s <= self._before_s][-self._frames :]
        after = [one for one in free if 0 < one.at_s - at_s <= self._after_s][: self._frames]
        if self._after_s and len(after) < self._frames:
            self._waiting.append(_Waiting(pick, at_s, self._frames - len(after)))
        for one in self._passed:
            one.given = one.given or one.item is pick
        for one in (*before, *after):
            one.given = True
        return [Beside(one.item, pick, one.at_s - at_s) for one in (*before, *after)]

    def end(self) -> None:
        """Nothing more will pass by."""
        self._waiting = []
