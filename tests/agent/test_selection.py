"""What the selection promises: the most doubtful frames, apart and new, a random share, and not one frame or byte too many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_agent.budget import Budget, BudgetState
from edgecase_agent.fingerprint import Fingerprint
from edgecase_agent.rules import DAY_S, HOUR_S, Quota, Rules, RulesError
from edgecase_agent.selection import Candidate, Held, Keep, Selection, SelectionState, Skip, Verdict

T = TypeVar("T")


def rules_with(frames_per_hour: float = 60.0, bytes_per_day: float = 200e6, **others: Any) -> Rules:
    """Rules whose budget is the usual one, but for what is given."""
    return Rules(budget={"frames": {"hour": frames_per_hour}, "bytes": {"day": bytes_per_day}}, **others)


def a_candidate(item: T, score: float, looks: Callable[[], Fingerprint], track: int = 0) -> Candidate[T]:
    """A frame whose doubt lies on one object."""
    return Candidate(item, np.array([score]), np.array([track], np.int64), "ede", looks)


RANKED = rules_with(window_s=10, gap_s=1, frames_per_hour=720, audit_share=0, leaders=8)


def unlike(index: int) -> Fingerprint:
    """A fingerprint that repeats no other."""
    return Fingerprint(index * 0x9E3779B97F4A7C15 % 2**64, np.full((24, 32), index * 37 % 255, np.int16))


def same(_: int) -> Fingerprint:
    return Fingerprint(7, np.zeros((24, 32), np.int16))


class Stream:
    """Frames offered to a selection one by one, as the loop does; `picks` are (index, time, Keep)."""

    def __init__(
        self, selection: Selection[int], looks: Callable[[int], Fingerprint] = unlike, size: int = 1000
    ) -> None:
        self.selection = selection
        self.looks = looks
        self.size = size
        self.index = 0
        self.times: list[float] = []
        self.picks: list[tuple[int, float, Keep]] = []
        self.spent: list[tuple[float, float]] = []  # when, and how many bytes
        self.skips: list[Skip] = []

    def frame(self, score: float, now_s: float) -> Held | Skip:
        index = self.index
        self.index += 1
        self.times.append(now_s)
        decision = self.selection.offer(a_candidate(index, score, lambda: self.looks(index)), now_s)
        if isinstance(decision, Skip):
            self.skips.append(decision)
        self.take(self.selection.close(now_s, self.size_of))
        return decision

    def size_of(self, _: int) -> int:
        return self.size

    def take(self, verdicts: Sequence[Verdict[int]]) -> None:
        for verdict in verdicts:
            if isinstance(verdict.decision, Keep):
                self.picks.append((verdict.item, self.times[verdict.item], verdict.decision))
                self.spent.append((self.times[-1], self.size))
            else:
                self.skips.append(verdict.decision)

    def run(self, scores: Sequence[float], start_s: float = 1e9, step_s: float = 0.1) -> Stream:
        for offset, score in enumerate(scores):
            self.frame(float(score), start_s + offset * step_s)
        return self

    def end(self) -> Stream:
        self.take(self.selection.close(self.times[-1], self.size_of, ending=True))
        return self

    @property
    def picked(self) -> list[int]:
        return [index for index, _, _ in self.picks]


# ---- by rank -------------------------------------------------------------------------------------------------------


def test_the_most_doubtful_frames_of_a_window_are_kept() -> None:
    scores = np.zeros(101)
    scores[[10, 40, 70, 90]] = 0.5, 0.9, 0.7, 0.1
    stream = Stream(Selection(RANKED)).run(scores)
    assert stream.picked == [40, 70, 10, 90]  # the credit begins with two windows' worth, and one may overdraw it
    assert [keep.score for _, _, keep in stream.picks] == [0.9, 0.7, 0.5, 0.1]


def test_a_pick_says_what_it_was_held_against() -> None:
    scores = np.zeros(101)
    scores[[5, 20, 35, 50, 65]] = 0.5, 0.9, 0.7, 0.6, 0.3
    stream = Stream(Selection(RANKED)).run(scores)
    reasons = [keep.reasons for _, _, keep in stream.picks]
    assert all(reason.strategy == "ede" and reason.propensity == 1.0 for (reason,) in reasons)
    assert {reason.threshold for (reason,) in reasons} == {0.3}  # the best that the budget did not reach


def test_picks_lie_a_gap_apart_within_a_window_and_across_its_end() -> None:
    chance = np.random.default_rng(4)
    stream = Stream(Selection(RANKED)).run(chance.random(6000)).end()
    times = sorted(at_s for _, at_s, _ in stream.picks)
    assert len(times) > 100
    assert all(later - earlier >= RANKED.gap_s - 1e-6 for earlier, later in pairwise(times))


def test_of_neighbours_the_most_doubtful_is_kept() -> None:
    scores = np.zeros(101)
    scores[48:53] = 0.5, 0.6, 0.7, 0.6, 0.5
    assert Stream(Selection(RANKED)).run(scores).picked == [50]


def test_frames_without_any_doubt_are_not_kept_by_rank() -> None:
    stream = Stream(Selection(RANKED)).run(np.zeros(500)).end()
    assert stream.picks == []
    assert {skip.reason for skip in stream.skips} == {"nothing doubtful"}


def test_a_frame_that_repeats_a_kept_one_is_skipped() -> None:
    scores = np.tile([0.0] * 49 + [0.9], 20)
    assert len(Stream(Selection(RANKED), looks=same).run(scores).end().picks) == 1
    assert len(Stream(Selection(RANKED), looks=unlike).run(scores).end().picks) > 10


def test_a_fingerprint_is_asked_of_few_frames_only() -> None:
    asked: list[int] = []

    def looks(index: int) -> Fingerprint:
        asked.append(index)
        return unlike(index)

    scores = np.random.default_rng(8).random(3000)
    Stream(Selection(RANKED), looks).run(scores)
    assert len(asked) < 0.4 * len(scores)


def test_what_is_held_in_memory_is_bounded() -> None:
    rules = rules_with(window_s=3600, gap_s=0, frames_per_hour=4, audit_share=0.25, leaders=5)
    alive: set[int] = set()

    class Picture:
        def __init__(self, index: int) -> None:
            self.index = index
            alive.add(index)

        def __del__(self) -> None:
            alive.discard(self.index)

    selection: Selection[Picture] = Selection(rules)
    most = 0
    for index, score in enumerate(np.random.default_rng(2).random(2000)):
        print_of = unlike(index)
        selection.offer(a_candidate(Picture(index), float(score), lambda seen=print_of: seen), index * 0.1)
        most = max(most, len(alive))
    assert most <= 5 + 2 + 1  # leaders, draws, and the one being offered


def test_the_end_yields_what_the_open_window_holds() -> None:
    scores = np.zeros(30)
    scores[12] = 0.8
    stream = Stream(Selection(RANKED)).run(scores)
    assert stream.picks == []
    assert stream.end().picked == [12]


def test_an_end_without_any_frame_is_no_trouble() -> None:
    assert Selection[int](RANKED).close(0.0, lambda _: 1, ending=True) == []


def test_a_high_budget_is_spent_although_few_frames_are_held() -> None:
    rules = rules_with(window_s=60, gap_s=0.1, frames_per_hour=7200, audit_share=0, leaders=8)
    stream = Stream(Selection(rules)).run(np.random.default_rng(1).random(6000))
    assert len(stream.picks) == pytest.approx(1200, rel=0.03)


# ---- at random -----------------------------------------------------------------------------------------------------


def test_a_known_share_of_the_picks_is_drawn_at_random_whatever_its_score() -> None:
    rules = rules_with(window_s=10, gap_s=1, frames_per_hour=720, audit_share=0.25)
    chance = np.random.default_rng(6)
    stream = Stream(Selection(rules)).run(chance.random(20_000))
    audits = [keep for _, _, keep in stream.picks if keep.audit]
    assert len(audits) / len(stream.picks) == pytest.approx(0.25, abs=0.03)
    assert np.mean([keep.score for keep in audits]) == pytest.approx(0.5, abs=0.1)
    assert all(0 < keep.reasons[0].propensity <= 0.1 for keep in audits)


def test_the_logged_propensity_weighs_the_random_picks_up_to_all_frames() -> None:
    rules = rules_with(window_s=10, gap_s=1, frames_per_hour=1440, audit_share=0.5)
    scores = np.linspace(0, 1, 8000) ** 2
    estimates = []
    for seed in range(4):
        stream = Stream(Selection(replace(rules, seed=seed))).run(scores)
        audits = [keep for _, _, keep in stream.picks if keep.audit]
        weights = 1 / np.array([keep.reasons[0].propensity for keep in audits])
        estimates.append(float(np.average([keep.score for keep in audits], weights=weights)))
    assert np.mean(estimates) == pytest.approx(float(scores.mean()), abs=0.04)


def test_a_scene_in_which_the_model_sees_nothing_is_still_audited() -> None:
    rules = rules_with(window_s=10, gap_s=1, frames_per_hour=720, audit_share=0.25)
    stream = Stream(Selection(rules)).run(np.zeros(12_000))
    assert len(stream.picks) == pytest.approx(0.25 * 720 * 1200 / 3600, abs=2)
    assert all(keep.audit for _, _, keep in stream.picks)


def test_every_frame_of_a_window_is_drawn_with_the_same_probability() -> None:
    rules = rules_with(window_s=10, gap_s=0, frames_per_hour=360, audit_share=1.0)
    places = []
    for seed in range(300):
        selection = Selection[int](replace(rules, seed=seed))
        stream = Stream(selection).run(np.zeros(201))
        places += [index % 100 for index in stream.picked]
    counts, _ = np.histogram(places, bins=5, range=(0, 100))
    assert counts.min() > 0.7 * counts.mean()


def test_the_same_seed_repeats_every_decision() -> None:
    scores = np.random.default_rng(3).random(3000)
    rules = rules_with(frames_per_hour=720, seed=11)
    one, other = (Stream(Selection[int](rules)).run(scores).end() for _ in range(2))
    assert one.picks == other.picks


# ---- budgets -------------------------------------------------------------------------------------------------------


def spent_in_any(period_s: float, spent: Sequence[tuple[float, float]]) -> float:
    """The most that was spent in any stretch of the period."""
    ends = [sum(amount for at_s, amount in spent if end - period_s < at_s <= end) for end, _ in spent]
    return max(ends, default=0.0)


@settings(deadline=None, max_examples=60)
@given(
    limit=st.floats(1, 50),
    burst=st.floats(0.1, 60),
    steps=st.lists(st.tuples(st.floats(0, 400), st.floats(0.1, 5)), max_size=80),
)
def test_never_more_than_the_limit_is_spent_in_any_stretch_of_the_period(
    limit: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    period_s, now_s = 1000.0, 0.0
    budget = Budget(limit, period_s, burst)
    spent: list[tuple[float, float]] = []
    for step_s, amount in steps:
        now_s += step_s
        budget.advance(now_s)
        while amount <= budget.available:
            budget.spend(amount)
            spent.append((now_s, amount))
    assert spent_in_any(period_s, spent) <= limit + 1e-6


@settings(deadline=None, max_examples=15)
@given(
    frames_per_hour=st.floats(1, 4000),
    window_s=st.floats(0.5, 120),
    audit_share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_no_hour_has_more_frames_than_were_allowed(
    frames_per_hour: float, window_s: float, audit_share: float, seed: int
) -> None:
    rules = rules_with(
        window_s=window_s, gap_s=0.5, frames_per_hour=frames_per_hour, audit_share=audit_share, seed=seed
    )
    chance = np.random.default_rng(seed)
    times = np.cumsum(chance.exponential(1.0, 1500) * np.where(chance.random(1500) < 0.01, 300, 1))
    stream = Stream(Selection[int](rules))
    for at_s, score in zip(times, chance.random(1500), strict=True):
        stream.frame(float(score), float(at_s))
    stream.end()
    assert spent_in_any(HOUR_S, [(at_s, 1) for at_s, _ in stream.spent]) <= frames_per_hour


def test_a_steady_stream_spends_its_budget_exactly() -> None:
    rules = rules_with(window_s=10, frames_per_hour=60, audit_share=0.25)
    stream = Stream(Selection(rules)).run(np.random.default_rng(0).random(36_000), step_s=1.0)
    assert 0.98 * 600 <= len(stream.picks) <= 600 + 2


def test_a_camera_that_was_off_does_not_catch_up() -> None:
    stream = Stream(Selection(RANKED))
    stream.run(np.full(200, 0.5), start_s=1e9)
    before = len(stream.picks)
    stream.run(np.full(101, 0.5), start_s=1e9 + 50_000)
    assert len(stream.picks) - before <= 4 + 2  # two windows' worth, and what the window after it earns


def test_the_bytes_of_a_day_are_never_overspent() -> None:
    rules = rules_with(window_s=10, gap_s=1, frames_per_hour=3600, bytes_per_day=50e6, audit_share=0.25)
    stream = Stream(Selection(rules), size=400_000).run(np.random.default_rng(0).random(20_000), step_s=10.0)
    assert spent_in_any(DAY_S, stream.spent) <= 50e6
    assert sum(amount for _, amount in stream.spent) >= 0.95 * 50e6 * (200_000 / DAY_S)


def test_a_frame_too_large_for_what_is_left_is_skipped_and_says_so() -> None:
    rules = rules_with(window_s=1, frames_per_hour=3600, bytes_per_day=1000, audit_share=0)
    stream = Stream(Selection(rules), size=2000).run(np.full(100, 0.5)).end()
    assert stream.picks == []
    assert "more bytes than one day allows" in {skip.reason for skip in stream.skips}


def test_a_restart_forgives_nothing() -> None:
    stream = Stream(Selection(RANKED)).run(np.full(401, 0.5))
    stored = msgspec.json.encode(stream.selection.state())
    again = Stream(Selection.from_state(RANKED, msgspec.json.decode(stored, type=SelectionState)))
    fresh = Stream(Selection[int](RANKED))
    for late in (again, fresh):
        late.run(np.full(2, 0.5), start_s=stream.times[-1]).end()
    assert len(fresh.picks) == 1
    assert again.picks == []


def test_a_clock_that_is_set_back_neither_refills_nor_blocks() -> None:
    stream = Stream(Selection(RANKED)).run(np.random.default_rng(0).random(3000), start_s=2e9)
    before = len(stream.picks)
    stream.run(np.random.default_rng(1).random(3000), start_s=1e9)
    assert 0.8 * before <= len(stream.picks) - before <= 1.1 * before


def test_a_budget_of_nothing_keeps_nothing() -> None:
    for rules in (rules_with(frames_per_hour=0), rules_with(bytes_per_day=0)):
        assert Stream(Selection[int](rules)).run(np.full(500, 0.9)).end().picks == []


def test_a_stored_budget_can_be_read_by_a_person() -> None:
    budget = Budget(10.0, 100.0, 5.0)
    budget.advance(1000.0)
    budget.spend(2.0)
    assert msgspec.json.encode(budget.state()) == b'{"tokens":3.0,"at_s":1000.0,"spent":[[1000.0,1000.0,2.0]]}'
    assert Budget(10, 100, 5, BudgetState(tokens=99, at_s=0)).available == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"audit_share": 1.5},
        {"window_s": -1},
        {"leaders": 0},
        {"frames_per_hour": float("nan")},
        {"frames_per_hour": 0.5},
    ],
)
def test_rules_that_make_no_sense_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(RulesError, match=rf"selection\.(budget: )?{next(iter(wrong))}"):
        rules_with(**wrong)


# ---- objects -------------------------------------------------------------------------------------------------------


def frames_of(selection: Selection[int], frames: Sequence[tuple[float, Sequence[tuple[int, float]]]]) -> list[int]:
    """Offer frames (time, [(object, expected error)]), and what the selection keeps of them in the end."""
    for index, (at_s, seen) in enumerate(frames):
        tracks, errors = np.array([t for t, _ in seen], np.int64), np.array([e for _, e in seen])
        look = unlike(index)
        selection.offer(Candidate(index, errors, tracks, "ede", lambda seen=look: seen), at_s)
    verdicts = selection.close(frames[-1][0], lambda _: 1000, ending=True)
    return [verdict.item for verdict in verdicts if isinstance(verdict.decision, Keep)]


TWO_PICKS = rules_with(window_s=4, gap_s=0.5, frames_per_hour=900, audit_share=0)


def test_another_object_goes_before_the_same_one_again() -> None:
    frames = [(0.0, [(1, 0.9)]), (1.0, [(1, 0.8)]), (2.0, [(2, 0.6)])]
    assert frames_of(Selection(TWO_PICKS), frames) == [0, 2, 1]
    undiminished = replace(TWO_PICKS, track_discount=1.0)
    assert frames_of(Selection(undiminished), frames) == [0, 1, 2]


def test_an_object_that_was_sent_without_a_doubt_counts_in_full_when_it_is_missed() -> None:
    frames = [(0.0, [(1, 0.01), (3, 0.9)]), (1.0, [(1, 0.7)]), (2.0, [(2, 0.65)])]
    assert frames_of(Selection(TWO_PICKS), frames) == [0, 1, 2]


def test_errors_without_an_object_are_never_discounted() -> None:
    frames = [(0.0, [(0, 0.9)]), (1.0, [(0, 0.8)]), (2.0, [(2, 0.6)])]
    assert frames_of(Selection(TWO_PICKS), frames) == [0, 1, 2]


# ---- what is called for --------------------------------------------------------------------------------------------


def called(index: int, score: float, *names: str) -> Candidate[int]:
    return replace(a_candidate(index, score, lambda: unlike(index)), called=names)


def test_a_frame_that_is_called_for_goes_before_more_doubtful_ones_within_its_quota() -> None:
    rules = rules_with(window_s=10, frames_per_hour=720, audit_share=0, called={"campaign:bikes": Quota(2)})
    selection = Selection[int](rules)
    for index in range(100):
        names = ("campaign:bikes",) if index % 20 == 3 else ()
        selection.offer(called(index, 0.1 if names else 0.9, *names), index / 10)
    verdicts = selection.close(10.0, lambda _: 1000)
    kept = {v.item: v.decision for v in verdicts if isinstance(v.decision, Keep)}
    asked_for = [index for index, keep in kept.items() if keep.reasons[0].strategy == "campaign:bikes"]
    assert len(asked_for) == 2
    assert all(index % 20 == 3 for index in asked_for)
    assert "the quota of campaign:bikes is used up" in {
        v.decision.reason for v in verdicts if isinstance(v.decision, Skip)
    }


def test_a_quota_outlives_a_restart() -> None:
    rules = rules_with(
        window_s=1, gap_s=0.1, frames_per_hour=36_000, audit_share=0, by_rank=False, called={"missed": Quota(3)}
    )
    kept = 0
    state: SelectionState | None = None
    for run in range(3):
        selection = Selection[int](rules, state)
        for index in range(20):
            selection.offer(called(index, 0.5, "missed"), run * 10 + index / 10)
        verdicts = selection.close(run * 10 + 2.0, lambda _: 1000, ending=True)
        kept += sum(isinstance(verdict.decision, Keep) for verdict in verdicts)
        state = msgspec.json.decode(msgspec.json.encode(selection.state()), type=SelectionState)
    assert kept == 3


def test_a_trigger_without_a_quota_of_its_own_picks_nothing() -> None:
    rules = rules_with(window_s=1, audit_share=0, by_rank=False)
    selection = Selection[int](rules)
    assert isinstance(selection.offer(called(0, 0.9, "novelty"), 0.0), Skip)
    assert selection.close(2.0, lambda _: 1, ending=True) == []


# ---- three currencies ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    frames=st.floats(5, 400),
    kilobytes=st.floats(50, 20_000),
    boxes=st.floats(5, 800),
    seed=st.integers(0, 1000),
)
def test_no_currency_is_overspent_in_any_hour(frames: float, kilobytes: float, boxes: float, seed: int) -> None:
    budget = {"frames": {"hour": frames}, "bytes": {"hour": kilobytes * 1000}, "boxes": {"hour": boxes}}
    chance = np.random.default_rng(seed)
    sizes, drawn = chance.integers(10_000, 200_000, 1500), chance.uniform(0, 12, 1500)
    selection = Selection[int](Rules(window_s=20, gap_s=1, budget=budget, seed=seed))
    spent: dict[str, list[tuple[float, float]]] = {"frames": [], "bytes": [], "boxes": []}
    for index in range(1500):
        at_s = index * 6.0
        look = unlike(index)
        offered = a_candidate(index, float(chance.random()), lambda seen=look: seen)
        selection.offer(replace(offered, boxes=float(drawn[index])), at_s)
        for verdict in selection.close(at_s, lambda item: int(sizes[item])):
            if isinstance(verdict.decision, Keep):
                spent["frames"].append((at_s, 1.0))
                spent["bytes"].append((at_s, float(sizes[verdict.item])))
                spent["boxes"].append((at_s, float(drawn[verdict.item])))
    assert spent["frames"], "something can be afforded"
    assert spent_in_any(HOUR_S, spent["frames"]) <= frames
    assert spent_in_any(HOUR_S, spent["bytes"]) <= kilobytes * 1000
    assert spent_in_any(HOUR_S, spent["boxes"]) <= boxes + 1e-6


# ---- context -------------------------------------------------------------------------------------------------------


def test_frames_around_a_pick_go_with_it_once_each_and_are_paid_for() -> None:
    rules = rules_with(
        window_s=10, frames_per_hour=720, audit_share=0, context_frames=2, context_before_s=1.0, context_after_s=1.0
    )
    scores = np.zeros(140)
    scores[[60, 99]] = 0.9, 0.8  # the second at the window's end: what follows it comes in the next
    stream = Stream(Selection(rules)).run(scores)
    beside = {index: keep.beside for index, _, keep in stream.picks}
    assert {index for index, pick in beside.items() if pick is None} == {60, 99}
    of_first = sorted(index for index, pick in beside.items() if pick == 60)
    of_second = sorted(index for index, pick in beside.items() if pick == 99)
    assert len(of_first) == len(of_second) == 4
    assert all(50 <= index <= 70 for index in of_first)
    assert sum(index > 99 for index in of_second) == 2
    assert len(stream.picked) == len(set(stream.picked)) == len(stream.spent)
