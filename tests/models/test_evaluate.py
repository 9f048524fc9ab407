"""The metric: known cases worked out by hand, any order of classes, any folder in Ultralytics layout."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("faster_coco_eval", reason="the [cloud] extra is not installed")

from edgecase_models.detections import Detections
from edgecase_models.evaluate import EvaluationError, Sample, evaluate, samples_from_folder

BLANK = np.zeros((100, 100, 3), np.uint8)
RECALLS = 101


class Saw:
    """Sees what it was told to, picture by picture."""

    def __init__(self, names: tuple[str, ...], *seen: list[tuple[float, float, float, float, float, int]]) -> None:
        self.names = names
        self._seen = iter(seen)

    def detect(self, picture: np.ndarray) -> Detections:
        assert picture.shape == BLANK.shape
        rows = next(self._seen)
        return Detections.of([row[:4] for row in rows], [row[4] for row in rows], [row[5] for row in rows])


def truth(*boxes: tuple[float, float, float, float, str], condition: str = "") -> Sample:
    return Sample(
        BLANK,
        np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4),
        tuple(box[4] for box in boxes),
        condition,
    )


def test_a_perfect_detector_scores_one() -> None:
    found = evaluate(Saw(("car",), [(10, 10, 50, 50, 0.9, 0)]), [truth((10, 10, 50, 50, "car"))])
    assert found.map50_95 == pytest.approx(1)
    assert found.map50 == pytest.approx(1)
    assert (found.pictures, found.count) == (1, 1)


def test_half_of_the_objects_found_scores_half_of_the_recalls() -> None:
    """Precision 1 at recalls 0 to 0.50, 0 above: 51 of 101 points."""
    found = evaluate(
        Saw(("car",), [(10, 10, 50, 50, 0.9, 0)]), [truth((10, 10, 50, 50, "car"), (60, 60, 90, 90, "car"))]
    )
    assert found.map50 == pytest.approx(51 / RECALLS)


def test_a_false_alarm_above_the_hit_halves_the_precision() -> None:
    found = evaluate(
        Saw(("car",), [(60, 60, 90, 90, 0.9, 0), (10, 10, 50, 50, 0.8, 0)]), [truth((10, 10, 50, 50, "car"))]
    )
    assert found.map50 == pytest.approx(0.5)


def test_a_loose_box_counts_at_the_low_thresholds_only() -> None:
    """IoU 0.62 passes 0.50, 0.55 and 0.60: three of ten thresholds."""
    found = evaluate(Saw(("car",), [(0, 0, 62, 100, 0.9, 0)]), [truth((0, 0, 100, 100, "car"))])
    assert found.map50 == pytest.approx(1)
    assert found.map50_95 == pytest.approx(0.3)


def test_a_duplicate_of_a_hit_is_a_false_alarm_that_costs_nothing_after_full_recall() -> None:
    found = evaluate(
        Saw(("car",), [(10, 10, 50, 50, 0.9, 0), (10, 10, 50, 50, 0.8, 0)]), [truth((10, 10, 50, 50, "car"))]
    )
    assert found.map50 == pytest.approx(1)


def test_classes_are_matched_by_name_whatever_their_order() -> None:
    sample = truth((10, 10, 50, 50, "car"), (60, 60, 90, 90, "dog"))
    found = evaluate(Saw(("dog", "car"), [(10, 10, 50, 50, 0.9, 1), (60, 60, 90, 90, 0.9, 0)]), [sample])
    assert found.map50_95 == pytest.approx(1)
    assert set(found.per_class) == {"car", "dog"}


def test_a_class_that_the_detector_does_not_know_scores_zero_and_counts() -> None:
    sample = truth((10, 10, 50, 50, "car"), (60, 60, 90, 90, "dog"))
    found = evaluate(Saw(("car",), [(10, 10, 50, 50, 0.9, 0)]), [sample])
    assert found.per_class["dog"].map50 == 0
    assert found.map50 == pytest.approx(0.5)


def test_a_class_that_the_truth_lacks_is_left_out() -> None:
    found = evaluate(
        Saw(("car", "dog"), [(10, 10, 50, 50, 0.9, 0), (0, 0, 9, 9, 0.9, 1)]), [truth((10, 10, 50, 50, "car"))]
    )
    assert found.map50 == pytest.approx(1)
    assert set(found.per_class) == {"car"}


def test_conditions_are_scored_apart() -> None:
    seen = [(10.0, 10.0, 50.0, 50.0, 0.9, 0)]
    samples = [
        truth((10, 10, 50, 50, "car"), condition="day"),
        truth((10, 10, 50, 50, "car"), condition="night"),
        truth((10, 10, 50, 50, "car")),
    ]
    found = evaluate(Saw(("car",), seen, [], seen), samples)
    assert found.per_condition["day"].map50 == pytest.approx(1)
    assert found.per_condition["night"].map50 == 0
    assert found.per_condition["day"].pictures == 1
    assert found.map50 == pytest.approx(67 / RECALLS)


def test_a_blind_detector_scores_zero_and_an_empty_truth_is_no_error() -> None:
    assert evaluate(Saw(("car",), []), [truth((10, 10, 50, 50, "car"))]).map50_95 == 0
    empty = evaluate(Saw(("car",), [(10, 10, 50, 50, 0.9, 0)]), [truth()])
    assert (empty.map50_95, empty.count, empty.pictures) == (0, 0, 1)


def test_nothing_to_evaluate_on_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no pictures"):
        evaluate(Saw(("car",)), [])


def test_as_json_is_plain_and_round() -> None:
    found = evaluate(
        Saw(("car",), [(10, 10, 50, 50, 0.9, 0)]), [truth((10, 10, 50, 50, "car"), (60, 60, 90, 90, "car"))]
    )
    again = json.loads(json.dumps(found.as_json()))
    assert again["map50"] == 0.50495
    assert again["per_class"]["car"]["count"] == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures in two splits, one of them without objects."""
    for split, name in (("train", "a"), ("val", "b")):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / split / f"{name}.jpg"), np.zeros((40, 80, 3), np.uint8))
    (tmp_path / "labels/val/b.txt").write_text("1 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3\n")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: car, 1: dog}\n")
    (tmp_path / "manifest.jsonl").write_text('{"image": "images/val/b.jpg", "split": "val", "condition": "fog"}\n')
    return tmp_path


def test_a_folder_gives_boxes_in_pixels_names_and_conditions(folder: Path) -> None:
    (sample,) = samples_from_folder(folder, "val")
    assert sample.classes == ("dog", "car")
    np.testing.assert_allclose(sample.boxes_xyxy_px, [[20, 10, 60, 30], [8, 4, 24, 12]], atol=1e-3)
    assert sample.condition == "fog"
    assert sample.rgb().shape == (40, 80, 3)


def test_a_picture_without_a_label_file_holds_nothing(folder: Path) -> None:
    (sample,) = samples_from_folder(folder, "train")
    assert sample.classes == ()
    assert len(samples_from_folder(folder, None)) == 2


def test_a_folder_reached_through_a_link_has_its_labels(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("elsewhere") / "linked"
    link.symlink_to(folder)
    assert samples_from_folder(link, "val")[0].classes == ("dog", "car")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels/val/b.txt", "2 0.5 0.5 0.1 0.1\n", r"b\.txt:1: class 2 is not among the 2 names"),
        ("labels/val/b.txt", "0 0.5 0.5 0.1\n", r"b\.txt:1: .* is not 'class x y width height'"),
        ("labels/val/b.txt", "0 50 50 10 10\n", r"b\.txt:1: coordinates must be parts"),
        ("labels/val/b.txt", "0 nan 0.5 0.1 0.1\n", r"b\.txt:1: .* is not 'class x y width height'"),
        ("images/val/b.jpg", "not a picture", r"b\.jpg: not a picture"),
        ("data.yaml", "train: images/train\n", r"data\.yaml: names must be"),
        ("data.yaml", "names: [car]\nval: images/gone\n", r"val names images/gone, which is not there"),
        ("data.yaml", "{", r"data\.yaml: cannot be read as YAML"),
        ("manifest.jsonl", "[]", r"manifest\.jsonl:1: not a JSON object"),
    ],
)
def test_a_wrong_folder_names_the_file_and_line(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(EvaluationError, match=message):
        samples_from_folder(folder, "val")


def test_a_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no data\.yaml; give a folder in Ultralytics layout"):
        samples_from_folder(tmp_path / "gone")
