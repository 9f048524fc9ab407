"""What may be spent: an account forbids more than the limit in any stretch of its period, and a bucket spreads it evenly.

Amounts are counted in whole millionths; what is spent is rounded up and what is left rounded down, so no sum drifts. Times of a clock
that lags a little, as with frames of several cameras, count as the latest that was seen; a clock that is set back further refills
nothing and forgives nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from edgecase_models.policy import PERIODS_S

CURRENCIES: Final = ("frames", "bytes", "boxes")
Allowance = Mapping[str, Mapping[str, float | None]]
"""The limit of each currency in each period; one that is missing or None is no limit."""

_PARTS: Final = 1_000_000
_SLOTS: Final = 240
_LATE_S: Final = 5.0
_EASE: Final = 0.99
_SLACK: Final = 1 / 24


class BudgetError(ValueError):
    """A limit or a cost that makes no sense; the message names it and its cure."""


# ---- exact amounts and times -------------------------------------------------------------------------------------------


def _parts_up(amount: float) -> int:
    over, under = amount.as_integer_ratio()
    return -(-over * _PARTS // under)


def _parts_down(amount: float) -> int:
    over, under = amount.as_integer_ratio()
    return over * _PARTS // under


def _parts_stored(amount: float) -> int:
    """The parts of an amount that `_units` wrote: the nearest, which is the very number."""
    over, under = amount.as_integer_ratio()
    return (2 * over * _PARTS + under) // (2 * under)


def _units(parts: int) -> float:
    return parts / _PARTS


def _reached(now_s: float, at_s: float | None) -> float:
    """The moment that the clock has reached, having shown `at_s` before."""
    return at_s if at_s is not None and now_s < at_s <= now_s + _LATE_S else now_s


def _passed_us(now_s: float, at_s: float | None) -> int:
    return 0 if at_s is None else max(0, round(now_s * 1e6) - round(at_s * 1e6))


# ---- what forbids, and what spreads --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Slot:
    """What was spent between two moments less than a slot apart, in parts of each currency."""

    first_s: float
    last_s: float
    amounts: list[int]


class _Account:
    """What was spent within the last `period_s`, in parts of each currency, from at most some 240 slots.

    What shares a slot leaves the account with the last of it: late by less than 1/240 of the period, never early.
    """

    def __init__(self, period_s: float, currencies: int, slots: Iterable[_Slot] = ()) -> None:
        self._period_s = period_s
        self._slots = deque(sorted(slots, key=lambda slot: slot.last_s))
        self.totals = [sum(slot.amounts[currency] for slot in self._slots) for currency in range(currencies)]

    @property
    def slots(self) -> Iterable[_Slot]:
        """The oldest first."""
        return self._slots

    def advance(self, now_s: float) -> None:
        slots = self._slots
        if slots and slots[-1].last_s > now_s:
            self._set_back(now_s)
        while slots and slots[0].last_s <= now_s - self._period_s:
            for currency, amount in enumerate(slots.popleft().amounts):
                self.totals[currency] -= amount

    def spend(self, now_s: float, amounts: Sequence[int]) -> None:
        if not (self._slots and now_s - self._slots[-1].first_s < self._period_s / _SLOTS):
            self._slots.append(_Slot(now_s, now_s, [0] * len(amounts)))
        newest = self._slots[-1]
        newest.last_s = now_s
        for currency, amount in enumerate(amounts):
            newest.amounts[currency] += amount
            self.totals[currency] += amount

    def _set_back(self, now_s: float) -> None:
        """What lies in the future now was spent before this moment: it counts as spent just now, in one slot."""
        later: list[_Slot] = []
        while self._slots and self._slots[-1].last_s > now_s:
            later.append(self._slots.pop())
        amounts = [sum(column) for column in zip(*(slot.amounts for slot in later), strict=True)]
        self._slots.append(_Slot(min(later[-1].first_s, now_s), now_s, amounts))


class _Bucket:
    """Credit that grows by `limit` parts in `over_us`, exactly, up to `most` (in parts × `over_us`); it may be overdrawn."""

    def __init__(self, limit: int, over_us: int, most: int, level: int | None) -> None:
        """A `level` of None is `most`."""
        self._limit = limit
        self._over_us = over_us
        self._most = most
        self._credit = most if level is None else min(most, level * over_us)

    @property
    def level(self) -> int:
        """The credit in whole parts, below 0 while anything is owed."""
        return self._credit // self._over_us

    def advance(self, passed_us: int) -> None:
        self._credit = min(self._most, self._credit + self._limit * passed_us)

    def take(self, amount: int) -> None:
        self._credit -= amount * self._over_us


# ---- one currency, one period --------------------------------------------------------------------------------------------


class Spent(msgspec.Struct, frozen=True, array_like=True):
    """An amount that was spent between two moments that lie less than a slot apart."""

    first_s: float
    last_s: float
    amount: Annotated[float, Meta(ge=0)]


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
        self._limit = _parts_down(limit)
        self._at_s = None if state is None else state.at_s
        over_us, most = round(period_s * 1e6), _parts_down(min(burst, limit))
        level = most if state is None else _parts_stored(state.tokens)
        self._bucket = _Bucket(self._limit, over_us, most * over_us, level)
        slots = [] if state is None else [_Slot(s.first_s, s.last_s, [_parts_stored(s.amount)]) for s in state.spent]
        self._account = _Account(period_s, 1, slots)

    def advance(self, now_s: float) -> float:
        """Let time pass until `now_s`; returns the seconds that passed."""
        now_s = _reached(now_s, self._at_s)
        passed_us = _passed_us(now_s, self._at_s)
        self._at_s = now_s
        self._bucket.advance(passed_us)
        self._account.advance(now_s)
        return passed_us / 1e6

    @property
    def available(self) -> float:
        """What may be spent now: rounded down, so that all of it can be."""
        parts = max(0, min(self._bucket.level, self._limit - self._account.totals[0]))
        amount = _units(parts)
        return amount if _parts_up(amount) <= parts else math.nextafter(amount, 0.0)

    def spend(self, amount: float) -> None:
        """Take `amount`, which must be available."""
        parts = _parts_up(amount)
        assert parts <= min(self._bucket.level, self._limit - self._account.totals[0]), "spent without asking"
        assert self._at_s is not None, "spent before the clock was told"
        self._bucket.take(parts)
        self._account.spend(self._at_s, [parts])

    def state(self) -> BudgetState:
        """What a restart goes on from."""
        spent = [Spent(slot.first_s, slot.last_s, _units(slot.amounts[0])) for slot in self._account.slots]
        return BudgetState(tokens=_units(self._bucket.level), at_s=self._at_s or 0.0, spent=spent)


class Cap:
    """At most `limit` in any stretch of `period_s`, as fast as it comes. What is charged beyond it is paid back before more is allowed."""

    def __init__(self, limit: int, period_s: float, spent: Iterable[Spent] = ()) -> None:
        """`spent` is what a restart goes on from."""
        self.limit = limit
        self._account = _Account(period_s, 1, [_Slot(s.first_s, s.last_s, [_parts_stored(s.amount)]) for s in spent])
        self._at_s = 0.0

    def advance(self, now_s: float) -> None:
        """Let time pass until `now_s`, on a clock that only goes forward."""
        self._at_s = now_s
        self._account.advance(now_s)

    @property
    def available(self) -> int:
        """Negative while more was charged than allowed."""
        return self.limit - self._account.totals[0] // _PARTS

    def charge(self, amount: int) -> None:
        """Count it, whether there is room or not."""
        if amount:
            self._account.spend(self._at_s, [amount * _PARTS])

    def spent(self) -> list[Spent]:
        """The oldest first."""
        return [Spent(slot.first_s, slot.last_s, _units(slot.amounts[0])) for slot in self._account.slots]


# ---- three currencies, four periods --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """What keeping one pick costs: bytes to send, boxes that a person is expected to draw, and frames."""

    bytes: int
    boxes: float
    frames: int = 1

    def __post_init__(self) -> None:
        if min(self.bytes, self.frames) < 0 or not 0 <= self.boxes < math.inf:
            raise BudgetError(f"a cost must be finite and not negative, not {self}")

    @property
    def parts(self) -> tuple[int, int, int]:
        """In millionths, in the order of `CURRENCIES`."""
        return self.frames * _PARTS, self.bytes * _PARTS, _parts_up(self.boxes)


class SpentTogether(msgspec.Struct, frozen=True, array_like=True):
    """What was spent of each currency between two moments that lie less than a slot apart."""

    first_s: float
    last_s: float
    frames: Annotated[int, Meta(ge=0)]
    bytes: Annotated[int, Meta(ge=0)]
    boxes: Annotated[float, Meta(ge=0)]


class PurseState(msgspec.Struct, frozen=True, kw_only=True):
    """A purse as it is stored: when, the credit of each currency that is spread, what a frame usually costs, what was spent by period."""

    v: Literal[1] = 1
    at_s: float | None = None
    credit: dict[str, float] = {}
    usual_bytes: Annotated[float, Meta(ge=0)] = 0.0
    usual_boxes: Annotated[float, Meta(ge=0)] = 0.0
    spent: dict[str, list[SpentTogether]] = {}


@dataclass(frozen=True, slots=True)
class _Limit:
    currency: int
    period: str
    parts: int

    @property
    def parts_per_s(self) -> float:
        return self.parts / PERIODS_S[self.period]

    def __str__(self) -> str:
        return f"{CURRENCIES[self.currency]} left this {self.period}"


class Purse:
    """Frames, bytes and boxes to label, each limited by minute, hour, day and month; `now_s` is when a frame was captured.

    The rule. Every limit *forbids*: in any stretch of its period (the moment at its beginning not included) no more than the limit is
    spent, exactly, whatever came before. For each currency the limit with the lowest rate also *spreads*: its credit grows evenly, and
    nothing of the currency is spent while any of it is owed. A pick may overdraw the credit by its own cost, so that a large frame waits
    no longer than a small one, and what it overdrew grows back before the next. What goes with a pick that was paid may overdraw it too.

    The burst. Credit for frames is kept up to `carry_s` seconds' worth: so long may picks wait for each other without loss. Bytes and
    boxes differ from frame to frame, and one of them that is owed holds up the others: their credit is kept up to 1/24 of the limit at
    least, so that such fluctuations lose nothing. Since the accounts make the sums exact, a burst costs evenness and no budget: what it
    takes early is held back at the end of the period, for as long as the credit takes to grow to a burst again.

    Bytes and boxes grow at 99 % of their limit's rate: without that ease the account would stand near its limit all the time and let
    only small frames pass. Frames are whole: a limit of 1.5 allows one.

    What is spent is remembered for every currency and period, limited or not, so that a limit that is set later counts it.
    """

    def __init__(self, limits: Allowance, carry_s: float = 20.0, state: PurseState | None = None) -> None:
        """Without a `state` to go on from, bytes and boxes begin with their full credit, or a device that starts would wait most of a day
        for its first few frames; frames begin with none, so that one pick may be made at once and a burst may not.

        Raises:
            BudgetError: an unknown currency or period, or a limit that is negative, not finite, or less than one frame.
        """
        fresh, state = state is None, PurseState() if state is None else state
        self._limits = _read(limits)
        self._at_s = state.at_s
        self._usual = [_PARTS, _parts_stored(state.usual_bytes), _parts_stored(state.usual_boxes)]
        for limit in self._limits:  # what was usual under higher limits would wait for ever for room under these
            self._usual[limit.currency] = min(self._usual[limit.currency], limit.parts or _PARTS)
        self._accounts = {
            period: _Account(period_s, len(CURRENCIES), _slots(state.spent.get(period, [])))
            for period, period_s in PERIODS_S.items()
        }
        self._spread: list[tuple[_Limit, _Bucket]] = []
        for currency in range(len(CURRENCIES)):
            own = [limit for limit in self._limits if limit.currency == currency]
            if own:
                slowest = min(own, key=lambda limit: limit.parts_per_s)
                full = fresh and CURRENCIES[currency] != "frames"
                credit = None if full else state.credit.get(CURRENCIES[currency], 0.0)
                self._spread.append((slowest, _bucket(slowest, carry_s, credit)))

    def advance(self, now_s: float) -> None:
        """Let time pass until `now_s`, before anything is asked or spent."""
        now_s = _reached(now_s, self._at_s)
        passed_us = _passed_us(now_s, self._at_s)
        self._at_s = now_s
        for account in self._accounts.values():
            account.advance(now_s)
        for _, bucket in self._spread:
            bucket.advance(passed_us)

    def refusal(self, cost: Cost, *, beside: bool = False) -> str | None:
        """Why `cost` may not be spent now: the currency and the period that stand against it. None where it may.

        `beside`: it goes with a pick that was paid, so that no credit is asked of it.
        """
        amounts = cost.parts
        for limit in self._limits:
            amount = amounts[limit.currency]
            if amount > limit.parts - self._accounts[limit.period].totals[limit.currency] and amount:
                currency = CURRENCIES[limit.currency]
                return f"more {currency} than one {limit.period} allows" if amount > limit.parts else f"no {limit}"
        for limit, bucket in () if beside else self._spread:
            if amounts[limit.currency] and bucket.level < 0:
                return f"too early for more {CURRENCIES[limit.currency]}: the {limit.period}'s are spread evenly"
        return None

    def spend(self, cost: Cost, *, beside: bool = False) -> None:
        """Take `cost`, of which `refusal` must be None."""
        assert self.refusal(cost, beside=beside) is None, "spent without asking"
        assert self._at_s is not None, "spent before the clock was told"
        amounts = cost.parts
        for account in self._accounts.values():
            account.spend(self._at_s, amounts)
        for limit, bucket in self._spread:
            bucket.take(amounts[limit.currency])
        if beside or not cost.frames:
            return
        for currency in range(1, len(CURRENCIES)):
            per_frame, usual = amounts[currency] // cost.frames, self._usual[currency]
            self._usual[currency] = (4 * usual + per_frame) // 5 if usual else per_frame

    def headroom(self, cost: Cost) -> float:
        """How many times `cost` may be spent now; below 1 it may not. Infinite where nothing limits it."""
        return self._headroom(cost.parts)

    @property
    def frames_available(self) -> float:
        """How many frames may be kept now, if they cost what frames cost of late; a fraction below 1 says how near the next one is."""
        return self._headroom(self._usual)

    def picks_per_s(self, beside: float = 0.0) -> float:
        """How many picks a second the limits allow in the long run, if they cost what picks cost of late and `beside` more frames go with
        each, which nobody labels; infinite without a limit.
        """
        rates = []
        for limit, _ in self._spread:
            usual = self._usual[limit.currency]
            each = usual if CURRENCIES[limit.currency] == "boxes" else usual * (1 + beside)
            if each:
                rates.append(limit.parts_per_s / each)
        return min(rates, default=math.inf)

    def state(self) -> PurseState:
        """What a restart goes on from."""
        return PurseState(
            at_s=self._at_s,
            credit={CURRENCIES[limit.currency]: _units(bucket.level) for limit, bucket in self._spread},
            usual_bytes=_units(self._usual[1]),
            usual_boxes=_units(self._usual[2]),
            spent={period: _stored(account.slots) for period, account in self._accounts.items()},
        )

    def _headroom(self, amounts: Sequence[int]) -> float:
        least = math.inf
        for limit in self._limits:
            if amount := amounts[limit.currency]:
                room = limit.parts - self._accounts[limit.period].totals[limit.currency]
                least = min(least, room / amount)
        for limit, bucket in self._spread:
            if amount := amounts[limit.currency]:
                least = min(least, (amount + bucket.level) / amount)
        return max(0.0, least)


def _read(limits: Allowance) -> list[_Limit]:
    """The limits that are set, the longest period first: it is the one worth naming where several stand against a frame."""
    found = []
    for currency, by_period in limits.items():
        if currency not in CURRENCIES:
            raise BudgetError(f"{currency!r} is no currency; the currencies are {', '.join(CURRENCIES)}")
        for period, limit in by_period.items():
            if period not in PERIODS_S:
                raise BudgetError(f"{period!r} is no period; the periods are {', '.join(PERIODS_S)}")
            if limit is None:
                continue
            name = f"{currency}_per_{period}"
            if not 0 <= limit < math.inf:
                raise BudgetError(f"{name} must be 0 or more and finite, not {limit}")
            if currency == "frames" and 0 < limit < 1:
                raise BudgetError(f"{name} = {limit:g} allows no whole frame; set a limit of a longer period, or 0")
            amount = math.floor(limit) if currency == "frames" else limit
            found.append(_Limit(CURRENCIES.index(currency), period, _parts_down(amount)))
    return sorted(found, key=lambda limit: -PERIODS_S[limit.period])


def _bucket(limit: _Limit, carry_s: float, credit: float | None) -> _Bucket:
    """`credit` None is a full bucket."""
    period_us = round(PERIODS_S[limit.period] * 1e6)
    carry_us, over_us = round(carry_s * 1e6), period_us
    if CURRENCIES[limit.currency] != "frames":
        carry_us, over_us = max(carry_us, round(period_us * _SLACK)), round(period_us / _EASE)
    level = None if credit is None else _parts_stored(credit)
    return _Bucket(limit.parts, over_us, limit.parts * min(carry_us, period_us), level)


def _slots(spent: Iterable[SpentTogether]) -> list[_Slot]:
    return [
        _Slot(row.first_s, row.last_s, [row.frames * _PARTS, row.bytes * _PARTS, _parts_stored(row.boxes)])
        for row in spent
    ]


def _stored(slots: Iterable[_Slot]) -> list[SpentTogether]:
    return [
        SpentTogether(
            slot.first_s, slot.last_s, slot.amounts[0] // _PARTS, slot.amounts[1] // _PARTS, _units(slot.amounts[2])
        )
        for slot in slots
    ]
