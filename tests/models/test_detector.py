"""A detector gives boxes in the camera's own pixels, whatever the export, and says clearly what it cannot run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgecase_models.detector import Detector, DetectorError, Planes, Runtime, Thresholds
from support.tiny_onnx import tiny_detector

RED, GREEN = (16, 32, 32, 48), (96, 64, 112, 80)


def planes_of(rgb: np.ndarray, full_range: bool = False) -> Planes:
    height, width = rgb.shape[:2]
    i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    chroma = i420[height:].reshape(2, height // 2, width // 2)
    luma = i420[:height]
    if full_range:
        luma = np.clip((luma.astype(float) - 16) * 255 / 219, 0, 255).round().astype(np.uint8)
        chroma = np.clip((chroma.astype(float) - 128) * 255 / 224 + 128, 0, 255).round().astype(np.uint8)
    return Planes(luma, chroma[0], chroma[1], full_range)


def test_it_sees_what_is_there(tiny: Path, squares: np.ndarray) -> None:
    detections = Detector(tiny).detect(squares)
    assert sorted(detections.classes.tolist()) == [0, 1]
    seen = dict(zip(detections.classes.tolist(), detections.boxes_xyxy_px.tolist(), strict=True))
    assert seen == {0: pytest.approx(RED), 1: pytest.approx(GREEN)}
    assert detections.scores == pytest.approx([0.9, 0.9])


def test_boxes_are_in_pixels_of_the_cameras_picture(tiny: Path, squares: np.ndarray) -> None:
    large = cv2.resize(squares, (1024, 1024), interpolation=cv2.INTER_NEAREST)
    wide = np.zeros((1024, 2048, 3), np.uint8)
    wide[:, :1024] = large
    boxes = Detector(tiny).detect(wide).boxes_xyxy_px
    # 2048 x 1024 lies in 128 x 128 at a scale of 1/16, so an 8-fold square covers half of a cell's side
    assert boxes.shape[1] == 4
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 2048
    assert boxes[:, 3].max() <= 1024


@pytest.mark.parametrize("full_range", [False, True])
def test_planes_give_what_rgb_gives(tiny: Path, squares: np.ndarray, full_range: bool) -> None:
    from_rgb = Detector(tiny).detect(squares)
    from_planes = Detector(tiny).detect(planes_of(squares, full_range))
    assert from_planes.boxes_xyxy_px == pytest.approx(from_rgb.boxes_xyxy_px)
    assert from_planes.scores == pytest.approx(from_rgb.scores, abs=0.02)


def test_planes_of_odd_size_come_back_as_their_picture() -> None:
    rgb = np.full((31, 45, 3), 200, np.uint8)
    padded = planes_of(np.full((32, 46, 3), 200, np.uint8))
    picture = Planes(padded.y[:31, :45], padded.u, padded.v).rgb()
    assert picture.shape == rgb.shape
    assert np.abs(picture.astype(int) - rgb).max() <= 3


@pytest.mark.parametrize("of", [np.asarray, planes_of])
def test_a_mirrored_view_gives_boxes_where_they_are(tiny: Path, squares: np.ndarray, of: Callable) -> None:
    detector = Detector(tiny)
    mirrored = detector.detect(of(squares), mirrored=True)
    assert mirrored.boxes_xyxy_px == pytest.approx(detector.detect(of(squares)).boxes_xyxy_px)
    seen = detector.detect(of(np.ascontiguousarray(squares[:, ::-1])))
    assert mirrored.scores == pytest.approx(seen.scores)
    assert mirrored.boxes_xyxy_px[:, 0] == pytest.approx(128 - seen.boxes_xyxy_px[:, 2])


def test_a_mirrored_view_leaves_the_cameras_picture_as_it_was(tiny: Path, squares: np.ndarray) -> None:
    before = squares.copy()
    Detector(tiny).detect(squares, mirrored=True)
    assert (squares == before).all()


def test_a_shifted_view_gives_boxes_where_they_are(tiny: Path, squares: np.ndarray) -> None:
    detector = Detector(tiny)
    shifted = detector.detect(squares, shift_px=16)
    assert shifted.boxes_xyxy_px == pytest.approx(detector.detect(squares).boxes_xyxy_px)
    assert len(Detector(tiny).detect(squares, shift_px=100)) == 0, (
        "the squares have left the view, the padding holds nothing"
    )


@pytest.mark.parametrize("options", [{"end2end": True}, {"half": True}, {"half": True, "end2end": True}])
def test_every_layout_gives_the_same_detections(tmp_path: Path, tiny: Path, squares: np.ndarray, options: dict) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    expected = Detector(tiny).detect(squares)
    other = Detector(tiny_detector(tmp_path / "other.onnx", **options)).detect(squares)
    assert other.boxes_xyxy_px == pytest.approx(expected.boxes_xyxy_px)
    assert other.scores == pytest.approx(expected.scores, abs=0.002)
    assert other.classes.tolist() == expected.classes.tolist()


def test_the_golden_model_is_what_its_script_makes(tmp_path: Path, tiny: Path, squares: np.ndarray) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    fresh = Detector(tiny_detector(tmp_path / "fresh.onnx")).detect(squares)
    assert fresh.scores == pytest.approx(Detector(tiny).detect(squares).scores)


def test_candidates_below_the_operating_point_are_kept(tiny: Path, squares: np.ndarray) -> None:
    dim = (squares * 0.2).astype(np.uint8)
    assert len(Detector(tiny, thresholds=Thresholds(candidate=0.03, score=0.25)).detect(dim)) == 2
    assert len(Detector(tiny, thresholds=Thresholds(candidate=0.25, score=0.25)).detect(dim)) == 0


def test_what_is_no_model_is_told_in_one_line(tmp_path: Path, tiny: Path) -> None:
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(tiny.read_bytes()[:700])
    for path in (corrupt, tmp_path / "absent.onnx"):
        with pytest.raises(DetectorError, match=path.name) as told:
            Detector(path)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"names": {0: "red"}}, "raw head \\(1, 5, anchors\\) for 1 classes"),
        ({"metadata": {"task": "segment"}}, "edgecase runs detectors"),
        ({"metadata": {"names": ""}}, "no class names"),
        ({"metadata": {"names": "__import__('os')"}}, "not a table"),
    ],
)
def test_a_model_that_is_no_such_detector_is_refused(tmp_path: Path, options: dict, told: str) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    with pytest.raises(DetectorError, match=told):
        Detector(tiny_detector(tmp_path / "odd.onnx", **options))


def test_a_raw_head_tells_every_classs_probability(tiny: Path, squares: np.ndarray) -> None:
    yellowish = squares.copy()
    yellowish[32:48, 16:32] = (255, 51, 0)
    detections = Detector(tiny).detect(yellowish)
    assert detections.probabilities is not None
    assert detections.probabilities.shape == (2, 2)
    rows = np.arange(2)
    assert detections.probabilities[rows, detections.classes] == pytest.approx(detections.scores)
    assert detections.probabilities[rows, 1 - detections.classes] == pytest.approx(0, abs=1e-6)
    assert Detector(tiny).detect(np.zeros_like(squares)).probabilities.shape == (0, 2)


def test_probabilities_are_of_the_boxes_beside_them(tmp_path: Path) -> None:
    """Among many candidates of which suppression keeps some: each kept row is its own box's."""
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    from support.necked_onnx import necked_detector

    chance = np.random.default_rng(2)
    cells = np.zeros((8, 8, 3))
    cells[..., 0], cells[..., 1] = chance.uniform(60, 250, (8, 8)), chance.uniform(0, 50, (8, 8))
    picture = np.kron(cells, np.ones((16, 16, 1))).astype(np.uint8)
    detections = Detector(necked_detector(tmp_path / "necked.onnx")).detect(picture)
    assert len(detections) == 64
    column, row = (detections.boxes_xyxy_px[:, :2] // 16).astype(int).T
    red, green = picture[row * 16, column * 16, 0] / 255, picture[row * 16, column * 16, 1] / 255
    assert detections.probabilities[:, 0] == pytest.approx(0.9 * (red - green), abs=0.01)
    assert (np.diff(detections.scores) <= 0).all()


def test_an_end_to_end_head_gives_no_probabilities(tmp_path: Path, squares: np.ndarray) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    assert Detector(tiny_detector(tmp_path / "e2e.onnx", end2end=True)).detect(squares).probabilities is None


def with_output(model: Path, out: Path, name: str, *, invalid: bool = False, rank: int = 2) -> Path:
    """The model with the picture's mean colour as a further output; `invalid` takes the root of its negative."""
    import onnx
    from onnx import helper

    proto = onnx.load(model)
    kind = proto.graph.input[0].type.tensor_type.elem_type
    steps: list[tuple[str, dict[str, Any]]] = [("GlobalAveragePool", {})]
    if rank == 2:
        steps.append(("Flatten", {"axis": 1}))
    if invalid:
        steps += [("Neg", {}), ("Sqrt", {})]
    last = "images"
    for step, attributes in steps:
        proto.graph.node.append(helper.make_node(step, [last], [f"{name}_{step}"], **attributes))
        last = f"{name}_{step}"
    proto.graph.node[-1].output[0] = name
    proto.graph.output.append(helper.make_tensor_value_info(name, kind, [1, 3] if rank == 2 else [1, 3, 1, 1]))
    onnx.save(proto, out)
    return out


@pytest.mark.parametrize("options", [{}, {"end2end": True}, {"half": True}], ids=str)
def test_an_output_named_features_comes_with_the_detections(tmp_path: Path, squares: np.ndarray, options: dict) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    plain = tiny_detector(tmp_path / "plain.onnx", **options)
    detector = Detector(with_output(plain, tmp_path / "features.onnx", "features"))
    assert detector.feature_count == 3
    seen = detector.detect(squares)
    assert seen.features == pytest.approx(squares.mean(axis=(0, 1)) / 255, abs=1e-3)
    assert seen.boxes_xyxy_px == pytest.approx(Detector(plain).detect(squares).boxes_xyxy_px)
    other = Detector(with_output(plain, tmp_path / "other.onnx", "attention"))
    assert other.feature_count is None
    assert other.detect(squares).features is None


def test_features_that_are_no_numbers_are_left_out(tmp_path: Path, tiny: Path, squares: np.ndarray) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    seen = Detector(with_output(tiny, tmp_path / "odd.onnx", "features", invalid=True)).detect(squares)
    assert seen.features is None
    assert len(seen) == 2


def test_features_of_another_shape_are_refused(tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    with pytest.raises(DetectorError, match=r"'features' \[1, 3, 1, 1\] is not \(1, D\)"):
        Detector(with_output(tiny, tmp_path / "odd.onnx", "features", rank=4))


@pytest.mark.parametrize(
    "picture", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(tiny: Path, picture: np.ndarray) -> None:
    with pytest.raises(DetectorError, match="uint8 RGB"):
        Detector(tiny).detect(picture)


def test_an_absent_execution_provider_is_named(tiny: Path) -> None:
    with pytest.raises(DetectorError, match="NoSuchExecutionProvider is not in this onnxruntime"):
        Detector(tiny, Runtime(providers=("NoSuchExecutionProvider",)))


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(DetectorError, match="candidate <= score"):
        Thresholds(candidate=0.5, score=0.25)
