"""What the budget promises: no stretch of any period has more than was allowed, by not one byte, and little is left unspent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_agent.budget import (
    CURRENCIES,
    Allowance,
    Budget,
    BudgetError,
    BudgetState,
    Cost,
    Purse,
    PurseState,
)
from edgecase_models.policy import PERIODS_S

START_S = 1.75e9


def stored(purse: Purse) -> PurseState:
    """The purse's state as it comes back from the disk."""
    return msgspec.json.decode(msgspec.json.encode(purse.state()), type=PurseState)


def overspent(limits: Allowance, spent: Sequence[tuple[float, Cost]]) -> list[str]:
    """The limits that some stretch of their period breaks, recomputed from all that was spent, in exact numbers."""
    broken = []
    for currency, by_period in limits.items():
        amounts = [Fraction(getattr(cost, currency)) for _, cost in spent]
        for period, limit in by_period.items():
            for end_s, _ in spent if limit is not None else ():
                inside = [
                    amount
                    for (at_s, _), amount in zip(spent, amounts, strict=True)
                    if end_s - PERIODS_S[period] < at_s <= end_s
                ]
                if sum(inside) > Fraction(limit):
                    broken.append(f"{currency}_per_{period}")
    return broken


LIMITS = st.fixed_dictionaries(
    {
        "frames": st.dictionaries(st.sampled_from(sorted(PERIODS_S)), st.floats(1, 40), max_size=4),
        "bytes": st.dictionaries(st.sampled_from(sorted(PERIODS_S)), st.floats(1e5, 1e7), max_size=4),
        "boxes": st.dictionaries(st.sampled_from(sorted(PERIODS_S)), st.floats(1, 200), max_size=4),
    }
)
STEP_S = st.one_of(
    st.floats(0, 2),
    st.floats(0, 300),
    st.sampled_from([20.0, 60.0, 59.99999999999, 3600.0, 3599.9999999, 86400.0, 40000.0, 30 * 86400.0]),
)
COST = st.builds(Cost, st.integers(0, 600_000), st.floats(0, 30), st.integers(1, 3))


# ---- never too much --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(LIMITS, st.floats(0, 3600), st.lists(st.tuples(STEP_S, COST, st.booleans()), max_size=60))
def test_no_stretch_of_any_period_is_overspent_in_any_currency_not_even_over_restarts(
    limits: Allowance, carry_s: float, steps: list[tuple[float, Cost, bool]]
) -> None:
    purse, now_s = Purse(limits, carry_s), START_S
    spent: list[tuple[float, Cost]] = []
    for step_s, cost, restarted in steps:
        now_s += step_s
        if restarted:
            purse = Purse(limits, carry_s, stored(purse))
        purse.advance(now_s)
        while purse.refusal(cost) is None and len(spent) < 400:
            purse.spend(cost)
            spent.append((now_s, cost))
            if not any(limits.values()):
                break
    assert overspent(limits, spent) == []


@pytest.mark.parametrize("period", PERIODS_S)
def test_bursts_a_period_apart_are_not_taken_for_older_than_they_are(period: str) -> None:
    """Many at once, then silence, then many at about the moment when the first of them leave the account."""
    period_s, chance = PERIODS_S[period], np.random.default_rng(8)
    limits = {"frames": {period: 40}, "bytes": {period: 30e6}, "boxes": {period: 150.5}}
    purse, spent, now_s = Purse(limits, carry_s=period_s), list[tuple[float, Cost]](), START_S
    offers = itertools.cycle(costs(997))
    purse.advance(now_s - 2 * period_s)
    for _ in range(25):
        begin_s = now_s
        while now_s < begin_s + 0.02 * period_s:
            now_s += float(chance.exponential(0.0006)) * period_s
            purse.advance(now_s)
            if purse.refusal(cost := next(offers)) is None:
                purse.spend(cost)
                spent.append((now_s, cost))
        now_s = begin_s + period_s * float(chance.uniform(0.98, 1.02))
    assert len(spent) > 300
    assert overspent(limits, spent) == []


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.1, 50),
    st.floats(0.1, 60),
    st.lists(st.tuples(st.floats(0, 400), st.floats(0.001, 5), st.booleans()), max_size=80),
)
def test_a_single_budget_is_exact_as_well(limit: float, burst: float, steps: list[tuple[float, float, bool]]) -> None:
    period_s, now_s = 1000.0, START_S
    budget = Budget(limit, period_s, burst)
    spent: list[tuple[float, Fraction]] = []
    for step_s, amount, restarted in steps:
        now_s += step_s
        if restarted:
            stored_bytes = msgspec.json.encode(budget.state())
            budget = Budget(limit, period_s, burst, msgspec.json.decode(stored_bytes, type=BudgetState))
        budget.advance(now_s)
        while min(amount, budget.available) > 0 and len(spent) < 300:
            part = min(amount, budget.available)  # also the very last of it
            budget.spend(part)
            spent.append((now_s, Fraction(part)))
    for end_s, _ in spent:
        assert sum(part for at_s, part in spent if end_s - period_s < at_s <= end_s) <= Fraction(limit)


@settings(deadline=None, max_examples=50)
@given(LIMITS, LIMITS, st.lists(st.tuples(STEP_S, COST), min_size=2, max_size=60), st.data())
def test_limits_that_change_count_what_was_spent_before_them(
    first: Allowance, then: Allowance, steps: list[tuple[float, Cost]], data: st.DataObject
) -> None:
    """Also in a currency and a period that had no limit until then."""
    change = data.draw(st.integers(1, len(steps) - 1))
    purse, now_s = Purse(first), START_S
    before: list[tuple[float, Cost]] = []
    after: list[tuple[float, Cost]] = []
    for index, (step_s, cost) in enumerate(steps):
        now_s += step_s
        if index == change:
            purse = Purse(then, state=stored(purse))
        purse.advance(now_s)
        if purse.refusal(cost) is None:
            purse.spend(cost)
            (before if index < change else after).append((now_s, cost))
    for end_s, own in after:
        upto = [(at_s, cost) for at_s, cost in [*before, *after] if at_s <= end_s]
        for currency, by_period in then.items():
            for period, limit in by_period.items():
                if limit is not None and getattr(own, currency):
                    inside = sum(Fraction(getattr(c, currency)) for at_s, c in upto if end_s - PERIODS_S[period] < at_s)
                    assert inside <= Fraction(limit)


# ---- and not too little ----------------------------------------------------------------------------------------------


def costs(count: int, seed: int = 0) -> list[Cost]:
    """Frames of some 200 kB and five boxes, as unlike as those of a street."""
    chance = np.random.default_rng(seed)
    sizes, boxes = chance.lognormal(np.log(180_000), 0.45, count), chance.gamma(2, 2.5, count)
    return [Cost(int(size), float(expected)) for size, expected in zip(sizes, boxes, strict=True)]


def spend_all(purse: Purse, seconds: float, fps: float, offers: Sequence[Cost]) -> list[tuple[float, Cost]]:
    """Offer a frame at each moment and take it whenever that is allowed: candidates abound."""
    spent = []
    for index, cost in zip(range(int(seconds * fps)), itertools.cycle(offers)):
        now_s = START_S + index / fps
        purse.advance(now_s)
        if purse.refusal(cost) is None:
            purse.spend(cost)
            spent.append((now_s, cost))
    return spent


def most_in_any(period_s: float, spent: Sequence[tuple[float, Cost]], currency: str) -> float:
    """The most that was spent in any stretch of the period."""
    times = np.array([at_s for at_s, _ in spent])
    sums = np.concatenate([[0.0], np.cumsum([getattr(cost, currency) for _, cost in spent])])
    return float(max(sums[1:] - sums[np.searchsorted(times, times - period_s, side="right")]))


DAY_S, MONTH_S = PERIODS_S["day"], PERIODS_S["month"]
BINDING = [
    ({"frames": {"minute": 30}}, "frames", "minute", DAY_S, 10),
    ({"frames": {"minute": 1}}, "frames", "minute", DAY_S, 2),
    ({"frames": {"hour": 60}}, "frames", "hour", DAY_S, 1),
    ({"frames": {"minute": 2, "hour": 120, "day": 2880}}, "frames", "day", 2 * DAY_S, 1),
    ({"frames": {"minute": 31, "hour": 1799, "day": 20_000}}, "frames", "day", 2 * DAY_S, 1),
    ({"frames": {"minute": 60, "day": 100, "month": 900}}, "frames", "month", 2 * MONTH_S, 1 / 60),
    ({"bytes": {"day": 100e6}}, "bytes", "day", 2 * DAY_S, 1),
    ({"bytes": {"day": 1e9, "month": 6e9}, "frames": {"minute": 10}}, "bytes", "month", 2 * MONTH_S, 1 / 30),
    ({"boxes": {"hour": 400}, "frames": {"hour": 1000}}, "boxes", "hour", DAY_S, 1),
    ({"boxes": {"day": 3000, "month": 60_000}, "bytes": {"day": 200e6}}, "boxes", "month", 2 * MONTH_S, 1 / 30),
    ({"frames": {"hour": 50}, "bytes": {"hour": 20e6}, "boxes": {"hour": 500}}, "frames", "hour", DAY_S, 1),
    ({"frames": {"day": 500}, "bytes": {"day": 100e6}, "boxes": {"day": 2560}}, "frames", "day", 2 * DAY_S, 1),
]


@pytest.mark.parametrize(
    ("limits", "currency", "period", "seconds", "fps"),
    [pytest.param(*case, marks=() if n in (2, 5, 8, 11) else pytest.mark.slow) for n, case in enumerate(BINDING)],
)
def test_where_candidates_abound_the_tightest_limit_is_used_up_to_two_percent(
    limits: Allowance, currency: str, period: str, seconds: float, fps: float
) -> None:
    spent = spend_all(Purse(limits), seconds, fps, costs(4099))
    limit = limits[currency][period]
    assert limit is not None
    allowed = limit * seconds / PERIODS_S[period]
    assert sum(getattr(cost, currency) for _, cost in spent) >= 0.98 * allowed
    for other, by_period in limits.items():
        for name, most in by_period.items():
            assert most is None or most_in_any(PERIODS_S[name], spent, other) <= most + 1e-6


@pytest.mark.parametrize("per_minute", [30, 18, 7, 31.5])
def test_a_share_of_the_frames_is_carried_over_exactly(per_minute: float) -> None:
    """Ten frames a second, of which 5 %, 3 %, … may be kept: after any time the count is the share, to a frame."""
    spent = spend_all(Purse({"frames": {"minute": per_minute}}), 3600, 10, [Cost(1, 0.0)])
    moments = np.arange(0, 3600, 7.0)
    kept = np.searchsorted([at_s - START_S for at_s, _ in spent], moments, side="right")
    assert np.abs(kept - moments * int(per_minute) / 60).max() <= 1.01


def test_picks_that_are_made_only_now_and_then_lose_nothing_within_the_carry() -> None:
    """A window of ten seconds ends, and what has gathered is spent at once."""
    purse, kept = Purse({"frames": {"hour": 60}, "bytes": {"day": 1e9}}, carry_s=20), 0
    for step in range(8640):
        purse.advance(START_S + step * 10)
        while purse.frames_available >= 1:
            purse.spend(Cost(200_000, 4.0))
            kept += 1
    assert 0.98 * 1440 <= kept <= 1440 + 1


def test_spending_is_spread_over_the_period_and_not_done_at_its_beginning() -> None:
    nothing_saved = PurseState(at_s=START_S)
    spent = spend_all(
        Purse({"bytes": {"day": 50e6}, "frames": {"hour": 60}}, state=nothing_saved), DAY_S, 1, costs(999)
    )
    by_hour = np.histogram([at_s - START_S for at_s, _ in spent], bins=24, range=(0, DAY_S))[0]
    assert by_hour.min() >= 0.5 * by_hour.mean()
    assert by_hour.max() <= 1.7 * by_hour.mean()


def test_a_device_that_starts_does_not_wait_for_its_first_bytes() -> None:
    """30 frames of 100 kB in the first half hour, although 50 MB a day come to 10 of them."""
    spent = spend_all(
        Purse({"bytes": {"day": 50e6}, "frames": {"hour": 60}}), 1800, 1, [Cost(100_000, 1.0) for _ in range(10)]
    )
    assert len(spent) == pytest.approx(30, abs=2)


def test_large_frames_are_kept_as_often_as_small_ones() -> None:
    offers = costs(4099, seed=3)
    spent = spend_all(Purse({"bytes": {"day": 100e6}}), 4 * DAY_S, 0.5, offers)
    offered = np.mean([cost.bytes for cost in offers])
    assert np.mean([cost.bytes for _, cost in spent]) == pytest.approx(offered, rel=0.05)


def test_a_camera_that_was_off_does_not_catch_up() -> None:
    purse = Purse({"frames": {"hour": 3600}}, carry_s=20)
    purse.advance(START_S)
    purse.spend(Cost(1, 0.0))
    purse.advance(START_S + 50_000)
    assert purse.frames_available == 21  # twenty seconds' worth, and the one that may be overdrawn


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_currency_and_the_longest_period_that_stands_against_it() -> None:
    limits = {"frames": {"minute": 3, "day": 3}, "bytes": {"hour": 1000}, "boxes": {"month": 50.0}}
    purse = Purse(limits)
    purse.advance(START_S)
    assert purse.refusal(Cost(1001, 0.0)) == "more bytes than one hour allows"
    assert purse.refusal(Cost(10, 50.5)) == "more boxes than one month allows"
    purse.spend(Cost(600, 45.0))
    assert purse.refusal(Cost(600, 1.0)) == "no bytes left this hour"
    assert purse.refusal(Cost(10, 6.0)) == "no boxes left this month"
    assert purse.refusal(Cost(10, 1.0, frames=3)) == "no frames left this day"


def test_a_pick_that_comes_too_early_is_told_so() -> None:
    purse = Purse({"frames": {"minute": 100, "hour": 60}}, carry_s=0)
    purse.advance(START_S)
    purse.spend(Cost(1, 0.0))
    assert purse.refusal(Cost(1, 0.0)) == "too early for more frames: the hour's are spread evenly"
    purse.advance(START_S + 45)
    assert purse.frames_available == 0.75
    purse.advance(START_S + 60)
    assert purse.refusal(Cost(1, 0.0)) is None


def test_headroom_is_how_often_a_cost_can_be_paid() -> None:
    purse = Purse({"frames": {"minute": 10}, "bytes": {"minute": 1000}}, carry_s=60)
    assert purse.headroom(Cost(0, 0.0, frames=0)) == float("inf")
    assert purse.headroom(Cost(0, 0.0)) == 1
    purse.advance(START_S)
    purse.advance(START_S + 60)
    assert purse.headroom(Cost(100, 0.0)) == 10
    assert purse.headroom(Cost(400, 99.0)) == 2.5
    assert purse.frames_available == 10  # what a frame costs in bytes is not known yet
    purse.spend(Cost(200, 1.0))
    assert purse.frames_available == 4
    assert Purse({}).frames_available == float("inf")


@settings(deadline=None, max_examples=50)
@given(LIMITS, st.lists(st.tuples(STEP_S, COST), max_size=40))
def test_headroom_and_refusal_agree(limits: Allowance, steps: list[tuple[float, Cost]]) -> None:
    purse, now_s = Purse(limits), START_S
    for step_s, cost in steps:
        now_s += step_s
        purse.advance(now_s)
        assert (purse.headroom(cost) >= 1) == (purse.refusal(cost) is None)
        if purse.refusal(cost) is None:
            purse.spend(cost)


def test_a_pick_of_several_frames_overdraws_and_is_paid_back_before_the_next() -> None:
    purse = Purse({"frames": {"minute": 6}}, carry_s=0)
    purse.advance(START_S)
    purse.spend(Cost(1, 0.0, frames=3))
    purse.advance(START_S + 29.9)
    assert purse.refusal(Cost(1, 0.0)) is not None
    purse.advance(START_S + 30)
    assert purse.refusal(Cost(1, 0.0)) is None


# ---- clocks, restarts, size ------------------------------------------------------------------------------------------


def test_a_restart_decides_as_if_there_had_been_none() -> None:
    limits = {"frames": {"hour": 60}, "bytes": {"day": 60e6}, "boxes": {"minute": 30}}
    offers = costs(997)
    steady, restarted = Purse(limits), Purse(limits)
    for index in range(20_000):
        cost, now_s = offers[index % 997], START_S + 1.0137 * index  # no moment at which a millionth decides
        if index % 37 == 0:
            restarted = Purse(limits, state=stored(restarted))
        steady.advance(now_s)
        restarted.advance(now_s)
        refusal = steady.refusal(cost)
        assert restarted.refusal(cost) == refusal
        if refusal is None:
            steady.spend(cost)
            restarted.spend(cost)
    assert stored(steady).spent == stored(restarted).spent


def test_a_clock_that_is_set_back_forgives_nothing_and_goes_on() -> None:
    purse = Purse({"frames": {"hour": 5}})
    purse.advance(START_S)
    purse.spend(Cost(1, 0.0, frames=5))
    purse.advance(START_S - 1e8)
    assert purse.frames_available == 0
    purse.advance(START_S - 1e8 + 3599)
    assert purse.refusal(Cost(1, 0.0)) == "no frames left this hour"
    purse.advance(START_S - 1e8 + 3600)
    assert purse.refusal(Cost(1, 0.0)) is None


def test_a_clock_that_is_set_forward_gives_one_burst() -> None:
    purse = Purse({"frames": {"hour": 3600}}, carry_s=10)
    purse.advance(START_S)
    purse.spend(Cost(1, 0.0, frames=100))
    purse.advance(START_S + 1e8)
    assert purse.frames_available == 11


def test_frames_that_come_a_little_out_of_order_grow_no_credit() -> None:
    """Two cameras, one of them 0.3 seconds late: the clock goes to and fro at every frame."""
    purse, kept = Purse({"frames": {"hour": 3600}}, carry_s=1), 0
    for index in range(6000):
        purse.advance(START_S + index * 0.1 - 0.3 * (index % 2))
        if purse.refusal(Cost(1, 0.0)) is None:
            purse.spend(Cost(1, 0.0))
            kept += 1
    assert 598 <= kept <= 602


def test_what_is_remembered_is_bounded_whatever_the_clock_does() -> None:
    purse, chance = Purse({"frames": {"month": 1e6}}, carry_s=1e7), np.random.default_rng(5)
    now_s = START_S
    for _ in range(20_000):
        now_s += float(chance.choice([0.1, 1.0, 100.0, 9000.0, -3.0, -500.0, -20_000.0]))
        purse.advance(now_s)
        if purse.refusal(Cost(1000, 1.0)) is None:
            purse.spend(Cost(1000, 1.0))
    rows = {period: len(spent) for period, spent in purse.state().spent.items()}
    assert max(rows.values()) <= 242
    assert len(msgspec.json.encode(purse.state())) < 64_000


def test_a_stored_purse_can_be_read_by_a_person() -> None:
    purse = Purse({"frames": {"hour": 60}, "boxes": {"day": 100}}, carry_s=120)
    purse.advance(1000.0)
    purse.spend(Cost(1500, 2.25))
    rows = "[[1000.0,1000.0,1,1500,2.25]]"
    assert msgspec.json.encode(purse.state()).decode() == (
        '{"v":1,"at_s":1000.0,"credit":{"frames":-1.0,"boxes":1.874999},"usual_bytes":1500.0,"usual_boxes":2.25,'
        f'"spent":{{"minute":{rows},"hour":{rows},"day":{rows},"month":{rows}}}}}'
    )


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"v":2}',
        b'{"v":1,"usual_bytes":-1}',
        b'{"v":1,"spent":{"day":[[0,0,1,-5,0]]}}',
        b'{"v":1,"spent":{"day":[[0,0,1]]}}',
    ],
)
def test_a_stored_purse_of_another_version_or_with_less_than_nothing_is_refused(wrong: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(wrong, type=PurseState)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"frame": {"day": 1}}, "'frame' is no currency"),
        ({"frames": {"week": 1}}, "'week' is no period"),
        ({"frames": {"minute": 0.5}}, "frames_per_minute = 0.5 allows no whole frame"),
        ({"bytes": {"day": -1}}, "bytes_per_day must be 0 or more"),
        ({"boxes": {"day": float("nan")}}, "boxes_per_day must be 0 or more and finite, not nan"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(limits: Mapping[str, Mapping[str, float]], says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        Purse(limits)


@pytest.mark.parametrize(
    "wrong", [(-1, 0.0, 1), (0, float("nan"), 1), (0, float("inf"), 1), (0, -0.1, 1), (0, 0.0, -1)]
)
def test_a_cost_that_is_no_cost_is_refused(wrong: tuple[int, float, int]) -> None:
    with pytest.raises(BudgetError, match="a cost must be finite"):
        Cost(*wrong)


def test_a_limit_of_nothing_lets_nothing_pass() -> None:
    for currency in CURRENCIES:
        purse = Purse({currency: {"day": 0}})
        purse.advance(START_S)
        assert purse.refusal(Cost(1, 0.1)) == f"more {currency} than one day allows"
