"""What is thought of one frame: scored, followed from the frames before, seen again where it is doubtful, put to the selection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edgecase_agent import scoring
from edgecase_agent.brightness import brightness, fingerprint
from edgecase_agent.committee import Cascade, Detecting, Disagreement, Member, SecondLook, View, disagreement
from edgecase_agent.ranks import Ranks
from edgecase_agent.selection import Candidate, Held, Selection, Skip
from edgecase_agent.source import Picture
from edgecase_agent.tracks import Cue, Tracks, missed_score
from edgecase_models.detections import Detections
from edgecase_models.facts import Facts, seen
from edgecase_models.fingerprint import Fingerprint
from edgecase_models.strategy import Strategy, Trigger
from edgecase_models.wire import Reason

if TYPE_CHECKING:
    from edgecase_models.campaign import Campaigns

T = TypeVar("T")
Stage = Callable[[str], AbstractContextManager[object]]

MATCHES: Final = MappingProxyType({Trigger.MISSED: 0.5, Trigger.DISAGREEMENT: 1.0, Trigger.NOVELTY: 0.25})
"""From which value on a trigger holds: half an object, one object that only one member reports, cos < 0.5 to every kept frame."""


class Judging(Protocol):
    """What is asked of the model that runs; `running.Model` is one."""

    @property
    def detector(self) -> Detecting: ...

    @property
    def digest(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def operating_point(self) -> float: ...

    @property
    def calibration(self) -> scoring.Calibration: ...

    @property
    def difficulty(self) -> scoring.ClassWeights | None: ...


@dataclass(frozen=True)
class Committee:
    """The second member, and which frames it is shown."""

    cascade: Cascade
    member: Member


@dataclass(frozen=True, eq=False, slots=True)
class Shown(Generic[T]):
    """A frame as it comes to be judged: what stands for it (`item`), its pixels, when it was captured, where, and what the vehicle told.

    `fingerprint` is given where it is known already; else it is taken from the pixels if somebody asks.
    """

    item: T
    picture: Picture
    captured_at: datetime
    hw_px: tuple[int, int]
    camera: str = ""
    telemetry: Facts = field(default_factory=lambda: MappingProxyType({}))
    fingerprint: Callable[[], Fingerprint] | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """`score`: how doubtful the frame is; `second_look`: whether the committee gave its opinion; `decision`: what the selection says of
    it now; `second_failure`: why the second member, asked, gave none, so that the first look stands alone.
    """

    score: float
    second_look: bool
    decision: Held | Skip
    second_failure: Exception | None = None


@dataclass(frozen=True, eq=False, slots=True)
class _Doubt:
    """The expected errors of a frame, each with its object, and what they were measured by."""

    errors: NDArray[np.floating]
    tracks: NDArray[np.int64]
    strategy: str
    first: float = 0.0
    view: View | None = None
    found: Disagreement | None = None
    look: SecondLook | None = None
    failure: Exception | None = None


class Judge(Generic[T]):
    """Judges the frames of one camera in the order in which they were captured; one instance is for one thread.

    It does no I/O but the second member's inference, and holds the scores of 512 frames and the tracks of the last seconds.
    """

    def __init__(
        self,
        selection: Selection[T],
        strategy: Strategy = Strategy.EDE,
        committee: Committee | None = None,
        campaigns: Campaigns | None = None,
        triggers: frozenset[Trigger] = frozenset({Trigger.UNCERTAINTY, Trigger.AUDIT, Trigger.CAMPAIGN}),
        device: str = "",
        min_box_height: float = 0.0,
    ) -> None:
        """Candidates lower than `min_box_height`, a share of the picture's height, count for nothing but in a campaign's condition.

        Raises `ValueError` for a committee with another strategy than EDE: its score could not be compared with theirs.

        Novelty needs a model that gives features. While one runs that gives none, EDE ranks the frames: see `strategy_failure`.
        """
        if committee is not None and strategy is not Strategy.EDE:
            raise ValueError(f"a committee refines ede, not {strategy}; choose ede, or switch the committee off")
        self.selection = selection
        self._asked = self._strategy = strategy
        self._gives_features = False
        self._committee = committee
        self._campaigns = campaigns
        self._callers = tuple(trigger for trigger in MATCHES if trigger in triggers)
        self._device = device
        self._min_box_height = min_box_height
        self._digest = ""
        self._tracks = Tracks()
        self._ranks = Ranks()
        self._chance = selection.chance

    def judge(self, shown: Shown[T], model: Judging, detections: Detections, stage: Stage = nullcontext) -> Judged:
        """Judge a frame that `model` saw. `stage` times the parts: score, second, select.

        Raises `ValueError` where its score, its features or the boxes to be drawn are no number.
        """
        at_s = shown.captured_at.timestamp()
        self._meet(model, detections)
        everything, detections = detections, self._high_enough(detections, shown.hw_px)
        with stage("score"):
            sighting = self._tracks.update(detections, model.operating_point, at_s, shown.hw_px)
            first = self._doubt(detections, model, sighting.ids)
            value = _sound(float(first.errors.sum(dtype=np.float64)))
            rank = self._ranks.rank(value)
        with stage("second"):
            doubt = self._second_look(shown, model, detections, first, value, rank)
        with stage("select"):
            candidate = self._candidate(shown, model, detections, everything, doubt, sighting.cues, rank)
            _sound(candidate.score, candidate.boxes)
            decision = self.selection.offer(candidate, at_s)
            return Judged(candidate.score, doubt.look is not None, decision, doubt.failure)

    @property
    def has_committee(self) -> bool:
        """Whether doubtful frames are shown to a second member."""
        return self._committee is not None

    @property
    def campaigns(self) -> tuple[str, ...]:
        """The names of those that concern this device, also of those that rest."""
        return () if self._campaigns is None else tuple(policy.name for policy in self._campaigns.policies)

    @property
    def strategy(self) -> Strategy:
        """By which the frames are ranked now."""
        return self._strategy

    @property
    def strategy_failure(self) -> str:
        """Why that is another strategy than was asked for; empty where it is not."""
        if self._strategy is self._asked:
            return ""
        return f"{self._asked} needs features, which model {self._digest[:12]} does not give: {self._strategy} ranks the frames"

    def _meet(self, model: Judging, detections: Detections) -> None:
        """Another model's features cannot be compared with those before; one that has given none has frames ranked by EDE for novelty."""
        if model.digest != self._digest:
            self._digest, self._gives_features = model.digest, False
            self.selection.forget_features()
        self._gives_features |= detections.features is not None
        strategy = Strategy.EDE if self._asked is Strategy.NOVELTY and not self._gives_features else self._asked
        if strategy is not self._strategy:
            self._strategy, self._ranks = strategy, Ranks()  # scores of two measures have no rank among each other

    def _high_enough(self, detections: Detections, hw_px: tuple[int, int]) -> Detections:
        """Those that are not too low to be asked for."""
        if not self._min_box_height or not len(detections):
            return detections
        boxes = detections.boxes_xyxy_px
        return detections[boxes[:, 3] - boxes[:, 1] >= self._min_box_height * hw_px[0]]

    @property
    def without_chance(self) -> int:
        """Frames that the second member could not have been shown, see `Cascade`."""
        return 0 if self._committee is None else self._committee.cascade.without_chance

    # ---- the score ---------------------------------------------------------------------------------------------

    def _doubt(self, detections: Detections, model: Judging, ids: NDArray[np.int64]) -> _Doubt:
        name = self._strategy.value
        if self._strategy is Strategy.EDE:
            return _Doubt(scoring.errors(detections, model.operating_point, model.calibration), ids, name)
        if self._strategy is Strategy.MISSED:
            return _Doubt(scoring.misses(detections, model.operating_point, model.calibration), ids, name)
        if self._strategy is Strategy.NOVELTY:
            if detections.features is None:
                raise ValueError("its features are no numbers, so that its novelty cannot be told")
            value = self.selection.novelty(detections.features)
        else:
            difficulty, chance = model.difficulty, self._chance
            value = scoring.score(
                detections,
                model.operating_point,
                self._strategy,
                model.calibration,
                difficulty=difficulty,
                chance=chance,
            )
        return _Doubt(np.array([value]), np.zeros(1, np.int64), name)

    def _second_look(
        self, shown: Shown[T], model: Judging, detections: Detections, first: _Doubt, value: float, rank: float
    ) -> _Doubt:
        """What the committee expects instead, where it is asked and the second member does not fail."""
        if self._committee is None:
            return first
        cascade, took = self._committee.cascade, model.detector.stages_ms
        look = cascade.judge(value, took.pre + took.run + took.post, rank=rank)
        if look is None:
            return first
        try:
            view = self._committee.member.look(shown.picture, model.detector)
            view = replace(view, detections=self._high_enough(view.detections, shown.hw_px))
            took = view.took or model.detector.stages_ms
            cascade.looked(took.pre + took.run + took.post)
            found = disagreement(detections, view, model.operating_point, model.calibration)
            _sound(found.c_ede, found.mutual_information)
        except Exception as error:  # noqa: BLE001 (whatever another model raises, the first look was sound)
            return replace(first, failure=error)
        errors = np.concatenate([found.errors, found.only_second_errors])
        tracks = np.concatenate([first.tracks, np.zeros(len(found.only_second), np.int64)])
        return _Doubt(errors, tracks, "c_ede", value, view, found, look)

    # ---- what else is there to say -----------------------------------------------------------------------------

    def _candidate(
        self,
        shown: Shown[T],
        model: Judging,
        detections: Detections,
        everything: Detections,
        doubt: _Doubt,
        cues: tuple[Cue, ...],
        rank: float,
    ) -> Candidate[T]:
        values = {Trigger.MISSED: missed_score(cues)}
        if doubt.found is not None:
            values[Trigger.MISSED] += doubt.found.missed
            values[Trigger.DISAGREEMENT] = float(doubt.found.hard)
        if detections.features is not None:
            values[Trigger.NOVELTY] = self.selection.novelty(detections.features)
        called = [
            _called(trigger, values[trigger], rank, doubt)
            for trigger in self._callers
            if values.get(trigger, 0.0) >= MATCHES[trigger]
        ]
        score = float(doubt.errors.sum(dtype=np.float64))
        called += (
            Reason(name, score, 0.0, rank=rank) for name in self._campaigning(shown, model, everything, values, doubt)
        )
        return Candidate(
            item=shown.item,
            errors=doubt.errors,
            tracks=doubt.tracks,
            strategy=doubt.strategy,
            fingerprint=shown.fingerprint or partial(fingerprint, shown.picture),
            rank=rank,
            reasons=tuple(_reasons(doubt, values, cues)),
            called=tuple(called),
            boxes=_expected_boxes(detections, model),
            features=detections.features,
        )

    def _campaigning(
        self, shown: Shown[T], model: Judging, detections: Detections, values: dict[Trigger, float], doubt: _Doubt
    ) -> Iterator[str]:
        """The campaigns whose condition holds, by the names of their quotas."""
        if self._campaigns is None or not self._campaigns.policies:
            return
        at, (height, width) = shown.captured_at, shown.hw_px
        luma, contrast = brightness(shown.picture)
        facts = {
            **shown.telemetry,
            **seen(detections, model.names, model.operating_point),
            **{trigger.value: value for trigger, value in values.items()},
            "ede": self._expected_errors(model, detections, doubt),
            "luma": luma,
            "contrast": contrast,
            "hour": at.hour,
            "weekday": at.isoweekday(),
            "camera": shown.camera,
            "device": self._device,
            "width_px": width,
            "height_px": height,
        }
        yield from (f"campaign:{name}" for name in self._campaigns.matching(facts, at))

    def _expected_errors(self, model: Judging, detections: Detections, doubt: _Doubt) -> float:
        if self._strategy is Strategy.EDE:
            return float(doubt.errors.sum(dtype=np.float64))
        return scoring.expected_detection_errors(detections, model.operating_point, model.calibration)


def _sound(*values: float) -> float:
    """The first of them; `ValueError` where one is no number."""
    for value in values:
        if not scoring.is_sound(value):
            raise ValueError(f"its score is {value}")
    return values[0]


def _called(trigger: Trigger, value: float, rank: float, doubt: _Doubt) -> Reason:
    """Why the trigger asks for the frame; what the members disagree about was seen with the chance of their look."""
    if trigger is Trigger.DISAGREEMENT and doubt.look is not None and doubt.view is not None:
        look, digest = doubt.look, doubt.view.model_digest or UNSET
        return Reason(trigger.value, value, MATCHES[trigger], look.propensity, rank, digest)
    return Reason(trigger.value, value, MATCHES[trigger], rank=rank)


def _reasons(doubt: _Doubt, values: dict[Trigger, float], cues: tuple[Cue, ...]) -> Iterator[Reason]:
    """Everything that holds of the frame, each with the value from which it does."""
    look, found, view = doubt.look, doubt.found, doubt.view
    if look is not None and found is not None and view is not None:
        yield Reason("ede", doubt.first, 0.0, rank=look.rank)
        measures = {"disagreement": float(found.hard), "mutual_information": found.mutual_information}
        for name, value in measures.items():
            yield Reason(name, value, 0.0, look.propensity, look.rank, view.model_digest or UNSET)
    strongest: dict[str, float] = {}
    for cue in cues:
        strongest[cue.kind.value] = max(cue.score, strongest.get(cue.kind.value, 0.0))
    for name, value in strongest.items():
        if value >= MATCHES[Trigger.MISSED]:
            yield Reason(name, value, MATCHES[Trigger.MISSED])
    if found is not None and view is not None and found.missed >= MATCHES[Trigger.MISSED]:
        yield Reason("seen_by_one", found.missed, MATCHES[Trigger.MISSED], model_digest=view.model_digest or UNSET)
    if values.get(Trigger.NOVELTY, 0.0) >= MATCHES[Trigger.NOVELTY]:
        yield Reason("novelty", values[Trigger.NOVELTY], MATCHES[Trigger.NOVELTY])


def _expected_boxes(detections: Detections, model: Judging) -> float:
    """How many objects there are to be drawn: the candidates' probabilities, summed."""
    if not len(detections):
        return 0.0
    return float(model.calibration(detections.scores, detections.classes).sum(dtype=np.float64))
