"""What the judge promises: a frame's doubt lies on its objects, a committee refines it, campaigns ask for it, all reasons are told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edgecase_agent import scoring
from edgecase_agent.committee import Cascade, View
from edgecase_agent.judge import Committee, Judge, Judged, Shown
from edgecase_agent.rules import DAY_S, Quota, Rules
from edgecase_agent.running import Model
from edgecase_agent.selection import Candidate, Held, Keep, Selection, Skip
from edgecase_models.campaign import Campaigns
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector, StagesMs
from edgecase_models.fingerprint import Fingerprint
from edgecase_models.policy import CampaignPolicy
from edgecase_models.strategy import Strategy, Trigger
from edgecase_models.wire import Offer, decode_up, encode
from support.tiny_onnx import GOLDEN

SINCE = datetime(2026, 3, 1, 12, tzinfo=UTC)
RULES = Rules(window_s=2, gap_s=0.2, budget={"frames": {"hour": 7200}}, audit_share=0, repeat_bits=-1)
BLACK = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> Model:
    detector = Detector(GOLDEN)
    return Model(detector, "a" * 64, detector.names, 0.25)


@dataclass(frozen=True)
class Second:
    """A second member that saw what the test says."""

    detections: Detections
    digest: str = "b" * 64
    took: StagesMs | None = None

    def look(self, picture: object, incumbent: object) -> View:  # noqa: ARG002
        return View(self.detections, (0.0, 0.0, 64.0, 64.0), model_digest=self.digest, took=self.took)


@dataclass
class Spied(Selection[int]):
    """A selection that remembers what was offered to it."""

    rules: Rules = RULES
    offered: list[Candidate[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.rules)

    def offer(self, candidate: Candidate[int], now_s: float) -> Held | Skip:
        self.offered.append(candidate)
        return super().offer(candidate, now_s)


def seen(*boxes: tuple[float, float, int]) -> Detections:
    """Detections (left edge, score, class), 10 pixels wide and high."""
    return Detections.of([(x, 10, x + 10, 20) for x, _, _ in boxes], [s for _, s, _ in boxes], [c for _, _, c in boxes])


def judged(judge: Judge[int], model: Model, frames: Sequence[Detections]) -> tuple[list[Judged], dict[int, Keep[int]]]:
    """Each frame's judgement, ten frames a second, and what is kept in the end."""
    said, kept = [], {}
    for index, detections in enumerate(frames):
        at = SINCE + timedelta(seconds=index / 10)
        said.append(judge.judge(Shown(index, BLACK, at, (64, 64), "gate"), model, detections))
        ending = index == len(frames) - 1
        for verdict in judge.selection.close(at.timestamp(), lambda _: 1000, ending=ending):
            if isinstance(verdict.decision, Keep):
                kept[verdict.item] = verdict.decision
    return said, kept


def test_a_frame_is_as_doubtful_as_the_errors_that_are_expected_in_it(model: Model) -> None:
    judge = Judge(Selection[int](RULES))
    said, _ = judged(judge, model, [seen((0, 0.9, 0), (30, 0.2, 1))])
    assert said[0].score == pytest.approx(0.1 + 0.2)


def test_an_object_that_vanishes_is_told(model: Model) -> None:
    selection = Spied()
    there, gone = seen((30, 0.9, 0), (5, 0.4, 1)), seen((5, 0.4, 1))
    judged(Judge(selection), model, [there] * 6 + [gone] + [there] * 3)
    told = [{reason.strategy for reason in candidate.reasons} for candidate in selection.offered]
    assert told[6:8] == [{"gap"}, {"flicker"}]
    assert not any(told[:6])


def test_the_doubt_lies_on_the_objects_and_what_their_tracks_tell_is_a_reason_beside_it(model: Model) -> None:
    selection = Spied()
    there, turned = seen((30, 0.9, 0), (5, 0.9, 1)), seen((30, 0.6, 1), (5, 0.9, 1))
    judged(Judge(selection), model, [there] * 6 + [turned])
    calm, hot = selection.offered[-2:]
    assert calm.errors == pytest.approx([0.1, 0.1])
    assert hot.errors == pytest.approx([0.4, 0.1])
    assert calm.tracks.tolist() == hot.tracks.tolist()  # the same objects: one kept its id although it turned
    assert [reason.strategy for reason in hot.reasons] == ["class_flip"]


def test_what_is_too_low_to_be_labelled_counts_for_nothing_whoever_sees_it(model: Model) -> None:
    """10 pixels of 64 are less than a fifth; a campaign still finds what it looks for."""
    selection = Spied(replace(RULES, called={"campaign:small": Quota(5)}))
    campaigns = Campaigns((CampaignPolicy(name="small", when="size(classes) > 0", quota_per_day=5),), "")
    high = Detections.of([(5, 10, 15, 40)], [0.7], [1])
    both = Detections.of([(5, 10, 15, 40), (30, 10, 40, 20)], [0.7, 0.5], [1, 0])
    committee = Committee(Cascade(1.0), Second(seen((30, 0.9, 0))))
    asked = Judge(selection, committee=committee, campaigns=campaigns, min_box_height=0.2)
    judged(asked, model, [high, both, seen((30, 0.5, 0))])
    alone, with_low, low = selection.offered
    assert with_low.score == alone.score > 0
    assert with_low.boxes == alone.boxes
    assert (low.score, low.boxes) == (0, 0)
    assert [reason.strategy for reason in low.called] == ["campaign:small"]


def test_a_frame_says_how_many_recent_ones_are_less_doubtful_and_what_it_would_cost_to_label(model: Model) -> None:
    selection = Spied()
    judged(Judge(selection), model, [seen((0, score, 0), (30, 0.2, 1)) for score in (0.5, 0.9, 0.7, 0.3)])
    assert [candidate.rank for candidate in selection.offered] == [0, 0, 0.5, 1]
    assert [candidate.boxes for candidate in selection.offered] == pytest.approx([0.7, 1.1, 0.9, 0.5])


def test_an_empty_frame_is_no_trouble(model: Model) -> None:
    selection = Spied(replace(RULES, audit_share=0.5))
    said, kept = judged(Judge(selection, committee=Committee(Cascade(1.0), Second(seen()))), model, [seen()] * 60)
    assert {one.score for one in said} == {0.0}
    assert all(keep.audit for keep in kept.values())
    assert kept


def broken_after(calls: int) -> scoring.Calibration:
    """A calibration that is well for so many calls."""
    count = iter(range(1000))
    return lambda scores, _: scores if next(count) < calls else scores * np.nan


@pytest.mark.parametrize(("strategy", "calls"), [(Strategy.EDE, 0), (Strategy.EDE, 1), (Strategy.ENTROPY_SUM, 0)])
def test_a_probability_that_is_none_is_refused_before_the_budget_sees_it(
    model: Model, strategy: Strategy, calls: int
) -> None:
    broken, selection = replace(model, calibration=broken_after(calls)), Spied()
    with pytest.raises(ValueError, match="its score is nan"):
        Judge(selection, strategy).judge(Shown(0, BLACK, SINCE, (64, 64)), broken, seen((0, 0.9, 0)))
    assert selection.offered == []


class Failing:
    """A second member that raises what the test says, or gives scores that are no numbers."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def look(self, picture: object, incumbent: object) -> View:  # noqa: ARG002
        if self._error is not None:
            raise self._error
        broken = seen((0, 0.9, 0))
        return View(replace(broken, scores=broken.scores * np.float32(np.nan)), (0.0, 0.0, 64.0, 64.0))


@pytest.mark.parametrize("failing", [Failing(RuntimeError("no memory")), Failing(OSError("gone")), Failing()])
def test_a_second_member_that_fails_leaves_what_the_first_look_said(model: Model, failing: Failing) -> None:
    frames = [seen((0, 0.9, 0), (30, score, 1)) for score in np.linspace(0.1, 0.5, 20)]
    alone, committee = Spied(), Spied()
    first, _ = judged(Judge(alone), model, frames)
    said, _ = judged(Judge(committee, committee=Committee(Cascade(1.0, 1.0), failing)), model, frames)
    assert all(each.second_failure is not None and not each.second_look for each in said)
    assert [each.score for each in said] == [each.score for each in first]
    assert {(each.strategy, each.reasons) for each in committee.offered} == {
        ("ede", each.reasons) for each in alone.offered
    }


def test_the_committee_refines_the_score_and_names_the_member(model: Model) -> None:
    committee = Committee(Cascade(share=1.0, random_share=1.0), Second(seen((40, 0.8, 1))))
    judge = Judge(Selection[int](RULES), committee=committee)
    said, kept = judged(judge, model, [seen((0, 0.9, 0))] * 10)
    assert all(one.second_look for one in said)
    assert said[0].score == pytest.approx((1 - 0.45) + 0.4)  # each member alone sees one: half its score is left of it
    reasons = {reason.strategy: reason for keep in kept.values() for reason in keep.reasons}
    assert reasons["ede"].score == pytest.approx(0.1)
    assert reasons["disagreement"].score == 2
    assert reasons["disagreement"].model_digest == "b" * 64


def test_what_the_second_member_alone_sees_is_an_object_of_its_own_and_is_told(model: Model) -> None:
    selection = Spied()
    committee = Committee(Cascade(share=1.0, random_share=1.0), Second(seen((0, 0.9, 0), (40, 0.9, 1))))
    judged(Judge(selection, committee=committee), model, [seen((0, 0.9, 0), (20, 0.2, 1))])
    (candidate,) = selection.offered
    assert (candidate.strategy, candidate.errors) == ("c_ede", pytest.approx([0.1, 0.1, 0.45]))
    assert candidate.tracks[2] == 0  # nobody followed it: it cannot have been sent before
    told = {reason.strategy: reason for reason in candidate.reasons}
    assert told["disagreement"].score == 1
    assert "seen_by_one" not in told  # with 0.45 it is less than half an object
    surer = Committee(Cascade(share=1.0, random_share=1.0), Second(seen((20, 0.95, 1), (40, 0.9, 1))))
    judged(Judge(selection, committee=surer), model, [seen((0, 0.9, 0), (20, 0.2, 1))])
    told = {reason.strategy: reason for reason in selection.offered[-1].reasons}
    assert told["seen_by_one"].score == pytest.approx((0.95 + 0.2) / 2 + 0.45)
    assert (told["seen_by_one"].threshold, told["seen_by_one"].model_digest) == (0.5, "b" * 64)


def test_a_look_by_lot_says_with_which_chance_it_was_taken(model: Model) -> None:
    selection = Spied()
    committee = Committee(Cascade(share=0.0, random_share=0.1, seed=3), Second(seen((40, 0.8, 1))))
    judged(Judge(selection, committee=committee), model, [seen((0, 0.9, 0))] * 200)
    looked = [candidate for candidate in selection.offered if candidate.strategy == "c_ede"]
    assert 8 <= len(looked) <= 35
    reasons = [reason for each in looked for reason in each.reasons if reason.strategy == "disagreement"]
    assert {reason.propensity for reason in reasons} == {0.1}


@pytest.mark.parametrize(("took", "share"), [(None, 0.25), (StagesMs(10.0, 20.0, 30.0), 0.025)])
def test_the_committee_is_charged_what_its_own_look_took(model: Model, took: StagesMs | None, share: float) -> None:
    class Timed:
        stages_ms = StagesMs(1.0, 2.0, 3.0)

    timed = replace(model, detector=Timed())  # type: ignore[arg-type]
    committee = Committee(Cascade(share=1.0, random_share=0.0, compute_share=0.2), Second(seen(), took=took))
    frames = [seen((0, score, 0)) for score in np.random.default_rng(1).uniform(0.3, 0.9, 1200).tolist()]
    said, _ = judged(Judge(Selection[int](RULES), committee=committee), timed, frames)
    assert np.mean([one.second_look for one in said[400:]]) == pytest.approx(share, rel=0.2)


def test_a_campaign_keeps_the_frame_that_it_asks_for(model: Model) -> None:
    policy = CampaignPolicy(name="green", when='"green" in classes && luma < 40 && camera == "gate"', quota_per_day=1)
    rules = replace(RULES, by_rank=False, called={"campaign:green": Quota(1, DAY_S)})
    judge = Judge(Selection[int](rules), campaigns=Campaigns([policy], "dev"), device="dev")
    _, kept = judged(judge, model, [seen((0, 0.9, 0))] * 10 + [seen((0, 0.9, 1))] * 10)
    (index,) = kept
    assert index >= 10
    assert kept[index].reasons[0].strategy == "campaign:green"


def test_a_trigger_picks_by_itself_only_where_the_policy_lets_it(model: Model) -> None:
    frames = [seen((30, 0.9, 0))] * 6 + [seen((5, 0.3, 1))] * 4
    rules = replace(RULES, by_rank=False, called={"missed": Quota(10)})
    for triggers, count in ((frozenset({Trigger.MISSED}), 1), (frozenset({Trigger.AUDIT}), 0)):
        judge = Judge(Selection[int](rules), triggers=triggers)
        said, kept = judged(judge, model, frames)
        assert (len(kept) >= 1) == bool(count)
        assert isinstance(said[0].decision, Skip)


def test_a_trigger_is_told_with_its_own_measure_and_what_it_was_held_against(model: Model) -> None:
    selection = Spied()
    committee = Committee(Cascade(share=1.0, random_share=1.0), Second(seen((40, 0.8, 1)), digest=""))
    shown = replace(seen((0, 0.9, 0)), features=np.array([1.0, 2.0], np.float32))
    triggers = frozenset({Trigger.MISSED, Trigger.DISAGREEMENT, Trigger.NOVELTY})
    judged(Judge(selection, committee=committee, triggers=triggers), model, [shown])
    called = {reason.strategy: (reason.score, reason.threshold) for reason in selection.offered[0].called}
    assert called == {
        "disagreement": (2.0, 1.0),
        "novelty": (1.0, 0.25),
    }  # one member alone sees it with 0.4: no half object


def test_whatever_is_kept_can_be_offered(model: Model) -> None:
    """Its reasons go over the wire as they are, the incumbent's own second look with no digest among them."""
    committee = Committee(Cascade(share=1.0, random_share=1.0), Second(seen((40, 0.8, 1)), digest=""))
    rules = replace(RULES, called={"disagreement": Quota(3)}, audit_share=0.3)
    judge = Judge(Selection[int](rules), committee=committee, triggers=frozenset({Trigger.DISAGREEMENT}))
    _, kept = judged(judge, model, [seen((0, 0.9, 0)), seen((0, 0.9, 0), (20, 0.6, 1))] * 60)
    assert {keep.reasons[0].strategy for keep in kept.values()} == {"audit", "disagreement", "c_ede"}
    for keep in kept.values():
        offer = Offer(
            device="d", frame_id="0" * 32, camera="c", frame_index=0, captured_at=SINCE, boot_id="", monotonic_ns=0,
            sha256="a" * 64, size_bytes=1, width_px=64, height_px=64, model_digest="a" * 64, classes=[], score=keep.score,
            reasons=list(keep.reasons), boxes=[],
        )  # fmt: skip
        assert decode_up(encode(offer)) == offer


def test_the_fact_of_expected_errors_is_what_it_says_whatever_orders_the_frames(model: Model) -> None:
    policy = CampaignPolicy(name="two", when="ede > 0.29 && ede < 0.31", quota_per_day=9)
    for strategy in (Strategy.EDE, Strategy.MISSED, Strategy.RANDOM, Strategy.LEAST_CONFIDENCE):
        selection = Spied()
        judge = Judge(selection, strategy, campaigns=Campaigns([policy], "dev"))
        judged(judge, model, [seen((0, 0.9, 0), (30, 0.2, 1))])
        assert [reason.strategy for reason in selection.offered[0].called] == ["campaign:two"], strategy


def test_novelty_is_told_by_features_of_one_model_and_ede_ranks_for_a_model_without_any(model: Model) -> None:
    selection, other = Spied(), replace(model, digest="d" * 64)
    judge = Judge(selection, Strategy.NOVELTY)
    judged(judge, other, [seen((0, 0.9, 0))] * 2)
    assert selection.offered[-1].strategy == judge.strategy == "ede"
    assert selection.offered[-1].score == pytest.approx(0.1)
    assert "model dddddddddddd does not give: ede ranks" in judge.strategy_failure
    shown = replace(seen((0, 0.9, 0)), features=np.array([1.0, 2.0], np.float32))
    selection.offered.clear()
    judged(judge, model, [shown] * 60)
    assert selection.offered[0].score == 1
    assert selection.offered[0].rank == 0  # it does not stand among expected errors
    assert selection.offered[-1].score == pytest.approx(0, abs=1e-6)
    judged(judge, replace(model, digest="c" * 64), [shown])
    assert selection.offered[-1].score == 1  # another model's features are not compared
    assert (judge.strategy, judge.strategy_failure) == ("novelty", "")
    with pytest.raises(
        ValueError, match="its features are no numbers"
    ):  # of one frame, which must not change the measure
        judge.judge(Shown(0, BLACK, SINCE, (64, 64)), replace(model, digest="c" * 64), seen((0, 0.9, 0)))


def test_a_fingerprint_that_is_known_is_not_taken_again(model: Model) -> None:
    selection, known = Spied(), Fingerprint(7, np.zeros((24, 32), np.uint8))
    Judge(selection).judge(
        Shown(0, BLACK, SINCE, (64, 64), fingerprint=lambda: known), model, seen((0, 0.9, 0), (30, 0.2, 1))
    )
    assert selection.offered[0].fingerprint() is known


def test_the_parts_are_timed_by_their_names(model: Model) -> None:
    timed: list[str] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        timed.append(name)
        yield

    Judge(Selection[int](RULES)).judge(Shown(0, BLACK, SINCE, (64, 64)), model, seen(), stage)
    assert timed == ["score", "second", "select"]


def test_another_strategy_orders_by_its_own_measure(model: Model) -> None:
    judge = Judge(Selection[int](RULES), Strategy.ENTROPY_SUM)
    said, _ = judged(judge, model, [seen((0, 0.5, 0)), seen((0, 0.99, 0))])
    assert said[0].score == pytest.approx(np.log(2), rel=1e-3)
    assert said[1].score < said[0].score
    with pytest.raises(ValueError, match="committee refines ede"):
        Judge(Selection[int](RULES), Strategy.MARGIN, Committee(Cascade(), Second(seen())))
