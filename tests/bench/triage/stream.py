"""Labelled streams for the triage benchmark: the simulated street with its exact truth, and real video with its published truth.

A stream is detected once, in three passes, and kept under `build/bench/triage/`; what it depends on is in the file's name.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.report import BUILD, ROOT, SHARED
from bench.triage.looks import Look, Stream
from edgecase_agent import encode
from edgecase_agent.brightness import fingerprint
from edgecase_agent.source import open_source
from edgecase_models.bundle import Bundle, sha256_of
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector, Planes, Thresholds
from edgecase_models.street import Street, StreetSpec

CACHE: Final = BUILD / "triage"
STARTER: Final = ROOT / "models" / "starter" / "starter.edgecase.tar"
CONDITIONS: Final = {
    "day": 0.45, "dusk": 0.1, "rain": 0.13, "fog": 0.1, "night": 0.12, "night-rain": 0.06, "night-fog": 0.04,
}  # fmt: skip
"""Shares of the scenes. The starter learnt from day and dusk; what it does worst is rare, as it is on a road."""

LEAST_HEIGHT: Final = 25 / 375
LEAST_CANDIDATE: Final = 20 / 375
LEAST_VISIBLE: Final = 0.5
"""What is lower than this share of the picture, or shows less of itself, is not judged: KITTI's moderate objects (Geiger et al. 2012). The
device is set to objects of that height: candidates well below it are left out for everybody.
"""

OPERATING_POINT: Final = 0.4
"""Where the starter is deployed: about where it errs least on development streams. Its bundle says 0.25, at which two false boxes come on
each object that is missed."""

SCENES, FRAMES_PER_SCENE, FPS = 60, 60, 5.0
_FORMAT: Final = 4
_STREET: Final = ROOT / "models" / "edgecase_models" / "street"


@dataclass(frozen=True)
class Scene:
    """One stretch of one simulated camera: frames `start`, `start + 1`, … of `spec`."""

    number: int
    spec: StreetSpec
    start: int


def street_scenes(seed: int, scenes: int = SCENES) -> list[Scene]:
    """The scenes of the street stream `seed`: another street each, conditions shuffled in the shares of `CONDITIONS`."""
    chance = np.random.default_rng([seed, 7])
    counts = np.floor(np.cumsum([0.0, *CONDITIONS.values()]) * scenes + 0.5).astype(int)
    names = [name for name, n in zip(CONDITIONS, np.diff(counts), strict=True) for _ in range(n)]
    chance.shuffle(names)
    return [
        Scene(n, StreetSpec(seed=100_000 + 1000 * seed + n, scene=name, fps=FPS), int(chance.integers(50, 3000)))
        for n, name in enumerate(names)
    ]


def street_stream(seed: int, bundle: Path = STARTER) -> Stream:
    """The street stream `seed` through the bundle's detector; made once, on all cores."""
    key = hashlib.sha256(
        f"{_FORMAT} {sha256_of(bundle)} {_digest_of(_STREET)} {CONDITIONS} {SCENES} {FRAMES_PER_SCENE}".encode()
    )
    path = CACHE / f"street-{seed}-{key.hexdigest()[:12]}.pickle"
    if path.exists():
        with path.open("rb") as file:
            looks: tuple[Look, ...] = pickle.load(file)
    else:
        scenes = street_scenes(seed)
        with ProcessPoolExecutor() as pool:
            parts = list(pool.map(_looks_of, scenes, [bundle] * len(scenes)))
        looks = _kept(path, tuple(look for part in parts for look in part))
    names = tuple(Bundle.open(bundle).manifest.classes)
    return Stream("street", seed, tuple(map(_of_high_objects, looks)), OPERATING_POINT, names, FPS)


def _of_high_objects(look: Look) -> Look:
    """The look as a device has it that is set to objects of that height: no selector, no judge sees smaller candidates."""
    least_px = LEAST_CANDIDATE * look.hw_px[0]

    def high(seen: Detections | None) -> Detections | None:
        return None if seen is None else seen[seen.boxes_xyxy_px[:, 3] - seen.boxes_xyxy_px[:, 1] >= least_px]

    return replace(look, seen=high(look.seen), shifted=high(look.shifted), flipped=high(look.flipped))


def picture_of(stream_seed: int, look: Look) -> tuple[NDArray[np.uint8], StreetSpec]:
    """The street frame of a look, drawn again: (H, W, 3) uint8 RGB."""
    scene = street_scenes(stream_seed)[look.scene]
    return Street(scene.spec).image(scene.start + look.index - scene.number * FRAMES_PER_SCENE), scene.spec


_detectors: dict[Path, Detector] = {}


def _looks_of(scene: Scene, bundle: Path) -> list[Look]:
    if bundle not in _detectors:
        _detectors[bundle] = Bundle.open(bundle).detector()
    detector = _detectors[bundle]
    street = Street(scene.spec)
    looks = []
    for offset in range(FRAMES_PER_SCENE):
        picture, truth = street.frame(scene.start + offset)
        index = scene.number * FRAMES_PER_SCENE + offset
        looks.append(
            Look(
                index=index,
                scene=scene.number,
                condition=truth.condition,
                at_s=index / FPS,
                hw_px=(picture.shape[0], picture.shape[1]),
                seen=detector.detect(picture),
                shifted=detector.detect(picture, shift_px=detector.stride_px // 2),
                flipped=detector.detect(picture, mirrored=True),
                size_bytes=len(encode.jpeg(picture, 85)),
                fingerprint=fingerprint(picture),
                truth_boxes_xyxy_px=truth.boxes_xyxy_px,
                truth_classes=truth.classes,
                truth_tracks=truth.track_ids + scene.number * 1_000_000,
                truth_hard=_hard(truth.boxes_xyxy_px, truth.visible, picture.shape[0]),
            )
        )
    return looks


def _hard(boxes_xyxy_px: NDArray[np.floating], visible: NDArray[np.floating], height_px: int) -> NDArray[np.bool_]:
    low = boxes_xyxy_px[:, 3] - boxes_xyxy_px[:, 1] < LEAST_HEIGHT * height_px
    return np.asarray(low | (visible < LEAST_VISIBLE), np.bool_)


# ---- real video ----------------------------------------------------------------------------------------------------

PETS: Final = SHARED / "labelled" / "pets09" / "gt.txt"
VTEST: Final = SHARED / "footage" / "vtest.avi"
SEGMENT_FRAMES: Final = 60
"""Of the one real scene, stretches of this many frames stand for scenes, so that coverage can be told."""


def real_there() -> bool:
    """Whether the labelled real video and its detectors are beside the project."""
    return PETS.is_file() and VTEST.is_file() and (SHARED / "weights").is_dir()


def pets_stream(model: str) -> Stream:
    """PETS 2009 S2.L1 through a COCO detector of `../shared/weights`, people only; made once."""
    onnx = SHARED / "weights" / f"{model}.onnx"
    path = CACHE / f"pets-{model}-{_FORMAT}-{sha256_of(onnx)[:12]}.pickle"
    if path.exists():
        with path.open("rb") as file:
            looks: tuple[Look, ...] = pickle.load(file)
    else:
        detector = Detector(onnx, thresholds=Thresholds(candidate=0.03, score=0.25, iou=0.7))
        looks = _kept(path, tuple(_pets_looks(detector)))
    return Stream(f"pets-{model}", 0, looks, 0.25, ("person",), 10.0)


def _pets_looks(detector: Detector) -> Iterator[Look]:
    rows = np.loadtxt(PETS, delimiter=",", usecols=(0, 1, 2, 3, 4, 5))
    person = detector.names.index("person")
    for index, frame in enumerate(open_source(str(VTEST))):
        assert isinstance(frame.picture, Planes), "the decoder gives planes"
        truth = rows[rows[:, 0] == index + 1]
        boxes = np.concatenate([truth[:, 2:4], truth[:, 2:4] + truth[:, 4:6]], axis=1).astype(np.float32)
        yield Look(
            index=index,
            scene=index // SEGMENT_FRAMES,
            condition="day",
            at_s=index / 10,
            hw_px=frame.hw_px,
            seen=_only(detector.detect(frame.picture), person),
            shifted=_only(detector.detect(frame.picture, shift_px=detector.stride_px // 2), person),
            flipped=_only(detector.detect(frame.picture, mirrored=True), person),
            size_bytes=len(encode.jpeg(frame.picture, 85)),
            fingerprint=fingerprint(frame.picture),
            truth_boxes_xyxy_px=boxes,
            truth_classes=np.zeros(len(truth), np.int32),
            truth_tracks=truth[:, 1].astype(np.int64),
            truth_hard=np.zeros(len(truth), np.bool_),
        )


def _only(seen: Detections, cls: int) -> Detections:
    kept = seen[seen.classes == cls]
    return Detections(kept.boxes_xyxy_px, kept.scores, np.zeros(len(kept), np.int32))


def _kept(path: Path, looks: tuple[Look, ...]) -> tuple[Look, ...]:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        pickle.dump(looks, file, protocol=pickle.HIGHEST_PROTOCOL)
    part.replace(path)
    return looks


def _digest_of(folder: Path) -> str:
    files: Sequence[Path] = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
