"""How good a detector is on labelled pictures: the COCO metric, overall, per class and per condition."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, Protocol

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecase_models.detections import Boxes, Detections
from edgecase_models.detector import Thresholds

MAX_DETECTIONS: Final = 300
PICTURE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

# A precision-recall curve needs the unlikely boxes too: a floor at the operating point would cut its tail off. 0.001 is what Ultralytics'
# `val` uses, so the two can be laid side by side.
CURVE_THRESHOLDS: Final = Thresholds(candidate=0.001, score=0.25, iou=0.7)


class EvaluationError(ValueError):
    """Labelled pictures that nothing can be measured on; the message names the file."""


class Eye(Protocol):
    """What is measured: a `Detector`, or anything that sees."""

    names: tuple[str, ...]

    def detect(self, picture: NDArray[np.uint8], /) -> Detections: ...


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled picture: `boxes_xyxy_px` (N, 4) in its pixels, `classes` N class *names*, and the condition it was taken in.

    `picture` is a file, or an (H, W, 3) uint8 RGB array. Names, not indices: each detector has its own order of classes.
    """

    picture: Path | NDArray[np.uint8]
    boxes_xyxy_px: Boxes
    classes: tuple[str, ...]
    condition: str = ""

    def __post_init__(self) -> None:
        if self.boxes_xyxy_px.shape != (len(self.classes), 4):
            raise EvaluationError(f"{self.label}: {self.boxes_xyxy_px.shape} boxes for {len(self.classes)} classes")

    @property
    def label(self) -> str:
        return str(self.picture) if isinstance(self.picture, Path) else f"picture {self.picture.shape}"

    def rgb(self) -> NDArray[np.uint8]:
        """The pixels; `EvaluationError` where the file cannot be read."""
        return read_rgb(self.picture) if isinstance(self.picture, Path) else self.picture


@dataclass(frozen=True)
class Score:
    """mAP over IoU 0.50 to 0.95 and at 0.50, with how much it was measured on: `count` boxes of the truth."""

    map50_95: float
    map50: float
    count: int
    pictures: int = 0


@dataclass(frozen=True)
class Evaluation:
    """`per_class` holds the classes that the truth has, `per_condition` the conditions that pictures name. Values are in [0, 1]."""

    map50_95: float
    map50: float
    pictures: int
    count: int
    per_class: dict[str, Score] = field(default_factory=dict)
    per_condition: dict[str, Score] = field(default_factory=dict)
    detect_ms: float = 0.0  # median over the pictures, decoding not counted

    def as_json(self) -> dict[str, Any]:
        """Plain values, rounded to what the measure can tell."""
        rounded: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_float=lambda text: round(float(text), 5))
        return rounded


@dataclass(frozen=True, eq=False)
class Sighting:
    """What a detector saw in a picture beside what is there, by class name; kept, so that any subset can be scored."""

    truth_boxes_px: Boxes
    truth_classes: tuple[str, ...]
    condition: str
    seen: Detections
    seen_classes: tuple[str, ...]
    detect_ms: float


def evaluate(detector: Eye, samples: Iterable[Sample], *, progress: Callable[[int], None] | None = None) -> Evaluation:
    """The COCO metric (101-point interpolation, IoU 0.50:0.05:0.95, all sizes) through faster-coco-eval.

    Every detection that the detector gives counts, at most 300 per picture and class: give it `CURVE_THRESHOLDS`, or the curve is cut
    short. A class in the truth that the detector does not know scores 0; a class that the truth lacks is left out, as COCO does.
    `progress` is called with the number of pictures done. Raises `EvaluationError` where there is no picture or one cannot be read.
    """
    return score(list(sightings(detector, samples, progress=progress)))


def sightings(
    detector: Eye, samples: Iterable[Sample], *, progress: Callable[[int], None] | None = None
) -> Iterator[Sighting]:
    """Run the detector over the samples, one after the other."""
    for done, sample in enumerate(samples, start=1):
        yield look(detector, sample, sample.rgb())
        if progress is not None:
            progress(done)


def look(detector: Eye, sample: Sample, picture: NDArray[np.uint8]) -> Sighting:
    """Run the detector on one sample, whose pixels are given so that they can be shared."""
    start = perf_counter()
    seen = detector.detect(picture)
    elapsed_ms = (perf_counter() - start) * 1e3
    # Of 300 boxes and 80 classes the probabilities alone are 96 kB a picture, and a metric needs none.
    seen = Detections(seen.boxes_xyxy_px, seen.scores, seen.classes)
    names = tuple(detector.names[index] if index < len(detector.names) else "" for index in seen.classes)
    return Sighting(sample.boxes_xyxy_px, sample.classes, sample.condition, seen, names, elapsed_ms)


def score(seen: Sequence[Sighting]) -> Evaluation:
    """The metric over all of them, per class and per condition."""
    if not seen:
        raise EvaluationError("no pictures to evaluate on; give a folder whose split has some")
    classes = tuple(sorted({name for each in seen for name in each.truth_classes}))
    curve = _Curve(seen, classes)
    overall, per_class = curve.over(range(len(seen)))
    conditions: dict[str, list[int]] = {}
    for index, each in enumerate(seen):
        if each.condition:
            conditions.setdefault(each.condition, []).append(index)
    return Evaluation(
        map50_95=overall.map50_95,
        map50=overall.map50,
        pictures=overall.pictures,
        count=overall.count,
        per_class=per_class,
        per_condition={name: curve.over(rows)[0] for name, rows in sorted(conditions.items())},
        detect_ms=median(each.detect_ms for each in seen),
    )


def samples_from_folder(folder: Path, split: str | None = "val") -> list[Sample]:
    """The labelled pictures of a split (`None`: of all splits) of a folder in Ultralytics layout.

    `data.yaml` gives class names and where the pictures lie; a label file's path is the picture's with its last `images` folder replaced
    by `labels`; conditions come from `manifest.jsonl` where there is one. A picture without a label file holds no object.
    Raises `EvaluationError` naming the file that is missing or wrong.
    """
    layout = Layout.read(folder)
    known = {entry.get("image"): entry for entry in read_manifest(folder)}
    found: dict[Path, Sample] = {}
    for each in layout.splits if split is None else [split]:
        for picture in layout.pictures(each):
            if picture in found:
                continue
            entry = known.get(layout.relative(picture), {})
            size = (entry["height_px"], entry["width_px"]) if {"height_px", "width_px"} <= entry.keys() else None
            boxes, indices = layout.labels(picture, size)
            names = tuple(layout.names[index] for index in indices)
            found[picture] = Sample(picture, boxes, names, str(entry.get("condition") or ""))
    return list(found.values())


@dataclass(frozen=True)
class Layout:
    """A data folder as Ultralytics lays it out: root, class names, and per split the folders, list files or pictures it names."""

    folder: Path
    root: Path
    names: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """Read `data.yaml`; `EvaluationError` where it is missing or does not say what it must."""
        path = folder / "data.yaml"
        if not path.is_file():
            raise EvaluationError(
                f"{folder}: no data.yaml; give a folder in Ultralytics layout (data.yaml, images/, labels/)"
            )
        try:
            given = msgspec.yaml.decode(path.read_bytes())
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise EvaluationError(f"{path}: cannot be read as YAML: {error}") from error
        if not isinstance(given, dict):
            raise EvaluationError(f"{path}: holds no keys; names, train and val are needed")
        root = folder / str(given.get("path") or ".")
        splits: dict[str, tuple[str, ...]] = {}
        for split in ("train", "val", "test"):
            entry = given.get(split)
            if entry:
                splits[split] = tuple(str(each) for each in (entry if isinstance(entry, list) else [entry]))
        if not splits:
            raise EvaluationError(f"{path}: names no train, val or test pictures")
        # A path that was written on another machine: the pictures beside data.yaml are what is meant.
        return cls(folder, root if root.is_dir() else folder, _class_names(given.get("names"), path), splits)

    def pictures(self, split: str) -> list[Path]:
        """The picture files of a split, sorted; `EvaluationError` where there are none."""
        if split not in self.splits:
            raise EvaluationError(f"{self.folder}/data.yaml: no split {split!r}; it has {', '.join(self.splits)}")
        found: list[Path] = []
        for entry in self.splits[split]:
            path = self.root / entry
            if path.is_dir():
                found += [each for each in path.rglob("*") if each.suffix.lower() in PICTURE_SUFFIXES]
            elif path.suffix == ".txt" and path.is_file():
                lines = path.read_text(encoding="utf-8-sig").splitlines()
                found += [path.parent / line.strip() for line in lines if line.strip()]
            else:
                raise EvaluationError(f"{self.folder}/data.yaml: {split} names {entry}, which is not there")
        if not found:
            raise EvaluationError(f"{self.folder}: split {split!r} has no pictures ({', '.join(self.splits[split])})")
        return sorted(set(found))

    def label_path(self, picture: Path) -> Path:
        """Where the labels of a picture lie."""
        parts = list(picture.parts)
        for index in range(len(parts) - 2, -1, -1):
            if parts[index] == "images":
                parts[index] = "labels"
                break
        return Path(*parts).with_suffix(".txt")

    def labels(self, picture: Path, hw_px: tuple[int, int] | None = None) -> tuple[Boxes, tuple[int, ...]]:
        """Boxes in pixels and class indices of a picture, whose size is read from it where it is not given.

        `EvaluationError` names the line that is wrong.
        """
        rows = read_labels(self.label_path(picture), len(self.names))
        height, width = (hw_px or picture_hw_px(picture)) if len(rows) else (1, 1)
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1).clip(0, 1) * [width, height, width, height]
        return boxes.astype(np.float32), tuple(int(index) for index in rows[:, 0])

    def relative(self, picture: Path) -> str:
        """The picture as `manifest.jsonl` names it."""
        try:
            return picture.relative_to(self.folder).as_posix()
        except ValueError:
            return picture.as_posix()


def read_labels(path: Path, classes: int) -> NDArray[np.float64]:
    """Rows (N, 5) of class index and normalised x, y, width, height; a polygon becomes its bounding box; no file, no rows."""
    if not path.is_file():
        return np.zeros((0, 5))
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(each) for each in line.split()]
        except ValueError:
            raise EvaluationError(f"{path}:{number}: {line[:60]!r} is not 'class x y width height'") from None
        if len(values) > 6 and len(values) % 2 == 1:
            xs, ys = values[1::2], values[2::2]
            low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
            values = [values[0], (low_x + high_x) / 2, (low_y + high_y) / 2, high_x - low_x, high_y - low_y]
        if len(values) != 5 or not np.isfinite(values).all():
            raise EvaluationError(f"{path}:{number}: {line[:60]!r} is not 'class x y width height'")
        if values[0] != int(values[0]) or not 0 <= values[0] < classes:
            raise EvaluationError(f"{path}:{number}: class {values[0]:g} is not among the {classes} names of data.yaml")
        if min(values[1:]) < -0.01 or max(values[1:]) > 1.01:
            raise EvaluationError(f"{path}:{number}: coordinates must be parts of the picture's size, 0 to 1")
        rows.append(values)
    return np.array(rows, np.float64).reshape(-1, 5)


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """The lines of `manifest.jsonl`, none where there is no such file; `EvaluationError` names a line that is not an object."""
    path = folder / "manifest.jsonl"
    if not path.is_file():
        return []
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entries.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise EvaluationError(f"{path}:{number}: not a JSON object: {error}") from error
    return entries


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture file as (H, W, 3) uint8 RGB, turned as its EXIF says, as browsers do; `EvaluationError` where it cannot be decoded."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from error
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if picture is None:
        raise EvaluationError(f"{path}: not a picture that can be decoded; remove it or fetch it again")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def picture_hw_px(path: Path) -> tuple[int, int]:
    """Height and width of a picture file."""
    height, width = read_rgb(path).shape[:2]
    return int(height), int(width)


class _Curve:
    """The sightings in faster-coco-eval's form, scored over any subset of pictures."""

    def __init__(self, seen: Sequence[Sighting], classes: tuple[str, ...]) -> None:
        from faster_coco_eval.core.coco import COCO

        self._seen = seen
        self._classes = classes
        index_of = {name: index for index, name in enumerate(classes, start=1)}
        truth = [
            {"image_id": row, "category_id": index_of[name], "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for row, each in enumerate(seen, start=1)
            for name, box in zip(each.truth_classes, _xywh(each.truth_boxes_px), strict=True)
        ]
        found = [
            {
                "image_id": row,
                "category_id": index_of[name],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "score": certainty,
            }
            for row, each in enumerate(seen, start=1)
            for name, box, certainty in zip(
                each.seen_classes, _xywh(each.seen.boxes_xyxy_px), each.seen.scores.tolist(), strict=True
            )
            if name in index_of
        ]
        self._has_detections = bool(found)
        categories = [{"id": index, "name": name} for name, index in index_of.items()]
        images = [{"id": row} for row in range(1, len(seen) + 1)]
        self._truth, self._found = (
            COCO({"images": images, "categories": categories, "annotations": _numbered(annotations)})
            for annotations in (truth, found)
        )

    def over(self, rows: Sequence[int]) -> tuple[Score, dict[str, Score]]:
        """Overall and per class, over these pictures."""
        counts = dict.fromkeys(self._classes, 0)
        for row in rows:
            for name in self._seen[row].truth_classes:
                counts[name] += 1
        present = [name for name in self._classes if counts[name]]
        precision = self._precision(rows) if present and self._has_detections else None
        per_class: dict[str, Score] = {}
        for index, name in enumerate(self._classes):
            if counts[name]:
                curves = np.zeros((10, 101)) if precision is None else precision[:, :, index]
                per_class[name] = Score(float(curves.mean()), float(curves[0].mean()), counts[name])
        overall = Score(
            _mean([each.map50_95 for each in per_class.values()]),
            _mean([each.map50 for each in per_class.values()]),
            sum(counts.values()),
            len(rows),
        )
        return overall, per_class

    def _precision(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Interpolated precision (10 IoU thresholds, 101 recalls, classes)."""
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster

        run = COCOeval_faster(self._truth, self._found, iouType="bbox", print_function=_silent)
        run.params.imgIds = [row + 1 for row in rows]
        run.params.maxDets = [1, 10, MAX_DETECTIONS]
        run.evaluate()
        run.accumulate()
        precision: NDArray[np.float64] = np.asarray(run.eval["precision"])[:, :, :, 0, -1]
        return np.clip(precision, 0, 1)


def _numbered(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, each in enumerate(annotations, start=1):
        each["id"] = number
    return annotations


def _xywh(boxes_xyxy: Boxes) -> list[list[float]]:
    xywh = boxes_xyxy.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    rows: list[list[float]] = xywh.tolist()
    return rows


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _silent(*_args: object) -> None:
    """faster-coco-eval reports its own timings; nobody reads them."""


def _class_names(given: object, path: Path) -> tuple[str, ...]:
    if isinstance(given, list) and given:
        return tuple(str(name) for name in given)
    if isinstance(given, dict) and given:
        try:
            table = {int(index): str(name) for index, name in given.items()}
            return tuple(table[index] for index in range(len(table)))
        except (ValueError, KeyError):
            pass
    raise EvaluationError(f"{path}: names must be a list, or a table from 0 to N-1, of class names")
