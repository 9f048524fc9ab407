"""The frames just before and just after a pick, which show a labeller what moved: kept with it, and paid for like it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_DUST: Final = 1e-6  # two times of 10⁹ s differ by a little more or less than what lies between them


@dataclass(frozen=True, eq=False, slots=True)
class Beside(Generic[T]):
    """A frame that lies `offset_s` from its pick, negative before it."""

    item: T
    pick: T
    offset_s: float


@dataclass(eq=False, slots=True)
class Passed(Generic[T]):
    """A frame that passed by and is held. `sent`: it is a pick, or went with one."""

    item: T
    at_s: float
    sent: bool = False


@dataclass(eq=False, slots=True)
class Company(Generic[T]):
    """What lies beside one frame that may be picked: at most one frame for each place, -1, -2, … before it and 1, 2, … after it.

    `own` is the frame itself, where it was held. A place whose frame was given stays taken.
    """

    at_s: float
    own: Passed[T] | None
    places: dict[int, Passed[T] | None] = field(default_factory=dict)


class Context(Generic[T]):
    """Every so often a frame that passes by is held, since it may turn out to lie beside a pick.

    At most `frames` on each side of a pick, evenly spread over `before_s` and `after_s` seconds. `hold` makes of a frame what is held: a
    camera's picture may be large, its JPEG is small. Held are those of the last `before_s`, and up to 2 × `frames` beside each frame
    that may still be picked. A frame goes with one pick, and no pick is another's context: so what lies beside a pick is told at the end
    of a window only, when all that passed was decided on.
    """

    def __init__(
        self, frames: int, before_s: float, after_s: float, hold: Callable[[T], T] = lambda item: item
    ) -> None:
        self._frames = frames
        self._before_s, self._after_s = before_s, after_s
        spans = [span_s for span_s in (before_s, after_s) if span_s > 0]
        self._step_s = min(spans) / frames if frames and spans else math.inf
        self._hold = hold
        self._lately: deque[Passed[T]] = deque()
        self._open: list[Company[T]] = []
        self._picks: list[tuple[T, Company[T]]] = []
        self._held_at_s = -math.inf

    @property
    def most(self) -> int:
        """How many frames can go with one pick."""
        sides = (self._before_s > 0) + (self._after_s > 0)
        return self._frames * sides

    def pass_by(self, item: T, now_s: float) -> Passed[T] | None:
        """A frame of the stream, as it is held; None where it is not."""
        if not self.most:
            return None
        while self._lately and not 0 <= now_s - self._lately[0].at_s <= self._before_s + _DUST:
            self._lately.popleft()
        self._open = [one for one in self._open if 0 <= now_s - one.at_s <= self._after_s + _DUST]
        if 0 <= now_s - self._held_at_s < self._step_s - _DUST:
            return None
        passed = Passed(self._hold(item), now_s)
        self._held_at_s = now_s
        apart_s = self._before_s / self._frames
        if self._before_s and not (self._lately and now_s - self._lately[-1].at_s < apart_s - _DUST):
            self._lately.append(passed)
        for company in self._open:
            place = self._place(now_s - company.at_s)
            if place:
                company.places.setdefault(place, passed)
        return passed

    def beside(self, at_s: float, own: Passed[T] | None) -> Company[T] | None:
        """What lies beside the frame of `at_s`, which passed by just now; those after it join by themselves. None where none is wanted."""
        if not self.most:
            return None
        company = Company(at_s, own)
        for passed in self._lately:
            place = self._place(passed.at_s - at_s)
            if place:
                company.places.setdefault(place, passed)
        if self._after_s:
            self._open.append(company)
        return company

    def pick(self, item: T, company: Company[T] | None) -> None:
        """The frame is a pick."""
        if company is not None:
            self._picks.append((item, company))
            if company.own is not None:
                company.own.sent = True

    def settle(self, now_s: float) -> list[Beside[T]]:
        """At a window's end, when its picks are known: what lies beside them, as far as it passed by."""
        found = []
        for item, company in self._picks:
            for place, passed in sorted(company.places.items()):
                if passed is not None and not passed.sent:
                    passed.sent = True
                    company.places[place] = None
                    found.append(Beside(passed.item, item, passed.at_s - company.at_s))
        self._picks = [(item, one) for item, one in self._picks if 0 <= now_s - one.at_s <= self._after_s]
        return found

    def end(self) -> None:
        """Nothing more will pass by."""
        self._picks, self._open = [], []

    def _place(self, offset_s: float) -> int:
        """Which of the equal parts of the time before (negative) or after the frame it lies in; 0 where in none."""
        span_s = self._after_s if offset_s > 0 else self._before_s
        if not span_s or not _DUST < abs(offset_s) <= span_s + _DUST:
            return 0
        place = math.ceil(abs(offset_s) * self._frames / span_s - _DUST)
        return place if offset_s > 0 else -place
