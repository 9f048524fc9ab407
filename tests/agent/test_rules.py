"""What the rules promise: nonsense is refused by its name, before anything runs."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from edgecase_agent.rules import Quota, Rules, RulesError


@pytest.mark.parametrize(
    "wrong",
    [
        {"audit_share": 1.5},
        {"audit_share": math.nan},
        {"window_s": -1},
        {"gap_s": math.inf},
        {"leaders": 0},
        {"min_score": -0.1},
        {"track_discount": 1.01},
        {"novelty_weight": 11},
        {"repeat_bits": -2},
        {"memory": 10_001},
        {"context_frames": 101},
        {"context_before_s": 31},
    ],
    ids=str,
)
def test_rules_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(RulesError, match=rf"selection\.{next(iter(wrong))} must lie between"):
        Rules(**wrong)


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"frames": {"hour": math.nan}}, "frames_per_hour must be 0 or more and finite, not nan"),
        ({"frames": {"hour": 0.5}}, "frames_per_hour = 0.5 allows no whole frame"),
        ({"frames": {"week": 5}}, "'week' is no period"),
        ({"labels": {"hour": 5}}, "'labels' is no currency"),
        ({"boxes": {"day": -1}}, "boxes_per_day must be 0 or more"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_by_name(budget: dict[str, dict[str, float]], says: str) -> None:
    with pytest.raises(RulesError, match="selection.budget: .*" + re.escape(says)):
        Rules(budget=budget)


@pytest.mark.parametrize(("limit", "period_s"), [(-1, 60), (math.nan, 60), (math.inf, 60), (1, 0), (1, math.nan)])
def test_a_quota_that_makes_no_sense_is_refused(limit: float, period_s: float) -> None:
    with pytest.raises(RulesError, match="a quota is 0 or more"):
        Quota(limit, period_s)


def test_the_tightest_limit_of_frames_is_their_rate() -> None:
    assert Rules().frames_per_s == 60 / 3600
    assert Rules(budget={"frames": {"minute": 60, "hour": 60, "day": None}}).frames_per_s == 60 / 3600
    assert Rules(budget={"frames": {"day": 0}}).frames_per_s == 0
    assert Rules(budget={"bytes": {"day": 1e6}}).frames_per_s == math.inf
