"""Which frames are worth a label: of each stretch of time those whose expected errors lie on objects not sent yet, within exact budgets."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Annotated, Final, Generic, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgecase_agent.budget import Budget, BudgetState, Cost, Purse, PurseState
from edgecase_agent.context import Company, Context
from edgecase_agent.draws import Draws
from edgecase_agent.rules import DAY_S, Rules
from edgecase_agent.scoring import Novelty
from edgecase_models.fingerprint import Fingerprint
from edgecase_models.wire import Reason

T = TypeVar("T")

_DUST: Final = 1e-6  # what is filled by many small parts may miss a whole by rounding
_MOST_TRACKS: Final = 4096
_MOST_TIMES: Final = 4096
_MOST_REASONS: Final = 16  # that a message carries
_PICK_WEIGHT: Final = 1 / 16

AUDIT: Final = "audit"
CONTEXT: Final = "context"
UNCERTAINTY: Final = "uncertainty"
"""The kind of the picks by rank, in `Rules.quotas`."""


@dataclass(frozen=True, eq=False, slots=True)
class Candidate(Generic[T]):
    """A frame that asks to be kept.

    Its score is the sum of `errors` (N,), each on the object `tracks` (N,) names, 0 or less for none that could be sent before. `rank`
    is the share of recent frames that score lower. `reasons`: what else was seen in it; `called`: why triggers ask for it, each by its
    name. `boxes` are expected to be drawn by whoever labels it; `features` (D,) are the picture's, where the model has them. `fingerprint`
    is asked only of frames that would lead.
    """

    item: T
    errors: NDArray[np.floating]
    tracks: NDArray[np.int64]
    strategy: str
    fingerprint: Callable[[], Fingerprint]
    rank: float = 0.0
    reasons: tuple[Reason, ...] = ()
    called: tuple[Reason, ...] = ()
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
    """What a restart must not forget: the budgets, the audit's share of them, the quotas, and how many frames went with a pick of late."""

    v: Literal[2] = 2
    purse: PurseState
    audit: float = 0.0
    quotas: dict[str, BudgetState] = {}
    beside: Annotated[float, Meta(ge=0)] | None = None


@dataclass(eq=False, slots=True)
class _Leader(Generic[T]):
    """A frame that is held, on however many lists; what becomes of it is decided once."""

    candidate: Candidate[T]
    at_s: float
    score: float
    worth: float
    company: Company[T] | None = None
    fingerprint: Fingerprint | None = None
    decision: Keep[T] | Skip | None = None

    @property
    def kept(self) -> bool:
        return isinstance(self.decision, Keep)

    @property
    def sent(self) -> bool:
        """Kept, or gone with a pick."""
        return self.kept or (self.company is not None and self.company.own is not None and self.company.own.sent)

    @property
    def verdict(self) -> Verdict[T]:
        assert self.decision is not None, "asked of a frame that was decided on"
        return Verdict(self.candidate.item, self.decision)

    def keep(self, reason: Reason) -> None:
        """For this reason, and with everything else that holds of it."""
        reasons = {reason.strategy: reason}
        for other in (*self.candidate.reasons, *self.candidate.called):
            reasons.setdefault(other.strategy, other)
        self.decision = Keep(tuple(reasons.values())[:_MOST_REASONS], self.score)

    def let_go(self, why: str) -> None:
        """Unless it was kept for another reason, or is yet to be."""
        if self.decision is None:
            self.decision = Skip(why)


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
        self._context = Context(rules.context_frames, rules.context_before_s, rules.context_after_s, hold)
        self._window_s = self._length_s(rules.frames_per_s / (1 + self._context.most))
        burst = min(rules.leaders, 2 * self._window_s * min(rules.frames_per_s, 1e6))
        self._purse = Purse(rules.budget, max(1.0, 2 * self._window_s), state.purse if state else None)
        self._quotas = {
            name: Budget(quota.limit, quota.period_s, quota.limit, state.quotas.get(name) if state else None)
            for name, quota in {**rules.quotas, **rules.called}.items()
        }
        self._resting = {name: left for name, left in state.quotas.items() if name not in self._quotas} if state else {}
        self._precedence = sorted(rules.called, key=lambda name: -rules.called[name].priority)
        self._called_most = min(rules.leaders, 1 + math.ceil(burst))
        self._audit_limit = 1 + rules.audit_share * max(1.0, burst)
        self._audit = min(state.audit, self._audit_limit) if state else 0.0
        self._most_drawn = min(rules.leaders, int(self._audit_limit)) if rules.audit_share else 0
        self._beside = float(self._context.most) if state is None or state.beside is None else state.beside
        self._chance = random.Random(rules.seed)  # noqa: S311 (a sample, not a secret)
        self._recent: deque[Fingerprint] = deque(maxlen=rules.memory if rules.repeat_bits >= 0 else 0)
        self._novelty = Novelty(max(1, rules.memory))
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._picked_s: list[float] = []
        self._clock_s: float | None = None
        self._picks_per_s = self._purse.picks_per_s(self._beside)
        self._start_s: float | None = None
        self._leaders: list[_Leader[T]] = []
        self._asked: dict[str, list[_Leader[T]]] = {}
        self._drawn = self._draws()

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
        """What to store so that neither a restart nor other rules can overspend.

        A quota that these rules do not know is kept for the day that it may still be asked about.
        """
        now_s = self._clock_s or 0.0
        quotas = {name: left for name, left in self._resting.items() if now_s - left.at_s < DAY_S}
        quotas |= {name: quota.state() for name, quota in self._quotas.items()}
        return SelectionState(purse=self._purse.state(), audit=self._audit, quotas=quotas, beside=self._beside)

    def offer(self, candidate: Candidate[T], now_s: float) -> Held | Skip:
        """Take a frame into the window, or say at once why not."""
        if self._start_s is None or now_s < self._start_s:
            self._start_s = now_s
        passed = self._context.pass_by(candidate.item, now_s)
        score = candidate.score
        leader = _Leader(candidate, now_s, score, self._worth(candidate, score))
        called = self._call(leader)
        reason = self._lead(leader) if self.rules.by_rank else "only what is called for is kept"
        drawn = self._drawn.offer(leader, now_s - self._start_s)
        if drawn or called or reason is None:
            leader.company = self._context.beside(now_s, passed)
            return Held()
        return Skip(reason)

    def close(self, now_s: float, size_of: Callable[[T], int], *, ending: bool = False) -> list[Verdict[T]]:
        """The verdicts on the frames that the window holds, once it is over, and what goes with its picks and with earlier ones; before,
        nothing. `size_of` tells the bytes of a frame, asked only where the budget would have it.

        `ending` closes the window early, with what the budgets allow: before a stop.
        """
        self._advance(now_s)
        if self._start_s is None or not (ending or self._over(now_s)):
            return []
        self._picked_s = [at_s for at_s in self._picked_s if abs(now_s - at_s) < self.rules.gap_s][-_MOST_TIMES:]
        self._keep_drawn(size_of)
        for name in self._precedence:
            self._keep_called(name, size_of)
        self._keep_leaders(size_of)
        called = (leader for name in self._precedence for leader in self._asked.get(name, ()))
        held = dict.fromkeys((*self._drawn, *called, *self._leaders))
        self._start_s, self._leaders, self._asked = now_s, [], {}
        beside = self._accompany(now_s, size_of)
        self._picks_per_s = self._purse.picks_per_s(self._beside)  # what picks cost of late is known anew
        self._drawn = self._draws()
        if ending:
            self._context.end()
        kept = [each.verdict for each in held if each.kept]
        return kept + beside + [each.verdict for each in held if each.decision and not each.sent]

    # ---- inside a window ---------------------------------------------------------------------------------------

    def _worth(self, candidate: Candidate[T], score: float) -> float:
        """u = Σ e · γ^(errors of the same object that were sent) · novelty^α."""
        rules, worth = self.rules, score
        if self._sent and rules.track_discount < 1 and len(candidate.tracks):
            sent = [self._sent.get(track, 0.0) for track in candidate.tracks.tolist()]
            worth = float((candidate.errors * rules.track_discount ** np.array(sent)).sum(dtype=np.float64))
        if rules.novelty_weight and candidate.features is not None:
            worth *= self._novelty.of(candidate.features) ** rules.novelty_weight
        return worth

    def _lead(self, leader: _Leader[T]) -> str | None:
        """Make the frame a leader (None), or the reason why it is none."""
        if not leader.score > self.rules.min_score:
            return "nothing doubtful"
        if self._too_close(leader):
            return "too soon after a frame that was kept"
        reason, self._leaders = self._among(leader, self._leaders, self.rules.leaders)
        return reason

    def _call(self, leader: _Leader[T]) -> bool:
        """Put the frame on the lists of the triggers that ask for it. A list is as long as what a window can yield."""
        led = False
        for name in (reason.strategy for reason in leader.candidate.called):
            if name in self.rules.called and not self._too_close(leader):
                asked = self._asked.get(name, [])
                reason, self._asked[name] = self._among(leader, asked, self._called_most)
                led = led or reason is None
        return led

    def _among(self, leader: _Leader[T], leaders: list[_Leader[T]], most: int) -> tuple[str | None, list[_Leader[T]]]:
        """The leaders with this one among them, or as they were and why.

        Of each stretch of `gap_s` the one that is worth most leads. Stretches are fixed, for a rival that only lay near would be replaced
        again and again while doubt rises, and leave nothing of the way.
        """
        gap_s = self.rules.gap_s
        rival = next((other for other in leaders if gap_s and other.at_s // gap_s == leader.at_s // gap_s), None)
        if rival is not None and rival.worth >= leader.worth:
            return "beside a more doubtful frame", leaders
        if rival is None and len(leaders) >= most and leader.worth <= leaders[-1].worth:
            return "less doubtful than the window's leaders", leaders
        if self._repeats(leader):
            return "repeats a frame that was kept", leaders
        others = [other for other in leaders if other is not rival][: most - 1]
        return None, sorted([*others, leader], key=lambda each: each.worth, reverse=True)

    def _draws(self) -> Draws[_Leader[T]]:
        """For the window that begins: as many strata as it should yield random picks."""
        length_s = min(self._window_s, self._length_s(self._picks_per_s))
        due = self.rules.audit_share * self._picks_per_s * length_s
        strata = max(1, round(min(self._most_drawn, due)))
        return Draws(self._most_drawn, strata, length_s / strata, self._chance)

    def _advance(self, now_s: float) -> None:
        passed_s = 0.0 if self._clock_s is None else max(0.0, now_s - self._clock_s)
        self._clock_s = now_s
        self._purse.advance(now_s)
        for quota in self._quotas.values():
            quota.advance(now_s)
        if passed_s and self.rules.audit_share:
            earned = self.rules.audit_share * self._picks_per_s * passed_s
            self._audit = min(self._audit_limit, self._audit + earned)

    def _over(self, now_s: float) -> bool:
        assert self._start_s is not None, "asked of an open window"
        passed_s = now_s - self._start_s
        if passed_s < self._window_s and passed_s < self._length_s(self._picks_per_s):
            return False
        return self._purse.frames_available >= 1

    def _length_s(self, picks_per_s: float) -> float:
        """How long a window lasts that yields half as many picks as are held, and no longer than the rules say."""
        if not 0 < picks_per_s < math.inf:
            return self.rules.window_s
        return min(self.rules.window_s, self.rules.leaders / 2 / picks_per_s)

    # ---- at its end --------------------------------------------------------------------------------------------

    def _keep_drawn(self, size_of: Callable[[T], int]) -> None:
        """The random picks. How many is known before any of them is looked at, so that each frame's chance is; one that cannot be paid
        is not made up for by another.
        """
        room = min((quota.available for quota in self._quotas_of(AUDIT)), default=math.inf)
        count = int(min(self._audit + _DUST, self._purse.frames_available, room, len(self._drawn)))
        for leader, propensity in self._drawn.choose(max(0, count)):
            refusal = self._pay(leader, AUDIT, size_of)
            if refusal is None:
                self._audit -= 1
                leader.keep(Reason(AUDIT, leader.score, 0.0, propensity, leader.candidate.rank))
            else:
                leader.let_go(refusal)

    def _keep_called(self, name: str, size_of: Callable[[T], int]) -> None:
        """What one trigger asked for: its best, as many as its quota and the budget allow."""
        for leader in self._asked.get(name, []):
            if leader.kept:
                continue
            refusal = self._refused(leader, name) or self._pay(leader, name, size_of)
            if refusal is None:
                leader.keep(next(reason for reason in leader.candidate.called if reason.strategy == name))
            else:
                leader.let_go(refusal)

    def _keep_leaders(self, size_of: Callable[[T], int]) -> None:
        """Greedy: the leader that is worth most now, until the budget or the window has no more.

        A leader's worth falls only with what is picked, so that the first of those that were worth most before is found without asking
        all others again (Minoux 1978).
        """
        queue = [(-leader.worth, place) for place, leader in enumerate(self._leaders) if not leader.kept]
        heapify(queue)
        chosen: list[_Leader[T]] = []
        others: list[_Leader[T]] = []
        cut = self.rules.min_score
        while queue:
            place = heappop(queue)[1]
            leader = self._leaders[place]
            leader.worth = self._worth(leader.candidate, leader.score)
            if queue and leader.worth < -queue[0][0]:
                heappush(queue, (-leader.worth, place))
                continue
            refusal = self._refused(leader, UNCERTAINTY)
            if refusal is None:
                refusal = self._pay(leader, UNCERTAINTY, size_of)
                cut = max(cut, leader.worth) if refusal else cut
            if refusal is None:
                chosen.append(leader)
            else:
                others.append(leader)
                leader.let_go(refusal)
        for leader in chosen:
            leader.keep(Reason(leader.candidate.strategy, leader.score, cut, rank=leader.candidate.rank))
        self._leaders = chosen + others

    def _refused(self, leader: _Leader[T], kind: str) -> str | None:
        """Why the frame is not to be picked, whatever the budget has."""
        if self._too_close(leader):
            return "too close to a frame that was kept"
        if self._repeats(leader):
            return "repeats a frame that was kept"
        used_up = any(quota.available < 1 for quota in self._quotas_of(kind))
        return f"the quota of {kind} is used up" if used_up else None

    def _pay(self, leader: _Leader[T], kind: str, size_of: Callable[[T], int]) -> str | None:
        """Spend what the frame costs, or say what the budget lacks. Its size is asked only if a frame of any size could be paid."""
        own = leader.candidate
        refusal = self._purse.refusal(Cost(1, own.boxes))
        if refusal is None:
            cost = Cost(size_of(own.item), own.boxes)
            refusal = self._purse.refusal(cost)
        if refusal is not None:
            return refusal
        self._purse.spend(cost)
        for quota in self._quotas_of(kind):
            quota.spend(1.0)
        self._beside *= 1 - _PICK_WEIGHT
        self._context.pick(own.item, leader.company)
        self._remember(leader)
        return None

    def _quotas_of(self, kind: str) -> Iterable[Budget]:
        """The quota of one trigger, and that of all of its kind."""
        return [self._quotas[name] for name in {kind, kind.partition(":")[0]} if name in self._quotas]

    def _remember(self, leader: _Leader[T]) -> None:
        own = leader.candidate
        self._picked_s.append(leader.at_s)
        if self._recent.maxlen:
            self._recent.append(self._fingerprint(leader))
        if own.features is not None:
            self._novelty.remember(own.features)
        for track, error in zip(own.tracks.tolist(), own.errors.tolist(), strict=True):
            if track > 0:
                self._sent[track] = self._sent.pop(track, 0.0) + min(1.0, 2 * error)
        while len(self._sent) > _MOST_TRACKS:
            self._sent.popitem(last=False)

    def _too_close(self, leader: _Leader[T]) -> bool:
        return any(abs(leader.at_s - at_s) < self.rules.gap_s for at_s in self._picked_s)

    def _repeats(self, leader: _Leader[T]) -> bool:
        if not self._recent:
            return False
        seen, rules = self._fingerprint(leader), self.rules
        return any(seen.repeats(old, rules.repeat_bits, rules.repeat_levels) for old in self._recent)

    @staticmethod
    def _fingerprint(leader: _Leader[T]) -> Fingerprint:
        if leader.fingerprint is None:
            leader.fingerprint = leader.candidate.fingerprint()
        return leader.fingerprint

    def _accompany(self, now_s: float, size_of: Callable[[T], int]) -> list[Verdict[T]]:
        """The frames beside the picks, as many as the limits still allow: they are sent, and nobody need label them."""
        verdicts: list[Verdict[T]] = []
        for one in self._context.settle(now_s):
            cost = Cost(size_of(one.item), 0.0)
            if self._purse.refusal(cost, beside=True) is None:
                self._purse.spend(cost, beside=True)
                self._beside += _PICK_WEIGHT
                reason = Reason(CONTEXT, one.offset_s, 0.0)
                verdicts.append(Verdict(one.item, Keep((reason,), 0.0, one.pick)))
        return verdicts
