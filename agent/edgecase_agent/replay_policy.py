"""One policy at work on a recording: its own judge and selection over looks that all policies share, and what became of each frame."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
import structlog

from edgecase_agent import capture
from edgecase_agent.by_policy import a_judge, rules_of
from edgecase_agent.capture import Bools, Errors, FrameErrors, Objects
from edgecase_agent.judge import Shown
from edgecase_agent.once import Members, Meter
from edgecase_agent.replayed import DISPLACED, RANK, Captured, Figure, Pick, PolicyReplay, Still
from edgecase_agent.rules import DAY_S, Rules
from edgecase_agent.running import Model
from edgecase_agent.selection import AUDIT, CONTEXT, Keep, Selection, Skip
from edgecase_agent.watch import Shot
from edgecase_models import wire
from edgecase_models.detections import Detections
from edgecase_models.policy import PERIODS_S, CampaignState, Policy, SecondMember
from edgecase_models.strategy import Strategy, Trigger

log = structlog.get_logger()

_SLOW_FPS: Final = (
    1.01  # a second apart, pictures may be near each other and have nothing in common: so come those of a folder
)
_HELD: Final = "held"
_KEPT: Final = "kept"
_FAILED: Final = "gave no sound score"


@dataclass(eq=False, slots=True)
class Seen:
    """A frame as the policies judge it. `position` counts the frames looked at; `objects` and `errors` are for the figures alone."""

    shot: Shot
    position: int
    frame_index: int
    captured_at: datetime
    at_s: float
    hw_px: tuple[int, int]
    expected_boxes: float
    objects: Objects | None
    errors: FrameErrors | None

    def compact(self) -> Seen:
        """Encoded now, without its pixels: to be held for long."""
        self.shot.compact()
        return self

    def still(self) -> Still:
        """What is shown of it."""
        boxes = tuple(wire.boxes_of(self.shot.detections))
        return Still(self.shot.thumbnail, self.hw_px, boxes, self.objects, self.errors)


@dataclass(frozen=True)
class Terms:
    """What holds for all policies alike. `share`: of the frames, in the place of every policy's budget, at so many frames a second."""

    share: float | None = None
    frames_per_s: float = 1.0
    device: str = ""
    cohorts: tuple[str, ...] = ()

    def rules(self, policy: Policy) -> Rules:
        """The policy's rules on these terms."""
        rules = rules_of(policy)
        if self.share is None:
            return rules
        return replace(rules, budget={"frames": {"day": max(1.0, self.share * self.frames_per_s * DAY_S)}})


class PolicyRun:
    """`see` every frame, then `settle`; at the end `outcome` says what came of all. `scores` holds one number for each frame seen."""

    def __init__(self, name: str, policy: Policy, terms: Terms, members: Members, meter: Meter) -> None:
        """`PolicyError`, `RulesError` or `BundleError` where the policy cannot be put to work."""
        self.scores = array("d")
        self._name, self._policy, self._terms, self._meter = name, policy, terms, meter
        self._rules = terms.rules(policy)
        self._selection: Selection[Seen] = Selection(self._rules, None, Seen.compact)
        lent, candidate = members.lent(policy)
        self._judge = a_judge(lent, self._selection, device=terms.device, cohorts=terms.cohorts, candidate=candidate)
        self._picks: list[Pick] = []
        self._positions: list[int] = []
        self._fates = array("H")
        self._fate_names = [_HELD]
        self._second_looks, self._second_ms = 0, 0.0
        self._second_failures: Counter[str] = Counter()
        self._span: tuple[datetime, datetime] | None = None
        self._featureless = False

    def see(self, shown: Shown[Seen], model: Model, detections: Detections) -> None:
        """Judge a frame of which the first look is known."""
        self._span = (self._span[0] if self._span else shown.captured_at, shown.captured_at)
        self._featureless = self._featureless or detections.features is None
        model.detector.detect(shown.picture)  # its stages are now the first look's, whatever was asked since
        self._meter.ms = 0.0
        try:
            judged = self._judge.judge(shown, model, detections)
        except Exception as error:  # noqa: BLE001 (as on the device: a frame that cannot be judged is dropped and counted)
            log.debug("frame not judged", policy=self._name, frame_index=shown.item.frame_index, cause=str(error))
            self.scores.append(math.nan)
            self._fates.append(self._fate(_FAILED))
            return
        self.scores.append(judged.score)
        self._fates.append(self._fate(judged.decision.reason if isinstance(judged.decision, Skip) else _HELD))
        if judged.second_failure is not None:
            self._second_failures[str(judged.second_failure)] += 1
        if judged.second_look:
            self._second_looks += 1
            self._second_ms += self._meter.ms

    def settle(self, now_s: float, *, ending: bool = False) -> list[Seen]:
        """The frames that are kept now, where a window ends or a pick's context comes by."""
        kept = []
        for verdict in self._selection.close(now_s, lambda seen: seen.shot.size_bytes, ending=ending):
            seen, decision = verdict.item, verdict.decision
            if isinstance(decision, Keep):
                self._picks.append(self._pick(seen, decision))
                self._positions.append(seen.position)
                self._fates[seen.position] = self._fate(_KEPT)
                kept.append(seen)
            elif self._fates[seen.position] != self._fate(_KEPT):
                self._fates[seen.position] = self._fate(decision.reason)
        return kept

    def outcome(self, recorded_s: float, errors: Errors | None, labelled: Bools) -> PolicyReplay:
        """What came of it; `errors` are those of the `labelled` (N,) frames."""
        fates = Counter(self._fate_names[fate] for fate in self._fates)
        kept, failed, displaced = (fates.pop(name, 0) for name in (_KEPT, _FAILED, _HELD))
        skipped = Counter({**fates, DISPLACED: displaced}) if displaced else fates
        order = sorted(range(len(self._picks)), key=lambda each: self._positions[each])
        picks = [self._picks[each] for each in order]
        to_label = [each for each in order if self._picks[each].trigger != CONTEXT]
        near = math.nan
        if len(self._fates) > _SLOW_FPS * recorded_s:
            near = capture.near_duplicate_rate([(0, self._picks[each].frame_index) for each in to_label])
        allowed = self._rules.frames_per_s * recorded_s
        return PolicyReplay(
            name=self._name,
            digest=self._policy.digest,
            budget=_in_words(self._rules, self._terms.share),
            allowed_frames=round(allowed, 2),
            kept=kept,
            failed=failed,
            by_trigger=_counted(pick.trigger for pick in picks),
            by_reason=_counted(reason.strategy for pick in picks for reason in pick.reasons),
            skipped=dict(skipped.most_common()),
            bytes_kept=sum(pick.size_bytes for pick in picks),
            expected_boxes=round(math.fsum(pick.expected_boxes for pick in picks), 2),
            near_duplicates=_known(near),
            second_looks=self._second_looks,
            second_looks_ms=round(self._second_ms, 1),
            captured=None if errors is None else _captured(errors, labelled, [self._positions[n] for n in to_label]),
            notes=[*self._notes(allowed, recorded_s), *self._campaign_notes()],
            picks=picks,
        )

    def _pick(self, seen: Seen, keep: Keep[Seen]) -> Pick:
        beside, errors = keep.beside, seen.errors
        return Pick(
            frame_index=seen.frame_index,
            at_s=round(seen.at_s, 3),
            captured_at=seen.captured_at,
            trigger=self._trigger(keep),
            score=round(self.scores[seen.position], 5),
            reasons=list(keep.reasons),
            size_bytes=len(seen.shot.jpeg),
            expected_boxes=0.0 if beside is not None else round(seen.expected_boxes, 3),
            context_of=None if beside is None else beside.frame_index,
            false_negatives=None if errors is None else errors.false_negatives,
            false_positives=None if errors is None else errors.false_positives,
        )

    def _trigger(self, keep: Keep[Seen]) -> str:
        """What picked the frame: its first reason names it, unless that is the measure by which the policy ranks."""
        if keep.beside is not None:
            return CONTEXT
        first = keep.reasons[0].strategy
        named = first == AUDIT or (first in self._rules.called and first != self._policy.selection.strategy)
        return first if named else RANK

    def _fate(self, name: str) -> int:
        if name not in self._fate_names:
            self._fate_names.append(name)
        return self._fate_names.index(name)

    # ---- what a reader should know -----------------------------------------------------------------------------

    def _notes(self, allowed: float, recorded_s: float) -> Iterator[str]:
        chosen, committee = self._policy.selection, self._policy.committee
        if not chosen.triggers:
            yield "selection.triggers = [] keeps nothing"
        elif allowed < 1:
            yield (
                f"{_in_words(self._rules, None)} come to {allowed:.2g} frames in {recorded_s:.0f} s, so that no more than a first pick "
                "can be kept; compare on a longer recording, or with --share 0.05"
            )
        if committee.member is SecondMember.CANDIDATE and committee.share and chosen.strategy is Strategy.EDE:
            yield "no candidate waits in a replay: the second looks are those of the shifted view"
        if self._second_failures:
            cause, _ = self._second_failures.most_common(1)[0]
            yield f"{self._second_failures.total()} second looks failed, so that the first counts there: {cause}"
        if self._judge.strategy_failure:
            yield f"{self._judge.strategy_failure}; pack it with --features"
        elif self._featureless and Trigger.NOVELTY in chosen.triggers:
            yield "the model gives no features, so that nothing is novel to it; pack it with --features"

    def _campaign_notes(self) -> Iterator[str]:
        if not self._policy.campaigns or self._span is None or not self._policy.selection.may_pick(Trigger.CAMPAIGN):
            return
        for campaign in self._policy.campaigns:
            states = [campaign.state_at(moment) for moment in self._span]
            if campaign.name not in self._judge.campaigns:
                yield f"campaign {campaign.name} is for {', '.join(campaign.cohort)}; replay it with --device or --cohort"
            elif CampaignState.RUNS not in states:
                yield f"campaign {campaign.name} does not run at the recording's time ({states[-1]})"


def _captured(errors: Errors, labelled: Bools, positions: list[int]) -> Captured:
    """What the picks among the labelled frames show, beside what as many random ones would."""
    place = np.cumsum(labelled) - 1
    picks = [int(place[each]) for each in positions if labelled[each]]
    ours, chance = capture.captured(errors, picks), capture.by_chance(errors, len(picks))
    figures = {
        name: Figure(_known(getattr(ours, field)), _known(getattr(chance, field)))
        for name, field in (
            ("precision", "precision"),
            ("failures", "failures"),
            ("severe", "severe"),
            ("errors", "errors"),
            ("missed_objects", "missed_tracks"),
        )
    }
    return Captured(picks=len(picks), **figures)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def _counted(names: Iterator[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _in_words(rules: Rules, share: float | None) -> str:
    if share is not None:
        return f"{share * 100:.3g} % of the frames"
    parts = []
    for currency, by_period in rules.budget.items():
        for period in PERIODS_S:
            limit = by_period.get(period)
            if limit is not None:
                amount = f"{limit / 1e6:,.15g} MB" if currency == "bytes" else f"{limit:,.15g} {currency}"
                parts.append(f"{amount} a {period}" if period != "hour" else f"{amount} an hour")
    return ", ".join(parts)
