"""Our detector beside Ultralytics' own `predict` and `val` on the same ONNX files: boxes, scores, mAP."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.report import BUILD, SHARED, Report, Row
from edgecase_models.boxes import iou_matrix
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector, Runtime, Thresholds
from edgecase_models.evaluate import CURVE_THRESHOLDS, evaluate, read_rgb, samples_from_folder
from edgecase_models.quantize import quantize

os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_VERBOSE": "False"}

WEIGHTS, COCO = SHARED / "weights", SHARED / "labelled" / "coco-val128"
SCORE, IOU = 0.25, 0.7
MAX_BOX_PX, MAX_SCORE = 1.0, 0.01
ROUNDING = 1e-4


@dataclass(frozen=True)
class Agreement:
    """Boxes that both sides gave, boxes that only one gave, and how far the matched ones lie apart."""

    matched: int
    unmatched: int
    box_px: float
    score: float


def agreement(ours: Detections, theirs: Detections) -> Agreement:
    """Pair boxes of one class by overlap; a box that sits on the threshold to within rounding need not have a partner."""
    overlap = iou_matrix(ours.boxes_xyxy_px, theirs.boxes_xyxy_px)
    overlap[ours.classes[:, None] != theirs.classes[None]] = 0
    pairs: list[tuple[int, int]] = []
    while overlap.size and overlap.max() > 0.5:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((int(i), int(j)))
        overlap[i] = 0
        overlap[:, j] = 0
    alone = [ours.scores[i] for i in set(range(len(ours))) - {i for i, _ in pairs}]
    alone += [theirs.scores[j] for j in set(range(len(theirs))) - {j for _, j in pairs}]
    return Agreement(
        len(pairs),
        sum(1 for score in alone if score > SCORE + ROUNDING),
        max((float(np.abs(ours.boxes_xyxy_px[i] - theirs.boxes_xyxy_px[j]).max()) for i, j in pairs), default=0.0),
        max((float(abs(ours.scores[i] - theirs.scores[j])) for i, j in pairs), default=0.0),
    )


def theirs_on(model: Any, picture: Path, long_side_px: int) -> Detections:
    """Ultralytics' own answer for a picture file."""
    boxes = model.predict(str(picture), conf=SCORE, iou=IOU, imgsz=long_side_px, device="cpu", verbose=False)[0].boxes
    return Detections(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy())


def exports(folder: Path) -> Iterator[tuple[str, Path]]:
    """The given files, then every other form that Ultralytics exports, made from the given weights."""
    from ultralytics import YOLO

    for name in ("yolov8n", "yolo11n", "yolo26n"):
        yield f"{name} raw 640 fp32", WEIGHTS / f"{name}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    forms: list[tuple[str, str, dict[str, Any]]] = [
        ("yolo26n", "end-to-end", {"nms": False}),
        ("yolo26n", "end-to-end dynamic", {"nms": False, "dynamic": True}),
        ("yolo11n", "NMS inside", {"nms": True}),
        ("yolo11n", "dynamic", {"dynamic": True}),
        ("yolo11n", "384x640", {"imgsz": (384, 640)}),
        ("yolo11n", "fp16", {"quantize": 16}),
    ]
    for name, form, options in forms:
        path = folder / f"{name}-{form.replace(' ', '-')}.onnx"
        if not path.exists():
            weights = folder / f"{name}.pt"
            weights.write_bytes((WEIGHTS / f"{name}.pt").read_bytes())
            Path(YOLO(weights).export(format="onnx", device="cpu", verbose=False, **options)).replace(path)
        yield f"{name} {form}", path
    int8 = folder / "yolo11n-int8.onnx"
    if not int8.exists():
        pictures = sorted((COCO / "images").rglob("*.jpg"))[:32]
        quantize(WEIGHTS / "yolo11n.onnx", int8, (read_rgb(picture) for picture in pictures))
    yield "yolo11n int8", int8


def compare(report: Report, label: str, path: Path, pictures: list[Path]) -> None:
    from ultralytics import YOLO

    ours = Detector(path, Runtime(threads=2), Thresholds(candidate=SCORE, score=SCORE, iou=IOU))
    model = YOLO(path, task="detect")
    side = max(ours.input_hw_px) if ours.input_hw_px else ours.long_side_px
    size: Any = list(ours.input_hw_px) if ours.input_hw_px else side
    found = [agreement(ours.detect(read_rgb(picture)), theirs_on(model, picture, size)) for picture in pictures]
    matched, peer = sum(each.matched for each in found), "ultralytics predict"
    report.add(Row(f"{label}: boxes matched", matched, f"on {len(pictures)} pictures", peer))
    report.add(
        Row(f"{label}: boxes without partner", sum(each.unmatched for each in found), "", peer, None, 0, at_most=True)
    )
    report.add(
        Row(
            f"{label}: largest box difference", max(e.box_px for e in found), "px", peer, None, MAX_BOX_PX, at_most=True
        )
    )
    report.add(
        Row(f"{label}: largest score difference", max(e.score for e in found), "", peer, None, MAX_SCORE, at_most=True)
    )


def compare_map(report: Report, name: str, data: Path) -> None:
    """mAP by the standard metric through our detector, beside the figure that Ultralytics' `val` computes in its own way."""
    from ultralytics import YOLO

    path = WEIGHTS / f"{name}.onnx"
    ours = evaluate(Detector(path, Runtime(threads=2), CURVE_THRESHOLDS), samples_from_folder(COCO, "val"))
    theirs = YOLO(path, task="detect").val(
        data=str(data),
        imgsz=640,
        batch=1,
        device="cpu",
        verbose=False,
        plots=False,
        workers=0,
        project=str(BUILD / "val"),
    )
    for label, value, peer in (("mAP50-95", ours.map50_95, theirs.box.map), ("mAP50", ours.map50, theirs.box.map50)):
        report.add(Row(f"{name}: {label}", value, "", "ultralytics val", float(peer)))


def main() -> int:
    if not WEIGHTS.is_dir() or not COCO.is_dir():
        print(f"bench-parity skipped: the detectors and pictures of {SHARED} are not here")
        return 0
    import ultralytics
    from ultralytics.utils import ASSETS

    report = Report("parity", "our detector beside Ultralytics on the same ONNX files")
    pictures = sorted((COCO / "images").rglob("*.jpg")) + sorted(Path(ASSETS).glob("*.jpg"))
    for label, path in exports(BUILD / "exports"):
        compare(report, label, path, pictures)
    data = BUILD / "coco-val128.yaml"
    described = yaml.safe_load((COCO / "data.yaml").read_text())
    data.write_text(yaml.safe_dump(described | {"path": str(COCO), "train": "images"}))
    for name in ("yolov8n", "yolo11n", "yolo26n"):
        compare_map(report, name, data)
    report.close()
    print(f"ultralytics {ultralytics.__version__}, {len(pictures)} pictures, score from {SCORE}, IoU {IOU}")
    return 0 if all(row.ok is not False for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
