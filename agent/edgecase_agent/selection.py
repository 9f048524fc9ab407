"""Which frames are worth a label: the most doubtful of each stretch of time, apart from each other, new, and within two budgets."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from edgecase_agent.budget import Budget, BudgetState
from edgecase_agent.fingerprint import Fingerprint
from edgecase_models.wire import Reason

T = TypeVar("T")

HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0
_WHOLE: Final = 1 - 1e-6  # a bucket filled by many small parts may miss a whole by rounding

AUDIT: Final = "audit"


class RulesError(ValueError):
    """Rules that contradict themselves; the message names the setting and its bounds."""


@dataclass(frozen=True)
class Rules:
    """How frames are chosen.

    A window lasts `window_s` seconds; longer, until both budgets allow a frame; shorter, where a budget yields half as many frames as
    are held: at most `leaders`, in memory. Picks by rank lie at least `gap_s` apart, score above `min_score`, and do not repeat one of
    the last `memory` picks (`repeat_bits`, `repeat_levels`: see `Fingerprint.repeats`; -1 bits: no such gate). `audit_share` of the
    frame budget goes to frames drawn at random, whatever they score: the only sample from which it can be told what the scores miss.
    `seed` makes the random picks repeatable.
    """

    window_s: float = 10.0
    gap_s: float = 1.0
    frames_per_hour: float = 60.0
    bytes_per_day: float = 200e6
    audit_share: float = 0.25
    min_score: float = 0.0
    repeat_bits: int = 4
    repeat_levels: int = 6
    leaders: int = 8
    memory: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "window_s": (0.0, DAY_S),
            "gap_s": (0.0, DAY_S),
            "frames_per_hour": (0.0, 1e6),
            "bytes_per_day": (0.0, 1e15),
            "audit_share": (0.0, 1.0),
            "min_score": (0.0, math.inf),
            "repeat_bits": (-1, 64),
            "repeat_levels": (0, 255),
            "leaders": (1, 1000),
            "memory": (0, 10_000),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not (low <= value <= high):
                raise RulesError(f"selection.{name} must lie between {low:g} and {high:g}, not {value}")
        if 0 < self.frames_per_hour < 1:
            raise RulesError(f"selection.frames_per_hour must be 0 or at least 1, not {self.frames_per_hour}")


@dataclass(frozen=True, eq=False, slots=True)
class Candidate(Generic[T]):
    """A frame that asks to be kept. `reasons`: what its score rests on; `fingerprint` is asked only of frames that would lead."""

    item: T
    score: float
    strategy: str
    fingerprint: Callable[[], Fingerprint]
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """The frame leads its window, or is drawn for the audit, so far."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The frame is let go, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Keep:
    """The frame is worth a label, and why."""

    reasons: tuple[Reason, ...]
    score: float

    @property
    def audit(self) -> bool:
        """Whether it was drawn at random."""
        return any(reason.strategy == AUDIT for reason in self.reasons)


@dataclass(frozen=True, eq=False, slots=True)
class Verdict(Generic[T]):
    """What became of a frame that was held to the end of its window."""

    item: T
    decision: Keep | Skip


class SelectionState(msgspec.Struct, frozen=True, kw_only=True):
    """What a restart must not forget: both budgets and the audit's share of them."""

    v: int = 1
    frames: BudgetState
    sent: BudgetState
    audit: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class _Leader(Generic[T]):
    candidate: Candidate[T]
    at_s: float
    fingerprint: Fingerprint | None = None


class Selection(Generic[T]):
    """Pure judgement: `now_s` is when the frame was captured, and nothing is read or written.

    `offer` each frame, then `close` to learn what the window yields. Greedy by score inside the window is the exact top of it,
    which no rule that decides at once can reach; labels can wait for the window's end.
    """

    def __init__(self, rules: Rules = Rules(), state: SelectionState | None = None) -> None:
        self.rules = rules
        rate = rules.frames_per_hour / HOUR_S
        self._window_s = min(rules.window_s, rules.leaders / 2 / rate) if rate else rules.window_s
        burst = max(2.0, 2 * rate * self._window_s)
        self._frames = Budget(rules.frames_per_hour, HOUR_S, burst, state.frames if state else None)
        day = rules.bytes_per_day
        self._sent = Budget(day, DAY_S, max(day / 24, 2e6), state.sent if state else None)
        self._audit_limit = max(1.0, rules.audit_share * burst)
        self._audit = min(state.audit, self._audit_limit) if state else 0.0
        self._chance = random.Random(rules.seed)  # noqa: S311 (a sample, not a secret)
        self._recent: deque[tuple[float, Fingerprint]] = deque(maxlen=rules.memory)
        self._last_pick_s = -math.inf
        self._typical_bytes = 0.0
        self._start_s: float | None = None
        self._seen = 0
        self._leaders: list[_Leader[T]] = []
        self._drawn: list[_Leader[T]] = []
        self._draws = min(rules.leaders, math.ceil(self._audit_limit)) if rules.audit_share else 0

    @classmethod
    def from_state(cls, rules: Rules, state: SelectionState) -> Selection[T]:
        """Go on after a restart: nothing of the budgets is forgiven, nothing is given twice."""
        return cls(rules, state)

    def state(self) -> SelectionState:
        """What to store so that a restart cannot overspend."""
        return SelectionState(frames=self._frames.state(), sent=self._sent.state(), audit=self._audit)

    def offer(self, candidate: Candidate[T], now_s: float) -> Held | Skip:
        """Take a frame into the window, or say at once why not."""
        if self._start_s is None or now_s < self._start_s:
            self._start_s = now_s
        self._seen += 1
        drawn = self._draw(_Leader(candidate, now_s))
        reason = self._lead(candidate, now_s)
        return Held() if drawn or reason is None else Skip(reason)

    def close(self, now_s: float, size_of: Callable[[T], int], *, ending: bool = False) -> list[Verdict[T]]:
        """The window's verdicts once it is over, else nothing. `size_of` tells the bytes of a frame, asked only of picks.

        `ending` closes the window early, with what the budgets allow: before a stop.
        """
        passed_s = self._frames.advance(now_s)
        self._sent.advance(now_s)
        accrued = self.rules.audit_share * self.rules.frames_per_hour * passed_s / HOUR_S
        self._audit = min(self._audit_limit, self._audit + accrued)
        if self._start_s is None or not (ending or self._over(now_s)):
            return []
        slots = int(self._frames.available + 1 - _WHOLE)
        verdicts = self._audit_verdicts(slots, size_of)
        slots -= sum(isinstance(verdict.decision, Keep) for verdict in verdicts)
        taken = [verdict.item for verdict in verdicts]
        verdicts += self._greedy_verdicts(slots, size_of, taken)
        self._start_s, self._seen, self._leaders, self._drawn = now_s, 0, [], []
        return verdicts

    # ---- inside a window ---------------------------------------------------------------------------------------

    def _lead(self, candidate: Candidate[T], now_s: float) -> str | None:
        """Make the candidate a leader (None), or the reason why it is none."""
        rules = self.rules
        if not candidate.score > rules.min_score:
            return "nothing doubtful"
        if abs(now_s - self._last_pick_s) < rules.gap_s:
            return "too soon after a frame that was kept"
        rivals = [leader for leader in self._leaders if abs(now_s - leader.at_s) < rules.gap_s]
        if any(rival.candidate.score >= candidate.score for rival in rivals):
            return "beside a more doubtful frame"
        full = not rivals and len(self._leaders) >= rules.leaders
        if full and candidate.score <= self._leaders[-1].candidate.score:
            return "less doubtful than the window's leaders"
        seen = candidate.fingerprint()
        if self._repeats(seen):
            return "repeats a frame that was kept"
        kept = [leader for leader in self._leaders if leader not in rivals]
        kept = kept[: rules.leaders - 1]
        self._leaders = sorted([*kept, _Leader(candidate, now_s, seen)], key=_by_score, reverse=True)
        return None

    def _draw(self, leader: _Leader[T]) -> bool:
        """Reservoir sampling: each frame of the window is among the draws with the same probability (Vitter 1985, algorithm R)."""
        if len(self._drawn) < self._draws:
            self._drawn.append(leader)
            return True
        place = self._chance.randrange(self._seen)
        if place < self._draws:
            self._drawn[place] = leader
            return True
        return False

    def _over(self, now_s: float) -> bool:
        assert self._start_s is not None, "asked of an open window"
        if now_s - self._start_s < self._window_s:
            return False
        return self._frames.available >= _WHOLE and self._sent.available >= self._typical_bytes

    # ---- at its end --------------------------------------------------------------------------------------------

    def _audit_verdicts(self, slots: int, size_of: Callable[[T], int]) -> list[Verdict[T]]:
        count = min(int(self._audit + 1 - _WHOLE), slots, len(self._drawn))
        if count < 1:
            return []
        propensity = count / self._seen
        verdicts: list[Verdict[T]] = []
        for leader in self._chance.sample(self._drawn, count):
            own = leader.candidate
            reason = Reason(AUDIT, own.score, 0.0, propensity)
            if self._afford(own.item, size_of):
                self._audit -= 1
                self._remember(leader)
                verdicts.append(Verdict(own.item, Keep((reason, *own.reasons), own.score)))
            else:
                verdicts.append(Verdict(own.item, Skip("no bytes left in the budget")))
        return verdicts

    def _greedy_verdicts(self, slots: int, size_of: Callable[[T], int], taken: list[T]) -> list[Verdict[T]]:
        chosen: list[_Leader[T]] = []
        verdicts: list[Verdict[T]] = []
        cut = self.rules.min_score
        for leader in self._leaders:
            own = leader.candidate
            if any(own.item is item for item in taken):
                continue
            refusal = self._refusal(leader, slots - len(chosen), size_of)
            if refusal is None:
                chosen.append(leader)
                self._remember(leader)
            else:
                cut = max(cut, own.score) if refusal == _NO_FRAMES else cut
                verdicts.append(Verdict(own.item, Skip(refusal)))
        return [_kept(leader, cut) for leader in chosen] + verdicts

    def _refusal(self, leader: _Leader[T], slots: int, size_of: Callable[[T], int]) -> str | None:
        """Why this leader is not picked; None once its cost is paid."""
        if slots < 1:
            return _NO_FRAMES
        if any(abs(leader.at_s - at_s) < self.rules.gap_s for at_s, _ in self._recent):
            return "too close to a frame that was kept"
        if leader.fingerprint is not None and self._repeats(leader.fingerprint):
            return "repeats a frame that was kept"
        return None if self._afford(leader.candidate.item, size_of) else "no bytes left in the budget"

    def _afford(self, item: T, size_of: Callable[[T], int]) -> bool:
        size_bytes = size_of(item)
        if size_bytes > self._sent.available or self._frames.available < _WHOLE:
            return False
        self._frames.spend(min(1.0, self._frames.available))
        self._sent.spend(size_bytes)
        self._typical_bytes = size_bytes if not self._typical_bytes else 0.8 * self._typical_bytes + 0.2 * size_bytes
        return True

    def _remember(self, leader: _Leader[T]) -> None:
        self._last_pick_s = max(self._last_pick_s, leader.at_s)
        self._recent.append((leader.at_s, leader.fingerprint or leader.candidate.fingerprint()))

    def _repeats(self, seen: Fingerprint) -> bool:
        bits, levels = self.rules.repeat_bits, self.rules.repeat_levels
        return any(seen.repeats(old, bits, levels) for _, old in self._recent)


_NO_FRAMES: Final = "no frames left in the budget"


def _by_score(leader: _Leader[T]) -> float:
    return leader.candidate.score


def _kept(leader: _Leader[T], cut: float) -> Verdict[T]:
    own = leader.candidate
    reason = Reason(own.strategy, own.score, cut)
    return Verdict(own.item, Keep((reason, *own.reasons), own.score))
