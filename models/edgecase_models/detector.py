"""An exported detector, run by ONNX Runtime: picture in, `Detections` in the picture's own pixels out."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgecase_models.boxes import PAD_VALUE, Letterbox, nms_per_class, rectangle_for
from edgecase_models.detections import Boxes, Classes, Detections, Features, Probabilities, Scores

Rgb = NDArray[np.uint8]
MAX_DETECTIONS: Final = 300
MAX_CANDIDATES: Final = 3000
FEATURES: Final = "features"
"""The name of the optional second output, (1, D): the picture's pooled neck features. `features.add_features` adds it to an export."""

_Rows = tuple[Boxes, Scores, Classes, Probabilities | None]


class DetectorError(ValueError):
    """A model that cannot be run here, or a picture that cannot be looked at."""


@dataclass(frozen=True)
class Runtime:
    """How ONNX Runtime may use the machine.

    Spinning threads halve the frame rate as soon as anything else needs the cores, so they are off unless asked for.
    """

    threads: int = 1
    spinning: bool = False
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Thresholds:
    """`candidate`: the floor down to which boxes are kept for judging; `score`: the operating point; `iou`: suppression."""

    candidate: float = 0.03
    score: float = 0.25
    iou: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.candidate <= self.score < 1:
            raise DetectorError(
                f"thresholds must satisfy 0 < candidate <= score < 1, not {self.candidate} and {self.score}"
            )
        if not 0 < self.iou < 1:
            raise DetectorError(f"the IoU threshold must lie in (0, 1), not {self.iou}")


@dataclass(frozen=True, eq=False)
class Planes:
    """A YUV 4:2:0 picture as decoders give it: `y` (H, W), `u` and `v` (ceil(H/2), ceil(W/2)), all uint8, BT.601.

    `full_range` tells JPEG's 0-255 from video's 16-235.
    """

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    full_range: bool = False

    @property
    def hw_px(self) -> tuple[int, int]:
        return int(self.y.shape[0]), int(self.y.shape[1])

    def rgb(self) -> Rgb:
        """The picture as (H, W, 3) uint8 RGB."""
        height, width = self.hw_px
        even = Letterbox.fit((height, width), (height + height % 2, width + width % 2), even=True).inner_hw_px
        return _rgb_at(self, even)[:height, :width]


@dataclass(frozen=True)
class StagesMs:
    """Where the last `detect` spent its time."""

    pre: float = 0.0
    run: float = 0.0
    post: float = 0.0


class Detector:
    """An Ultralytics detection export: raw head (1, 4+C, A) or end-to-end (1, N, 6), fixed or dynamic shape, fp32, fp16 or int8.

    Class names, stride and size come from the file's own metadata. Boxes and scores agree with Ultralytics' `predict` on the same file.
    `feature_count` is the length D of the features that the model gives beside its detections, None where it gives none.
    Not thread-safe: input buffers are kept and written again.
    """

    def __init__(
        self,
        model: Path | bytes,
        runtime: Runtime = Runtime(),
        thresholds: Thresholds = Thresholds(),
        names: Sequence[str] | None = None,
    ) -> None:
        self.thresholds = thresholds
        self._label = str(model) if isinstance(model, Path) else f"model of {len(model)} bytes"
        self._session = _session(model, runtime, self._label)
        given = self._session.get_inputs()[0]
        metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.input_name: str = given.name
        self._dtype = np.float16 if "float16" in given.type else np.float32
        self.names = tuple(names) if names is not None else _names(metadata, self._label)
        self.stride_px = int(metadata.get("stride", "32"))
        shape = list(given.shape)
        if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise DetectorError(f"{self._label}: input {shape} is not a batch of RGB pictures (1, 3, height, width)")
        fixed = isinstance(shape[2], int) and isinstance(shape[3], int)
        self.input_hw_px: tuple[int, int] | None = (shape[2], shape[3]) if fixed else None
        self.long_side_px = max(self.input_hw_px) if self.input_hw_px else _long_side(metadata)
        head, *others = self._session.get_outputs()
        self.end2end = _is_end2end(head.shape, metadata, len(self.names), self._label)
        self.feature_count = next(
            (_feature_count(each.shape, self._label) for each in others if each.name == FEATURES), None
        )
        self._outputs = [head.name] if self.feature_count is None else [head.name, FEATURES]
        self._buffers: dict[tuple[object, ...], NDArray[Any]] = {}
        self.stages_ms = StagesMs()

    def detect(self, picture: Rgb | Planes, *, shift_px: int = 0, mirrored: bool = False) -> Detections:
        """What is in the picture, candidates included, best first and at most 300.

        `picture` is (H, W, 3) uint8 RGB or `Planes`. `shift_px` moves the content that many input pixels right and down before the
        run and the boxes back after it, `mirrored` exchanges left and right likewise: second opinions of the same model. Raises
        `DetectorError` for another shape or type.
        """
        start = perf_counter()
        letterbox = replace(self.letterbox(picture), mirrored=mirrored)
        tensor = self.tensor(picture, letterbox, shift_px)
        ready = perf_counter()
        outputs = self._session.run(self._outputs, {self.input_name: tensor})
        done = perf_counter()
        features = outputs[1][0] if len(outputs) > 1 else None
        detections = self._decode(np.asarray(outputs[0][0], np.float32), letterbox, shift_px, features)
        self.stages_ms = StagesMs((ready - start) * 1e3, (done - ready) * 1e3, (perf_counter() - done) * 1e3)
        return detections

    def letterbox(self, picture: Rgb | Planes) -> Letterbox:
        """How this picture lies in the model's input."""
        planes = isinstance(picture, Planes)
        hw_px = picture.hw_px if isinstance(picture, Planes) else _checked_hw(picture)
        size = self.input_hw_px or rectangle_for(hw_px, self.long_side_px, self.stride_px)
        return Letterbox.fit(hw_px, size, even=planes)

    def tensor(self, picture: Rgb | Planes, letterbox: Letterbox | None = None, shift_px: int = 0) -> NDArray[Any]:
        """The model's input (1, 3, height, width), 0 to 1; the array is written again by the next call."""
        box = letterbox or self.letterbox(picture)
        height, width = box.inner_hw_px
        if isinstance(picture, Planes):
            small = _rgb_at(picture, box.inner_hw_px)
        elif picture.shape[:2] == box.inner_hw_px:
            small = picture
        else:
            small = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        if box.mirrored:
            small = np.asarray(cv2.flip(small, 1), np.uint8)
        top, left = box.top_px + shift_px, box.left_px + shift_px
        rows, columns = min(height, box.input_hw_px[0] - top), min(width, box.input_hw_px[1] - left)
        tensor = self._buffer(box, shift_px)
        for channel, plane in enumerate(cv2.split(small)):
            inner = tensor[0, channel, top : top + rows, left : left + columns]
            np.multiply(plane[:rows, :columns], np.float32(1 / 255), out=inner, casting="unsafe")
        return tensor

    def _buffer(self, box: Letterbox, shift_px: int) -> NDArray[Any]:
        """A padded input that stays: what lies outside the picture is written once."""
        key = (box.input_hw_px, box.inner_hw_px, shift_px)
        if key not in self._buffers:
            if len(self._buffers) >= 4:
                self._buffers.clear()
            self._buffers[key] = np.full((1, 3, *box.input_hw_px), PAD_VALUE / 255, self._dtype)
        return self._buffers[key]

    def _decode(
        self, output: NDArray[np.float32], letterbox: Letterbox, shift_px: int, features: Features | None
    ) -> Detections:
        boxes, scores, classes, probabilities = self._end2end_rows(output) if self.end2end else self._raw_rows(output)
        sound = np.isfinite(boxes).all(axis=1) & (scores <= 1)
        if not sound.all():
            boxes, scores, classes = boxes[sound], scores[sound], classes[sound]
            probabilities = None if probabilities is None else probabilities[sound]
        boxes = letterbox.to_picture(boxes, shift_px)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        if features is not None and not np.isfinite(features).all():
            features = None  # the boxes may still be sound
        return Detections(boxes, scores, classes, probabilities, features)

    def _end2end_rows(self, output: NDArray[np.float32]) -> _Rows:
        rows = output[output[:, 4] > self.thresholds.candidate]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][:MAX_DETECTIONS]
        return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32), None

    def _raw_rows(self, output: NDArray[np.float32]) -> _Rows:
        best = output[4:].max(axis=0)
        anchors = np.flatnonzero(best > self.thresholds.candidate)
        if len(anchors) > MAX_CANDIDATES:
            anchors = anchors[np.argpartition(-best[anchors], MAX_CANDIDATES)[:MAX_CANDIDATES]]
        columns = output[:, anchors]
        scores = best[anchors]
        classes = columns[4:].argmax(axis=0).astype(np.int32)
        centre, half = columns[:2].T, columns[2:4].T / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        finite = np.isfinite(boxes).all(axis=1)
        if not finite.all():
            columns = columns[:, finite]
            boxes, scores, classes = boxes[finite], scores[finite], classes[finite]
        keep = nms_per_class(boxes, scores, classes, self.thresholds.iou, MAX_DETECTIONS)
        # Only the kept ones are copied: at most 300 of up to 3000. No class exceeds the best, so 0 is the only bound to hold.
        probabilities = np.maximum(columns[4:, keep], 0).T
        return boxes[keep], scores[keep], classes[keep], probabilities


def _session(model: Path | bytes, runtime: Runtime, label: str) -> ort.InferenceSession:
    if isinstance(model, Path) and not model.is_file():
        raise DetectorError(f"{label}: no such model file")
    unknown = set(runtime.providers) - set(ort.get_available_providers())
    if unknown:
        raise DetectorError(
            f"execution provider {', '.join(sorted(unknown))} is not in this onnxruntime; it has {', '.join(ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if runtime.spinning else "0")
    try:
        return ort.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=list(runtime.providers)
        )
    except Exception as error:  # onnxruntime raises its own unrelated classes, and plain RuntimeError
        raise DetectorError(
            f"{label}: ONNX Runtime cannot load it; export or fetch it again ({_first_line(error)})"
        ) from error


def _names(metadata: dict[str, str], label: str) -> tuple[str, ...]:
    task = metadata.get("task", "detect")
    if task != "detect":
        raise DetectorError(f"{label}: a model for task {task!r}; edgecase runs detectors")
    text = metadata.get("names")
    if text is None:
        raise DetectorError(
            f"{label}: carries no class names; export it with Ultralytics or give the names when packing"
        )
    try:
        names = ast.literal_eval(text)
        return tuple(str(names[index]) for index in range(len(names)))
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise DetectorError(f"{label}: class names {text[:60]!r} are not a table from 0 to N-1") from error


def _long_side(metadata: dict[str, str]) -> int:
    try:
        size = ast.literal_eval(metadata.get("imgsz", "640"))
        return int(max(size)) if isinstance(size, (list, tuple)) else int(size)
    except (ValueError, SyntaxError, TypeError):
        return 640


def _is_end2end(shape: Sequence[object], metadata: dict[str, str], classes: int, label: str) -> bool:
    if len(shape) == 3:
        if shape[2] == 6 and (metadata.get("end2end") == "True" or shape[1] != 4 + classes):
            return True
        if shape[1] == 4 + classes:
            return False
    raise DetectorError(
        f"{label}: output {list(shape)} is neither a raw head (1, {4 + classes}, anchors) for {classes} classes nor end-to-end (1, N, 6)"
    )


def _feature_count(shape: Sequence[object], label: str) -> int:
    if len(shape) == 2 and (shape[0] == 1 or not isinstance(shape[0], int)) and isinstance(shape[1], int):
        return shape[1]
    raise DetectorError(f"{label}: output {FEATURES!r} {list(shape)} is not (1, D)")


def _checked_hw(picture: Rgb) -> tuple[int, int]:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise DetectorError(f"a picture must be (height, width, 3) uint8 RGB, not {picture.shape} {picture.dtype}")
    return int(picture.shape[0]), int(picture.shape[1])


_TO_VIDEO_LUMA: Final = np.round(np.arange(256) * (219 / 255) + 16).astype(np.uint8)
_TO_VIDEO_CHROMA: Final = np.round((np.arange(256) - 128) * (224 / 255) + 128).astype(np.uint8)


def _rgb_at(planes: Planes, hw_px: tuple[int, int]) -> Rgb:
    """The picture at an even size: planes are resized one by one and only the small picture is converted."""
    height, width = hw_px
    i420 = np.empty((height * 3 // 2, width), np.uint8)
    chroma = i420[height:].reshape(2, height // 2, width // 2)
    for source, target in ((planes.y, i420[:height]), (planes.u, chroma[0]), (planes.v, chroma[1])):
        if source.shape == target.shape:
            np.copyto(target, source)
        else:
            cv2.resize(source, target.shape[::-1], dst=target, interpolation=cv2.INTER_LINEAR)
    if planes.full_range:
        i420[:height] = cv2.LUT(i420[:height], _TO_VIDEO_LUMA)
        chroma[:] = _TO_VIDEO_CHROMA[chroma]
    return np.asarray(cv2.cvtColor(i420, cv2.COLOR_YUV2RGB_I420), np.uint8)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
