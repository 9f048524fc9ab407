"""A training run: the pictures it is given, the process it runs in, and what becomes of that process."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecase_cloud import training
from edgecase_cloud.dataset_files import (
    Box,
    DatasetError,
    DatasetFolder,
    DatasetWriter,
    LabelledPicture,
    Picture,
)
from edgecase_cloud.training import (
    Export,
    Run,
    TrainingFailed,
    TrainingRecipe,
    TrainingStopped,
    replay_sample,
    train,
    write_mix,
)
from edgecase_models.detector import Detector
from edgecase_models.evaluate import CURVE_THRESHOLDS, evaluate, samples_from_folder
from support import shapes
from support.labels import jpeg
from support.learning import SQUARE, Starter
from support.wait import until

needs_training = pytest.mark.skipif(bool(training.missing_extra()), reason="the [train] extra is not installed")


def version(root: Path, numbers: range, *, val: int = 0, conditions: int = 1, tail: bytes = b"") -> DatasetFolder:
    """A version with a picture per number; the first `val` of them are held out."""
    with DatasetWriter(root, ["car", "person"]) as writer:
        for rank, number in enumerate(numbers):
            writer.add(
                LabelledPicture(
                    stem=f"{number:04d}",
                    suffix=".jpg",
                    content=jpeg(number) + tail,
                    split="val" if rank < val else "train",
                    width_px=64,
                    height_px=48,
                    boxes=(Box(number % 2, 0.5, 0.5, 0.25, 0.25),),
                    condition=f"c{number % conditions}" if conditions > 1 else "",
                )
            )
        return writer.finish()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


# The mix


def test_a_mix_is_the_labelled_pictures_and_as_many_old_ones_as_asked_for(tmp_path: Path) -> None:
    labelled, base = version(tmp_path / "d", range(10), val=3), version(tmp_path / "d", range(100, 150))
    mix = write_mix(tmp_path / "mix", labelled, [base], replay=12)
    assert (mix.learnt, mix.replayed, mix.held_out) == (7, 12, 3)
    assert len(names(tmp_path / "mix/images/train")) == 19
    assert len(samples_from_folder(tmp_path / "mix", "train")) == 19
    assert len(samples_from_folder(tmp_path / "mix", "val")) == 3
    assert (tmp_path / "mix/labels/train/l0-0003.txt").read_text() == "1 0.500000 0.500000 0.250000 0.250000\n"


def test_the_same_seed_replays_the_same_pictures_and_another_seed_others(tmp_path: Path) -> None:
    labelled, base = version(tmp_path / "d", range(4)), version(tmp_path / "d", range(100, 150))
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_mix(tmp_path / folder, labelled, [base], replay=10, seed=seed)
    one, same, other = (names(tmp_path / folder / "images/train") for folder in "abc")
    assert one == same
    assert one != other


def test_nothing_that_a_golden_set_holds_is_learnt_from(tmp_path: Path) -> None:
    labelled, base = version(tmp_path / "d", range(10), val=2), version(tmp_path / "d", range(100, 110))
    golden = {each.sha256 for each in (*labelled.pictures[:4], *base.pictures[:5])}
    mix = write_mix(tmp_path / "mix", labelled, [base], replay=100, golden=golden)
    assert (mix.learnt, mix.replayed, mix.held_out, mix.kept_for_the_gate) == (4, 5, 2, 4)
    used = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "mix").rglob("*.jpg")}
    assert not used & golden


def test_a_picture_that_is_labelled_anew_is_learnt_once_with_its_new_label(tmp_path: Path) -> None:
    labelled, base = version(tmp_path / "d", range(3)), version(tmp_path / "d", range(5))
    mix = write_mix(tmp_path / "mix", labelled, [base], replay=100)
    assert (mix.learnt, mix.replayed) == (3, 2)


def test_labelled_pictures_may_be_repeated(tmp_path: Path) -> None:
    write_mix(tmp_path / "mix", version(tmp_path / "d", range(3)), [], replay=0, repeat=2)
    assert len(names(tmp_path / "mix/images/train")) == 6


def test_the_datasets_own_files_cannot_be_written_through_the_mix(tmp_path: Path) -> None:
    """A JPEG with bytes after its end is one that Ultralytics would write anew where it lies."""
    labelled = version(tmp_path / "d", range(3), tail=b"\0\0")
    write_mix(tmp_path / "mix", labelled, [], replay=0)
    for path in (tmp_path / "mix").rglob("*.*"):
        if path.suffix in {".jpg", ".txt"}:
            path.write_bytes(b"scribble")
    labelled.verify()


def test_a_mix_without_anything_to_learn_says_so(tmp_path: Path) -> None:
    labelled = version(tmp_path / "d", range(3))
    with pytest.raises(DatasetError, match="every labelled picture is in a golden set"):
        write_mix(tmp_path / "mix", labelled, [], replay=0, golden={each.sha256 for each in labelled.pictures})


def pictures(conditions: list[str]) -> list[Picture]:
    return [
        Picture(
            image=f"images/train/{number}.jpg",
            split="train",
            sha256=hashlib.sha256(str(number).encode()).hexdigest(),
            label_sha256="",
            width_px=1,
            height_px=1,
            condition=condition,
        )
        for number, condition in enumerate(conditions)
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["day", "fog", "night", ""])), st.integers(0, 30), st.integers(0, 5))
def test_a_replay_sample_is_as_even_over_conditions_as_it_can_be(conditions: list[str], count: int, seed: int) -> None:
    every = pictures(conditions)
    chosen = replay_sample(every, count, seed)
    assert len(chosen) == min(count, len(every))
    assert len({each.sha256 for each in chosen}) == len(chosen)
    assert replay_sample(list(reversed(every)), count, seed) == chosen
    taken = {name: sum(each.condition == name for each in chosen) for name in set(conditions)}
    for name, got in taken.items():
        if got < conditions.count(name):
            assert got >= max(taken.values()) - 1


# The process


@needs_training
def test_a_run_learns_tells_its_progress_and_gives_weights_and_a_detector(starter: Starter, tmp_path: Path) -> None:
    result = starter.trained
    assert [event["epoch"] for event in result.epochs] == list(range(1, 15))
    assert result.epochs[-1]["losses"]["cls_loss"] < result.epochs[0]["losses"]["cls_loss"] / 2
    assert [event["event"] for event in starter.events if event["event"] not in ("batch", "epoch")] == [
        "started",
        "export",
        "done",
    ]
    assert result.weights.is_file()
    detector = Detector(result.onnx, thresholds=CURVE_THRESHOLDS)
    assert (detector.names, detector.input_hw_px) == (("red", "green"), (64, 64))
    held_out = samples_from_folder(shapes.folder(tmp_path / "held", 30, seed=9000), "train")
    assert evaluate(detector, held_out).map50 > 0.5


@pytest.mark.slow
@needs_training
def test_a_run_goes_on_from_weights_and_is_exported_with_the_shape_asked_for(starter: Starter, tmp_path: Path) -> None:
    result = starter.trained
    recipe = TrainingRecipe(epochs=1, lr0=1e-6, threads=1, validate=True, keep=0)
    again = train(Run(tmp_path, result.weights, starter.data / "data.yaml", Export(None, None, 64), recipe))
    assert again.epochs[0]["losses"]["cls_loss"] < result.epochs[0]["losses"]["cls_loss"] / 2
    assert again.epochs[0]["map50"] > 0.5
    assert Detector(again.onnx).input_hw_px is None
    assert Detector(again.onnx).long_side_px == 64


@pytest.mark.slow
@needs_training
def test_what_was_known_is_kept_in_the_share_that_was_asked_for(starter: Starter, tmp_path: Path) -> None:
    """All of it: then the model sees what it saw before, whatever it was taught meanwhile."""
    recipe = TrainingRecipe(epochs=1, lr0=0.5, threads=1, keep=1, precision="fp32")
    kept = train(Run(tmp_path, starter.trained.weights, starter.data / "data.yaml", SQUARE, recipe))
    before, after = Detector(starter.trained.onnx), Detector(kept.onnx)
    for sample in samples_from_folder(starter.data, "train")[:5]:
        was, is_now = before.detect(sample.rgb()), after.detect(sample.rgb())
        np.testing.assert_allclose(is_now.above(0.25).boxes_xyxy_px, was.above(0.25).boxes_xyxy_px, atol=1)
        np.testing.assert_allclose(is_now.above(0.25).scores, was.above(0.25).scores, atol=0.02)


def test_nothing_is_written_outside_the_runs_folder_and_nothing_is_fetched(tmp_path: Path) -> None:
    environment = training._environment(tmp_path, 2)
    assert environment["YOLO_OFFLINE"] == "1"
    assert environment["YOLO_AUTOINSTALL"] == "0"
    assert environment["YOLO_CONFIG_DIR"].startswith(str(tmp_path))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def run_with(tmp_path: Path, **recipe: Any) -> Run:
    data = shapes.folder(tmp_path / "data", 8) / "data.yaml"
    return Run(
        tmp_path / "run", shapes.tiny_yaml(tmp_path / "tiny.yaml"), data, SQUARE, TrainingRecipe(threads=1, **recipe)
    )


@needs_training
def test_a_stop_ends_the_process_at_once(tmp_path: Path) -> None:
    stop = threading.Event()
    pids: list[int] = []

    def follow(event: Any) -> None:
        if event["event"] == "started":
            pids.extend(children())
            stop.set()

    with pytest.raises(TrainingStopped):
        train(run_with(tmp_path, epochs=5000), on_event=follow, stop=stop)
    assert pids
    assert not any(alive(pid) for pid in pids)


@needs_training
def test_a_run_that_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"longer than 0\.2 s \(timeout_s\)"):
        train(run_with(tmp_path, timeout_s=0.2))
    assert not children()


@needs_training
def test_a_crash_tells_its_cause_in_one_line_and_the_end_of_the_log(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    run.start.write_text("nc: 2\nbackbone: [[-1, 1, NoSuchLayer, [8]]]\nhead: []\n")
    with pytest.raises(TrainingFailed) as failed:
        train(run)
    first = str(failed.value).splitlines()[0]
    assert first.startswith("the training ended with 1: ")
    assert "NoSuchLayer" in first
    assert "train.log" in str(failed.value)


@pytest.mark.slow
@needs_training
def test_a_kill_by_the_machine_is_told_as_one(tmp_path: Path) -> None:
    def follow(event: Any) -> None:
        if event["event"] == "started":
            for pid in children():
                os.kill(pid, 9)

    with pytest.raises(TrainingFailed, match=r"was killed by SIGKILL .*ran out of memory"):
        train(run_with(tmp_path, epochs=5000), on_event=follow)


@pytest.mark.slow
@needs_training
def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """The worker is killed; its trainer goes with it."""
    run_with(tmp_path)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:

        def follow(event: Any) -> None:
            if event["event"] == "started":
                os.write(writer, " ".join(map(str, children())).encode())

        train(run_with(tmp_path / "forked", epochs=5000), on_event=follow)
        os._exit(1)
    trainers = [int(each) for each in os.read(reader, 100).split()]
    assert all(alive(each) for each in trainers)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    until(lambda: not any(alive(each) for each in trainers), what="the trainer to end")


def test_what_learns_never_loads_the_trainer_or_torch_into_its_own_process() -> None:
    """Ultralytics is AGPL-3.0: it is reached through a process of its own, and from one file."""
    script = "import sys, edgecase_cloud.learner; print({'torch', 'ultralytics'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "set()"
    folder = Path(training.__file__).parent
    users = {
        path.name
        for path in folder.rglob("*.py")
        if re.search(r"(import|from) (ultralytics|torch)\b", path.read_text())
    }
    assert users == {"trainer.py"}


def test_a_missing_extra_is_told_with_the_command_that_cures_it() -> None:
    assert training.missing_extra(("no_such_package", "sys")) == (
        "training needs no_such_package; run: pip install 'edgecase[train]' (ultralytics is AGPL-3.0)"
    )


def children() -> list[int]:
    """The trainers that this process started and that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(") ")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat[1]) == os.getpid() and stat[0] != "Z" and b"edgecase_cloud.trainer" in command:
            found.append(int(folder.name))
    return found


def test_a_share_of_the_starting_weights_stays(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with [train]")
    from edgecase_cloud.trainer import keep_of_start

    def weights(name: str, value: float, width: int = 3) -> Path:
        layer = torch.nn.Linear(width, 1)
        torch.nn.init.constant_(layer.weight, value)
        torch.save({"model": layer.half()}, tmp_path / name)
        return tmp_path / name

    start, learnt = weights("start.pt", 1.0), weights("learnt.pt", 3.0)
    keep_of_start(learnt, start, 0.25)
    assert torch.load(learnt, weights_only=False)["model"].weight.tolist() == [[2.5, 2.5, 2.5]]
    keep_of_start(learnt, weights("other-head.pt", 9.0, width=2), 0.25)
    assert torch.load(learnt, weights_only=False)["model"].weight.tolist() == [[2.5, 2.5, 2.5]]
