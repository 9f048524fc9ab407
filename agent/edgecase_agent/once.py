"""Detectors that look at each picture once, however many policies ask; what a look takes is counted each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edgecase_agent.committee import Detecting, Loaded
from edgecase_agent.source import Picture
from edgecase_models.boxes import Letterbox
from edgecase_models.bundle import Bundle
from edgecase_models.detections import Detections
from edgecase_models.detector import Runtime, StagesMs
from edgecase_models.policy import Policy, SecondMember
from edgecase_models.strategy import Strategy


@dataclass(slots=True)
class Meter:
    """The time of the looks that were asked for, one that was taken before counting again: so long it takes whoever asks alone."""

    ms: float = 0.0


class Once:
    """A detector that remembers the last picture's looks, one in each way; `stages_ms` are those of the look that was asked for last."""

    def __init__(self, detector: Detecting, meter: Meter) -> None:
        self.names = tuple(detector.names)
        self.stride_px = detector.stride_px
        self.stages_ms = StagesMs()
        self._detector = detector
        self._meter = meter
        self._picture: Picture | None = None
        self._looks: dict[tuple[int, bool], tuple[Detections, StagesMs]] = {}

    def detect(self, picture: Picture, *, shift_px: int = 0, mirrored: bool = False) -> Detections:
        """What the detector sees, from memory where this very picture was looked at in this way."""
        if picture is not self._picture:
            self._picture, self._looks = picture, {}
        way = shift_px, mirrored
        if way not in self._looks:
            seen = self._detector.detect(picture, shift_px=shift_px, mirrored=mirrored)
            self._looks[way] = seen, self._detector.stages_ms
        detections, stages = self._looks[way]
        self.stages_ms = stages
        self._meter.ms += stages.pre + stages.run + stages.post
        return detections

    def letterbox(self, picture: Picture) -> Letterbox:
        """How this picture lies in the model's input."""
        return self._detector.letterbox(picture)


@dataclass(frozen=True, eq=False, slots=True)
class _Member:
    detector: Detecting
    digest: str


class Members:
    """The bundles that committees name, each loaded once."""

    def __init__(self, runtime: Runtime, meter: Meter) -> None:
        self._runtime = runtime
        self._meter = meter
        self._loaded: dict[str, Loaded] = {}

    def lent(self, policy: Policy) -> tuple[Policy, Callable[[], Loaded | None]]:
        """The policy with its committee's bundle as a candidate that waits, and that candidate: so policies that name the same one share
        its looks. `BundleError` where it cannot run.
        """
        chosen = policy.committee
        if chosen.bundle is None or not chosen.share or policy.selection.strategy is not Strategy.EDE:
            return policy, lambda: None
        bundle = Bundle.open(chosen.bundle)
        if bundle.digest not in self._loaded:
            self._loaded[bundle.digest] = _Member(Once(bundle.detector(self._runtime), self._meter), bundle.digest)
        waiting = chosen.model_copy(update={"member": SecondMember.CANDIDATE, "bundle": None})
        return policy.model_copy(update={"committee": waiting}), partial(self._loaded.get, bundle.digest)
