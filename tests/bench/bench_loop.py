"""Frames per second from the decoder to the selection, on one core, beside `session.run` alone and Ultralytics' `predict(stream=True)`.

Contenders take turns on the same frames of each clip, and the median of the rounds' ratios is reported, so that a machine that slows down
slows all of them. `python -m bench.bench_loop --frames 20 --rounds 1` is a quick look.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import av
import onnxruntime as ort
import structlog

from bench.report import BUILD, SHARED, Report, Row
from edgecase_agent.committee import Cascade, Shifted
from edgecase_agent.frames import FrameMeta
from edgecase_agent.running import Model, RunningModel
from edgecase_agent.selection import Rules, Selection
from edgecase_agent.source import open_source
from edgecase_agent.spool import Put, PutResult
from edgecase_agent.watch import Committee, Outcome, Shot, Watch
from edgecase_agent.watch_status import StageMeans
from edgecase_models.boxes import rectangle_for
from edgecase_models.detector import Detector

os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_VERBOSE": "False"}

FOOTAGE, WEIGHTS = SHARED / "footage", SHARED / "weights"
BARS = {640: 0.90, 320: 0.80}
EQUAL_BAR, DEFAULT_BAR = 1.25, 2.0
"""Against Ultralytics on the square export that it makes by default: a rectangle that fits the camera is part of what is compared. On
the same file `session.run` alone is the ceiling, which the report prints beside the figure."""

CLOCKS: dict[str, Callable[[], float]] = {"wall": perf_counter, "cpu": process_time}
clock_name = "wall"
STAGES = ("wait", "pre", "run", "post", "score", "select", "encode")


class Nowhere:
    """A sink for the frames that were selected: the loop is measured up to here."""

    def put(self, jpeg: bytes, meta: FrameMeta) -> PutResult:  # noqa: ARG002
        return PutResult(Put.KEPT)


class Fixed:
    """A model slot with one model that never changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def version(self) -> object:
        return self._path

    def load(self) -> Model:
        detector = Detector(self._path)
        return Model(detector, "0" * 64, detector.names, detector.thresholds.score)


@dataclass(frozen=True)
class Lap:
    """One contender's turn: frames per second and, for our loop, where the time went and how often the model ran."""

    fps: float
    stages: StageMeans | None = None
    runs_per_frame: float = 1.0


def our_loop(model: Path, clip: Path, frames: int, committee: bool = False) -> Lap:
    """The loop as the agent runs it, with its defaults."""
    asked = Committee(Cascade(), Shifted()) if committee else None
    with tempfile.TemporaryDirectory() as folder:
        running = RunningModel(Fixed(model))
        watch = Watch(
            open_source(str(clip)), running, Selection[Shot](Rules()), Nowhere(), Path(folder), committee=asked
        )
        warm_up(watch.step)
        before = watch.status.second_looks
        start = now_s()
        looked = sum(watch.step() is Outcome.LOOKED for _ in range(frames))
        seconds = now_s() - start
        status = watch.status
        watch.close()
    return Lap(looked / seconds, status.stages_ms, 1 + (status.second_looks - before) / looked)


def session_alone(model: Path, clip: Path, frames: int) -> Lap:
    """`session.run` on a real picture's tensor, with the session options that the detector uses."""
    options = one_quiet_thread()
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    picture = next(iter(open_source(str(clip)))).picture
    detector = Detector(model)
    feed = {detector.input_name: detector.tensor(picture).copy()}
    warm_up(lambda: session.run(None, feed))
    start = now_s()
    for _ in range(frames):
        session.run(None, feed)
    return Lap(frames / (now_s() - start))


def ultralytics_loop(model: Path, clip: Path, frames: int) -> Lap:
    """Ultralytics' own streaming loop over the same file, with the session that it makes itself."""
    from ultralytics import YOLO

    height, width = shape_of(model)
    results = YOLO(model, task="detect").predict(
        str(clip), stream=True, imgsz=[height, width], device="cpu", verbose=False, save=False
    )
    warm_up(lambda: next(results))
    start = now_s()
    for _ in range(frames):
        next(results)
    lap = Lap(frames / (now_s() - start))
    results.close()
    return lap


def ultralytics_equal(model: Path, clip: Path, frames: int) -> Lap:
    """The same with our session options put under it: one thread that does not spin."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with every_session_quiet():
            return ultralytics_loop(model, clip, frames)
    finally:
        torch.set_num_threads(threads)


def decoder_alone(model: Path, clip: Path, frames: int) -> Lap:
    """FFmpeg's decoder on one thread: what no loop on this core can do without."""
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        decoded = container.decode(video=0)
        warm_up(lambda: next(decoded))
        start = now_s()
        for _ in range(frames):
            next(decoded)
        return Lap(frames / (now_s() - start))


def now_s() -> float:
    """Seconds on the clock that was asked for."""
    return CLOCKS[clock_name]()


def warm_up(step: Callable[[], object], times: int = 3) -> None:
    for _ in range(times):
        step()


def one_quiet_thread() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@contextmanager
def every_session_quiet() -> Iterator[None]:
    """Ultralytics takes no session options; a session of our making is put in the place of the one that it would make."""
    made = ort.InferenceSession

    def quiet(path: str, *_: object, **options: Any) -> ort.InferenceSession:
        return made(path, one_quiet_thread(), providers=options.get("providers"))

    ort.InferenceSession = quiet
    try:
        yield
    finally:
        ort.InferenceSession = made


def shape_of(model: Path) -> tuple[int, int]:
    *_, height, width = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()[0].shape
    return int(height), int(width)


def export(name: str, shape: tuple[int, int]) -> Path:
    """The detector with a rectangular input, exported from the given weights once."""
    height, width = shape
    path = BUILD / "exports" / f"{name}-{height}x{width}.onnx"
    if not path.exists():
        from ultralytics import YOLO

        path.parent.mkdir(parents=True, exist_ok=True)
        weights = path.with_suffix(".pt")
        weights.write_bytes((WEIGHTS / f"{name}.pt").read_bytes())
        Path(YOLO(weights).export(format="onnx", imgsz=shape, device="cpu", verbose=False)).replace(path)
        weights.unlink()
    return path


def take_turns(model: Path, square: Path, clip: Path, frames: int, rounds: int) -> dict[str, list[Lap]]:
    """Every contender `rounds` times, forwards and backwards in turn."""
    contenders: dict[str, Callable[[], Lap]] = {
        "loop": lambda: our_loop(model, clip, frames),
        "session": lambda: session_alone(model, clip, frames),
        "decoder": lambda: decoder_alone(model, clip, frames),
        "equal": lambda: ultralytics_equal(model, clip, frames),
        "square": lambda: ultralytics_equal(square, clip, frames),
        "default": lambda: ultralytics_loop(model, clip, frames),
        "committee": lambda: our_loop(model, clip, frames, committee=True),
    }
    laps: dict[str, list[Lap]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in contenders if turn % 2 == 0 else reversed(contenders):
            laps[name].append(contenders[name]())
    return laps


def measure(report: Report, name: str, clip: Path, size: int, frames: int, rounds: int) -> None:
    """All contenders on one clip at one model size."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        hw_px, length = (stream.height, stream.width), stream.frames or 200
    shape = rectangle_for(hw_px, size, 32)
    laps = take_turns(export(name, shape), export(name, (size, size)), clip, min(frames, length - 10), rounds)
    fps = {contender: median(lap.fps for lap in turns) for contender, turns in laps.items()}

    def median_of(value: Callable[[dict[str, Lap]], float]) -> float:
        return median(value({key: turns[turn] for key, turns in laps.items()}) for turn in range(rounds))

    label = f"{clip.stem} {hw_px[1]}×{hw_px[0]} at {shape[1]}×{shape[0]}"
    report.add(Row(f"{label}: whole loop", fps["loop"], "fps", "session.run alone", fps["session"]))
    left = median_of(lambda lap: lap["decoder"].fps / (lap["decoder"].fps + lap["session"].fps))
    share = median_of(lambda lap: lap["loop"].fps / lap["session"].fps)
    report.add(Row(f"{label}: share of session.run", share, "", "left by the decoder alone", left, BARS[size]))
    ceiling = median_of(lambda lap: lap["session"].fps / lap["equal"].fps)
    equal = median_of(lambda lap: lap["loop"].fps / lap["equal"].fps)
    report.add(Row(f"{label}: × Ultralytics, equal session, same file", equal, "×", "session.run alone", ceiling))
    square = median_of(lambda lap: lap["loop"].fps / lap["square"].fps)
    report.add(Row(f"{label}: × Ultralytics, equal session", square, "×", "fps", fps["square"], EQUAL_BAR))
    default = median_of(lambda lap: lap["loop"].fps / lap["default"].fps)
    report.add(Row(f"{label}: × Ultralytics, its default", default, "×", "fps", fps["default"], DEFAULT_BAR))
    runs = median_of(lambda lap: lap["committee"].fps * lap["committee"].runs_per_frame / lap["session"].fps)
    report.add(Row(f"{label}: with the committee", fps["committee"], "fps", "model runs, of session.run", runs))
    for stage in STAGES:
        values = [getattr(lap.stages, stage) for lap in laps["loop"]]
        report.add(Row(f"{label}: {stage}", median(values), "ms/frame"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=40, help="frames of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--model", default="yolo11n", help="a detector of ../shared/weights")
    parser.add_argument("--clip", action="append", help="only clips whose name begins so")
    parser.add_argument("--size", type=int, action="append", choices=sorted(BARS), help="only this model size")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to measure on")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: time of this process, on a busy machine")
    asked = parser.parse_args()
    if not FOOTAGE.is_dir() or not (WEIGHTS / f"{asked.model}.pt").is_file():
        print(f"bench-loop skipped: the footage and weights of {SHARED} are not here")
        return 0
    clips = [
        clip for clip in sorted(FOOTAGE.iterdir()) if not asked.clip or any(clip.name.startswith(c) for c in asked.clip)
    ]
    global clock_name  # noqa: PLW0603
    clock_name = asked.clock
    os.sched_setaffinity(0, {asked.core})  # before any library starts a thread
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    report = Report(
        "loop", f"{asked.model}, whole loop on one core, median of {asked.rounds} rounds of {asked.frames} frames"
    )
    report.add(Row("load of the machine at the start", os.getloadavg()[0], "processes"))
    for size in asked.size or sorted(BARS, reverse=True):
        for clip in clips:
            measure(report, asked.model, clip, size, asked.frames, asked.rounds)
    report.close()
    return 0 if all(row.ok is not False for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
