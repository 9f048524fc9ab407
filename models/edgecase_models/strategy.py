"""What a frame may be picked for: the measures that order frames, and the triggers that may pick one."""

from __future__ import annotations

from enum import StrEnum


class Strategy(StrEnum):
    """Which measure orders the frames."""

    LEAST_CONFIDENCE = "least_confidence"
    LEAST_CONFIDENCE_MAX = "least_confidence_max"
    LEAST_CONFIDENCE_SUM = "least_confidence_sum"
    MARGIN = "margin"
    MARGIN_MEAN = "margin_mean"
    MARGIN_SUM = "margin_sum"
    CLASS_MARGIN_MAX = "class_margin_max"
    CLASS_MARGIN_MEAN = "class_margin_mean"
    CLASS_MARGIN_SUM = "class_margin_sum"
    ENTROPY_MAX = "entropy_max"
    ENTROPY_MEAN = "entropy_mean"
    ENTROPY_SUM = "entropy_sum"
    DIFFICULTY_ENTROPY = "difficulty_entropy"
    EDE = "ede"
    MISSED = "missed"
    MODEL_CHANGE = "model_change"
    NOVELTY = "novelty"
    RANDOM = "random"


class Trigger(StrEnum):
    """What may pick a frame by itself; a policy says which of them do."""

    UNCERTAINTY = "uncertainty"
    """The frame is among the most doubtful of its window by the policy's strategy."""

    AUDIT = "audit"
    """The frame was drawn at random, with a known propensity: the only honest sample."""

    MISSED = "missed"
    """Something seems to have been overlooked: a track has a gap, flickers, or begins in mid-frame."""

    DISAGREEMENT = "disagreement"
    """The members of the committee report different objects."""

    NOVELTY = "novelty"
    """The frame looks unlike those that were kept before."""

    CAMPAIGN = "campaign"
    """The condition of a campaign holds."""
