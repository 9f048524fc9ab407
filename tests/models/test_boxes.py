"""Overlap, suppression and the letterbox agree with their definitions, and with torchvision where it is installed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecase_models.boxes import Letterbox, iou_matrix, nms_per_class, rectangle_for


def test_iou_of_known_pairs() -> None:
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 5]], np.float32)
    b = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [9, 9, 10, 10]], np.float32)
    assert iou_matrix(a, b) == pytest.approx(np.array([[1, 1 / 3, 0], [0, 0, 0]]))
    assert iou_matrix(a[:0], b).shape == (0, 3)


def test_boxes_beyond_all_measure_overlap_by_a_number() -> None:
    huge = np.array([[-3e38, -3e38, 3e38, 3e38], [0, 0, 1, 1]], np.float32)
    with np.errstate(all="ignore"):
        assert np.isfinite(iou_matrix(huge, huge)).all()


CORNERS = st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=12)


def boxes_of(corners: list[tuple[int, int, int, int]], spread: int) -> np.ndarray:
    """Boxes of 0 to 12 pixels a side, `spread` times as far apart."""
    found = [(x * spread, y * spread, x * spread + w, y * spread + h) for x, y, w, h in corners]
    return np.array(found, np.float32).reshape(-1, 4)


@given(CORNERS, CORNERS, st.sampled_from([1, 5]))
def test_iou_is_that_of_its_definition_where_all_boxes_touch_and_where_few_do(
    left: list[tuple[int, int, int, int]], right: list[tuple[int, int, int, int]], spread: int
) -> None:
    a, b = boxes_of(left, spread), boxes_of(right, spread)
    found = iou_matrix(a, b)
    assert found.shape == (len(a), len(b))
    for i, p in enumerate(a.tolist()):
        for j, q in enumerate(b.tolist()):
            shared = max(0, min(p[2], q[2]) - max(p[0], q[0])) * max(0, min(p[3], q[3]) - max(p[1], q[1]))
            union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - shared
            assert found[i, j] == pytest.approx(shared / union if shared else 0)


def test_suppression_keeps_the_best_of_its_class_only() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [1, 1, 10, 10], [50, 50, 60, 60]], np.float32)
    kept = nms_per_class(boxes, np.array([0.5, 0.9, 0.8, 0.1], np.float32), np.array([0, 0, 1, 0], np.int32), 0.5)
    assert kept.tolist() == [1, 2, 3]
    assert nms_per_class(boxes[:0], np.zeros(0, np.float32), np.zeros(0, np.int32), 0.5).tolist() == []


def test_suppression_equals_torchvision() -> None:
    torch = pytest.importorskip("torch", reason="torch comes with [train]")
    ops = pytest.importorskip("torchvision").ops
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 90, (400, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (400, 2))], axis=1).astype(np.float32)
    scores, classes = rng.uniform(0.01, 1, 400).astype(np.float32), rng.integers(0, 3, 400).astype(np.int32)
    theirs = ops.batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), 0.45)
    assert nms_per_class(boxes, scores, classes, 0.45, limit=1000).tolist() == theirs.tolist()


@given(st.integers(1, 3000), st.integers(1, 3000), st.booleans(), st.integers(0, 16))
def test_a_box_comes_back_from_the_letterbox(height: int, width: int, even: bool, shift: int) -> None:
    letterbox = Letterbox.fit((height, width), (384, 640), even=even)
    inner_height, inner_width = letterbox.inner_hw_px
    whole = np.array([[0, 0, inner_width, inner_height]], np.float32) + np.array(
        [letterbox.left_px, letterbox.top_px] * 2, np.float32
    )
    assert letterbox.to_picture(whole + shift, shift) == pytest.approx(np.array([[0, 0, width, height]]), rel=1e-5)
    assert inner_height <= 384
    assert inner_width <= 640
    assert not even or (inner_height % 2 == 0 and inner_width % 2 == 0)


def test_a_mirrored_box_comes_back_to_its_own_side_and_stays_in_order() -> None:
    letterbox = replace(Letterbox.fit((100, 200), (64, 64)), mirrored=True)  # a scale of 0.32, 16 rows of padding above
    boxes = np.array([[0, 16, 16, 32], [40, 16, 80, 48]], np.float32)
    assert letterbox.to_picture(boxes) == pytest.approx(np.array([[150, 0, 200, 50], [0, 0, 75, 100]]))
    assert letterbox.to_picture(boxes + 8, 8) == pytest.approx(letterbox.to_picture(boxes))


@pytest.mark.parametrize(
    ("picture", "expected"), [((1080, 1920), (384, 640)), ((576, 768), (480, 640)), ((640, 640), (640, 640))]
)
def test_a_camera_gets_the_smallest_rectangle(picture: tuple[int, int], expected: tuple[int, int]) -> None:
    assert rectangle_for(picture, 640, 32) == expected
