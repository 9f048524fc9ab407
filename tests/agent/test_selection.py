"""What the selection promises: the most doubtful frames, apart and new, a random share, and not one frame, byte or box too many."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_agent.budget import Allowance, Cost, Purse, PurseState
from edgecase_agent.rules import DAY_S, HOUR_S, Quota, Rules
from edgecase_agent.selection import AUDIT, CONTEXT, Candidate, Held, Keep, Selection, SelectionState, Skip, Verdict
from edgecase_models.fingerprint import Fingerprint
from edgecase_models.policy import PERIODS_S
from edgecase_models.wire import Reason

START_S = 1.75e9


def frames_per_hour(limit: float) -> Allowance:
    return {"frames": {"hour": limit}}


RANKED = Rules(window_s=10, gap_s=1, budget=frames_per_hour(720), audit_share=0)


def unlike(index: int) -> Fingerprint:
    """A fingerprint that repeats no other."""
    return Fingerprint(index * 0x9E3779B97F4A7C15 % 2**64, np.full((24, 32), index * 37 % 255, np.uint8))


def same(_: int) -> Fingerprint:
    return Fingerprint(7, np.zeros((24, 32), np.uint8))


@dataclass(frozen=True)
class Shown:
    """What a test offers: errors by track, the boxes to be drawn, and who asks for it."""

    errors: Mapping[int, float]
    boxes: float = 0.0
    called: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    features: Sequence[float] | None = None

    def candidate(self, index: int, looks: Callable[[int], Fingerprint]) -> Candidate[int]:
        return Candidate(
            item=index,
            errors=np.array(list(self.errors.values()), np.float64),
            tracks=np.array(list(self.errors), np.int64),
            strategy="ede",
            fingerprint=lambda: looks(index),
            reasons=self.reasons,
            called=tuple(Reason(name, 1.0, 0.5) for name in self.called),
            boxes=self.boxes,
            features=None if self.features is None else np.array(self.features, np.float32),
        )


def a_frame(score: float) -> Shown:
    """A frame of a score that no object is known for."""
    return Shown({0: score})


@dataclass
class Stream:
    """Frames offered to a selection one by one, as the loop does.

    `picks` are (index, captured at, Keep), `beside` those that went along; `spent` and `kinds` say what each cost and why it was kept, by
    the time of the verdict.
    """

    selection: Selection[int]
    looks: Callable[[int], Fingerprint] = unlike
    size: Callable[[int], int] = lambda _: 1000
    times: list[float] = field(default_factory=list)
    boxes: list[float] = field(default_factory=list)
    picks: list[tuple[int, float, Keep[int]]] = field(default_factory=list)
    beside: list[tuple[int, float, Keep[int]]] = field(default_factory=list)
    spent: list[tuple[float, Cost]] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    kinds: list[tuple[float, str]] = field(default_factory=list)
    yields: list[list[Verdict[int]]] = field(default_factory=list)

    def frame(self, shown: Shown | float, now_s: float) -> Held | Skip:
        shown = shown if isinstance(shown, Shown) else a_frame(shown)
        index = len(self.times)
        self.times.append(now_s)
        self.boxes.append(shown.boxes)
        decision = self.selection.offer(shown.candidate(index, self.looks), now_s)
        if isinstance(decision, Skip):
            self.skips.append(decision)
        self.take(self.selection.close(now_s, self.size), now_s)
        return decision

    def take(self, verdicts: list[Verdict[int]], now_s: float) -> None:
        if verdicts:
            self.yields.append(verdicts)
        for verdict in verdicts:
            if isinstance(verdict.decision, Skip):
                self.skips.append(verdict.decision)
                continue
            pick = verdict.decision.beside is None
            kept = self.picks if pick else self.beside
            kept.append((verdict.item, self.times[verdict.item], verdict.decision))
            boxes = self.boxes[verdict.item] if pick else 0.0
            self.kinds.append((now_s, verdict.decision.reasons[0].strategy))
            self.spent.append((now_s, Cost(self.size(verdict.item), boxes)))

    def run(
        self, frames: Sequence[Shown | float] | np.ndarray, start_s: float = START_S, step_s: float = 0.1
    ) -> Stream:
        for offset, shown in enumerate(frames):
            self.frame(shown if isinstance(shown, Shown) else float(shown), start_s + offset * step_s)
        return self

    def end(self) -> Stream:
        now_s = self.times[-1]
        self.take(self.selection.close(now_s, self.size, ending=True), now_s)
        return self

    @property
    def picked(self) -> list[int]:
        return [index for index, _, _ in self.picks]

    @property
    def audits(self) -> list[Keep[int]]:
        return [keep for _, _, keep in self.picks if keep.audit]


def scene(length: int, scores: Mapping[int, float | Shown]) -> list[Shown]:
    """Frames in which nothing is doubtful but those that are named."""
    frames = [a_frame(0.0)] * length
    for index, shown in scores.items():
        frames[index] = shown if isinstance(shown, Shown) else a_frame(shown)
    return frames


def doubt(seed: int, count: int, keeps: float = 0.97) -> np.ndarray:
    """Scores as a stream has them: neighbours are alike, and some scenes are hard."""
    chance, level, scores = np.random.default_rng(seed), 0.0, np.zeros(count)
    for index, step in enumerate(chance.normal(0, np.sqrt(1 - keeps**2), count)):
        level = keeps * level + step
        scores[index] = np.exp(level)
    return scores


# ---- by rank -------------------------------------------------------------------------------------------------------


def test_the_most_doubtful_frames_of_a_window_are_kept() -> None:
    stream = Stream(Selection(RANKED)).run(scene(101, {10: 0.5, 40: 0.9, 70: 0.7, 90: 0.1}))
    assert stream.picked == [40, 70, 10]  # one that nothing is owed for, and what ten seconds brought
    assert [keep.score for _, _, keep in stream.picks] == [0.9, 0.7, 0.5]


def test_a_pick_says_what_it_was_held_against_and_where_it_ranks() -> None:
    stream = Stream(Selection(RANKED)).run(scene(101, {5: 0.5, 20: 0.9, 35: 0.7, 50: 0.6, 65: 0.3}))
    reasons = [keep.reasons for _, _, keep in stream.picks]
    assert all(reason.strategy == "ede" and reason.propensity == 1.0 for (reason,) in reasons)
    assert {reason.threshold for (reason,) in reasons} == {0.5}  # the best that the budget did not reach


def test_picks_lie_a_gap_apart_within_a_window_and_across_its_end() -> None:
    stream = Stream(Selection(RANKED)).run(np.random.default_rng(4).random(6000)).end()
    times = sorted(at_s for _, at_s, _ in stream.picks)
    assert len(times) > 100
    assert all(later - earlier >= RANKED.gap_s - 1e-6 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("memory", [0, 1])
def test_the_gap_is_kept_however_few_picks_are_remembered(memory: int) -> None:
    rules = replace(RANKED, gap_s=3, memory=memory, audit_share=0.3, budget=frames_per_hour(1800))
    stream = Stream(Selection(rules)).run(np.random.default_rng(4).random(3000)).end()
    ranked = sorted(at_s for _, at_s, keep in stream.picks if not keep.audit)
    assert len(ranked) > 25
    assert all(later - earlier >= 3 - 1e-6 for earlier, later in itertools.pairwise(ranked))


def test_of_neighbours_the_most_doubtful_is_kept() -> None:
    frames = scene(101, {48: 0.5, 49: 0.6, 50: 0.7, 51: 0.6, 52: 0.5})
    for start_s in (START_S, START_S + 0.05, START_S + 0.5):  # wherever stretches begin and end
        assert Stream(Selection(RANKED)).run(frames, start_s).picked == [50]


def test_while_doubt_rises_frames_along_the_way_are_kept_too() -> None:
    stream = Stream(Selection(replace(RANKED, budget=frames_per_hour(1800)))).run(np.linspace(0.1, 1, 201))
    assert len(stream.picks) >= 9  # of twenty seconds at one frame in two


def test_frames_without_any_doubt_are_not_kept_by_rank() -> None:
    stream = Stream(Selection(RANKED)).run(np.zeros(500)).end()
    assert stream.picks == []
    assert {skip.reason for skip in stream.skips} == {"nothing doubtful"}


def test_a_frame_that_repeats_a_kept_one_is_skipped() -> None:
    scores = np.tile([0.0] * 49 + [0.9], 20)
    assert len(Stream(Selection(RANKED), looks=same).run(scores).end().picks) == 1
    assert len(Stream(Selection(RANKED), looks=unlike).run(scores).end().picks) > 10
    assert len(Stream(Selection(replace(RANKED, repeat_bits=-1)), looks=same).run(scores).end().picks) > 10


def test_a_fingerprint_is_asked_of_few_frames_only() -> None:
    asked: list[int] = []

    def looks(index: int) -> Fingerprint:
        asked.append(index)
        return unlike(index)

    scores = np.random.default_rng(8).random(3000)
    Stream(Selection(RANKED), looks).run(scores)
    assert len(asked) < 0.4 * len(scores)


def test_a_size_is_asked_of_those_frames_only_that_the_budget_would_have() -> None:
    asked: list[int] = []

    def size(index: int) -> int:
        asked.append(index)
        return 1000

    stream = Stream(Selection(RANKED), size=size).run(doubt(3, 6000))
    assert len(set(asked)) == len(stream.picks) > 100  # a size is a JPEG


def test_what_is_held_in_memory_is_bounded() -> None:
    called = {f"campaign:{letter}": Quota(1000) for letter in "abc"}
    rules = Rules(window_s=3600, gap_s=0, budget=frames_per_hour(4), leaders=5, called=called)
    alive: set[int] = set()

    class Picture:
        def __init__(self, index: int) -> None:
            self.index = index
            alive.add(index)

        def __del__(self) -> None:
            alive.discard(self.index)

    selection: Selection[Picture] = Selection(rules)
    most = 0
    chance = np.random.default_rng(2)
    for index, errors in enumerate(chance.random((2000, 1))):
        print_of, tracks = unlike(index), np.zeros(1, np.int64)
        asks = tuple(Reason(name, 1.0, 0.5) for name in called if chance.random() < 0.3)
        picture = Picture(index)
        selection.offer(Candidate(picture, errors, tracks, "ede", lambda seen=print_of: seen, called=asks), index * 0.1)
        del picture
        most = max(most, len(alive))
    assert most <= 5 + 2 + 3 * 5 + 1  # leaders, draws, what each trigger may have, and the one being offered


def test_the_end_yields_what_the_open_window_holds() -> None:
    stream = Stream(Selection(RANKED)).run(scene(30, {12: 0.8}))
    assert stream.picks == []
    assert stream.end().picked == [12]


def test_an_end_without_any_frame_is_no_trouble() -> None:
    assert Selection[int](RANKED).close(0.0, lambda _: 1, ending=True) == []


def test_a_high_budget_is_spent_although_few_frames_are_held() -> None:
    rules = Rules(window_s=60, gap_s=0.1, budget=frames_per_hour(7200), audit_share=0)
    stream = Stream(Selection(rules)).run(np.random.default_rng(1).random(6000))
    assert len(stream.picks) == pytest.approx(1200, rel=0.02)


# ---- the same object, the same scene -------------------------------------------------------------------------------


def test_an_object_that_was_sent_counts_half_as_much_the_next_time() -> None:
    frames = scene(201, {50: Shown({7: 0.9}), 150: Shown({7: 0.9}), 170: Shown({8: 0.5})})
    rules = replace(RANKED, budget=frames_per_hour(300))  # one for each window
    assert Stream(Selection(rules)).run(frames).picked == [50, 170]  # 0.9 · ½ is less than 0.5
    assert Stream(Selection(replace(rules, track_discount=1.0))).run(frames).picked == [50, 150]


def test_two_frames_of_one_object_in_one_window_are_worth_less_than_two_objects() -> None:
    frames = scene(101, {20: Shown({7: 0.9}), 50: Shown({7: 0.8}), 80: Shown({8: 0.5})})
    assert Stream(Selection(replace(RANKED, budget=frames_per_hour(400)))).run(frames).picked == [20, 80]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 11))
def test_the_greedy_picks_are_those_of_an_exhaustive_greedy(seed: int, count: int) -> None:
    """Held against the plain rule: look at all, take the one that adds most, again."""
    chance = np.random.default_rng(seed)
    rules = replace(RANKED, gap_s=0, leaders=40, window_s=12, budget=frames_per_hour(3600 * count / 12))
    frames = [
        Shown(dict(zip(chance.integers(1, 6, 3).tolist(), chance.random(3).tolist(), strict=True))) for _ in range(12)
    ]
    empty = SelectionState(purse=PurseState(at_s=START_S, credit={"frames": 0.0}))
    stream = Stream(Selection(rules, empty)).run(frames, START_S + 1, 1.0).end()
    assert count <= len(stream.picks) <= count + 1
    sent: dict[int, float] = {}
    left, best = dict(enumerate(frames)), []
    while left and len(best) < len(stream.picks):
        worth = {i: sum(e * 0.5 ** sent.get(t, 0.0) for t, e in shown.errors.items()) for i, shown in left.items()}
        index = max(worth, key=lambda i: worth[i])
        best.append(index)
        for track, error in left.pop(index).errors.items():
            sent[track] = sent.get(track, 0.0) + min(1.0, 2 * error)
    assert stream.picked == best


def test_what_looks_new_counts_more_where_the_rules_say_so() -> None:
    street, forest = (1.0, 0.0), (0.0, 1.0)
    frames = scene(201, {
        50: Shown({0: 0.9}, features=street), 150: Shown({0: 0.6}, features=street), 170: Shown({0: 0.5}, features=forest)
    })  # fmt: skip
    rules = replace(RANKED, budget=frames_per_hour(300))
    assert Stream(Selection(rules)).run(frames).picked == [50, 150]
    assert Stream(Selection(replace(rules, novelty_weight=1.0))).run(frames).picked == [50, 170]


def test_features_of_another_model_are_not_compared() -> None:
    selection = Selection[int](RANKED)
    features = np.array([1.0, 0.0], np.float32)
    assert selection.novelty(None) == 0
    assert selection.novelty(features) == 1
    Stream(selection).run(scene(101, {50: Shown({0: 0.9}, features=(1.0, 0.0))}))
    assert selection.novelty(features) == 0
    selection.forget_features()
    assert selection.novelty(features) == 1


# ---- at random -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("per_hour", "step_s"), [(60, 1.0), (900, 0.2), (1800, 0.1)])
def test_a_known_share_of_the_picks_is_drawn_at_random_whatever_its_score(per_hour: float, step_s: float) -> None:
    stream = Stream(Selection(Rules(budget=frames_per_hour(per_hour))))
    scores = np.random.default_rng(6).random(20_000)
    stream.run(scores, step_s=step_s)
    assert len(stream.audits) / len(stream.picks) == pytest.approx(0.25, abs=0.01)
    assert np.mean([keep.score for keep in stream.audits]) == pytest.approx(0.5, abs=0.1)
    assert all(0 < keep.reasons[0].propensity <= 0.1 for keep in stream.audits)
    assert all(keep.reasons[0].strategy == AUDIT for keep in stream.audits)


def test_the_logged_propensity_weighs_the_random_picks_up_to_all_frames() -> None:
    rules = Rules(window_s=10, gap_s=1, budget=frames_per_hour(1440), audit_share=0.5)
    scores = np.linspace(0, 1, 8000) ** 2
    estimates, counts = [], []
    for seed in range(4):
        stream = Stream(Selection(replace(rules, seed=seed))).run(scores)
        weights = 1 / np.array([keep.reasons[0].propensity for keep in stream.audits])
        estimates.append(float(np.average([keep.score for keep in stream.audits], weights=weights)))
        counts.append(weights.sum())
    assert np.mean(estimates) == pytest.approx(float(scores.mean()), abs=0.03)
    assert np.mean(counts) == pytest.approx(len(scores), rel=0.02)  # Horvitz and Thompson: they stand for all


def test_a_scene_in_which_the_model_sees_nothing_is_still_audited() -> None:
    stream = Stream(Selection(replace(RANKED, audit_share=0.25))).run(np.zeros(12_000))
    assert len(stream.picks) == pytest.approx(0.25 * 720 * 1200 / 3600, abs=2)
    assert all(keep.audit for _, _, keep in stream.picks)


def test_every_frame_of_a_window_is_drawn_with_the_same_probability_and_that_is_logged() -> None:
    rules = Rules(window_s=10, gap_s=0, budget=frames_per_hour(720), audit_share=1.0)
    drawn: Counter[int] = Counter()
    logged = set()
    for seed in range(250):
        stream = Stream(Selection(replace(rules, seed=seed))).run(np.zeros(202))
        second = [(index, keep.reasons[0].propensity) for index, _, keep in stream.picks if index > 100]
        assert [index >= 150 for index, _ in sorted(second)] == [
            False,
            True,
        ]  # of each half of the second window's hundred frames one
        drawn.update(index for index, _ in second)
        logged |= {propensity for _, propensity in second}
    assert logged == {1 / 51, 1 / 49}
    fifths, _ = np.histogram(list(drawn.elements()), bins=5, range=(101, 201))
    assert np.abs(fifths - 100).max() < 4 * np.sqrt(100 * 0.8)


def test_the_logged_propensity_is_that_of_the_draw_also_where_a_drawn_frame_cannot_be_paid() -> None:
    """Every second frame is larger than what a day allows. The others' weights still come to their number, 50 of 100 in a window."""
    budget: Allowance = {"frames": {"hour": 720}, "bytes": {"day": 1e6}}
    rules = Rules(window_s=10, gap_s=0, budget=budget, audit_share=1.0)
    weights, refused = [], 0
    for seed in range(250):
        stream = Stream(Selection(replace(rules, seed=seed)), size=lambda index: 10 if index % 2 else 10**7)
        stream.run(np.zeros(202))
        later = [keep.reasons[0].propensity for index, _, keep in stream.picks if index > 100]
        weights.append(sum(1 / propensity for propensity in later))
        refused += sum(skip.reason == "more bytes than one day allows" for skip in stream.skips)
    assert refused > 250
    assert np.mean(weights) == pytest.approx(50, abs=4 * np.std(weights) / np.sqrt(250))


def test_the_same_seed_repeats_every_decision() -> None:
    scores = np.random.default_rng(3).random(3000)
    rules = Rules(budget=frames_per_hour(720), seed=11)
    one, other = (Stream(Selection[int](rules)).run(scores).end() for _ in range(2))
    assert one.picks == other.picks
    assert Stream(Selection[int](replace(rules, seed=12))).run(scores).end().picks != one.picks


# ---- what is called for --------------------------------------------------------------------------------------------


def test_a_trigger_picks_what_asks_for_it_up_to_its_quota_and_no_faster_than_the_budget() -> None:
    rules = replace(RANKED, by_rank=False, called={"missed": Quota(3)})
    frames = [Shown({0: score}, called=("missed",)) for score in np.random.default_rng(0).random(2000)]
    stream = Stream(Selection(rules)).run(frames).end()
    assert [keep.reasons[0] for _, _, keep in stream.picks] == [Reason("missed", 1.0, 0.5)] * 3
    assert {skip.reason for skip in stream.skips} >= {"the quota of missed is used up"}
    assert stream.beside == []


def test_the_campaign_of_the_highest_priority_has_the_first_choice_and_the_first_of_equals_the_next() -> None:
    called = {"campaign:a": Quota(9), "campaign:b": Quota(9), "campaign:c": Quota(9, priority=5)}
    asked = {30: (0.9, "b"), 50: (0.2, "ab"), 70: (0.1, "c")}
    named = {i: Shown({0: score}, called=tuple(f"campaign:{x}" for x in who)) for i, (score, who) in asked.items()}
    frames = scene(101, named)
    stream = Stream(Selection(replace(RANKED, by_rank=False, called=called))).run(frames)
    assert [(index, keep.reasons[0].strategy) for index, _, keep in stream.picks] == [
        (70, "campaign:c"), (50, "campaign:a"), (30, "campaign:b")
    ]  # fmt: skip
    assert [reason.strategy for reason in stream.picks[1][2].reasons] == [
        "campaign:a",
        "campaign:b",
    ]  # all that holds is said


def test_a_frame_is_kept_and_paid_once_whoever_asks_for_it_and_all_reasons_are_said() -> None:
    reasons = (Reason("gap", 0.6, 0.5), Reason("missed", 9.0, 0.1))
    asked = Shown({0: 0.9}, called=("missed", "campaign:a"), reasons=reasons)
    rules = replace(
        RANKED, gap_s=0, repeat_bits=-1, audit_share=0.5, called={"missed": Quota(9), "campaign:a": Quota(9)}
    )
    stream = Stream(Selection(rules)).run([asked] * 801).end()
    assert len(set(stream.picked)) == len(stream.picked) == 17  # 80 s of 720 an hour, and one that is owed
    said = {" ".join(reason.strategy for reason in keep.reasons) for _, _, keep in stream.picks}
    assert said <= {
        "audit gap missed campaign:a",
        "missed gap campaign:a",
        "campaign:a gap missed",
        "ede gap missed campaign:a",
    }


def test_a_frame_that_a_full_quota_lets_go_may_still_be_kept_by_its_rank() -> None:
    asked = Shown({0: 0.9}, called=("missed",))
    stream = Stream(Selection(replace(RANKED, called={"missed": Quota(0)}))).run(scene(101, {50: asked}))
    assert stream.picked == [50]
    assert [skip for skip in stream.skips if "quota" in skip.reason] == []  # one verdict a frame
    assert [reason.strategy for reason in stream.picks[0][2].reasons] == ["ede", "missed"]


def test_reasons_are_never_more_than_a_message_carries() -> None:
    asked = Shown({0: 0.9}, called=tuple(f"campaign:{n}" for n in range(32)))
    stream = Stream(Selection(RANKED)).run(scene(101, {50: asked}))
    assert len(stream.picks[0][2].reasons) == 16


@pytest.mark.parametrize(("kind", "left"), [("uncertainty", "audit"), ("audit", "ede")])
def test_a_quota_holds_for_a_whole_kind_of_picks(kind: str, left: str) -> None:
    rules = replace(RANKED, audit_share=0.25, quotas={kind: Quota(4)})
    stream = Stream(Selection(rules)).run(np.random.default_rng(0).random(6000)).end()
    count = Counter(keep.reasons[0].strategy for _, _, keep in stream.picks)
    assert count.pop(left) > 20
    assert list(count.values()) == [4]


def test_a_quota_for_campaigns_holds_for_all_of_them_together() -> None:
    called = {"campaign:a": Quota(50), "campaign:b": Quota(50)}
    rules = replace(RANKED, by_rank=False, called=called, quotas={"campaign": Quota(5)})
    frames = [Shown({0: 0.5}, called=(f"campaign:{'ab'[index // 100 % 2]}",)) for index in range(3000)]
    assert len(Stream(Selection(rules)).run(frames).end().picks) == 5


# ---- budgets -------------------------------------------------------------------------------------------------------


def overspent(limits: Allowance, spent: Sequence[tuple[float, Cost]]) -> list[str]:
    """The limits that some stretch of their period breaks, recomputed from all that was spent."""
    times = np.array([at_s for at_s, _ in spent])
    broken = []
    for currency, by_period in limits.items():
        sums = np.concatenate([[0.0], np.cumsum([getattr(cost, currency) for _, cost in spent])])
        for period, limit in by_period.items():
            since = np.searchsorted(times, times - PERIODS_S[period], side="right")
            most = (sums[1:] - sums[since]).max(initial=0.0)
            if limit is not None and most > limit * (1 + 1e-9):
                broken.append(f"{currency}_per_{period}: {most} of {limit}")
    return broken


AMOUNTS = {"frames": st.floats(1, 60), "bytes": st.floats(2_000, 60_000), "boxes": st.floats(1, 100)}
LIMITS = st.fixed_dictionaries(
    {
        name: st.dictionaries(st.sampled_from(["minute", "hour", "day"]), most, max_size=2)
        for name, most in AMOUNTS.items()
    }
)
QUOTA = st.builds(Quota, st.floats(0, 8), st.sampled_from([60.0, HOUR_S]))
RULES = st.builds(
    Rules,
    window_s=st.sampled_from([0.0, 0.5, 3.0, 10.0, 60.0]),
    gap_s=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    budget=LIMITS,
    audit_share=st.sampled_from([0.0, 0.25, 1.0]),
    track_discount=st.sampled_from([0.0, 0.5, 1.0]),
    repeat_bits=st.sampled_from([-1, 4]),
    leaders=st.sampled_from([1, 4, 16]),
    memory=st.sampled_from([0, 3, 64]),
    by_rank=st.booleans(),
    called=st.dictionaries(st.sampled_from(["missed", "campaign:a", "campaign:b"]), QUOTA, max_size=3),
    quotas=st.dictionaries(st.sampled_from(["uncertainty", "audit", "campaign"]), QUOTA, max_size=2),
    context_frames=st.integers(0, 3),
    context_before_s=st.sampled_from([0.0, 0.4, 2.0]),
    context_after_s=st.sampled_from([0.0, 0.4, 2.0]),
    seed=st.integers(0, 1000),
)


def some_frames(seed: int, count: int) -> tuple[list[Shown], list[float]]:
    """Frames of all kinds at irregular times, with pauses, a lagging clock now and then, and costs of all sizes."""
    chance = np.random.default_rng(seed)
    steps_s = chance.exponential(0.15, count) * np.where(chance.random(count) < 0.02, 200, 1)
    steps_s -= np.where(chance.random(count) < 0.02, 0.2, 0)
    frames = []
    for _ in range(count):
        tracks = chance.integers(0, 8, chance.integers(1, 4)).tolist()
        asks = tuple(name for name in ("missed", "campaign:a", "campaign:b") if chance.random() < 0.2)
        frames.append(Shown({track: float(chance.random()) for track in tracks}, float(chance.gamma(1, 3)), asks))
    return frames, (START_S + np.cumsum(steps_s)).tolist()


@settings(deadline=None, max_examples=30)
@given(rules=RULES, seed=st.integers(0, 10_000), restarts=st.sets(st.integers(0, 249), max_size=2))
def test_no_frame_is_kept_twice_and_no_limit_broken_in_any_window_whatever_the_rules_also_over_restarts(
    rules: Rules, seed: int, restarts: set[int]
) -> None:
    frames, times = some_frames(seed, 250)
    prints = [Fingerprint(index % 7 << 40, np.full((24, 32), index % 11 * 20, np.uint8)) for index in range(250)]

    def run() -> Stream:
        stream = Stream(Selection(rules), lambda index: prints[index], lambda index: 100 + index * 7919 % 5000)
        for index, (shown, at_s) in enumerate(zip(frames, times, strict=True)):
            if index in restarts:
                stored = msgspec.json.encode(stream.selection.state())
                stream.selection = Selection(rules, msgspec.json.decode(stored, type=SelectionState))
            stream.frame(shown, at_s)
        return stream.end()

    stream = run()
    assert set(Counter(index for index, _, _ in (*stream.picks, *stream.beside)).values()) <= {1}
    assert all(len({verdict.item for verdict in verdicts}) == len(verdicts) for verdicts in stream.yields)
    assert overspent(rules.budget, stream.spent) == []
    _check_quotas(rules, stream)
    _check_context(rules, stream)
    if not restarts:
        ranked = sorted(at_s for _, at_s, keep in stream.picks if not keep.audit)
        assert all(later - earlier >= rules.gap_s - 1e-6 for earlier, later in itertools.pairwise(ranked))
        again = run()
        assert (stream.picks, stream.beside, stream.skips) == (again.picks, again.beside, again.skips)


def _check_quotas(rules: Rules, stream: Stream) -> None:
    for name, quota in (*rules.quotas.items(), *rules.called.items()):
        whose = {"uncertainty": "ede", "campaign": "campaign:"}.get(name, name)
        times = [at_s for at_s, kind in stream.kinds if kind.startswith(whose)]
        assert all(sum(end - quota.period_s < at_s <= end for at_s in times) <= quota.limit for end in times)


def _check_context(rules: Rules, stream: Stream) -> None:
    sides: Counter[tuple[int | None, bool]] = Counter()
    for _, at_s, keep in stream.beside:
        (reason,), pick = keep.reasons, keep.beside
        assert pick in stream.picked
        assert reason.strategy == CONTEXT
        assert reason.score == pytest.approx(at_s - stream.times[pick])
        assert -rules.context_before_s - 1e-5 <= reason.score <= rules.context_after_s + 1e-5
        sides[pick, reason.score > 0] += 1
    assert max(sides.values(), default=0) <= rules.context_frames


SPENT: list[tuple[str, Rules, float, float]] = [
    ("5 % of the frames at 10 frames/s", Rules(budget=frames_per_hour(1800)), 10, 1.0),
    ("5 % of the frames at 5 frames/s", Rules(budget=frames_per_hour(900)), 5, 1.0),
    ("as much, picks far apart", Rules(window_s=24, gap_s=2.2, leaders=24, budget=frames_per_hour(900)), 5, 1.0),
    ("60 an hour at 10 frames/s", Rules(), 10, 1.0),
    ("bytes", Rules(budget={"frames": {"hour": 1800}, "bytes": {"hour": 20e6}}), 5, 2.0),
    ("bytes alone", Rules(budget={"bytes": {"hour": 20e6}}), 5, 2.0),
    ("boxes", Rules(budget={"frames": {"hour": 1800}, "boxes": {"hour": 1000}}), 5, 2.0),
    ("context", Rules(context_frames=2, context_before_s=2, context_after_s=1), 10, 1.0),
]


@pytest.mark.parametrize(
    ("rules", "fps", "hours"),
    [pytest.param(*case[1:], id=case[0], marks=pytest.mark.slow if n % 2 else ()) for n, case in enumerate(SPENT)],
)
def test_where_candidates_abound_all_but_two_percent_of_the_budget_is_spent_and_nothing_beyond(
    rules: Rules, fps: float, hours: float
) -> None:
    chance = np.random.default_rng(5)
    scores = doubt(5, int(hours * HOUR_S * fps))
    sizes = chance.lognormal(11.5, 0.3, len(scores)).astype(int).tolist()
    boxes = chance.gamma(2, 4, len(scores)).tolist()
    stream = Stream(Selection(rules), size=lambda index: sizes[index])
    stream.run([Shown({0: score}, drawn) for score, drawn in zip(scores.tolist(), boxes, strict=True)], step_s=1 / fps)
    assert overspent(rules.budget, stream.spent) == []
    used = [
        sum(getattr(cost, currency) for _, cost in stream.spent) / (limit * hours)
        for currency, by_period in rules.budget.items()
        for period, limit in by_period.items()
        if period == "hour" and limit is not None
    ]
    assert max(used) >= 0.98
    if not rules.context_frames:
        assert len(stream.audits) / len(stream.picks) == pytest.approx(rules.audit_share, abs=0.04)


def test_a_camera_that_was_off_does_not_catch_up() -> None:
    stream = Stream(Selection(RANKED))
    stream.run(np.full(200, 0.5))
    before = len(stream.picks)
    stream.run(np.full(101, 0.5), start_s=START_S + 50_000)
    assert (
        len(stream.picks) - before <= 4 + 1 + 2
    )  # two windows' worth, one that is owed, and what the window after it earns


def test_the_bytes_of_a_day_are_never_overspent() -> None:
    budget: Allowance = {"frames": {"hour": 3600}, "bytes": {"day": 50e6}}
    stream = Stream(Selection(Rules(budget=budget)), size=lambda _: 400_000)
    stream.run(np.random.default_rng(0).random(20_000), step_s=10.0)
    assert overspent(budget, stream.spent) == []
    assert sum(cost.bytes for _, cost in stream.spent) >= 0.95 * 50e6 * (200_000 / DAY_S)


def test_a_frame_too_large_for_what_is_left_is_skipped_and_says_so() -> None:
    rules = Rules(window_s=1, budget={"frames": {"hour": 3600}, "bytes": {"day": 1000}}, audit_share=0)
    stream = Stream(Selection(rules), size=lambda _: 2000).run(np.full(100, 0.5)).end()
    assert stream.picks == []
    assert "more bytes than one day allows" in {skip.reason for skip in stream.skips}


def test_without_any_limit_a_window_keeps_what_it_holds() -> None:
    stream = Stream(Selection(Rules(budget={}, audit_share=0.1))).run(np.random.default_rng(0).random(1000)).end()
    assert 0.5 * 100 <= len(stream.picks) <= 10 * (8 + 1)


def test_a_restart_forgives_nothing() -> None:
    stream = Stream(Selection(RANKED)).run(np.full(401, 0.5))
    stored = msgspec.json.encode(stream.selection.state())
    again = Stream(Selection.from_state(RANKED, msgspec.json.decode(stored, type=SelectionState)))
    fresh = Stream(Selection[int](RANKED))
    for late in (again, fresh):
        late.run(np.full(2, 0.5), start_s=stream.times[-1]).end()
    assert len(fresh.picks) == 1
    assert again.picks == []


@pytest.mark.parametrize(("away_s", "picks"), [(60, 0), (86_401, 5)])
def test_a_quota_is_not_given_again_by_rules_that_did_not_know_it(away_s: float, picks: int) -> None:
    asking = replace(RANKED, by_rank=False, called={"campaign:a": Quota(5, 86_400)})
    frames = [Shown({0: 0.5}, called=("campaign:a",)) for _ in range(1000)]
    first = Stream(Selection(asking)).run(frames).end()
    assert len(first.picks) == 5
    other = Stream(Selection(RANKED, first.selection.state())).run([0.0, 0.0], first.times[-1], away_s)
    other.selection.close(other.times[-1], other.size)
    again = Stream(Selection(asking, other.selection.state())).run(frames, other.times[-1]).end()
    assert len(again.picks) == picks
    assert ("campaign:a" in other.selection.state().quotas) == (picks == 0)


def test_the_state_of_another_version_is_refused_and_not_misread() -> None:
    stored = msgspec.json.encode(Selection[int](RANKED).state())
    for other in (1, 3):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(stored.replace(b'"v":2', f'"v":{other}'.encode(), 1), type=SelectionState)


def test_lower_limits_do_not_wait_for_ever_for_what_was_usual_under_higher_ones() -> None:
    before = Stream(Selection(Rules(budget={"bytes": {"hour": 1e6}})), size=lambda _: 100_000)
    before.run(doubt(1, 6000))
    assert before.picks
    rules = Rules(budget={"bytes": {"hour": 50_000}})
    stream = Stream(Selection(rules, before.selection.state()), size=lambda _: 20_000)
    stream.run(doubt(2, 6000), start_s=START_S + DAY_S)
    assert stream.picks


def test_a_window_waits_until_a_frame_can_really_be_paid() -> None:
    """One that ends a hair too early would throw away all that it holds."""
    owing = SelectionState(purse=PurseState(at_s=START_S, credit={"frames": -1.0}))
    stream = Stream(Selection(replace(RANKED, budget=frames_per_hour(60)), owing))
    for second in range(60):
        stream.frame(0.9 if second == 30 else 0.1, START_S + second)
    stream.frame(0.1, START_S + 60 - 30e-6)
    assert stream.yields == []
    stream.frame(0.1, START_S + 60.1)
    assert stream.picked == [30]


def test_a_clock_that_is_set_back_neither_refills_nor_blocks() -> None:
    stream = Stream(Selection(RANKED)).run(np.random.default_rng(0).random(3000), start_s=2e9)
    before = len(stream.picks)
    stream.run(np.random.default_rng(1).random(3000), start_s=1e9)
    assert 0.8 * before <= len(stream.picks) - before <= 1.1 * before


def test_a_budget_of_nothing_keeps_nothing() -> None:
    for budget in ({"frames": {"hour": 0.0}}, {"bytes": {"day": 0.0}}):
        assert Stream(Selection[int](Rules(budget=budget))).run(np.full(500, 0.9)).end().picks == []


# ---- what goes with a pick -----------------------------------------------------------------------------------------

BESIDE = replace(RANKED, budget=frames_per_hour(60), context_frames=2, context_before_s=2.0, context_after_s=1.0)


def test_the_frames_beside_a_pick_go_with_it_and_are_paid_for() -> None:
    stream = Stream(Selection(BESIDE)).run(scene(700, {350: 0.9})).end()
    assert stream.picked == [350]
    before = [index for index, _, keep in stream.beside if keep.reasons[0].score < 0]
    after = [index for index, _, keep in stream.beside if keep.reasons[0].score > 0]
    assert len(before) == len(after) == 2
    assert 330 <= before[0] < 340 <= before[1] < 350 < after[0] <= 355 < after[1] <= 360
    assert sum(cost.frames for _, cost in stream.spent) == 5


def test_no_pick_is_the_context_of_another_and_a_frame_between_two_goes_with_one() -> None:
    rules = replace(BESIDE, gap_s=0.5, context_frames=4, context_after_s=2.0, budget=frames_per_hour(1800))
    stream = Stream(Selection(rules)).run(scene(200, {50: 0.9, 60: 0.8, 70: 0.7})).end()
    assert stream.picked == [50, 60, 70]
    beside = Counter(index for index, _, _ in stream.beside)
    assert set(beside.values()) == {1}
    assert not beside.keys() & {50, 60, 70}
    assert len(beside) > 8


def test_a_frame_that_went_along_cannot_be_picked_later() -> None:
    """What lies beside a pick is told when the window that it fell in is decided, however short windows are."""
    rules = replace(
        BESIDE, gap_s=0, window_s=0.3, context_frames=9, context_after_s=3.0, budget=frames_per_hour(14_400)
    )
    stream = Stream(Selection(rules)).run(doubt(4, 600)).end()
    assert len(stream.beside) > 100
    assert max(Counter(index for index, _, _ in (*stream.picks, *stream.beside)).values()) == 1


def test_context_is_paid_out_of_the_same_budget_and_the_audit_keeps_its_share_of_the_picks() -> None:
    rules = replace(BESIDE, audit_share=0.25, budget=frames_per_hour(720))
    stream = Stream(Selection(rules)).run(doubt(3, 27_000), step_s=0.2).end()
    spent = sum(cost.frames for _, cost in stream.spent)
    assert 0.98 * 720 * 1.5 <= spent <= 720 * 1.5 + 12
    assert len(stream.beside) > 1.5 * len(stream.picks)
    assert len(stream.audits) / len(stream.picks) == pytest.approx(0.25, abs=0.04)


def test_what_goes_with_a_pick_may_overdraw_its_credit_but_no_limit() -> None:
    purse = Purse({"frames": {"minute": 3}, "bytes": {"hour": 1000}})
    purse.advance(START_S)
    purse.spend(Cost(100, 5.0))
    assert purse.refusal(Cost(100, 0.0)) is not None
    purse.spend(Cost(100, 0.0), beside=True)
    purse.spend(Cost(100, 0.0), beside=True)
    assert purse.refusal(Cost(100, 0.0), beside=True) == "no frames left this minute"
    assert purse.refusal(Cost(800, 0.0, frames=0), beside=True) == "no bytes left this hour"
    assert purse.state().usual_boxes == 5.0  # what nobody labels does not tell what a pick costs


def test_the_rate_of_picks_counts_what_goes_with_them() -> None:
    purse = Purse({"frames": {"hour": 3600}, "boxes": {"hour": 3600}})
    assert purse.picks_per_s() == 1.0
    assert purse.picks_per_s(beside=3.0) == 0.25
    purse.advance(START_S)
    purse.spend(Cost(100, 8.0))
    assert purse.picks_per_s(beside=3.0) == 0.125  # nobody draws boxes in what goes with a pick
    assert Purse({}).picks_per_s(1.0) == float("inf")
