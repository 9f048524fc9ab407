"""Which frames are worth a label: of each stretch of time those whose expected errors lie on objects not sent yet, within exact budgets."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecase_agent.budget import Budget, BudgetState, Cost, Purse, PurseState
from edgecase_agent.context import Beside, Context
from edgecase_agent.fingerprint import Fingerprint
from edgecase_agent.rules import Rules
from edgecase_agent.scoring import Novelty
from edgecase_models.wire import Reason

T = TypeVar("T")

_WHOLE: Final = 1 - 1e-6  # what is filled by many small parts may miss a whole by rounding
_MOST_TRACKS: Final = 4096

AUDIT: Final = "audit"
CONTEXT: Final = "context"


@dataclass(frozen=True, eq=False, slots=True)
class Candidate(Generic[T]):
    """A frame that asks to be kept.

    Its score is the sum of `errors` (N,), each on the object `tracks` (N,) names, 0 or less for none that could be sent before. `rank`
    is the share of recent frames that score lower. `reasons`: what else was seen in it; `called`: the triggers that ask for it by name.
    `boxes` are expected to be drawn by whoever labels it; `features` (D,) are the picture's, where the model has them. `fingerprint` is
    asked only of frames that would lead.
    """

    item: T
    errors: NDArray[np.floating]
    tracks: NDArray[np.int64]
    strategy: str
    fingerprint: Callable[[], Fingerprint]
    rank: float = 0.0
    reasons: tuple[Reason, ...] = ()
    called: tuple[str, ...] = ()
    boxes: float = 0.0
    features: NDArray[np.float32] | None = None

    @property
    def score(self) -> float:
        """How doubtful the frame is, whatever was sent before."""
        return float(self.errors.sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Held:
    """The frame leads its window, or is drawn for the audit, so far."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The frame is let go, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Keep(Generic[T]):
    """The frame is worth a label, and why. `beside`: the pick that it is context of, None for a pick."""

    reasons: tuple[Reason, ...]
    score: float
    beside: T | None = None

    @property
    def audit(self) -> bool:
        """Whether it was drawn at random."""
        return any(reason.strategy == AUDIT for reason in self.reasons)


@dataclass(frozen=True, eq=False, slots=True)
class Verdict(Generic[T]):
    """What became of a frame that was held to the end of its window."""

    item: T
    decision: Keep[T] | Skip


class SelectionState(msgspec.Struct, frozen=True, kw_only=True):
    """What a restart must not forget: the budgets, the audit's share of them, and the quotas."""

    v: int = 2
    purse: PurseState
    audit: float = 0.0
    quotas: dict[str, BudgetState] = {}


@dataclass(eq=False, slots=True)
class _Leader(Generic[T]):
    candidate: Candidate[T]
    at_s: float
    worth: float
    fingerprint: Fingerprint | None = None


class Selection(Generic[T]):
    """Pure judgement: `now_s` is when the frame was captured, and nothing is read or written.

    `offer` each frame, then `close` to learn what the window yields. The sum of a set's discounted errors is monotone and submodular, so
    picking greedily inside the window is within 1 - 1/e of the best that the window holds (Nemhauser et al. 1978).
    """

    def __init__(
        self, rules: Rules = Rules(), state: SelectionState | None = None, hold: Callable[[T], T] = lambda item: item
    ) -> None:
        """`hold` makes of a frame what is held of it as possible context, see `Context`."""
        self.rules = rules
        rate = rules.frames_per_s
        self._window_s = min(rules.window_s, rules.leaders / 2 / rate) if rate > 0 else rules.window_s
        self._purse = Purse(rules.budget, 2 * self._window_s, state.purse if state else None)
        self._quotas = {
            name: Budget(quota.limit, quota.period_s, quota.limit, state.quotas.get(name) if state else None)
            for name, quota in rules.called.items()
        }
        self._audit_limit = max(1.0, rules.audit_share * 2 * self._window_s * min(rate, 1e6))
        self._audit = min(state.audit, self._audit_limit) if state else 0.0
        self._draws = min(rules.leaders, math.ceil(self._audit_limit)) if rules.audit_share else 0
        self._chance = random.Random(rules.seed)  # noqa: S311 (a sample, not a secret)
        self._recent: deque[tuple[float, Fingerprint]] = deque(maxlen=rules.memory)
        self._novelty = Novelty(max(1, rules.memory))
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._last_pick_s = -math.inf
        self._clock_s: float | None = None
        self._start_s: float | None = None
        self._seen = 0
        self._leaders: list[_Leader[T]] = []
        self._asked: dict[str, list[_Leader[T]]] = {}
        self._drawn: list[_Leader[T]] = []
        spans_s = rules.context_before_s, rules.context_after_s
        self._context = Context(rules.context_frames, *spans_s, self._window_s, hold)
        self._beside: list[Beside[T]] = []

    @property
    def chance(self) -> random.Random:
        """What the random picks are drawn from; the seed of the rules makes it repeatable."""
        return self._chance

    def novelty(self, features: NDArray[np.float32] | None) -> float:
        """How unlike the picks of late a picture is, in [0, 1]; 0 where the model gives no features."""
        return 0.0 if features is None else self._novelty.of(features)

    def forget_features(self) -> None:
        """Compare the next pictures with none: their features come from another model."""
        self._novelty.forget()

    @classmethod
    def from_state(cls, rules: Rules, state: SelectionState) -> Selection[T]:
        """Go on after a restart: nothing of the budgets is forgiven, nothing is given twice."""
        return cls(rules, state)

    def state(self) -> SelectionState:
        """What to store so that a restart cannot overspend."""
        quotas = {name: quota.state() for name, quota in self._quotas.items()}
        return SelectionState(purse=self._purse.state(), audit=self._audit, quotas=quotas)

    def offer(self, candidate: Candidate[T], now_s: float) -> Held | Skip:
        """Take a frame into the window, or say at once why not."""
        if self._start_s is None or now_s < self._start_s:
            self._start_s = now_s
        self._seen += 1
        self._beside += self._context.pass_by(candidate.item, now_s)
        leader = _Leader(candidate, now_s, self._worth(candidate))
        drawn = self._draw(leader)
        called = self._call(leader)
        reason = self._lead(leader) if self.rules.by_rank else "only what is called for is kept"
        return Held() if drawn or called or reason is None else Skip(reason)

    def close(self, now_s: float, size_of: Callable[[T], int], *, ending: bool = False) -> list[Verdict[T]]:
        """The window's verdicts once it is over, else nothing but what followed earlier picks. `size_of` tells the bytes of a frame,
        asked only of picks.

        `ending` closes the window early, with what the budgets allow: before a stop.
        """
        self._advance(now_s)
        if self._start_s is None or not (ending or self._over(now_s)):
            return self._accompany(size_of)
        verdicts = self._audits(size_of)
        taken = [verdict.item for verdict in verdicts if isinstance(verdict.decision, Keep)]
        for name in sorted(self._asked, key=lambda name: -self.rules.called[name].priority):
            verdicts += self._called(name, size_of, taken)
        verdicts += self._ranked(size_of, taken)
        self._start_s, self._seen, self._leaders, self._drawn, self._asked = now_s, 0, [], [], {}
        if ending:
            self._context.end()
        return verdicts + self._accompany(size_of)

    # ---- inside a window ---------------------------------------------------------------------------------------

    def _worth(self, candidate: Candidate[T]) -> float:
        """u = Σ e · γ^(errors of the same object that were sent) · novelty^α."""
        worth = candidate.score
        discount = self.rules.track_discount
        if self._sent and discount < 1:
            sent = np.array([self._sent.get(track, 0.0) for track in candidate.tracks.tolist()])
            worth = float((candidate.errors * discount**sent).sum(dtype=np.float64))
        if self.rules.novelty_weight and candidate.features is not None:
            worth *= self._novelty.of(candidate.features) ** self.rules.novelty_weight
        return worth

    def _lead(self, leader: _Leader[T]) -> str | None:
        """Make the frame a leader (None), or the reason why it is none."""
        rules, now_s = self.rules, leader.at_s
        if not leader.candidate.score > rules.min_score:
            return "nothing doubtful"
        if abs(now_s - self._last_pick_s) < rules.gap_s:
            return "too soon after a frame that was kept"
        reason, self._leaders = self._among(leader, self._leaders)
        return reason

    def _call(self, leader: _Leader[T]) -> bool:
        """Put the frame on the lists of the triggers that ask for it."""
        led = False
        for name in leader.candidate.called:
            if name in self._quotas:
                reason, self._asked[name] = self._among(leader, self._asked.get(name, []))
                led = led or reason is None
        return led

    def _among(self, leader: _Leader[T], leaders: list[_Leader[T]]) -> tuple[str | None, list[_Leader[T]]]:
        """The leaders with this one among them, or as they were and why."""
        rules = self.rules
        rivals = [other for other in leaders if abs(leader.at_s - other.at_s) < rules.gap_s]
        if any(rival.worth >= leader.worth for rival in rivals):
            return "beside a more doubtful frame", leaders
        full = not rivals and len(leaders) >= rules.leaders
        if full and leader.worth <= leaders[-1].worth:
            return "less doubtful than the window's leaders", leaders
        if self._repeats(leader):
            return "repeats a frame that was kept", leaders
        others = [other for other in leaders if other not in rivals][: rules.leaders - 1]
        return None, sorted([*others, leader], key=lambda each: each.worth, reverse=True)

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

    def _advance(self, now_s: float) -> None:
        passed_s = 0.0 if self._clock_s is None else max(0.0, now_s - self._clock_s)
        self._clock_s = now_s
        self._purse.advance(now_s)
        for quota in self._quotas.values():
            quota.advance(now_s)
        self._audit = min(self._audit_limit, self._audit + self.rules.audit_share * self._purse.frames_per_s * passed_s)

    def _over(self, now_s: float) -> bool:
        assert self._start_s is not None, "asked of an open window"
        return now_s - self._start_s >= self._window_s and self._purse.frames_available >= _WHOLE

    # ---- at its end --------------------------------------------------------------------------------------------

    def _audits(self, size_of: Callable[[T], int]) -> list[Verdict[T]]:
        slots = min(self._purse.frames_available, 1e6)
        count = min(int(self._audit + 1 - _WHOLE), int(slots + 1 - _WHOLE), len(self._drawn))
        if count < 1:
            return []
        propensity = count / self._seen
        verdicts: list[Verdict[T]] = []
        for leader in self._chance.sample(self._drawn, count):
            own = leader.candidate
            refusal = self._pay(leader, size_of)
            if refusal is None:
                self._audit -= 1
                reason = Reason(AUDIT, own.score, 0.0, propensity, rank=own.rank)
                verdicts.append(Verdict(own.item, Keep((reason, *own.reasons), own.score)))
            else:
                verdicts.append(Verdict(own.item, Skip(refusal)))
        return verdicts

    def _called(self, name: str, size_of: Callable[[T], int], taken: list[T]) -> list[Verdict[T]]:
        """What one trigger asked for: its best, as many as its quota and the budget allow."""
        quota, verdicts = self._quotas[name], []
        for leader in self._asked[name]:
            own = leader.candidate
            if any(own.item is item for item in taken) or self._too_close(leader):
                continue
            refusal = f"the quota of {name} is used up" if quota.available < _WHOLE else self._pay(leader, size_of)
            if refusal is None:
                quota.spend(1.0)
                taken.append(own.item)
                reason = Reason(name, own.score, 0.0, rank=own.rank)
                verdicts.append(Verdict(own.item, Keep((reason, *own.reasons), own.score)))
            else:
                verdicts.append(Verdict(own.item, Skip(refusal)))
        return verdicts

    def _ranked(self, size_of: Callable[[T], int], taken: list[T]) -> list[Verdict[T]]:
        """Greedy: the leader that is worth most now, until the budget or the window has no more."""
        left = [leader for leader in self._leaders if not any(leader.candidate.item is item for item in taken)]
        chosen: list[_Leader[T]] = []
        verdicts: list[Verdict[T]] = []
        cut = self.rules.min_score
        while left:
            for leader in left:
                leader.worth = self._worth(leader.candidate)
            leader = max(left, key=lambda each: each.worth)
            left.remove(leader)
            refusal = "too close to a frame that was kept" if self._too_close(leader) else None
            refusal = refusal or ("repeats a frame that was kept" if self._repeats(leader) else None)
            if refusal is None:
                refusal = self._pay(leader, size_of)
                cut = max(cut, leader.worth) if refusal else cut
            if refusal is None:
                chosen.append(leader)
            else:
                verdicts.append(Verdict(leader.candidate.item, Skip(refusal)))
        return [_kept(leader, cut) for leader in chosen] + verdicts

    def _pay(self, leader: _Leader[T], size_of: Callable[[T], int]) -> str | None:
        """Keep the frame and what goes with it, or say what the budget lacks."""
        own = leader.candidate
        refusal = self._spend(Cost(size_of(own.item), own.boxes))
        if refusal is None:
            self._remember(leader)
            self._beside += self._context.around(own.item, leader.at_s)
        return refusal

    def _spend(self, cost: Cost) -> str | None:
        refusal = self._purse.refusal(cost)
        if refusal is None:
            self._purse.spend(cost)
        return refusal

    def _remember(self, leader: _Leader[T]) -> None:
        own = leader.candidate
        self._last_pick_s = max(self._last_pick_s, leader.at_s)
        self._recent.append((leader.at_s, self._fingerprint(leader)))
        if own.features is not None:
            self._novelty.remember(own.features)
        for track, error in zip(own.tracks.tolist(), own.errors.tolist(), strict=True):
            if track > 0:
                self._sent[track] = self._sent.pop(track, 0.0) + min(1.0, 2 * error)
        while len(self._sent) > _MOST_TRACKS:
            self._sent.popitem(last=False)

    def _too_close(self, leader: _Leader[T]) -> bool:
        return any(abs(leader.at_s - at_s) < self.rules.gap_s for at_s, _ in self._recent)

    def _repeats(self, leader: _Leader[T]) -> bool:
        rules = self.rules
        if rules.repeat_bits < 0 or not self._recent:
            return False
        seen = self._fingerprint(leader)
        return any(seen.repeats(old, rules.repeat_bits, rules.repeat_levels) for _, old in self._recent)

    @staticmethod
    def _fingerprint(leader: _Leader[T]) -> Fingerprint:
        if leader.fingerprint is None:
            leader.fingerprint = leader.candidate.fingerprint()
        return leader.fingerprint

    def _accompany(self, size_of: Callable[[T], int]) -> list[Verdict[T]]:
        """The frames beside the picks, as many as the budgets still allow: they are sent, and nobody need label them."""
        verdicts: list[Verdict[T]] = []
        for one in self._beside:
            if self._spend(Cost(size_of(one.item), 0.0)) is None:
                reason = Reason(CONTEXT, one.offset_s, 0.0)
                verdicts.append(Verdict(one.item, Keep((reason,), 0.0, one.pick)))
        self._beside = []
        return verdicts


def _kept(leader: _Leader[T], cut: float) -> Verdict[T]:
    own = leader.candidate
    reason = Reason(own.strategy, own.score, cut, rank=own.rank)
    return Verdict(own.item, Keep((reason, *own.reasons), own.score))
