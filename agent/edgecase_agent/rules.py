"""The rules by which frames are chosen, held against their bounds once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from edgecase_agent.budget import Allowance, BudgetError, Purse
from edgecase_models.policy import PERIODS_S

HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0


class RulesError(ValueError):
    """Rules that contradict themselves; the message names the setting and its bounds."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` picks in any `period_s` seconds, as fast as they come; the highest `priority` chooses first."""

    limit: float
    period_s: float = HOUR_S
    priority: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.limit < math.inf and 0 < self.period_s < math.inf):
            raise RulesError(
                f"a quota is 0 or more and finite, in a time above 0, not {self.limit} in {self.period_s} s"
            )


@dataclass(frozen=True)
class Rules:
    """How frames are chosen.

    A window lasts `window_s` seconds; longer, until the budget allows a frame; shorter, where it yields half as many frames as are held:
    at most `leaders`, in memory. Picks lie at least `gap_s` apart, score above `min_score`, and do not repeat one of the last `memory`
    picks (`repeat_bits`, `repeat_levels`: see `Fingerprint.repeats`; -1 bits: no such gate). An object's errors count `track_discount`
    times as much for each time that they were sent before; `novelty_weight` multiplies by (novelty)^weight where the model gives features.
    `audit_share` of the frames is drawn at random, spread over the window, whatever they score: the only sample from which it can be told
    what the scores miss.
    `called` are the triggers that pick by themselves, within their quotas, the first of equal priority first; where `by_rank` is False
    only they and the audit do. `quotas` bounds a whole kind of picks: "uncertainty", by rank; "audit"; and of the triggers what stands
    before a colon, as in "campaign:night".
    `context_frames` on each side of a pick, from within `context_before_s` and `context_after_s`, go with it and are paid for like it.
    `seed` makes the random picks repeatable.
    """

    window_s: float = 10.0
    gap_s: float = 1.0
    budget: Allowance = field(
        default_factory=lambda: MappingProxyType({"frames": {"hour": 60.0}, "bytes": {"day": 200e6}})
    )
    audit_share: float = 0.25
    min_score: float = 0.0
    track_discount: float = 0.5
    novelty_weight: float = 0.0
    repeat_bits: int = 4
    repeat_levels: int = 6
    leaders: int = 16
    memory: int = 64
    by_rank: bool = True
    called: Mapping[str, Quota] = field(default_factory=lambda: MappingProxyType({}))
    quotas: Mapping[str, Quota] = field(default_factory=lambda: MappingProxyType({}))
    context_frames: int = 0
    context_before_s: float = 0.0
    context_after_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "window_s": (0.0, DAY_S),
            "gap_s": (0.0, DAY_S),
            "audit_share": (0.0, 1.0),
            "min_score": (0.0, math.inf),
            "track_discount": (0.0, 1.0),
            "novelty_weight": (0.0, 10.0),
            "repeat_bits": (-1, 64),
            "repeat_levels": (0, 255),
            "leaders": (1, 1000),
            "memory": (0, 10_000),
            "context_frames": (0, 100),
            "context_before_s": (0.0, 30.0),
            "context_after_s": (0.0, 30.0),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not (low <= value <= high):
                raise RulesError(f"selection.{name} must lie between {low:g} and {high:g}, not {value}")
        try:
            Purse(self.budget)
        except BudgetError as error:
            raise RulesError(f"selection.budget: {error}") from error

    @property
    def frames_per_s(self) -> float:
        """The rate at which the budget of frames is spent in the long run; infinite where none is set."""
        frames = self.budget.get("frames", {})
        return min((n / PERIODS_S[period] for period, n in frames.items() if n is not None), default=math.inf)
