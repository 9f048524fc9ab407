"""One frame at a time: looked at, scored, judged, and spooled where it is worth a label. Nothing but a broken disk ends the loop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import structlog
from msgspec import UNSET, UnsetType

from edgecase_agent import durable, encode, watch_status
from edgecase_agent.frames import FrameMeta, boot_id, new_frame_id
from edgecase_agent.judge import Judge, Shown
from edgecase_agent.latest import Nothing, feed_of
from edgecase_agent.redaction import Cleared, Redactor
from edgecase_agent.running import Model, RunningModel
from edgecase_agent.selection import Keep, SelectionState, Skip
from edgecase_agent.source import Frame, Picture, Source
from edgecase_agent.spool import Put, PutResult, SpoolError
from edgecase_agent.telemetry import Telemetry, position_of
from edgecase_agent.watch_status import Stages, WatchStatus
from edgecase_models import wire
from edgecase_models.detections import Boxes, Detections, Features
from edgecase_models.facts import Facts
from edgecase_models.policy import Policy

log = structlog.get_logger()


_NO_FACTS: Final[Facts] = MappingProxyType({})
_MOST_CAUSES: Final = 16
_LEAST_QUALITY: Final = 5
_QUALITY_STEP: Final = 5
STAND_IN: Final = encode.jpeg(np.full((16, 16, 3), 114, np.uint8))
"""What lies in the spool for a frame whose pixels must not leave: so that whatever is asked for, there is nothing else to send."""
_NO_PICTURE: Final = np.zeros((0, 0, 3), np.uint8)


class Outcome(Enum):
    """What one step came to: a frame was looked at, none came in time, or none will come any more."""

    LOOKED = "looked"
    IDLE = "idle"
    ENDED = "ended"


class Sink(Protocol):
    """Where kept frames go; `spool.Spool` in production."""

    def put(self, jpeg: bytes, meta: FrameMeta) -> PutResult: ...


class Commander(Protocol):
    """Who says by which policy frames are judged; `in_force.InForce` in production."""

    @property
    def policy(self) -> Policy: ...

    @property
    def failure(self) -> str: ...

    def poll(self) -> bool: ...

    def judge(self, spent: SelectionState | None) -> Judge[Shot] | None: ...


@dataclass(frozen=True)
class WatchOptions:
    """`camera`: the name that frames carry. `jpeg_sample_every`: each n-th frame is encoded to learn what all frames would weigh.

    `position_decimals`: how exactly a frame may tell where it was taken; None for not at all.
    """

    camera: str = "camera"
    jpeg_quality: int = 85
    jpeg_sample_every: int = 30
    position_decimals: int | None = None
    status_every_s: float = 2.0
    patience_s: float = 0.5


class Shot:
    """A frame with what was seen in it; encoded once, redacted once, and only if somebody asks.

    What `jpeg` and `thumbnail` give is redacted, where that is asked; the picture as it was seen is in memory alone.
    """

    __slots__ = (
        "_frame",
        "_hw_px",
        "_jpeg",
        "_own",
        "_picture",
        "_position",
        "_quality",
        "_redactor",
        "_size_bytes",
        "_thumbnail",
        "cleared",
        "detections",
        "frame_id",
        "model",
    )

    def __init__(
        self,
        frame: Frame,
        model: Model,
        detections: Detections,
        quality: int,
        jpeg: bytes = b"",
        redactor: Redactor | None = None,
        position: wire.Position | UnsetType = UNSET,
    ) -> None:
        """`jpeg` is the picture encoded as it was seen, where somebody has done that already; `position` is what may be told of it."""
        self.frame_id = new_frame_id()
        self.model = model
        self.detections = detections
        self.cleared: Cleared | None = None
        self._redactor = redactor
        self._frame = replace(frame, picture=_NO_PICTURE)
        self._hw_px = frame.hw_px
        self._picture: Picture | None = frame.picture
        self._own: Boxes | None = None
        self._position = position
        self._quality = quality
        self._jpeg = jpeg
        self._size_bytes = 0
        self._thumbnail = b""

    @property
    def size_bytes(self) -> int:
        """What the picture is charged for, told without redacting it: its size as it was seen. What is sent is no larger."""
        self._size_bytes = self._size_bytes or len(self._encoded())
        return self._size_bytes

    @property
    def jpeg(self) -> bytes:
        """The picture as it would be sent; `STAND_IN` where its pixels must not leave."""
        self.clear()
        return self._encoded()

    @property
    def thumbnail(self) -> bytes:
        """The picture as it would be sent, in small; empty where its pixels must not leave."""
        self.clear()
        if not self._thumbnail and self._picture is not None:
            self._thumbnail = encode.thumbnail(self._picture)
        return self._thumbnail

    def compact(self) -> Shot:
        """The frame itself, encoded now and without its pixels and all that no message carries: to be held for long.

        Most of what is held is never sent, so that nothing is redacted yet.
        """
        if self._redactor is None:
            self._thumbnail = self.thumbnail
        else:
            self._own = self._found(self._redactor)
        self._jpeg, self._picture = self._encoded(), None
        self.detections = replace(self.detections, probabilities=None)
        return self

    def _encoded(self) -> bytes:
        """What is held, as a JPEG, no larger than what was charged for it."""
        quality = self._quality
        while not self._jpeg and self._picture is not None:
            content = encode.jpeg(self._picture, quality)
            if len(content) <= self._size_bytes or not self._size_bytes or quality <= _LEAST_QUALITY:
                self._jpeg = content
            quality -= _QUALITY_STEP
        return self._jpeg

    def clear(self) -> Cleared | None:
        """Redact it, where that is asked and was not done: from here on nothing is held but what may leave. None where nothing is asked."""
        if self._redactor is None:
            return self.cleared
        seen, content = self._picture, self._jpeg
        own = self._own if seen is None else self._found(self._redactor)
        cleared = self._redactor.clear(lambda: encode.decoded(content) if seen is None else seen, own)
        self.cleared, self._picture, self._redactor = cleared, cleared.picture, None
        if cleared.picture is None:
            self._jpeg = STAND_IN
        elif cleared.redaction.count:
            self._jpeg = b""
        return cleared

    def _found(self, redactor: Redactor) -> Boxes | None:
        return redactor.own(self.detections, self.model.names)

    def meta(self, camera: str, keep: Keep[Shot]) -> FrameMeta:
        """What is said of the frame when it is kept: the boxes are the candidates too.

        Frames drawn at random go before others and are evicted after them, or they would be no random sample of what arrives. Frames that
        only show what lies beside a pick are evicted first.
        """
        height, width = self._hw_px
        cleared = self.clear()
        stays = cleared is not None and cleared.picture is None
        return FrameMeta(
            frame_id=self.frame_id,
            camera=camera,
            frame_index=self._frame.index,
            captured_at=self._frame.captured_at,
            boot_id=boot_id(),
            monotonic_ns=self._frame.monotonic_ns,
            width_px=width,
            height_px=height,
            model_digest=self.model.digest,
            classes=list(self.model.names),
            score=keep.score,
            reasons=list(keep.reasons),
            boxes=wire.boxes_of(self.detections),
            operating_point=self.model.operating_point,
            thumbnail_jpeg=self.thumbnail,
            priority=-1 if keep.beside is not None else int(keep.audit),
            context_of=UNSET if keep.beside is None else keep.beside.frame_id,
            features=UNSET if stays else _travelling(self.detections.features),
            redaction=UNSET if cleared is None else cleared.redaction,
            position=self._position,
            recorded=self._frame.recorded,
        )


def _travelling(features: Features | None) -> wire.Features | UnsetType:
    """The features as they travel; left out where there are none, or more or larger ones than a message takes."""
    if features is None:
        return UNSET
    try:
        return wire.features_of(features)
    except wire.WireError:
        return UNSET


class Watch:
    """The loop's parts, joined. `step` does one frame; `close` yields the last window and writes the state."""

    def __init__(
        self,
        source: Source,
        model: RunningModel,
        judge: Judge[Shot],
        sink: Sink,
        state: Path,
        options: WatchOptions = WatchOptions(),
        telemetry: Telemetry | None = None,
        commander: Commander | None = None,
        redactor: Redactor | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`state` is the folder of `watch.json` and `selection.json`; the counts of an earlier run are gone on from. `telemetry` tells what
        the vehicle says of itself; `commander` gives another judge when another policy is to be followed, None for never; `redactor` makes
        unseen in kept frames what must not be seen, None where they are kept as they are.
        """
        state.mkdir(parents=True, exist_ok=True)
        self._source = source
        self._model = model
        self._judge = judge
        self._selection = judge.selection
        self._commander = commander
        self._telemetry = telemetry
        self._sink = sink
        self._redactor = redactor
        self._due: deque[tuple[Shot, Keep[Shot]]] = deque()
        self._state = state
        self._options = options
        self._clock = clock
        self._stages = Stages()
        self._took_ms: dict[str, float] = {}
        self._sample_bytes = 0
        self._now_s = time.time()
        self._trusted_disk = True
        self._closed = False
        self._status = watch_status.go_on_from(state)
        self._skipped_before = self._status.frames_skipped
        self._without_chance_before = self._status.without_chance
        self._told_causes: set[str] = set()
        self._reported = (clock(), self._status.frames_seen)
        self._feed = feed_of(source)

    def step(self) -> Outcome:
        """Take a frame, look at it, judge it. Raises what the source raises, and `StorageFailed` of a disk that cannot be trusted."""
        start = perf_counter()
        taken = self._feed.take(self._options.patience_s)
        self._model.poll()
        if isinstance(taken, Frame):
            self._took_ms = {"wait": (perf_counter() - start) * 1e3}
            self._now_s = taken.captured_at.timestamp()
            self._obey()
            self._see(taken)
            self._settle()
            self._stages.add(**self._took_ms)
        elif taken is Nothing.YET:
            self._now_s = time.time()
            self._obey()
            self._settle()
        if self._clock() - self._reported[0] >= self._options.status_every_s:
            self._report()
        if isinstance(taken, Frame):
            return Outcome.LOOKED
        return Outcome.ENDED if taken is Nothing.MORE else Outcome.IDLE

    @property
    def status(self) -> WatchStatus:
        """What `watch.json` says, as of now."""
        status, model = self._status, self._model
        status.at = wire.now()
        status.source, status.source_state = self._source.name, self._source.state.value
        status.frames_skipped = self._skipped_before + self._feed.skipped
        status.without_chance = self._without_chance_before + self._judge.without_chance
        status.running_digest, status.release = model.current.digest, model.current.release
        status.swaps, status.model_failure = model.swaps, model.failure
        status.strategy = self._judge.strategy.value
        if self._telemetry is not None:
            status.telemetry, status.telemetry_problem = self._telemetry.counts, self._telemetry.problem
        if self._commander is not None:
            status.policy, status.policy_digest = self._commander.policy.name, self._commander.policy.digest
            status.policy_failure = self._commander.failure
        status.privacy = "off" if self._redactor is None else self._redactor.terms.mode.value
        status.stages_ms = self._stages.means()
        return status

    def close(self) -> None:
        """End the source, keep what the open window yields, and write the state. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._feed.close()
        self._model.close()
        if self._trusted_disk:
            self._settle(ending=True)
            self._remember_budgets()
        self._report()

    # ---- the policy --------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Let another policy take over between two frames. What the window holds is decided on by the policy that held it, and what was
        spent stays spent.
        """
        if self._commander is None or not self._commander.poll():
            return
        self._settle(ending=True)
        judge = self._commander.judge(self._selection.state())
        if judge is not None:
            self._without_chance_before += self._judge.without_chance
            self._judge, self._selection = judge, judge.selection
            self._remember_budgets()

    # ---- one frame ---------------------------------------------------------------------------------------------

    def _see(self, frame: Frame) -> None:
        model, status = self._model.current, self._status
        status.frames_seen += 1
        try:
            jpeg = self._weigh(frame)
            detections = model.detector.detect(frame.picture)
            stages = model.detector.stages_ms
            self._took_ms |= {"pre": stages.pre, "run": stages.run, "post": stages.post}
            telemetry = _NO_FACTS if self._telemetry is None else self._telemetry.facts(self._now_s)
            position = position_of(telemetry, self._options.position_decimals)
            shot = Shot(frame, model, detections, self._options.jpeg_quality, jpeg, self._redactor, position)
            shown = Shown(shot, frame.picture, frame.captured_at, frame.hw_px, self._options.camera, telemetry)
            judged = self._judge.judge(shown, model, detections, self._stage)
        except Exception as error:  # noqa: BLE001 (one frame, or a model that errs at times, must not end the loop)
            self._failed(frame, error)
            return
        self._tell_strategy(self._judge.strategy_failure)
        status.second_looks += judged.second_look
        if judged.second_failure is not None:
            self._no_second_opinion(frame, judged.second_failure)
        if isinstance(judged.decision, Skip):
            self._count_passed(judged.decision)

    def _weigh(self, frame: Frame) -> bytes:
        """Count what the frame would weigh; its JPEG where it is one of those that are really encoded."""
        every, jpeg = self._options.jpeg_sample_every, b""
        if self._sample_bytes == 0 or self._status.frames_seen % every == 0:
            with self._stage("encode"):
                jpeg = encode.jpeg(frame.picture, self._options.jpeg_quality)
            self._sample_bytes = len(jpeg)
        self._status.jpeg_bytes_seen += self._sample_bytes
        return jpeg

    def _failed(self, frame: Frame, error: Exception) -> None:
        """Drop the frame and count it; the log gets the first, the second, the fourth, … so that a broken model cannot fill it."""
        count = self._status.frames_failed = self._status.frames_failed + 1
        self._status.problem = f"frame {frame.index}: {error}"[:300]
        if count & (count - 1) == 0:
            log.error("frame dropped", source=self._source.name, frame_index=frame.index, dropped=count, exc_info=error)

    def _tell_strategy(self, failure: str) -> None:
        """Why another strategy ranks the frames than the policy's; the log gets it as it changes."""
        if failure and failure != self._status.strategy_failure:
            log.warning("the policy's strategy cannot be followed", cause=failure)
        self._status.strategy_failure = failure

    def _no_second_opinion(self, frame: Frame, error: Exception) -> None:
        """Count it; the log gets each cause once, and no more causes than it can bear."""
        cause = f"{type(error).__name__}: {error}"[:300]
        self._status.second_looks_failed += 1
        self._status.problem = f"no second opinion on frame {frame.index}: {cause}"[:300]
        if cause not in self._told_causes and len(self._told_causes) < _MOST_CAUSES:
            self._told_causes.add(cause)
            log.error("no second opinion; the first look counts", frame_index=frame.index, cause=cause, exc_info=error)

    # ---- a window's end ----------------------------------------------------------------------------------------

    def _settle(self, *, ending: bool = False) -> None:
        with self._stage("select"):
            verdicts = self._selection.close(self._now_s, self._size_bytes, ending=ending)
        kept = [(verdict.item, verdict.decision) for verdict in verdicts if isinstance(verdict.decision, Keep)]
        for verdict in verdicts:
            if isinstance(verdict.decision, Skip):
                self._count_passed(verdict.decision)
        if kept:
            self._remember_budgets()  # before the frames: after a crash in between less is sent, never more
        self._due.extend(kept)
        # Searching a picture may take longer than looking at it: one at a time then, so that the camera is seen in between.
        at_once = len(self._due) if self._redactor is None or self._closed else 1
        for _ in range(min(at_once, len(self._due))):
            self._keep(*self._due.popleft())

    def _size_bytes(self, shot: Shot) -> int:
        with self._stage("encode"):
            return shot.size_bytes

    def _keep(self, shot: Shot, keep: Keep[Shot]) -> None:
        self._status.selected += keep.beside is None
        self._status.beside += keep.beside is not None
        self._status.audited += keep.audit
        with self._stage("redact"):
            self._redact(shot)
        with self._stage("encode"):
            meta, jpeg = shot.meta(self._options.camera, keep), shot.jpeg
        strategies = [reason.strategy for reason in keep.reasons]
        try:
            with self._stage("spool"):
                result = self._sink.put(jpeg, meta)
        except durable.StorageFailed:
            self._trusted_disk = False
            raise
        except (OSError, SpoolError) as error:
            self._not_spooled(meta, str(error))
            return
        if result.outcome is not Put.KEPT:
            self._not_spooled(meta, result.reason)
        else:
            log.info("frame kept", frame_id=meta.frame_id, reasons=strategies, score=round(keep.score, 4))

    def _redact(self, shot: Shot) -> None:
        """Let nothing of the frame be held from here on but what may leave, and count what that is."""
        cleared = shot.clear()
        if cleared is None:
            return
        status, redaction = self._status, cleared.redaction
        status.withheld += cleared.picture is None
        status.redacted += cleared.picture is not None and redaction.count > 0
        failure = str(redaction.withheld) if cleared.failed else ""
        if failure and failure != status.privacy_failure:
            log.error("kept without its pixels", frame_id=shot.frame_id, cause=failure)
        status.privacy_failure = failure

    def _not_spooled(self, meta: FrameMeta, cause: str) -> None:
        self._status.not_spooled += 1
        self._status.problem = f"frame {meta.frame_id} was not spooled: {cause}"[:300]
        log.warning("frame not spooled", frame_id=meta.frame_id, cause=cause)

    def _remember_budgets(self) -> None:
        try:
            watch_status.write_selection(self._state, self._selection.state())
        except durable.StorageFailed:
            self._trusted_disk = False
            raise
        except OSError as error:
            self._status.problem = f"the budgets could not be stored: {error}"[:300]
            log.warning("budgets not stored", cause=str(error))

    # ---- the report --------------------------------------------------------------------------------------------

    def _count_passed(self, skip: Skip) -> None:
        self._status.passed[skip.reason] = self._status.passed.get(skip.reason, 0) + 1

    def _report(self) -> None:
        now_s, seen = self._clock(), self._status.frames_seen
        passed_s = now_s - self._reported[0]
        if passed_s > 0:
            self._status.frames_per_s = round((seen - self._reported[1]) / passed_s, 2)
        self._reported = (now_s, seen)
        try:
            watch_status.write_status(self._state, self.status)
        except OSError as error:
            log.warning("status not written", cause=str(error))

    def _stage(self, name: str) -> _Stopwatch:
        return _Stopwatch(name, self._took_ms)


class _Stopwatch:
    """Adds the time of a `with` block to a stage."""

    __slots__ = ("_name", "_start", "_took_ms")

    def __init__(self, name: str, took_ms: dict[str, float]) -> None:
        self._name = name
        self._took_ms = took_ms

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        took_ms = (perf_counter() - self._start) * 1e3
        self._took_ms[self._name] = self._took_ms.get(self._name, 0.0) + took_ms


def run(watch: Watch, stopped: threading.Event) -> None:
    """Step until the source ends or `stopped` is set, and close in any case."""
    try:
        while not stopped.is_set() and watch.step() is not Outcome.ENDED:
            pass
    finally:
        watch.close()
