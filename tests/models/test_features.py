"""Features are a second output of the same file: detections stay as they were, and pictures that are alike have features that are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx comes with [train]")

import onnx

from edgecase_models.bundle import Bundle
from edgecase_models.detections import Detections
from edgecase_models.detector import Detector
from edgecase_models.evaluate import read_rgb
from edgecase_models.features import MAX_DIMENSIONS, FeaturesError, add_features, find_neck, whitening_of
from edgecase_models.quantize import quantize
from support.necked_onnx import necked_detector

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
EXPORTS = sorted((SHARED / "weights").glob("*.onnx"))
PICTURES = sorted((SHARED / "labelled" / "coco-val128" / "images").rglob("*.jpg"))[:10]


def scene(seed: int, level: int = 60) -> np.ndarray:
    """A 128 × 128 picture of coloured cells; pictures of another `level` are another scene."""
    chance = np.random.default_rng(seed)
    cells = chance.integers(level - 40, level + 40, (8, 8, 3))
    cells[chance.integers(0, 8, 4), chance.integers(0, 8, 4)] = (250, 5, 5)
    return np.kron(cells, np.ones((16, 16, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [scene(seed) for seed in range(24)]


def same(a: Detections, b: Detections) -> bool:
    pairs = [(a.boxes_xyxy_px, b.boxes_xyxy_px), (a.scores, b.scores), (a.classes, b.classes)]
    return len(a) > 0 and all(np.array_equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize(
    "form", [{}, {"half": True}, {"branch": "one2one_"}, {"channels": 96}, {"channels": 96, "half": True}], ids=str
)
def test_detections_stay_bit_for_bit_and_features_come_beside_them(
    tmp_path: Path, scenes: list[np.ndarray], form: dict
) -> None:
    plain, out = necked_detector(tmp_path / "plain.onnx", **form), tmp_path / "out.onnx"
    count = add_features(plain, out, scenes)
    assert count == min(MAX_DIMENSIONS, 6 * form.get("channels", 4))
    before, after = Detector(plain), Detector(out)
    assert (before.feature_count, after.feature_count) == (None, count)
    for picture in scenes:
        seen = after.detect(picture)
        assert same(before.detect(picture), seen)
        assert seen.features is not None
        assert seen.features.shape == (count,)
        assert seen.features.dtype == np.float32
    assert before.detect(scenes[0]).features is None


def test_the_files_metadata_survives(tmp_path: Path, scenes: list[np.ndarray]) -> None:
    plain, out = necked_detector(tmp_path / "plain.onnx"), tmp_path / "out.onnx"
    add_features(plain, out, scenes)
    assert onnx.load(out).metadata_props == onnx.load(plain).metadata_props
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [], "no temporary folder stays"


def test_features_are_whitened_on_the_given_pictures(tmp_path: Path, scenes: list[np.ndarray]) -> None:
    add_features(necked_detector(tmp_path / "plain.onnx"), tmp_path / "out.onnx", iter(scenes))
    detector = Detector(tmp_path / "out.onnx")
    features = np.array([detector.detect(picture).features for picture in scenes])
    assert features.mean(axis=0) == pytest.approx(0, abs=1e-4)
    spread = features.std(axis=0)
    assert spread.max() == pytest.approx(1, abs=1e-3)
    assert np.median(spread) == pytest.approx(1, abs=1e-3)


def test_the_projection_keeps_distances(tmp_path: Path, scenes: list[np.ndarray]) -> None:
    """576 pooled values on 256: distances within a quarter of what they were, as Johnson and Lindenstrauss promise."""
    chance = np.random.default_rng(0)
    pooled = chance.normal(3, 2, (40, 576)).astype(np.float32)
    whitening = whitening_of(pooled)
    assert whitening.signs is not None
    assert set(np.unique(whitening.signs)) == {-1, 1}
    white = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    projected = (pooled - whitening.mean) * whitening.scale @ whitening.signs.astype(np.float32)
    first, second = np.triu_indices(40, 1)
    ratio = np.linalg.norm(projected[first] - projected[second], axis=1) / np.linalg.norm(
        white[first] - white[second], axis=1
    )
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert 0.75 < ratio.min() < ratio.max() < 1.25


def test_a_channel_that_hardly_moves_does_not_drown_the_others() -> None:
    pooled = np.random.default_rng(0).normal(0, 1, (40, 16)).astype(np.float32)
    pooled[:, 3] = 5 + pooled[:, 3] * 1e-4
    assert whitening_of(pooled).scale[3] <= 1.5 / 0.1


def test_another_scene_is_further_away_than_another_picture_of_a_known_one(
    tmp_path: Path, scenes: list[np.ndarray]
) -> None:
    add_features(necked_detector(tmp_path / "plain.onnx", channels=96), tmp_path / "out.onnx", scenes)
    detector = Detector(tmp_path / "out.onnx")
    known = np.array([detector.detect(picture).features for picture in scenes])
    like, unlike = (detector.detect(scene(99, level)).features for level in (60, 180))
    nearest = [np.linalg.norm(known - each, axis=1).min() for each in (like, unlike)]
    assert nearest[1] > 2 * nearest[0]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, scenes: list[np.ndarray]) -> None:
    plain = necked_detector(tmp_path / "plain.onnx", channels=96)
    for name in ("a", "b"):
        add_features(plain, tmp_path / f"{name}.onnx", scenes)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_int8_models_have_float_features_whichever_comes_first(tmp_path: Path) -> None:
    scenes = [scene(seed, 45 + 7 * seed) for seed in range(24)]
    plain, both, int8 = (tmp_path / f"{name}.onnx" for name in ("plain", "both", "int8"))
    necked_detector(plain, channels=8)
    add_features(plain, both, scenes)
    expected = np.array([Detector(both).detect(picture).features for picture in scenes])
    quantize(plain, int8, scenes)
    add_features(int8, tmp_path / "int8-features.onnx", scenes)
    quantize(both, tmp_path / "features-int8.onnx", scenes)
    for name in ("int8-features", "features-int8"):
        detector = Detector(tmp_path / f"{name}.onnx")
        found = np.array([detector.detect(picture).features for picture in scenes])
        assert len(np.unique(found)) > 300, "finer than 8 bits"
        cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosines.min() > 0.9, name
    assert same(Detector(int8).detect(scenes[0]), Detector(tmp_path / "int8-features.onnx").detect(scenes[0]))


def test_what_cannot_have_features_is_told_in_one_line(tmp_path: Path, tiny: Path, scenes: list[np.ndarray]) -> None:
    plain = necked_detector(tmp_path / "plain.onnx")
    torn = necked_detector(tmp_path / "torn.onnx", torn=True)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    add_features(plain, tmp_path / "has.onnx", scenes)
    for model, pictures, told in (
        (tiny, scenes, "no detection head with branches named /model.N/cv2.0/"),
        (torn, scenes, "1, 2, 1 tensors feed the levels of /model.5"),
        (broken, scenes, "ONNX Runtime cannot load it"),
        (tmp_path / "has.onnx", scenes, "has an output 'features' already"),
        (plain, scenes[:7], "7 pictures are too few .* at least 8"),
        (plain, [scenes[0]] * 8, "8 pictures are all alike"),
        (plain, [], "0 pictures are too few"),
    ):
        with pytest.raises(FeaturesError, match=told) as error:
            add_features(model, tmp_path / "out.onnx", pictures)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out.onnx").exists()


def test_the_starter_gives_features() -> None:
    """What travels in the repository: 2 × (48 + 96 + 144) pooled channels on 256."""
    bundle = Bundle.open(ROOT / "models" / "starter" / "starter.edgecase.tar")
    detector = bundle.detector()
    assert detector.feature_count == MAX_DIMENSIONS
    features = [detector.detect(picture).features for picture in bundle.golden().pictures]
    assert np.linalg.norm(features[0] - features[1]) > 1


@pytest.mark.slow
@pytest.mark.skipif(not EXPORTS or not PICTURES, reason="needs ../shared: detectors and pictures")
@pytest.mark.parametrize("export", EXPORTS, ids=lambda path: path.stem)
def test_real_exports_see_what_they_saw(tmp_path: Path, export: Path) -> None:
    pictures = [read_rgb(path) for path in PICTURES]
    assert len(find_neck(onnx.load(export).graph, "it").tensors) == 3
    assert add_features(export, tmp_path / "out.onnx", pictures) == MAX_DIMENSIONS
    before, after = Detector(export), Detector(tmp_path / "out.onnx")
    for picture in pictures[:4]:
        seen = after.detect(picture)
        assert same(before.detect(picture), seen)
        assert seen.features is not None
