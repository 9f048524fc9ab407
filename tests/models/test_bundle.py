"""A bundle that opens is whole; one that verifies works on this machine; anything else is refused and named."""

import contextlib
import io
import json
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgecase_models.bundle import MANIFEST, MODEL, Bundle, BundleError, Lineage, pack
from edgecase_models.calibration import CalibrationTable
from edgecase_models.detector import Thresholds

MADE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


TABLE = CalibrationTable(
    knots=np.array([0.0, 1 / 3, 0.9]),
    values=np.array([0.0, 0.1, 0.8]),
    offsets=np.array([0.0, -1.25]),
    quality=np.array([0.5, 0.2]),
    frames=100,
    candidates=1000,
)


@pytest.fixture
def bundle(tmp_path: Path, tiny: Path, squares: np.ndarray) -> Bundle:
    return make(tmp_path / "tiny.edgecase.tar", tiny, squares)


def make(out: Path, tiny: Path, squares: np.ndarray, **options: object) -> Bundle:
    return pack(tiny, out, name="tiny", version="1", golden_pictures=[squares], created_at=MADE, **options)


def rewrite(bundle: Bundle, out: Path, changes: dict[str, bytes | None]) -> Path:
    """The same tar with members replaced, dropped (None) or added."""
    with tarfile.open(bundle.path) as tar:
        contents = {info.name: tar.extractfile(info).read() for info in tar.getmembers()}
    with tarfile.open(out, "w") as tar:
        for name, data in (contents | changes).items():
            if data is not None:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out


def manifest_of(bundle: Bundle) -> dict:
    return msgspec.to_builtins(bundle.manifest)


def test_a_bundle_carries_the_model_and_what_it_is(bundle: Bundle, tiny: Path, squares: np.ndarray) -> None:
    assert bundle.manifest.classes == ["red", "green"]
    assert bundle.model_bytes() == tiny.read_bytes()
    assert bundle.thresholds == Thresholds()
    assert len(bundle.detector().detect(squares)) == 2
    bundle.verify_golden()


def test_the_same_inputs_give_the_same_digest(tmp_path: Path, bundle: Bundle, tiny: Path, squares: np.ndarray) -> None:
    again = make(tmp_path / "again.tar", tiny, squares)
    assert again.digest == bundle.digest
    assert (
        make(tmp_path / "child.tar", tiny, squares, lineage=Lineage(parent_digest=bundle.digest)).digest
        != bundle.digest
    )


def test_any_flipped_byte_is_found(tmp_path: Path, bundle: Bundle) -> None:
    data = bundle.path.read_bytes()
    flipped = tmp_path / "flipped.tar"
    for offset in range(0, len(data), max(1, len(data) // 97)):
        flipped.write_bytes(data[:offset] + bytes([data[offset] ^ 0x40]) + data[offset + 1 :])
        with contextlib.suppress(BundleError):  # padding may differ and still open: the identity then differs too
            assert Bundle.open(flipped).digest != bundle.digest


@pytest.mark.parametrize("kept", [0, 100, 600, 2000, 4000])
def test_a_truncated_bundle_is_refused(tmp_path: Path, bundle: Bundle, kept: int) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(bundle.path.read_bytes()[:kept])
    with pytest.raises(BundleError, match=r"cut\.tar"):
        Bundle.open(cut)


def test_members_are_these_three_and_no_others(tmp_path: Path, bundle: Bundle) -> None:
    for changes in ({"../evil": b"x"}, {MODEL: None}):
        with pytest.raises(BundleError, match="nothing else"):
            Bundle.open(rewrite(bundle, tmp_path / "odd.tar", changes))
    link = tmp_path / "link.tar"
    with tarfile.open(link, "w") as tar:
        info = tarfile.TarInfo(MANIFEST)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(BundleError, match="nothing else"):
        Bundle.open(link)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "edgecase-bundle/9"}, "this version reads"),
        ({"classes": ["red", "red"]}, "occurs twice"),
        ({"classes": []}, "manifest cannot be read"),
        ({"name": "../up"}, "manifest cannot be read"),
        ({"thresholds": {"candidate": 0.9, "score": 0.1, "iou": 0.5}}, "candidate <= score"),
        ({"files": {}}, "its manifest lists"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, bundle: Bundle, change: dict, told: str) -> None:
    text = json.dumps(manifest_of(bundle) | change).encode()
    with pytest.raises(BundleError, match=told):
        Bundle.open(rewrite(bundle, tmp_path / "wrong.tar", {MANIFEST: text}))


def test_a_manifest_that_says_a_key_twice_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    text = json.dumps(manifest_of(bundle)).replace('"name":', '"name": "other", "name":', 1)
    with pytest.raises(BundleError, match="manifest cannot be read: key 'name' occurs twice"):
        Bundle.open(rewrite(bundle, tmp_path / "twice.tar", {MANIFEST: text.encode()}))


def test_unknown_manifest_fields_are_for_later_versions(tmp_path: Path, bundle: Bundle) -> None:
    text = json.dumps(manifest_of(bundle) | {"colour_space": "bt709"}).encode()
    assert Bundle.open(rewrite(bundle, tmp_path / "later.tar", {MANIFEST: text})).manifest.name == "tiny"


def test_a_model_that_sees_something_else_does_not_verify(tmp_path: Path, bundle: Bundle, squares: np.ndarray) -> None:
    pytest.importorskip("onnx", reason="onnx comes with [train]")
    from support.tiny_onnx import tiny_detector

    weak = make(tmp_path / "weak.tar", tiny_detector(tmp_path / "weak.onnx", gain=0.6), squares)
    with tarfile.open(weak.path) as tar:
        model = tar.extractfile(MODEL).read()
    text = manifest_of(bundle) | {"files": manifest_of(bundle)["files"] | {MODEL: manifest_of(weak)["files"][MODEL]}}
    swapped = rewrite(bundle, tmp_path / "swapped.tar", {MODEL: model, MANIFEST: json.dumps(text).encode()})
    with pytest.raises(BundleError, match=r"golden picture 0: class 0 .* is not seen"):
        Bundle.open(swapped).verify_golden()


def test_packing_leaves_nothing_half_done(tmp_path: Path, squares: np.ndarray) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(BundleError, match="cannot load it"):
        pack(broken, tmp_path / "out.tar", name="x", version="1", golden_pictures=[squares])
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


def test_a_bundle_needs_golden_pictures_of_one_size(tmp_path: Path, tiny: Path, squares: np.ndarray) -> None:
    for pictures, told in (([], "at least one"), ([squares, squares[:64]], "one size")):
        with pytest.raises(BundleError, match=told):
            pack(tiny, tmp_path / "out.tar", name="x", version="1", golden_pictures=pictures)


def test_a_bundle_carries_its_calibration(tmp_path: Path, tiny: Path, squares: np.ndarray) -> None:
    opened = Bundle.open(make(tmp_path / "calibrated.tar", tiny, squares, calibration=TABLE).path)
    found = opened.calibration
    assert found is not None
    for name in ("knots", "values", "offsets", "quality", "frames", "candidates", "iou"):
        assert np.array_equal(getattr(found, name), getattr(TABLE, name)), name
    opened.verify_golden()


def test_a_bundle_without_calibration_keeps_its_bytes(bundle: Bundle) -> None:
    assert bundle.calibration is None
    with tarfile.open(bundle.path) as tar:
        assert b"calibration" not in tar.extractfile(MANIFEST).read()


def test_recalibrating_makes_a_child_of_the_same_model(tmp_path: Path, bundle: Bundle) -> None:
    child = bundle.recalibrated(tmp_path / "child.tar", TABLE, version="2", created_at=MADE)
    assert (child.manifest.name, child.manifest.version) == ("tiny", "2")
    assert child.manifest.lineage.parent_digest == bundle.digest
    assert child.manifest.files == bundle.manifest.files
    assert child.calibration is not None
    assert bundle.calibration is None
    with pytest.raises(BundleError, match="manifest cannot be read"):
        bundle.recalibrated(tmp_path / "odd.tar", TABLE, version="../2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["child.tar", "tiny.edgecase.tar"]


def test_a_table_of_other_classes_is_refused(tmp_path: Path, tiny: Path, squares: np.ndarray) -> None:
    table = replace(TABLE, offsets=np.zeros(3), quality=np.zeros(3))
    with pytest.raises(BundleError, match="calibration is of 3 classes, the model has 2"):
        make(tmp_path / "odd.tar", tiny, squares, calibration=table)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"knots": [0.0, 0.9, 0.5]}, "knots must increase"),
        ({"knots": [0.0, 0.5, 1.5]}, "manifest cannot be read"),
        ({"values": [0.0, 0.9, 0.5]}, "values must not decrease"),
        ({"values": [0.0, 0.9]}, "as many values"),
        ({"values": []}, "manifest cannot be read"),
        ({"knots": list(np.linspace(0, 1, 21)), "values": [0.5] * 21}, "manifest cannot be read"),
        ({"offsets": [0.0, 99.0]}, "manifest cannot be read"),
        ({"offsets": [0.0]}, "1 offsets and 2 qualities"),
        ({"quality": [0.5, "high"]}, "manifest cannot be read"),
        ({"iou": 0.0}, "iou must lie in"),
        ({"frames": 0}, "manifest cannot be read"),
    ],
)
def test_a_wrong_calibration_is_refused(
    tmp_path: Path, tiny: Path, squares: np.ndarray, change: dict, told: str
) -> None:
    calibrated = make(tmp_path / "calibrated.tar", tiny, squares, calibration=TABLE)
    manifest = manifest_of(calibrated)
    manifest["calibration"] |= change
    with pytest.raises(BundleError, match=told):
        Bundle.open(rewrite(calibrated, tmp_path / "wrong.tar", {MANIFEST: json.dumps(manifest).encode()}))


def test_the_golden_bundle_of_version_1_still_opens_and_verifies() -> None:
    golden = Bundle.open(Path(__file__).parents[1] / "golden" / "bundle-v1.edgecase.tar")
    assert golden.calibration is None
    assert golden.manifest.format == "edgecase-bundle/1"
    golden.verify_golden()
