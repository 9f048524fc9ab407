"""The simulated street: a frame depends on its spec and number alone, and its truth is what can be seen in it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from functools import lru_cache

import cv2
import numpy as np
import pytest

from edgecase_models.street import CLASSES, POSES, Street, StreetError, StreetSpec
from edgecase_models.street.spec import BLEND_S, CONDITIONS
from edgecase_models.street.truth import MIN_HEIGHT_PX, MIN_VISIBLE, MIN_WIDTH_PX


@lru_cache(maxsize=32)
def street(seed: int = 7, scene: str = "day", pose: str | None = "kerb") -> Street:
    return Street(StreetSpec(seed=seed, scene=scene, width_px=320, height_px=180, pose=pose))


def digest(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_frame_is_the_same_byte_for_byte_whenever_it_is_asked_for(condition: str) -> None:
    first = street(scene=condition)
    later = first.image(40)
    first.image(3)
    assert np.array_equal(first.image(40), later)
    again = Street(first.spec)
    assert np.array_equal(again.image(40), later)


def test_a_frame_is_the_same_in_another_process() -> None:
    spec = StreetSpec(seed=5, scene="night-rain", width_px=320, height_px=180)
    code = (
        "import hashlib, sys; from edgecase_models.street import Street, StreetSpec; "
        "print(hashlib.sha256(Street(StreetSpec.from_uri(sys.argv[1])).image(77).tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code, spec.uri()], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(Street(spec).image(77))


def test_a_picture_is_rgb_of_the_size_asked_for() -> None:
    picture = street().image(0)
    assert picture.shape == (180, 320, 3)
    assert picture.dtype == np.uint8


def test_the_truth_comes_without_the_picture_and_is_the_frame_s_own() -> None:
    _, with_picture = street().frame(60)
    alone = street().truth(60)
    assert len(alone) > 0
    assert np.array_equal(alone.boxes_xyxy_px, with_picture.boxes_xyxy_px)
    assert np.array_equal(alone.track_ids, with_picture.track_ids)
    assert np.array_equal(alone.classes, with_picture.classes)
    assert np.array_equal(alone.visible, with_picture.visible)


@pytest.mark.parametrize("pose", POSES)
def test_every_box_lies_in_the_frame_is_big_enough_and_mostly_visible(pose: str) -> None:
    scale = 180 / 360
    for index in range(0, 400, 50):
        truth = street(pose=pose).truth(index)
        x0, y0, x1, y1 = truth.boxes_xyxy_px.T
        assert (x0 >= 0).all()
        assert (y0 >= 0).all()
        assert (x1 <= 320).all()
        assert (y1 <= 180).all()
        assert (x1 - x0 >= MIN_WIDTH_PX * scale).all()
        assert (y1 - y0 >= MIN_HEIGHT_PX * scale).all()
        assert ((truth.visible >= MIN_VISIBLE) & (truth.visible <= 1.0)).all()
        assert ((truth.classes >= 0) & (truth.classes < len(CLASSES))).all()
        assert len(set(truth.track_ids.tolist())) == len(truth)


def test_the_arrays_of_a_truth_have_the_promised_types() -> None:
    truth = street().truth(60)
    assert truth.boxes_xyxy_px.dtype == np.float32
    assert truth.classes.dtype == np.int32
    assert truth.track_ids.dtype == np.int64
    assert truth.visible.dtype == np.float32


def test_a_track_keeps_its_class_and_moves_smoothly() -> None:
    camera = street(seed=1)
    moved, kinds = 0.0, {}
    for index in range(60, 90):
        now, then = camera.truth(index), camera.truth(index + 1)
        for row, track in enumerate(now.track_ids.tolist()):
            assert kinds.setdefault(track, int(now.classes[row])) == now.classes[row]
            after = np.flatnonzero(then.track_ids == track)
            if not len(after) or min(now.visible[row], then.visible[after[0]]) < 0.95:
                continue
            before_px, after_px = now.boxes_xyxy_px[row], then.boxes_xyxy_px[after[0]]
            step = np.abs((after_px[:2] + after_px[2:]) - (before_px[:2] + before_px[2:])).max() / 2
            assert step < 0.5 * max(before_px[2] - before_px[0], before_px[3] - before_px[1]) + 6.0
            moved = max(moved, float(step))
    assert moved > 3.0


@pytest.mark.slow
def test_all_classes_come_by() -> None:
    seen: set[int] = set()
    for seed in range(4):
        camera = street(seed=seed, pose=None)
        for index in range(0, 1500, 25):
            seen |= set(camera.truth(index).classes.tolist())
    assert seen == set(range(len(CLASSES)))


@pytest.mark.slow
def test_traffic_comes_in_bursts() -> None:
    counts = [len(street(seed=3, pose="junction").truth(index)) for index in range(0, 3000, 30)]
    assert min(counts) <= 2
    assert max(counts) >= 8


@pytest.mark.slow
def test_darkness_hides_nobody_from_the_truth_but_fog_does() -> None:
    day, night = street(seed=11).truth(90), street(seed=11, scene="night").truth(90)
    assert np.array_equal(day.boxes_xyxy_px, night.boxes_xyxy_px)
    clear, foggy = Street(StreetSpec(seed=1, pose="kerb")), Street(StreetSpec(seed=1, scene="fog", pose="kerb"))
    hidden = 0
    for index in range(0, 600, 150):
        seen, seen_in_fog = (set(camera.truth(index).track_ids.tolist()) for camera in (clear, foggy))
        hidden += len(seen - seen_in_fog)
    assert hidden > 0


def test_each_condition_looks_as_it_is_called() -> None:
    pictures = {condition: street(seed=1, scene=condition).image(50).astype(np.float32) for condition in CONDITIONS}
    mean = {condition: float(picture.mean()) for condition, picture in pictures.items()}
    far = {condition: float(picture[60:90].std()) for condition, picture in pictures.items()}
    assert mean["night"] < 0.55 * mean["day"]
    assert mean["night-rain"] < 0.55 * mean["day"]
    assert mean["night"] < mean["dusk"] < mean["day"]
    assert far["fog"] < 0.6 * far["day"]
    assert len({digest(picture) for picture in pictures.values()}) == len(CONDITIONS)


def test_seeds_give_different_streets() -> None:
    assert len({digest(street(seed=seed, pose="kerb").image(0)) for seed in range(3)}) == 3


def test_a_timeline_changes_when_it_says_and_lasts_for_ever() -> None:
    camera = street(scene="day:20,night:30,fog")
    assert [camera.condition(second * 10) for second in (0, 19, 20, 49, 50, 9000)] == [
        "day",
        "day",
        "night",
        "night",
        "fog",
        "fog",
    ]
    assert camera.truth(200).condition == "night"


def test_the_light_blends_across_a_change() -> None:
    camera = street(scene="day:20,night:30")
    before, amid, after = (float(camera.image(round((20 + shift) * 10)).mean()) for shift in (-BLEND_S, 0.0, BLEND_S))
    assert after < amid < before


def test_the_drift_ends_in_night_rain() -> None:
    camera = street(scene="drift")
    order = list(dict.fromkeys(camera.condition(index) for index in range(0, 2000, 10)))
    assert order == ["day", "dusk", "night", "night-rain"]


def test_the_picture_shows_something_where_the_truth_says_so() -> None:
    """Inside the boxes of what moves, two frames some seconds apart differ more than elsewhere."""
    camera = street(seed=2)
    first, truth = camera.frame(150)
    second = camera.image(230)
    change = cv2.GaussianBlur(np.abs(first.astype(np.float32) - second).max(axis=2), (0, 0), 1.0)
    inside = np.zeros(change.shape, bool)
    for track, (x0, y0, x1, y1) in zip(
        truth.track_ids.tolist(), truth.boxes_xyxy_px.round().astype(int).tolist(), strict=True
    ):
        if track >= 1000:
            inside[y0:y1, x0:x1] = True
    assert inside.any()
    assert change[inside].mean() > 2.0 * change[~inside].mean()


@pytest.mark.parametrize("index", [-1, -100])
def test_a_negative_index_is_refused(index: int) -> None:
    for ask in (street().image, street().truth, street().frame, street().condition):
        with pytest.raises(StreetError, match="index"):
            ask(index)


@pytest.mark.slow
def test_speed_is_shown() -> None:
    """Prints frames a second at 640 x 360 with truth; a busy machine is no failure."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    for scene in ("day", "night", "night-rain", "fog"):
        camera = Street(StreetSpec(seed=3, scene=scene))
        camera.frame(0)
        start = time.process_time()
        for index in range(100, 400, 15):
            camera.frame(index)
        print(f"{scene}: {20 / (time.process_time() - start):.0f} frames/s")
    cv2.setNumThreads(threads)
