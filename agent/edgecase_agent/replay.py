"""A recording through the device's own code, faster than it was recorded and without a cloud: what each policy would have kept of it."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from edgecase_agent import capture, encode
from edgecase_agent.brightness import fingerprint
from edgecase_agent.capture import Errors, Tally
from edgecase_agent.judge import Shown
from edgecase_agent.once import Members, Meter, Once
from edgecase_agent.redaction import Redactor
from edgecase_agent.redaction import Terms as Redaction
from edgecase_agent.replay_policy import PolicyRun, Seen, Terms
from edgecase_agent.replayed import Recorded, Replayed, Still, TruthFound
from edgecase_agent.running import model_of
from edgecase_agent.source import Frame, Source, shown
from edgecase_agent.truths import Truths
from edgecase_agent.watch import Shot
from edgecase_models.bundle import Bundle
from edgecase_models.detections import Detections
from edgecase_models.detector import Runtime
from edgecase_models.policy import Policy

Policies = Mapping[str, Policy]
"""The policies to compare, by the names under which they are shown."""

_PACED_FRAMES: Final = 16


class ReplayError(ValueError):
    """A recording that cannot be replayed; the message says what to do."""


@dataclass(frozen=True)
class Options:
    """How to replay. `share`: of the frames, in the place of every policy's budget. `device`, `cohorts`: for campaigns that are for
    some only. `redaction`: what must not be seen, in the report neither; None for pictures as they are.
    """

    runtime: Runtime = Runtime()
    share: float | None = None
    limit_frames: int | None = None
    device: str = ""
    cohorts: tuple[str, ...] = ()
    jpeg_quality: int = 85
    jpeg_sample_every: int = 10
    redaction: Redaction | None = None


def replay(
    source: Source,
    bundle: Bundle,
    policies: Policies,
    options: Options,
    truths: Truths | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Recorded:
    """Replay `source` to its end. `progress` is told how many of the source's frames have passed.

    Raises:
        ReplayError: no frame could be judged, or the truth fits none.
        SourceError, BundleError, PolicyError, RulesError, RedactionError: what they are about cannot be used.
    """
    frames: Iterator[Frame] = itertools.islice(iter(source), options.limit_frames)
    rate = 1.0
    try:
        if options.share is not None:
            first = list(itertools.islice(frames, _PACED_FRAMES))
            rate, frames = _rate(first), itertools.chain(first, frames)
        going = Replay(source.name, bundle, policies, options, truths, rate)
        for frame in frames:
            going.step(frame)
            progress(frame.index + 1)
    finally:
        source.close()
    return going.close()


def must_end(uri: str, source: Source, limit_frames: int | None) -> None:
    """Refuse what is no recording or has no end, with `ReplayError`."""
    parts = urlsplit(uri)
    if source.live:
        raise ReplayError(f"source {shown(uri)}: a camera is no recording; record it, and replay the file")
    if limit_frames is None and parts.scheme == "sim" and "frames=" not in parts.query:
        raise ReplayError(f"source {shown(uri)}: has no end; add frames=300 to it, or give --limit-frames 300")
    if limit_frames is None and parts.scheme in {"rtsp", "rtsps"}:
        raise ReplayError(f"source {shown(uri)}: may have no end; give --limit-frames 300")


def _rate(frames: list[Frame]) -> float:
    """Frames a second of the recording's time, by the first of them; one a second where they do not tell."""
    passed_s = (frames[-1].captured_at - frames[0].captured_at).total_seconds() if frames else 0.0
    return (len(frames) - 1) / passed_s if passed_s > 0 else 1.0


class Replay:
    """The parts, joined. `step` judges one frame, `close` says what came of all.

    Memory grows by some numbers for each frame, and by a small picture of those that are kept.
    """

    def __init__(
        self,
        source: str,
        bundle: Bundle,
        policies: Policies,
        options: Options,
        truths: Truths | None = None,
        frames_per_s: float = 1.0,
    ) -> None:
        """`frames_per_s` of the recording is what a `share` of its frames is taken of."""
        self._source, self._bundle, self._options, self._truths = source, bundle, options, truths
        meter = Meter()
        detector = bundle.detector(options.runtime)
        self._model = replace(model_of(bundle, detector), detector=Once(detector, meter))
        terms, members = (
            Terms(options.share, frames_per_s, options.device, options.cohorts),
            Members(options.runtime, meter),
        )
        self._runs = tuple(PolicyRun(name, policy, terms, members, meter) for name, policy in policies.items())
        self._redactor = None if options.redaction is None else Redactor(options.redaction, options.runtime)
        if self._redactor is not None:
            self._redactor.suits(self._model.names)
        self._stills: dict[int, Still] = {}
        self._at_s = array("d")
        self._tally = Tally()
        self._began_s, self._first_s, self._detect_ms = time.perf_counter(), 0.0, 0.0
        self._failed, self._problem = 0, ""
        self._jpeg_bytes = self._sample_bytes = 0

    def step(self, frame: Frame) -> None:
        """Look at a frame once, and let every policy judge it. One that cannot be looked at is counted, as on the device."""
        try:
            jpeg = self._weigh(frame)
            detections = self._model.detector.detect(frame.picture)
        except Exception as error:  # noqa: BLE001 (one frame, or a model that errs at times, must not end the loop)
            self._failed += 1
            self._problem = self._problem or f"frame {frame.index}: {error}"[:300]
            return
        stages = self._model.detector.stages_ms
        self._detect_ms += stages.pre + stages.run + stages.post
        seen = self._seen(frame, detections, jpeg)
        self._at_s.append(seen.at_s)
        judged = Shown(
            seen,
            frame.picture,
            frame.captured_at,
            frame.hw_px,
            camera="camera",
            fingerprint=cache(partial(fingerprint, frame.picture)),
        )
        for run in self._runs:
            run.see(judged, self._model, detections)
            self._settle(run, self._first_s + seen.at_s)

    def close(self) -> Recorded:
        """End the last window. `ReplayError` where no frame could be looked at, or none has a truth."""
        frames = len(self._at_s)
        if not frames:
            raise ReplayError(
                f"source {self._source}: none of its {self._failed} frames could be looked at ({self._problem})"
                if self._failed
                else f"source {self._source}: holds no frame"
            )
        for run in self._runs:
            self._settle(run, self._first_s + self._at_s[-1], ending=True)
        took_s = time.perf_counter() - self._began_s
        errors, labelled = self._tally.errors(), self._tally.labelled(frames)
        truth = None if self._truths is None else self._found(self._truths, errors)
        at_s = np.array(self._at_s)
        recorded_s = float(at_s[-1]) * (frames / (frames - 1) if frames > 1 else 1.0)
        manifest = self._bundle.manifest
        document = Replayed(
            source=self._source,
            model=f"{manifest.name} {manifest.version}",
            model_digest=self._bundle.digest,
            operating_point=self._model.operating_point,
            calibrated=self._bundle.calibration is not None,
            frames=frames,
            failed=self._failed,
            problem=self._problem,
            recorded_s=round(recorded_s, 3),
            took_s=round(took_s, 3),
            detect_ms=round(self._detect_ms / frames, 3),
            jpeg_bytes=self._jpeg_bytes,
            jpeg_sample_every=self._options.jpeg_sample_every,
            share=self._options.share,
            truth=truth,
            policies=[run.outcome(recorded_s, errors, labelled) for run in self._runs],
        )
        scores = tuple(np.array(run.scores) for run in self._runs)
        return Recorded(document, self._model.names, self._stills, at_s, scores, labelled, errors)

    def _settle(self, run: PolicyRun, now_s: float, *, ending: bool = False) -> None:
        for kept in run.settle(now_s, ending=ending):
            if kept.frame_index not in self._stills:
                self._stills[kept.frame_index] = kept.still()

    def _weigh(self, frame: Frame) -> bytes:
        """Count what the frame would weigh; its JPEG where it is one of those that are really encoded."""
        jpeg = b""
        if self._sample_bytes == 0 or len(self._at_s) % self._options.jpeg_sample_every == 0:
            jpeg = encode.jpeg(frame.picture, self._options.jpeg_quality)
            self._sample_bytes = len(jpeg)
        self._jpeg_bytes += self._sample_bytes
        return jpeg

    def _seen(self, frame: Frame, detections: Detections, jpeg: bytes) -> Seen:
        model, position, at_s = self._model, len(self._at_s), frame.captured_at.timestamp()
        if position == 0:
            self._first_s = at_s
        objects = errors = None
        if self._truths is not None:
            objects = self._truths.of(frame.index, frame.hw_px)
            if objects is not None:
                reported = detections.above(model.operating_point)
                errors = capture.frame_errors(reported[self._truths.judged[reported.classes]], objects)
                self._tally.add(position, objects, errors)
        return Seen(
            shot=Shot(frame, model, detections, self._options.jpeg_quality, jpeg, self._redactor),
            position=position,
            frame_index=frame.index,
            captured_at=frame.captured_at,
            at_s=at_s - self._first_s,
            hw_px=frame.hw_px,
            expected_boxes=float(model.calibration(detections.scores, detections.classes).sum())
            if len(detections)
            else 0.0,
            objects=objects,
            errors=errors,
        )

    def _found(self, truths: Truths, errors: Errors | None) -> TruthFound:
        if errors is None:
            raise ReplayError(f"truth {truths.name}: fits none of the {len(self._at_s)} frames of {self._source}")
        names = zip(self._model.names, truths.judged, strict=True)
        return TruthFound(
            name=truths.name,
            classes=[name for name, judged in names if judged],
            labelled_frames=len(errors),
            objects=self._tally.objects,
            false_negatives=int(errors.false_negatives.sum()),
            false_positives=int(errors.false_positives.sum()),
            failures=int(errors.failures.sum()),
            severe=int(errors.severe.sum()),
            missed_objects=len(errors.missed_tracks) if self._tally.tracked else None,
        )
