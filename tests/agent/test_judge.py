"""What the judge promises: a frame's doubt lies on its objects, a committee refines it, campaigns ask for it, all reasons are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edgecase_agent.committee import Cascade, View
from edgecase_agent.judge import Committee, Judge, Judged, Shown
from edgecase_agent.rules import DAY_S, Quota, Rules
from edgecase_agent.running import Model
from edgecase_agent.selection import Keep, Selection, Skip
from edgecase_models.campaign import Campaigns
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector
from edgecase_models.policy import CampaignPolicy
from edgecase_models.strategy import Strategy, Trigger
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

    def look(self, picture: object, incumbent: object) -> View:  # noqa: ARG002
        return View(self.detections, (0.0, 0.0, 64.0, 64.0), model_digest="b" * 64)


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


def test_an_object_that_vanishes_adds_to_the_doubt_and_is_told(model: Model) -> None:
    judge = Judge(Selection[int](RULES))
    there, gone = seen((30, 0.9, 0), (5, 0.4, 1)), seen((5, 0.4, 1))
    said, kept = judged(judge, model, [there] * 6 + [gone] + [there] * 3)
    assert said[6].score > said[5].score - 0.1
    reasons = {reason.strategy for keep in kept.values() for reason in keep.reasons}
    assert reasons & {"gap", "flicker"}


def test_a_probability_that_is_none_is_refused(model: Model) -> None:
    broken = replace(model, calibration=lambda scores, _: scores * np.nan)
    judge = Judge(Selection[int](RULES))
    with pytest.raises(ValueError, match="nan"):
        judge.judge(Shown(0, BLACK, SINCE, (64, 64)), broken, seen((0, 0.9, 0)))


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


def test_another_strategy_orders_by_its_own_measure(model: Model) -> None:
    judge = Judge(Selection[int](RULES), Strategy.ENTROPY_SUM)
    said, _ = judged(judge, model, [seen((0, 0.5, 0)), seen((0, 0.99, 0))])
    assert said[0].score == pytest.approx(np.log(2), rel=1e-3)
    assert said[1].score < said[0].score
    with pytest.raises(ValueError, match="committee refines ede"):
        Judge(Selection[int](RULES), Strategy.MARGIN, Committee(Cascade(), Second(seen())))
