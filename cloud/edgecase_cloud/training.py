"""One training run: what it learns from, in which proportions, and the process of its own that it runs in."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edgecase_cloud import durable, processes
from edgecase_cloud.dataset_files import DatasetError, DatasetFolder, Picture, data_yaml
from edgecase_cloud.errors import Unusable

Whole = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(gt=0, le=1)]

LOG_TAIL_LINES: Final = 12


class TrainingFailed(Unusable):
    """The run ended without a model; the message says why, with the end of its log."""


class TrainingStopped(RuntimeError):
    """The run was asked to stop; its process is gone."""


class TrainingRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train. The defaults are for a short fine-tune on a few hundred pictures without a GPU.

    `imgsz` is the long side in pixels (None: the incumbent's). `rect` trains on the pictures' own shape instead of a padded square, which
    for 16:9 saves four tenths of the work, and leaves mosaics out. `threads` 0 means every core. `freeze` keeps that many first layers as
    they are; `keep` is the share of the starting weights in the result (`trainer.keep_of_start`). `precision` auto computes in bfloat16 on
    processors that have it, which saves a third of the time. `validate` measures on the held-out pictures after every epoch; the gate
    measures in any case. With `time_s` the number of epochs follows from the machine's speed, whatever `epochs` says: training ends, its
    learning rate run down, about when that much time has passed.
    """

    epochs: Positive = 10
    time_s: Annotated[float, Meta(gt=0)] | None = None
    imgsz: Annotated[int, Meta(ge=32, le=4096)] | None = None
    rect: bool = True
    batch: Positive = 16
    optimizer: Literal["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSProp", "MuSGD", "auto"] = "AdamW"
    lr0: Rate = 0.001
    lrf: Rate = 0.05
    cos_lr: bool = True
    momentum: Share = 0.9
    weight_decay: Share = 0.0005
    warmup_epochs: Annotated[float, Meta(ge=0)] = 0.5
    freeze: Whole | None = None
    mosaic: Share = 0.0
    close_mosaic: Whole = 0
    mixup: Share = 0.0
    hsv_h: Share = 0.015
    hsv_s: Share = 0.5
    hsv_v: Share = 0.4
    translate: Share = 0.1
    scale: Share = 0.3
    fliplr: Share = 0.5
    multi_scale: Share = 0.0
    box: Annotated[float, Meta(gt=0)] = 7.5
    cls: Annotated[float, Meta(gt=0)] = 0.5
    dfl: Annotated[float, Meta(gt=0)] = 1.5
    cache: Literal["ram", "disk", "no"] = "ram"
    keep: Share = 0.45
    seed: Whole = 0
    threads: Whole = 0
    device: str = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validate: bool = False
    timeout_s: Annotated[float, Meta(gt=0)] = 6 * 3600.0

    def arguments(self) -> dict[str, Any]:
        """The run's arguments, by Ultralytics' names. Every batch is a step of the optimizer: a short run cannot wait for 64 pictures."""
        own = {"keep", "threads", "timeout_s", "time_s", "validate", "cache", "rect", "imgsz", "precision"}
        plain = {key: value for key, value in msgspec.structs.asdict(self).items() if key not in own}
        return plain | {
            "time": None if self.time_s is None else self.time_s / 3600,
            "imgsz": self.imgsz or 640,
            "rect": self.rect,
            "nbs": self.batch,
            "warmup_bias_lr": 0.0,  # the default of 0.1 is for SGD; it undoes a fine-tune in its first steps
            "cache": False if self.cache == "no" else self.cache,
            "val": self.validate,
            "patience": 0,  # without a measure after each epoch there is nothing to be patient about
            "workers": 0,
            "plots": False,
            "amp": False,
            "deterministic": True,
            "exist_ok": True,
        }


@dataclass(frozen=True)
class Export:
    """The shape of the ONNX file: fixed height and width, or a dynamic one that long; `end2end` asks for the NMS-free head."""

    height_px: int | None
    width_px: int | None
    long_side_px: int
    end2end: bool = False


@dataclass(frozen=True)
class Mix:
    """The pictures of a run, written as Ultralytics reads them."""

    data_yaml: Path
    learnt: int
    replayed: int
    held_out: int
    kept_for_the_gate: int


@dataclass(frozen=True)
class Trained:
    """What a run gave: weights to go on from, the exported detector, and the losses of every epoch."""

    weights: Path
    onnx: Path
    epochs: tuple[Mapping[str, Any], ...]
    seconds: float


@dataclass(frozen=True)
class Run:
    """One training to do, in a folder of its own; `start` is a weights file, or a model description to train from scratch."""

    folder: Path
    start: Path
    data: Path
    export: Export
    recipe: TrainingRecipe = field(default_factory=TrainingRecipe)


def write_mix(
    folder: Path,
    labelled: DatasetFolder,
    bases: Sequence[DatasetFolder],
    *,
    replay: int,
    golden: AbstractSet[str] = frozenset(),
    seed: int = 0,
    repeat: int = 1,
) -> Mix:
    """Write the pictures of a run under `folder`: the labelled ones `repeat` times, and `replay` of what was learnt from before.

    Replayed pictures keep the model from forgetting; see `replay_sample`. A picture that a golden set holds (by sha256) is never among
    them. The files are second names of the datasets' own; label files are copies. Raises `DatasetError` where nothing is left to learn
    from.
    """
    own = {each.sha256 for each in labelled.pictures}
    before = [
        (base, each)
        for base in bases
        for each in base.of_split("train") or base.pictures
        if each.sha256 not in own | golden
    ]
    for base in bases:
        if base.classes != labelled.classes[: len(base.classes)]:
            raise DatasetError(f"dataset {base.path.name[:12]} has other classes than the class table; import it again")
    home = {each.sha256: base for base, each in before}
    chosen = replay_sample([each for _, each in before], replay, seed)
    learnt = [each for each in labelled.of_split("train") if each.sha256 not in golden]
    held_out = [each for each in labelled.of_split("val") if each.sha256 not in golden]
    if not learnt:
        raise DatasetError("every labelled picture is in a golden set; label others to learn from")
    for number in range(repeat):
        for each in learnt:
            _place(folder, "train", f"l{number}", labelled, each)
    for each in chosen:
        _place(folder, "train", "b", home[each.sha256], each)
    for each in held_out:
        _place(folder, "val", "l", labelled, each)
    path = folder / "data.yaml"
    durable.write(path, data_yaml(labelled.classes, {"train", "val"} if held_out else {"train"}))
    return Mix(path, len(learnt), len(chosen), len(held_out), len(labelled.pictures) - len(learnt) - len(held_out))


def replay_sample(pictures: Sequence[Picture], count: int, seed: int) -> list[Picture]:
    """`count` pictures, as evenly over their conditions as there are some, the same for the same seed whatever their order.

    Evenly rather than in proportion: a rare condition is forgotten first.
    """
    by_condition: dict[str, list[Picture]] = {}
    for each in {one.sha256: one for one in pictures}.values():
        by_condition.setdefault(each.condition, []).append(each)
    queues = [sorted(by_condition[name], key=lambda each: _drawn(each, seed)) for name in sorted(by_condition)]
    chosen: list[Picture] = []
    for rank in range(max((len(queue) for queue in queues), default=0)):
        chosen += [queue[rank] for queue in queues if rank < len(queue)]
    return chosen[: max(count, 0)]


def missing_extra(needed: Sequence[str] = ("ultralytics", "torch", "onnx", "onnxslim")) -> str:
    """What must be installed before anything can be trained; nothing where all is there."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"training needs {', '.join(missing)}; run: pip install 'edgecase[train]' (ultralytics is AGPL-3.0)"


def train(
    run: Run,
    *,
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Trained:
    """Train and export in a process of its own; it is gone, with all it started, when this returns or raises.

    `on_event` is given each event of `trainer` as it comes. Raises `TrainingFailed` with the end of the log, `TrainingStopped` once `stop`
    is set, and whatever `on_event` raises.
    """
    missing = missing_extra()
    if missing:
        raise TrainingFailed(missing)
    run.folder.mkdir(parents=True, exist_ok=True)
    spec = run.folder / "spec.json"
    threads = run.recipe.threads or len(os.sched_getaffinity(0))
    durable.write(spec, msgspec.json.encode(_spec(run, threads)))
    epochs: list[Mapping[str, Any]] = []
    done: Mapping[str, Any] = {}
    log = run.folder / "train.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "edgecase_cloud.trainer", str(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=run.folder,
            env=_environment(run.folder, threads),
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for event in _events(process.stdout, stop or threading.Event(), run.recipe.timeout_s):
                if event.get("event") == "epoch":
                    epochs.append(event)
                elif event.get("event") == "done":
                    done = event
                on_event(event)
            code = process.wait()
        finally:
            processes.kill_group(process.pid)
    if code or not done:
        raise TrainingFailed(_why(code, log))
    return Trained(Path(done["weights"]), Path(done["onnx"]), tuple(epochs), float(done["seconds"]))


def _spec(run: Run, threads: int) -> dict[str, Any]:
    arguments = run.recipe.arguments() | {"data": str(run.data), "model": str(run.start)}
    if run.recipe.imgsz is None:
        arguments["imgsz"] = run.export.long_side_px
    fixed = run.export.height_px is not None and run.export.width_px is not None
    return {
        "folder": str(run.folder),
        "parent": os.getpid(),
        "threads": threads,
        "keep": run.recipe.keep,
        "bf16": _in_bf16(run.recipe),
        "train": arguments,
        "export": {
            "imgsz": [run.export.height_px, run.export.width_px] if fixed else run.export.long_side_px,
            "dynamic": not fixed,
            "nms": False if run.export.end2end else None,
        },
    }


def _in_bf16(recipe: TrainingRecipe) -> bool:
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return recipe.device == "cpu" and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """Nothing is fetched, installed or reported, and nothing is written outside the run's folder."""
    return os.environ | {
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "YOLO_CONFIG_DIR": str(folder / "config"),
        "YOLO_VERBOSE": "false",
        "OMP_NUM_THREADS": str(threads),
        "MPLCONFIGDIR": str(folder / "config"),
        "MPLBACKEND": "agg",
        "PYTHONUNBUFFERED": "1",
    }


def _events(pipe: IO[bytes], stop: threading.Event, timeout_s: float) -> Iterator[Mapping[str, Any]]:
    """The trainer's lines as they come, until it closes its output."""
    deadline = time.monotonic() + timeout_s
    rest = b""
    while True:
        if stop.is_set():
            raise TrainingStopped("the training was stopped")
        if time.monotonic() > deadline:
            raise TrainingFailed(f"the training took longer than {timeout_s:g} s (timeout_s) and was ended")
        if not select.select([pipe], [], [], 0.1)[0]:
            continue
        chunk = os.read(pipe.fileno(), 1 << 16)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (msgspec.json.decode(line, type=dict[str, Any]) for line in lines if line.strip())


def _why(code: int, log: Path) -> str:
    text = log.read_bytes()[-20_000:].decode(errors="replace").replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-LOG_TAIL_LINES:]
    ended = f"ended with {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        ended += " (most likely the machine ran out of memory: lower batch or imgsz, or cache='no')"
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it wrote nothing")
    return f"the training {ended}: {last.strip()[:300]}\n" + "\n".join(lines) + f"\n(whole log: {log})"


def _place(folder: Path, split: str, prefix: str, home: DatasetFolder, picture: Picture) -> None:
    name = picture.image.rpartition("/")[2]
    image = folder / "images" / split / f"{prefix}-{name}"
    label = folder / "labels" / split / f"{prefix}-{name.rpartition('.')[0]}.txt"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    source = home.path / picture.image
    if _is_whole(source):
        durable.link(source, image)
    else:
        durable.copy(source, image)
    label.write_bytes((home.path / picture.label).read_bytes())


def _is_whole(path: Path) -> bool:
    """False for a JPEG with something after its end: Ultralytics writes such a file anew, where it lies."""
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return True
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"


def _drawn(picture: Picture, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{picture.sha256}".encode()).digest()
