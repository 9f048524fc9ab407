"""The starter's exports see in our detector what they see in Ultralytics' own `predict`: boxes within 1 px, scores within 0.01."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from edgecase_models.detector import Detector, Thresholds
from edgecase_models.evaluate import read_rgb
from edgecase_models.street.dataset import plan_samples, render_dataset

WEIGHTS = Path(__file__).parents[2] / "models" / "starter" / "starter.pt"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="ultralytics comes with [train]"
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("street")
    render_dataset(folder, plan_samples(8, [7000, 7001], ["day", "night"]), "val")
    return sorted((folder / "images" / "val").glob("*.jpg"))


@pytest.mark.parametrize(
    "form",
    [
        {"imgsz": [224, 384]},
        pytest.param({"imgsz": 384, "nms": True}, marks=pytest.mark.slow),
        pytest.param({"imgsz": 384, "dynamic": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_boxes_and_scores_are_ultralytics_own(
    tmp_path: Path, pictures: list[Path], form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from ultralytics import YOLO

    from bench.bench_parity import IOU, SCORE, agreement, theirs_on

    weights = tmp_path / "starter.pt"
    weights.write_bytes(WEIGHTS.read_bytes())
    exported = Path(YOLO(weights).export(format="onnx", device="cpu", verbose=False, **form))
    ours = Detector(exported, thresholds=Thresholds(candidate=SCORE, score=SCORE, iou=IOU))
    theirs = YOLO(exported, task="detect")
    found = [
        agreement(ours.detect(read_rgb(picture)), theirs_on(theirs, picture, form["imgsz"])) for picture in pictures
    ]
    assert sum(each.matched for each in found) > 20
    assert sum(each.unmatched for each in found) == 0
    assert max(each.box_px for each in found) < 1
    assert max(each.score for each in found) < 0.01
