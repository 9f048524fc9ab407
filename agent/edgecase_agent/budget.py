"""What may be spent: a token bucket paces it, and a sliding account forbids more than the limit in any stretch of the period."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

_SLOTS: Final = 240


class Spent(msgspec.Struct, array_like=True):
    """An amount that was spent between two moments that lie less than a slot apart."""

    first_s: float
    last_s: float
    amount: float


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as it is stored: what is left, when that was, and what was spent lately."""

    tokens: float
    at_s: float
    spent: list[Spent] = []


class Budget:
    """`limit` per `period_s`, refilled evenly, at most `burst` carried over; `now_s` is any clock that mostly goes forward.

    Never more than `limit` is spent in any stretch of `period_s`, and never more than `burst + limit × T / period_s` in any T
    seconds. A clock that is set back refills nothing and forgives nothing; one that is set forward refills `burst` at most.
    """

    def __init__(self, limit: float, period_s: float, burst: float, state: BudgetState | None = None) -> None:
        """Without a `state` to go on from, the bucket begins with `burst`."""
        self._limit = limit
        self._period_s = period_s
        self._burst = min(burst, limit)
        self._tokens = self._burst if state is None else min(max(state.tokens, 0.0), self._burst)
        self._at_s = None if state is None else state.at_s
        self._spent = deque(() if state is None else state.spent)

    def advance(self, now_s: float) -> float:
        """Let time pass until `now_s`; returns the seconds that passed."""
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        if self._at_s is not None and now_s < self._at_s:
            self._spent = deque(Spent(min(s.first_s, now_s), min(s.last_s, now_s), s.amount) for s in self._spent)
        self._at_s = now_s
        self._tokens = min(self._burst, self._tokens + self._limit * passed_s / self._period_s)
        while self._spent and self._spent[0].last_s <= now_s - self._period_s:
            self._spent.popleft()
        return passed_s

    @property
    def available(self) -> float:
        """What may be spent now."""
        return max(0.0, min(self._tokens, self._limit - sum(spent.amount for spent in self._spent)))

    def spend(self, amount: float) -> None:
        """Take `amount`, which must be available."""
        assert amount <= self.available + 1e-6, "spent without asking"
        assert self._at_s is not None, "spent before the clock was told"
        self._tokens = max(0.0, self._tokens - amount)
        if self._spent and self._at_s - self._spent[-1].first_s < self._period_s / _SLOTS:
            newest = self._spent[-1]
            newest.last_s, newest.amount = self._at_s, newest.amount + amount
        else:
            self._spent.append(Spent(self._at_s, self._at_s, amount))

    def state(self) -> BudgetState:
        """What a restart goes on from."""
        spent = [Spent(s.first_s, s.last_s, s.amount) for s in self._spent]
        return BudgetState(tokens=self._tokens, at_s=self._at_s or 0.0, spent=spent)
