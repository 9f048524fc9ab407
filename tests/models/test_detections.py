"""A Detections value is checked once and can be trusted from then on."""

import numpy as np
import pytest

from edgecase_models.detections import Detections, DetectionsError


def test_arrays_are_read_only_and_the_callers_stay_writeable() -> None:
    boxes = np.array([[0, 0, 4, 4]], np.float32)
    detections = Detections(boxes, np.array([0.5]), np.array([1]))
    with pytest.raises(ValueError, match="read-only"):
        detections.scores[0] = 1
    boxes[0, 0] = 2
    assert detections.boxes_xyxy_px[0, 0] == 0


@pytest.mark.parametrize(
    ("boxes", "scores", "classes", "told"),
    [
        ([[0, 0, 4]], [0.5], [0], "not \\(N, 4\\)"),
        ([[0, 0, 4, 4]], [0.5, 0.4], [0], "not \\(N, 4\\)"),
        ([[0, 0, 4, 4]], [float("nan")], [0], "not finite"),
        ([[0, 0, float("inf"), 4]], [0.5], [0], "not finite"),
        ([[0, 0, 4, 4]], [1.5], [0], "not in \\[0, 1\\]"),
        ([[4, 0, 0, 4]], [0.5], [0], "ends before"),
        ([[0, 0, 4, 4]], [0.5], [-1], "negative"),
    ],
)
def test_what_is_no_detection_is_refused(boxes: list, scores: list, classes: list, told: str) -> None:
    with pytest.raises(DetectionsError, match=told):
        Detections(np.array(boxes, np.float32), np.array(scores), np.array(classes))


def test_above_keeps_the_operating_point_itself() -> None:
    detections = Detections.of([(0, 0, 1, 1)] * 3, [0.5, 0.25, 0.2], [0, 1, 2])
    assert detections.above(0.25).classes.tolist() == [0, 1]
    assert len(Detections.empty().above(0.1)) == 0
