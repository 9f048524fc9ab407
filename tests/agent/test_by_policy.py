"""What a policy promises on a device: each of its words reaches the part that it is about, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecase_agent.by_policy import a_committee, a_judge, rules_of
from edgecase_agent.committee import Flipped, Independent, Shadow, Shifted
from edgecase_agent.rules import DAY_S, Quota, Rules
from edgecase_agent.selection import Selection
from edgecase_models.detector import Runtime
from edgecase_models.policy import Policy, PolicyError, read_policy
from support.bundles import a_bundle


def policy(folder: Path, text: str) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text)
    return read_policy(path)


def nobody() -> None:
    return None


def test_budgets_triggers_and_quotas_reach_the_rules(tmp_path: Path) -> None:
    rules = rules_of(
        policy(
            tmp_path,
            """
            [selection]
            triggers = ["missed", "campaign"]
            quotas = { missed = 4 }
            context_frames = 2
            context_before_s = 1.5
            [selection.budget]
            frames_per_day = 7
            boxes_per_hour = 11
            [[campaigns]]
            name = "dark"
            when = "luma < 40"
            quota_per_day = 3
            priority = 5
            """,
        )
    )
    assert rules.budget == {"frames": {"day": 7}, "bytes": {"day": 200e6}, "boxes": {"hour": 11}}
    assert rules.called == {"missed": Quota(4), "campaign:dark": Quota(3, DAY_S, 5)}
    assert (rules.by_rank, rules.audit_share) == (False, 0.0)
    assert (rules.context_frames, rules.context_before_s, rules.context_after_s) == (2, 1.5, 0.0)


def test_a_quota_of_any_trigger_reaches_the_rules(tmp_path: Path) -> None:
    text = "[selection]\ntriggers = ['uncertainty', 'audit', 'missed', 'campaign']\n"
    text += "quotas = { uncertainty = 5, audit = 2, missed = 3, campaign = 9 }\n"
    rules = rules_of(policy(tmp_path, text + "[[campaigns]]\nname = 'x'\nwhen = 'luma < 40'\nquota_per_day = 1\n"))
    assert rules.quotas == {"uncertainty": Quota(5), "audit": Quota(2), "campaign": Quota(9)}
    assert rules.called == {"missed": Quota(3), "campaign:x": Quota(1, DAY_S)}


def test_the_policy_that_says_nothing_is_that_of_the_rules() -> None:
    assert rules_of(Policy()) == Rules()


def test_without_a_trigger_nothing_is_kept(tmp_path: Path) -> None:
    rules = rules_of(policy(tmp_path, "[selection]\ntriggers = []\n"))
    assert (rules.by_rank, rules.audit_share, dict(rules.called)) == (False, 0.0, {})


def test_a_committee_is_only_there_for_the_strategy_that_it_refines(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"set committee\.share = 0"):
        a_committee(policy(tmp_path, "[selection]\nstrategy = 'margin'\n[committee]\nshare = 0.5\n"), Runtime(), nobody)
    assert a_committee(policy(tmp_path, "[selection]\nstrategy = 'margin'\n"), Runtime(), nobody) is None
    assert a_committee(policy(tmp_path, "[committee]\nshare = 0\n"), Runtime(), nobody) is None


def test_the_second_member_is_the_one_that_is_named(tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "other.tar", "other")
    named = {
        "member = 'shifted'": Shifted,
        "member = 'flipped'": Flipped,
        "member = 'candidate'": Shadow,
        f"bundle = '{bundle.path}'": Independent,
    }
    for line, kind in named.items():
        committee = a_committee(policy(tmp_path, f"[committee]\n{line}\n"), Runtime(), nobody)
        assert committee is not None
        assert isinstance(committee.member, kind)


def test_only_the_campaigns_for_the_device_and_its_cohorts_are_its_own(tmp_path: Path) -> None:
    table = "[[campaigns]]\nname = '{0}'\nwhen = 'luma < 40'\nquota_per_day = 1\ncohort = ['{0}']\n"
    asked = policy(tmp_path, "".join(table.format(name) for name in ("cam-1", "vans", "north")))
    judge = a_judge(asked, Selection[int](rules_of(asked)), device="cam-1", cohorts=("north",))
    assert judge.campaigns == ("cam-1", "north")


def test_a_condition_that_cannot_be_used_is_refused_before_a_frame_is_seen(tmp_path: Path) -> None:
    def judged() -> object:
        asked = policy(tmp_path, "[[campaigns]]\nname = 'x'\nwhen = 'lumma < 40'\nquota_per_day = 1\n")
        return a_judge(asked, Selection[int](rules_of(asked)))

    with pytest.raises(PolicyError, match="luma"):
        judged()
