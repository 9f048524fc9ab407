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


def two(probabilities: object = None, features: object = None) -> Detections:
    return Detections(
        np.array([[0, 0, 4, 4], [1, 1, 2, 2]], np.float32),
        np.array([0.5, 0.2], np.float32),
        np.array([1, 0], np.int32),
        probabilities if probabilities is None else np.array(probabilities),
        features if features is None else np.array(features),
    )


def test_probabilities_and_features_are_carried_along() -> None:
    detections = two([[0.1, 0.5, 0.3], [0.2, 0, 0.1]], [1, -2])
    assert detections.probabilities.dtype == detections.features.dtype == np.float32
    for part in (detections.above(0.3), detections[np.array([0])], detections[np.array([True, False])]):
        assert part.probabilities == pytest.approx(np.array([[0.1, 0.5, 0.3]]))
        assert part.features.tolist() == [1, -2], "they are the picture's, whatever is picked"
    nothing = detections.above(0.9)
    assert nothing.probabilities.shape == (0, 3)
    assert nothing.features.tolist() == [1, -2]
    assert two().above(0.1).probabilities is two().above(0.1).features is None


def test_probabilities_and_features_are_read_only_copies() -> None:
    given = np.array([[0.1, 0.5], [0.2, 0]], np.float32)
    detections = two(given, [1.0])
    given[0, 0] = 1
    assert detections.probabilities[0, 0] == pytest.approx(0.1)
    for array in (detections.probabilities, detections.features):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("probabilities", "features", "told"),
    [
        ([[0.1, 0.5]], None, "\\(1, 2\\) are not \\(N, C\\) for 2 detections"),
        ([0.1, 0.5], None, "are not \\(N, C\\)"),
        ([[0.5], [0.2]], None, "class 1 is not among 1 probabilities"),
        ([[0.1, 1.5], [0.2, 0]], None, "a probability is not in"),
        ([[0.1, 0.5], [-0.2, 0]], None, "a probability is not in"),
        ([[0.1, 0.5], [float("nan"), 0]], None, "a probability is not in"),
        (None, [[1.0]], "features \\(1, 1\\) are not"),
        (None, [], "features \\(0,\\) are not"),
        (None, [1.0, float("inf")], "a feature is not finite"),
    ],
)
def test_probabilities_and_features_that_are_none_are_refused(
    probabilities: object, features: object, told: str
) -> None:
    with pytest.raises(DetectionsError, match=told):
        two(probabilities, features)
