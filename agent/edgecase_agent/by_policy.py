"""A policy put to work: its rules, its committee and its campaigns, joined into the judge of one camera's frames."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from edgecase_agent.committee import Cascade, Flipped, Independent, Loaded, Member, Shadow, Shifted
from edgecase_agent.judge import Committee, Judge
from edgecase_agent.rules import DAY_S, Quota, Rules
from edgecase_agent.running import Model
from edgecase_agent.selection import Selection
from edgecase_models.bundle import Bundle
from edgecase_models.detector import Runtime
from edgecase_models.policy import Policy, PolicyError, SecondMember, check_committee
from edgecase_models.strategy import Strategy, Trigger

T = TypeVar("T")

_SAME = (
    "window_s", "gap_s", "min_score", "track_discount", "novelty_weight", "repeat_bits", "repeat_levels", "leaders", "memory",
    "context_frames", "context_before_s", "context_after_s", "seed",
)  # fmt: skip
_UNBOUNDED = 1e6


def a_judge(
    policy: Policy,
    selection: Selection[T],
    runtime: Runtime = Runtime(),
    device: str = "",
    cohorts: Collection[str] = (),
    candidate: Callable[[], Loaded | None] = lambda: None,
) -> Judge[T]:
    """What judges frames as the policy says. `device` and the `cohorts` that it belongs to tell which campaigns are its own; `candidate`
    gives the model in the other slot, for a committee with it.

    Raises `PolicyError` for a condition that cannot be used or a committee that does not go with the strategy, `BundleError` for a member
    that cannot run.
    """
    campaigns = None
    if policy.campaigns and policy.selection.may_pick(Trigger.CAMPAIGN):
        from edgecase_models.campaign import Campaigns  # CEL is loaded where somebody asks for it

        campaigns = Campaigns(policy.campaigns, device, cohorts)
    committee = a_committee(policy, runtime, candidate)
    chosen = policy.selection
    return Judge(
        selection,
        chosen.strategy,
        committee,
        campaigns,
        frozenset(chosen.triggers),
        device,
        min_box_height=chosen.min_box_height,
    )


def must_suit(policy: Policy, model: Model) -> None:
    """Raises `PolicyError` where the policy's strategy needs features and the model gives none."""
    if policy.selection.strategy is Strategy.NOVELTY and not model.gives_features:
        raise PolicyError(
            f'selection.strategy = "novelty" needs features, which model {model.digest[:12]} does not give: choose another strategy, '
            'such as "ede", or pack the model with --features'
        )


def rules_of(policy: Policy) -> Rules:
    """What the policy says, in the words of `Rules`."""
    chosen = policy.selection
    budget: dict[str, dict[str, float | None]] = {}
    for limit in chosen.budget.each():
        budget.setdefault(limit.currency.value, {})[limit.period] = limit.amount
    called = {
        trigger.value: Quota(chosen.quotas.get(trigger, _UNBOUNDED))
        for trigger in (Trigger.MISSED, Trigger.DISAGREEMENT, Trigger.NOVELTY)
        if chosen.may_pick(trigger)
    }
    if chosen.may_pick(Trigger.CAMPAIGN):
        campaigns = policy.campaigns
        called |= {f"campaign:{each.name}": Quota(each.quota_per_day, DAY_S, each.priority) for each in campaigns}
    return Rules(
        **{name: getattr(chosen, name) for name in _SAME},
        budget=budget,
        audit_share=chosen.audit_share if chosen.may_pick(Trigger.AUDIT) else 0.0,
        by_rank=chosen.may_pick(Trigger.UNCERTAINTY),
        called=called,
        quotas={name.value: Quota(limit) for name, limit in chosen.quotas.items() if name.value not in called},
    )


def a_committee(policy: Policy, runtime: Runtime, candidate: Callable[[], Loaded | None]) -> Committee | None:
    """The second member and its cascade, or None where there is to be none."""
    check_committee(policy)
    chosen = policy.committee
    if policy.selection.strategy is not Strategy.EDE or not chosen.share:
        return None
    cascade = Cascade(chosen.share, chosen.random_share, seed=policy.selection.seed, compute_share=chosen.compute_share)
    return Committee(cascade, _member(policy, runtime, candidate))


def _member(policy: Policy, runtime: Runtime, candidate: Callable[[], Loaded | None]) -> Member:
    match policy.committee.member:
        case SecondMember.SHIFTED:
            return Shifted()
        case SecondMember.FLIPPED:
            return Flipped()
        case SecondMember.CANDIDATE:
            return Shadow(candidate)
        case SecondMember.BUNDLE:
            assert policy.committee.bundle is not None, "the policy was checked"
            bundle = Bundle.open(policy.committee.bundle)
            return Independent(bundle.detector(runtime), bundle.digest)
