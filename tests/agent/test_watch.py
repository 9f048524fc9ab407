"""What the watch loop promises: every frame is looked at or counted, what is worth a label is spooled, and nothing but the disk ends it."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from msgspec import UNSET
from structlog.testing import capture_logs

from edgecase_agent.committee import Cascade, Shifted
from edgecase_agent.durable import StorageFailed
from edgecase_agent.frames import FrameMeta
from edgecase_agent.judge import Committee, Judge
from edgecase_agent.rules import DAY_S, Quota, Rules
from edgecase_agent.running import BundleSlot, Model, ModelError, OtherSlot, RunningModel
from edgecase_agent.selection import Selection
from edgecase_agent.slots import Slots
from edgecase_agent.source import Frame, SourceState, open_source
from edgecase_agent.spool import Put, PutResult, Spool
from edgecase_agent.telemetry import Telemetry
from edgecase_agent.watch import Outcome, Shot, Watch, WatchOptions, run
from edgecase_agent.watch_status import WatchStatus, read_selection
from edgecase_models import wire
from edgecase_models.bundle import pack, sha256_of
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector
from edgecase_models.strategy import Strategy
from support.clips import squares, write_clip
from support.tiny_onnx import GOLDEN
from support.wait import until


def per_hour(frames: float) -> dict[str, dict[str, float | None]]:
    return {"frames": {"hour": frames}}


EAGER = Rules(window_s=1, gap_s=0.2, budget=per_hour(7200), audit_share=0.25, repeat_bits=-1)
OPTIONS = WatchOptions(camera="gate", jpeg_sample_every=3, status_every_s=0)


class Slot:
    """A model slot whose content the test changes: a model, or what loading it raises."""

    def __init__(self, content: Model | Exception) -> None:
        self.content = content
        self.loads = 0

    def version(self) -> object:
        return id(self.content)

    def load(self) -> Model:
        self.loads += 1
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def a_model(digest: str = "a" * 64) -> Model:
    detector = Detector(GOLDEN)
    return Model(detector, digest, detector.names, detector.thresholds.score)


STORED = PutResult(Put.KEPT)


class Collected:
    """A sink that remembers what it was given, and answers as it was told."""

    def __init__(self, answer: PutResult | Exception = STORED) -> None:
        self.answer = answer
        self.frames: list[tuple[bytes, FrameMeta]] = []

    def put(self, jpeg: bytes, meta: FrameMeta) -> PutResult:
        if isinstance(self.answer, Exception):
            raise self.answer
        self.frames.append((jpeg, meta))
        return self.answer


class Pictures:
    """A recording of given pictures, ten a second; `before(index)` runs before each is handed out."""

    def __init__(self, pictures: Sequence[object], before: object = None, *, live: bool = False) -> None:
        self.name = "pictures"
        self.live = live
        self.state = SourceState.PLAYING
        self._pictures = pictures
        self._before = before

    def close(self) -> None:
        self.state = SourceState.ENDED

    def __iter__(self) -> Iterator[Frame]:
        since = datetime(2026, 1, 1, tzinfo=UTC)
        for index, picture in enumerate(self._pictures):
            if callable(self._before):
                self._before(index)
            yield Frame(picture, index, since + timedelta(seconds=index / 10), index)  # type: ignore[arg-type]


def a_watch(
    source: object,
    folder: Path,
    *,
    slot: Slot | None = None,
    sink: object = None,
    options: WatchOptions = OPTIONS,
    rules: Rules = EAGER,
    committee: Committee | None = None,
    strategy: Strategy = Strategy.EDE,
    telemetry: Telemetry | None = None,
) -> Watch:
    running = RunningModel(slot or Slot(a_model()), poll_s=0)
    selection = Selection(rules, read_selection(folder, rules), Shot.compact)
    return Watch(
        source,  # type: ignore[arg-type]
        running,
        Judge(selection, strategy, committee),
        sink or Collected(),  # type: ignore[arg-type]
        folder,
        options,
        telemetry,
    )


def finished(watch: Watch) -> WatchStatus:
    run(watch, threading.Event())
    return watch.status


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", (squares(index) for index in range(60)), fps=10)


# ---- from a recording to the spool ---------------------------------------------------------------------------------


def test_doubtful_frames_of_a_recording_are_spooled_with_all_that_is_known_of_them(clip: Path, tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", 10_000_000, putting=True) as spool:
        status = finished(a_watch(open_source(str(clip)), tmp_path / "state", sink=spool))
        assert status.frames_seen == 60
        assert spool.balance().kept == status.selected >= 6
        entry = spool.due(1, 0.0)[0]
        meta = spool.meta(entry)
        with spool.open(entry) as file:
            picture = simplejpeg.decode_jpeg(file.read())
    assert np.abs(picture.astype(int) - squares(meta.frame_index)).mean() < 6
    assert (meta.camera, meta.width_px, meta.height_px) == ("gate", 128, 128)
    assert meta.classes == ["red", "green"]
    assert {box.cls for box in meta.boxes} == {0, 1}
    assert all(box.score >= 0.25 for box in meta.boxes)
    assert simplejpeg.decode_jpeg(meta.thumbnail_jpeg).shape == (128, 128, 3)
    assert meta.offer("dev", entry.sha256, entry.size_bytes).frame_id == meta.frame_id


def test_a_frame_drawn_at_random_goes_first_and_says_how_likely_it_was(clip: Path, tmp_path: Path) -> None:
    sink = Collected()
    status = finished(a_watch(open_source(str(clip)), tmp_path, sink=sink))
    audits = [meta for _, meta in sink.frames if meta.reasons[0].strategy == "audit"]
    assert len(audits) == status.audited >= 1
    assert all(meta.priority == 1 and 0 < meta.reasons[0].propensity < 1 for meta in audits)


def test_the_frames_beside_a_pick_are_spooled_behind_it_and_name_it(clip: Path, tmp_path: Path) -> None:
    sink = Collected()
    rules = replace(
        EAGER, gap_s=1, audit_share=0, context_frames=2, context_before_s=0.6, context_after_s=0.4, budget={"frames": {"hour": 3600}}
    )  # fmt: skip
    status = finished(a_watch(open_source(str(clip)), tmp_path, sink=sink, rules=rules))
    picks = {meta.frame_id: meta for _, meta in sink.frames if meta.priority == 0}
    beside = [(jpeg, meta) for jpeg, meta in sink.frames if meta.priority < 0]
    assert (status.selected, status.beside) == (len(picks), len(beside))
    assert len({meta.frame_index for _, meta in sink.frames}) == len(sink.frames) > len(picks) > 0
    for jpeg, meta in beside:
        (reason,), pick = meta.reasons, picks[str(meta.context_of)]
        assert reason.strategy == "context"
        assert reason.score == pytest.approx((meta.frame_index - pick.frame_index) / 10, abs=1e-6)
        assert np.abs(simplejpeg.decode_jpeg(jpeg).astype(int) - squares(meta.frame_index)).mean() < 6
        assert meta.boxes
    offer = beside[0][1].offer("dev", "a" * 64, 10)
    assert wire.decode_up(wire.encode(offer)) == offer


class Featured:
    """A detector that gives these features with everything it sees."""

    def __init__(self, detector: Detector, features: np.ndarray) -> None:
        self._detector = detector
        self._features = features

    def __getattr__(self, name: str) -> object:
        return getattr(self._detector, name)

    def detect(self, picture: np.ndarray) -> Detections:
        return replace(self._detector.detect(picture), features=self._features)


@pytest.mark.parametrize(("count", "travels"), [(256, True), (300, False)])
def test_features_go_with_a_frame_where_a_message_takes_them_and_end_nothing_where_not(
    clip: Path, tmp_path: Path, count: int, travels: bool
) -> None:
    model = a_model()
    features = np.random.default_rng(0).normal(size=count).astype(np.float32)
    slot = Slot(replace(model, detector=Featured(model.detector, features)))  # type: ignore[arg-type]
    sink = Collected()
    rules = replace(
        EAGER, context_frames=1, context_before_s=0.5
    )  # also of frames that were held without their pictures
    finished(a_watch(open_source(str(clip)), tmp_path, slot=slot, sink=sink, rules=rules))
    assert {meta.features is not UNSET for _, meta in sink.frames} == {travels}


def test_the_end_of_a_recording_ends_the_loop_and_flushes_its_window(clip: Path, tmp_path: Path) -> None:
    sink = Collected()
    watch = a_watch(open_source(str(clip)), tmp_path, sink=sink, rules=replace(EAGER, window_s=3600))
    steps = [watch.step() for _ in range(61)]
    assert steps == [Outcome.LOOKED] * 60 + [Outcome.ENDED]
    held = len(sink.frames)
    watch.close()
    watch.close()
    assert len(sink.frames) > held


def test_the_status_file_tells_what_the_loop_did(clip: Path, tmp_path: Path) -> None:
    finished(a_watch(open_source(str(clip)), tmp_path))
    status = json.loads((tmp_path / "watch.json").read_text())
    assert status["frames_seen"] == 60
    assert status["running_digest"] == "a" * 64
    assert status["source_state"] == "ended"
    assert all(status["stages_ms"][stage] > 0 for stage in ("wait", "pre", "run", "post", "score", "select", "encode"))


def test_the_bytes_of_all_frames_are_estimated_from_every_nth(clip: Path, tmp_path: Path) -> None:
    estimates = []
    for every in (1, 7):
        options = replace(OPTIONS, jpeg_sample_every=every)
        estimates.append(
            finished(a_watch(open_source(str(clip)), tmp_path / str(every), options=options)).jpeg_bytes_seen
        )
    assert estimates[1] == pytest.approx(estimates[0], rel=0.05)
    assert estimates[0] > 60 * 500


def test_counts_and_budgets_go_on_after_a_restart(clip: Path, tmp_path: Path) -> None:
    rules = replace(EAGER, budget=per_hour(3), audit_share=0)
    first = finished(a_watch(open_source(str(clip)), tmp_path, rules=rules))
    second = finished(a_watch(open_source(str(clip)), tmp_path, rules=rules))
    third = finished(a_watch(open_source(str(clip)), tmp_path, rules=rules))
    assert (first.frames_seen, second.frames_seen, third.frames_seen) == (60, 120, 180)
    assert third.selected <= 3  # eighteen seconds of footage, but within one hour of its clock
    assert third.jpeg_bytes_seen == 3 * first.jpeg_bytes_seen


@pytest.mark.parametrize("torn", [b"", b"{", b'{"v": 1}', b"\xff"])
def test_damaged_state_files_do_not_keep_a_device_from_working(clip: Path, tmp_path: Path, torn: bytes) -> None:
    for name in ("watch.json", "selection.json"):
        (tmp_path / name).write_bytes(torn)
    assert finished(a_watch(open_source(str(clip)), tmp_path)).frames_seen == 60


def test_what_the_vehicle_tells_is_counted_and_its_trouble_is_told(tmp_path: Path) -> None:
    told = tmp_path / "vehicle.json"

    def vehicle(index: int) -> None:
        if index < 20:
            told.write_text(json.dumps({"speed_mps": index, "gear": "x" * 99}))
        at_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp() + min(index, 20) / 10
        os.utime(told, (at_s, at_s))

    watch = a_watch(Pictures([squares(i) for i in range(40)], vehicle), tmp_path, telemetry=Telemetry(told, 0.5))
    counts = finished(watch).telemetry
    assert counts is not None
    assert counts.read == counts.refused > 10
    assert (counts.broken, counts.stale) == (0, 1)
    written = json.loads((tmp_path / "watch.json").read_text())
    assert written["telemetry"]["stale"] == 1
    assert "vehicle.json: not replaced for 0.5 s" in written["telemetry_problem"]
    again = finished(a_watch(Pictures([squares(0)]), tmp_path))
    assert (again.telemetry, again.telemetry_problem) == (None, "")


def version_1(at_s: float, frames: int, sent: int) -> str:
    """`selection.json` as it was written by the first version, which had a budget of frames and one of bytes."""
    spent = {"frames": [[at_s, at_s, frames]], "sent": [[at_s, at_s, sent]]}
    budgets = {name: {"tokens": 1e6, "at_s": at_s, "spent": rows} for name, rows in spent.items()}
    return json.dumps({"v": 1, **budgets, "audit": 0.0})


@pytest.mark.parametrize(
    ("budget", "before", "kept"),
    [
        ({"frames": {"hour": 10}}, (0, 0), True),
        ({"frames": {"hour": 10}}, (10, 0), False),
        ({"bytes": {"day": 1e6}}, (0, 10_000), True),
        ({"bytes": {"day": 1e6}}, (0, 1_000_000), False),
    ],
)
def test_what_the_first_version_spent_is_spent_after_the_upgrade(
    tmp_path: Path, budget: dict, before: tuple[int, int], kept: bool
) -> None:
    at_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp() - 1
    (tmp_path / "selection.json").write_text(version_1(at_s, *before))
    status = finished(a_watch(Pictures([squares(i) for i in range(60)]), tmp_path, rules=replace(EAGER, budget=budget)))
    assert bool(status.selected) is kept


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"v": 1}', b'{"v": 3, "purse": {}}'])
def test_a_budget_file_that_cannot_be_understood_does_not_give_the_budget_again(tmp_path: Path, content: bytes) -> None:
    rules = replace(
        EAGER, budget={"bytes": {"day": 1e6}}, quotas={"audit": Quota(10)}, called={"campaign:dark": Quota(5, DAY_S)}
    )
    pictures = [squares(i) for i in range(60)]
    fresh = finished(a_watch(Pictures(pictures), tmp_path / "fresh", rules=rules))
    (tmp_path / "selection.json").write_bytes(content)
    after = finished(a_watch(Pictures(pictures), tmp_path, rules=rules))
    assert fresh.selected > 5
    assert after.selected == 1  # the first may overdraw
    (tmp_path / "selection.json").write_bytes(content)
    state = read_selection(tmp_path, rules)
    assert state is not None
    assert {name: quota.tokens for name, quota in state.quotas.items()} == {"audit": 0, "campaign:dark": 0}


# ---- troubles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [PutResult(Put.DISK_FULL, "the disk is full"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_full_disk_does_not_stop_the_loop(clip: Path, tmp_path: Path, answer: PutResult | OSError) -> None:
    status = finished(a_watch(open_source(str(clip)), tmp_path, sink=Collected(answer)))
    assert status.frames_seen == 60
    assert status.not_spooled == status.selected > 0
    assert "not spooled" in status.problem


def test_a_disk_that_cannot_be_trusted_ends_the_loop_loudly(clip: Path, tmp_path: Path) -> None:
    watch = a_watch(open_source(str(clip)), tmp_path, sink=Collected(StorageFailed("fsync failed")))
    with pytest.raises(StorageFailed):
        run(watch, threading.Event())


def test_a_frame_that_the_detector_cannot_look_at_is_dropped_and_counted(tmp_path: Path) -> None:
    pictures: list[object] = [squares(index) for index in range(20)]
    pictures[5] = np.zeros((4, 4), np.uint8)
    with capture_logs() as logs:
        status = finished(a_watch(Pictures(pictures), tmp_path))
    assert (status.frames_seen, status.frames_failed) == (20, 1)
    assert "frame 5" in status.problem
    assert [entry["frame_index"] for entry in logs if entry["event"] == "frame dropped"] == [5]


def test_scores_that_are_no_numbers_are_dropped_and_counted_and_do_not_fill_the_log(tmp_path: Path) -> None:
    model = replace(a_model(), calibration=lambda scores, _: scores * np.nan)
    sink = Collected()
    with capture_logs() as logs:
        status = finished(a_watch(Pictures([squares(i) for i in range(40)]), tmp_path, slot=Slot(model), sink=sink))
    assert status.frames_failed == 40
    assert sink.frames == []
    assert len([entry for entry in logs if entry["event"] == "frame dropped"]) == 6  # 1, 2, 4, … 32


def test_a_recording_that_breaks_off_says_why_and_loses_nothing(clip: Path, tmp_path: Path) -> None:
    def breaks(index: int) -> None:
        if index == 30:
            raise OSError("the card was pulled")

    sink = Collected()
    watch = a_watch(Pictures([squares(i) for i in range(60)], breaks), tmp_path, sink=sink)
    with pytest.raises(OSError, match="the card was pulled"):
        run(watch, threading.Event())
    assert watch.status.frames_seen == 30
    assert watch.status.selected == len(sink.frames) > 0


def test_a_camera_that_is_silent_leaves_the_loop_responsive(tmp_path: Path) -> None:
    shutter = threading.Event()
    options = replace(OPTIONS, patience_s=0.01)
    source = Pictures([squares(0)], lambda _: shutter.wait(20), live=True)
    watch = a_watch(source, tmp_path, options=options)
    assert [watch.step() for _ in range(3)] == [Outcome.IDLE] * 3
    shutter.set()
    until(lambda: watch.step() is Outcome.LOOKED, what="the frame")
    watch.close()


def test_a_loop_that_is_asked_to_stop_ends_a_camera_and_keeps_its_window(tmp_path: Path) -> None:
    stopped = threading.Event()
    sink = Collected()
    source = open_source("sim://street?width=160&height=90&fps=60")
    rules = replace(EAGER, window_s=3600, audit_share=1.0)
    watch = a_watch(source, tmp_path, sink=sink, rules=rules)
    loop = threading.Thread(target=run, args=(watch, stopped))
    loop.start()
    until(lambda: watch.status.frames_seen > 5, what="some frames")
    stopped.set()
    loop.join(20)
    assert not loop.is_alive()
    assert source.state is SourceState.ENDED


def test_a_slow_model_skips_frames_of_a_camera_and_counts_them(tmp_path: Path) -> None:
    class Slow:
        """The detector, with a pause that ends when the camera is ahead."""

        def __init__(self, detector: Detector) -> None:
            self._detector = detector

        def __getattr__(self, name: str) -> object:
            return getattr(self._detector, name)

        def detect(self, picture: np.ndarray, *, shift_px: int = 0, mirrored: bool = False) -> object:
            reached = watch._feed.skipped + 3
            until(lambda: watch._feed.skipped >= reached, what="three skipped frames")
            return self._detector.detect(picture, shift_px=shift_px, mirrored=mirrored)

    model = a_model()
    slot = Slot(replace(model, detector=Slow(model.detector)))  # type: ignore[arg-type]
    watch = a_watch(open_source("sim://street?width=160&height=90&fps=100"), tmp_path, slot=slot)
    until(lambda: watch.step() is Outcome.LOOKED and watch.status.frames_seen >= 4, what="four looks")
    watch.close()
    assert watch.status.frames_skipped >= 12


# ---- models --------------------------------------------------------------------------------------------------------


def test_a_new_model_takes_over_between_two_frames_and_each_frame_names_the_one_that_saw_it(tmp_path: Path) -> None:
    slot = Slot(a_model("a" * 64))
    sink = Collected()
    rules = replace(EAGER, gap_s=0, window_s=0.1, budget=per_hour(36000), audit_share=0)
    watch = a_watch(Pictures([squares(i) for i in range(400)]), tmp_path, slot=slot, sink=sink, rules=rules)
    for _ in range(20):
        watch.step()
    slot.content = a_model("b" * 64)
    until(lambda: watch.step() is Outcome.LOOKED and watch.status.swaps == 1, what="the swap", every_s=0)
    for _ in range(20):
        watch.step()
    watch.close()
    status = watch.status
    assert status.running_digest == "b" * 64
    digests = {
        meta.frame_index: meta.model_digest for _, meta in sorted(sink.frames, key=lambda kept: kept[1].frame_index)
    }
    order = list(digests.values())
    assert order == sorted(order)
    assert set(order) == {"a" * 64, "b" * 64}


def test_no_frame_is_lost_over_a_swap(tmp_path: Path) -> None:
    slot = Slot(a_model("a" * 64))

    def lay_down(index: int) -> None:
        if index == 100:
            slot.content = a_model("b" * 64)

    status = finished(a_watch(Pictures([squares(i) for i in range(300)], lay_down), tmp_path, slot=slot))
    assert (status.frames_seen, status.frames_skipped, status.frames_failed) == (300, 0, 0)


def test_a_swap_to_a_model_without_features_leaves_novelty_and_keeps_judging(tmp_path: Path) -> None:
    model = a_model("a" * 64)
    featured = replace(model, detector=Featured(model.detector, np.ones(4, np.float32)))  # type: ignore[arg-type]
    slot = Slot(featured)
    watch = a_watch(Pictures([squares(i) for i in range(4000)]), tmp_path, slot=slot, strategy=Strategy.NOVELTY)
    watch.step()
    assert (watch.status.strategy, watch.status.strategy_failure) == ("novelty", "")
    slot.content = a_model("b" * 64)
    with capture_logs() as logs:
        until(lambda: watch.step() is Outcome.LOOKED and watch.status.swaps == 1, what="the swap", every_s=0)
        for _ in range(20):
            watch.step()
    assert watch.status.strategy == "ede"
    assert "novelty needs features, which model bbbbbbbbbbbb does not give" in watch.status.strategy_failure
    assert [entry["event"] for entry in logs if "strategy" in entry["event"]] == [
        "the policy's strategy cannot be followed"
    ]
    slot.content = replace(featured, digest="c" * 64)
    until(lambda: watch.step() is Outcome.LOOKED and watch.status.swaps == 2, what="the swap back", every_s=0)
    watch.step()
    watch.close()
    assert (watch.status.strategy, watch.status.strategy_failure, watch.status.frames_failed) == ("novelty", "", 0)


@pytest.mark.parametrize("trouble", [ModelError("bundle x: digest differs"), OSError("torn"), RuntimeError("odd")])
def test_a_model_that_cannot_be_loaded_leaves_the_incumbent_running_and_is_reported(
    tmp_path: Path, trouble: Exception
) -> None:
    slot = Slot(a_model("a" * 64))
    watch = a_watch(Pictures([squares(i) for i in range(2000)]), tmp_path, slot=slot)
    watch.step()
    slot.content = trouble
    with capture_logs() as logs:
        until(lambda: watch.step() is Outcome.LOOKED and watch.status.model_failure, what="the report", every_s=0)
    assert watch.status.running_digest == "a" * 64
    assert str(trouble) in watch.status.model_failure
    assert [entry["event"] for entry in logs if "model" in entry["event"]] == ["model refused"]
    loads = slot.loads
    for _ in range(5):
        watch.step()
    assert slot.loads == loads  # it is not tried again until another is laid down
    slot.content = a_model("c" * 64)
    until(lambda: watch.step() is Outcome.LOOKED and watch.status.swaps == 1, what="the next model", every_s=0)
    assert watch.status.model_failure == ""
    watch.close()


def test_a_device_without_a_model_that_runs_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        RunningModel(Slot(ModelError("no model is laid down; give one with --bundle")))


def a_bundle(folder: Path, version: str) -> Path:
    out = folder / f"{version}.tar"
    pack(GOLDEN, out, name="squares", version=version, golden_pictures=[squares(0)])
    return out


def lay_down(slots: Slots, bundle: Path, release: int) -> str:
    part = slots.part()
    part.write_bytes(bundle.read_bytes())
    return slots.switch(part, sha256_of(part), release).digest


def test_a_bundle_laid_into_the_other_slot_takes_over(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    first = lay_down(slots, a_bundle(tmp_path, "1"), 1)
    clock = [0.0]
    running = RunningModel(BundleSlot(slots), poll_s=1, clock=lambda: clock[0])
    assert (running.current.digest, running.current.names, running.current.release) == (first, ("red", "green"), 1)
    second = lay_down(slots, a_bundle(tmp_path, "2"), 2)
    assert not running.poll()  # it looks once a second, not at every frame
    clock[0] += 2
    until(running.poll, what="the swap")
    assert (running.current.digest, running.current.release) == (second, 2)
    slots.raise_release(3)
    clock[0] += 2
    until(lambda: running.poll() or running.current.release == 3, what="the number of the release")
    assert running.swaps == 1
    running.close()


def test_a_torn_bundle_in_the_slot_keeps_the_incumbent(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    first = lay_down(slots, a_bundle(tmp_path, "1"), 1)
    running = RunningModel(BundleSlot(slots), poll_s=0)
    second = a_bundle(tmp_path, "2")
    second.write_bytes(second.read_bytes()[:2000])
    lay_down(slots, second, 2)
    until(lambda: running.poll() or running.failure, what="the refusal")
    assert "bundle" in running.failure
    assert running.current.digest == first
    running.close()


def test_the_other_slots_model_gives_a_second_opinion_once_it_is_loaded_and_nobody_waits(tmp_path: Path) -> None:
    slots, clock = Slots(tmp_path / "slots"), [0.0]
    other = OtherSlot(slots, look_every_s=30, clock=lambda: clock[0])
    assert other.current() is None
    first = lay_down(slots, a_bundle(tmp_path, "1"), 1)
    lay_down(slots, a_bundle(tmp_path, "2"), 2)
    assert other.current() is None  # it looks every half a minute
    clock[0] += 31
    assert other.current() is None
    until(other.current, what="the other model")
    assert other.current().digest == first  # type: ignore[union-attr]
    clock[0] += 31
    assert other.current().digest == first  # type: ignore[union-attr]


def test_a_torn_bundle_in_the_other_slot_gives_no_second_opinion_and_is_told_once(tmp_path: Path) -> None:
    slots, clock = Slots(tmp_path / "slots"), [0.0]
    torn = a_bundle(tmp_path, "1")
    torn.write_bytes(torn.read_bytes()[:2000])
    lay_down(slots, torn, 1)
    lay_down(slots, a_bundle(tmp_path, "2"), 2)
    other = OtherSlot(slots, clock=lambda: clock[0])
    with capture_logs() as logs:
        until(lambda: other.current() is not None or logs, what="the warning")
        clock[0] += 100
        assert [other.current() for _ in range(5)] == [None] * 5
    assert [entry["event"] for entry in logs] == ["the other slot's model gives no second opinion"]


def test_a_slot_in_which_nothing_was_ever_laid_down_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\[model\] bundle"):
        RunningModel(BundleSlot(Slots(tmp_path / "slots")))


# ---- the committee -------------------------------------------------------------------------------------------------


def test_the_committee_refines_the_score_of_the_frames_it_is_shown(clip: Path, tmp_path: Path) -> None:
    sink = Collected()
    committee = Committee(Cascade(share=0.5, random_share=0.2, seed=1), Shifted())
    status = finished(a_watch(open_source(str(clip)), tmp_path, sink=sink, committee=committee))
    assert 0 < status.second_looks < 60
    assert status.stages_ms.second > 0
    refined = [meta for _, meta in sink.frames if any(reason.strategy == "disagreement" for reason in meta.reasons)]
    assert refined
    assert all({"ede", "disagreement"} <= {reason.strategy for reason in meta.reasons} for meta in refined)


class Unsteady:
    """A detector whose second looks fail, in one of two ways."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._looks = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._detector, name)

    def detect(self, picture: np.ndarray, *, shift_px: int = 0, mirrored: bool = False) -> Detections:  # noqa: ARG002
        if shift_px:
            self._looks += 1
            raise RuntimeError("out of memory" if self._looks % 2 else "the device was lost")
        return self._detector.detect(picture)


def test_second_looks_that_fail_drop_no_frame_and_are_counted_and_told_once_for_each_cause(
    clip: Path, tmp_path: Path
) -> None:
    model = a_model()
    slot = Slot(replace(model, detector=Unsteady(model.detector)))  # type: ignore[arg-type]
    committee = Committee(Cascade(share=0.5, random_share=0.2, seed=1), Shifted())
    sink = Collected()
    with capture_logs() as logs:
        status = finished(a_watch(open_source(str(clip)), tmp_path, slot=slot, sink=sink, committee=committee))
    assert (status.frames_failed, status.second_looks) == (0, 0)
    assert status.second_looks_failed > 4
    assert len(sink.frames) == status.selected > 0
    assert "no second opinion" in status.problem
    causes = [entry["cause"] for entry in logs if "second opinion" in entry["event"]]
    assert sorted(causes) == ["RuntimeError: out of memory", "RuntimeError: the device was lost"]


def test_frames_without_any_chance_of_a_second_look_are_told_and_counted_on(clip: Path, tmp_path: Path) -> None:
    def broke() -> Committee:
        cascade = Cascade(share=0.0, random_share=0.5, compute_share=0.01, seed=1)
        for took_ms in (10.0, 60_000.0):
            while cascade.judge(0.0, 10.0) is None:
                pass
            cascade.looked(took_ms)
        return Committee(cascade, Shifted())

    for runs in (1, 2):
        assert finished(a_watch(open_source(str(clip)), tmp_path, committee=broke())).without_chance == 60 * runs


def test_a_committee_with_another_strategy_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="committee refines ede"):
        a_watch(open_source(str(clip)), tmp_path, strategy=Strategy.MARGIN, committee=Committee(Cascade(), Shifted()))


@pytest.mark.parametrize("strategy", sorted(set(Strategy) - {Strategy.NOVELTY, Strategy.DIFFICULTY_ENTROPY}))
def test_every_strategy_can_order_the_frames(clip: Path, tmp_path: Path, strategy: Strategy) -> None:
    """But for novelty, which needs features, and PPAL's, which leaves boxes out that are as small as these."""
    sink = Collected()
    rules = replace(EAGER, audit_share=0)
    finished(a_watch(open_source(str(clip)), tmp_path, sink=sink, strategy=strategy, rules=rules))
    assert {meta.reasons[0].strategy for _, meta in sink.frames} == {strategy.value}
