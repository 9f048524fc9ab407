"""A model as it travels: one file that names its classes, input, thresholds and lineage, and proves itself on golden pictures."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from edgecase_models.boxes import iou_matrix
from edgecase_models.calibration import MAX_KNOTS, MAX_OFFSET, CalibrationError, CalibrationTable
from edgecase_models.detections import Detections, DetectionsError
from edgecase_models.detector import Detector, DetectorError, Rgb, Runtime, Thresholds
from edgecase_models.keys import check_keys

FORMAT: Final = "edgecase-bundle/1"
MANIFEST, MODEL, GOLDEN = "manifest.json", "model.onnx", "golden.npz"
MAX_BUNDLE_BYTES: Final = 2_000_000_000
MAX_MANIFEST_BYTES: Final = 1_000_000
GOLDEN_IOU: Final = 0.9

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Curve = Annotated[list[Share], Meta(min_length=2, max_length=MAX_KNOTS)]


class BundleError(ValueError):
    """A bundle that must not run; keep the incumbent."""


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """What the model wants to see: RGB, 0 to 1, letterboxed with grey 114. A dynamic model has no height and width."""

    height_px: int | None
    width_px: int | None
    long_side_px: int
    stride_px: int


class ManifestThresholds(msgspec.Struct, frozen=True):
    """See `detector.Thresholds`."""

    candidate: float = 0.03
    score: float = 0.25
    iou: float = 0.7


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the model comes from: the bundle it was trained on from, the dataset version, the training run."""

    parent_digest: str = ""
    dataset_id: str = ""
    run: str = ""


class Tolerance(msgspec.Struct, frozen=True):
    """How far golden scores may lie apart on another processor; boxes must overlap by `GOLDEN_IOU`."""

    score: float = 0.05


class Member(msgspec.Struct, frozen=True):
    """One file of the bundle."""

    sha256: Sha256
    size_bytes: int


class ManifestCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """See `calibration.CalibrationTable`; `offsets` and `quality` in the order of the classes."""

    iou: Share
    frames: Count
    candidates: Count
    knots: Curve
    values: Curve
    offsets: list[Annotated[float, Meta(ge=-MAX_OFFSET, le=MAX_OFFSET)]]
    quality: list[Share]

    @classmethod
    def of(cls, table: CalibrationTable) -> ManifestCalibration:
        """The table as the manifest carries it."""
        return cls(
            iou=table.iou,
            frames=table.frames,
            candidates=table.candidates,
            knots=table.knots.tolist(),
            values=table.values.tolist(),
            offsets=table.offsets.tolist(),
            quality=table.quality.tolist(),
        )

    def table(self) -> CalibrationTable:
        """The table; `CalibrationError` where it is none."""
        return CalibrationTable(
            knots=np.array(self.knots),
            values=np.array(self.values),
            offsets=np.array(self.offsets),
            quality=np.array(self.quality),
            frames=self.frames,
            candidates=self.candidates,
            iou=self.iou,
        )


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle's own description; `models/README.md` specifies it."""

    format: str = FORMAT
    name: Name
    version: Name
    created_at: datetime
    classes: Annotated[list[str], Meta(min_length=1, max_length=10_000)]
    input: Input
    head: str
    thresholds: ManifestThresholds
    lineage: Lineage = Lineage()
    license: str = ""
    metrics: dict[str, float] = {}
    tolerance: Tolerance = Tolerance()
    # Left out where there is none, so that such a bundle keeps the bytes, and the digest, that it always had.
    calibration: ManifestCalibration | UnsetType = UNSET
    files: dict[str, Member]


@dataclass(frozen=True, eq=False)
class Golden:
    """Pictures with the detections that the packer's machine gave for them."""

    pictures: tuple[Rgb, ...]
    expected: tuple[Detections, ...]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was held against its manifest. `digest` is the sha256 of the whole file: the model's identity."""

    path: Path
    digest: str
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read and verify; `BundleError` names what is wrong and what to do."""
        if not path.is_file():
            raise BundleError(f"bundle {path}: no such file")
        size = path.stat().st_size
        if size > MAX_BUNDLE_BYTES:
            raise BundleError(f"bundle {path}: {size} bytes exceed the limit of {MAX_BUNDLE_BYTES}")
        try:
            with tarfile.open(path, "r:") as tar:
                members = _members(tar, path)
                manifest = _manifest(_read(tar, members[MANIFEST], MAX_MANIFEST_BYTES, path), path)
                if set(manifest.files) != set(members) - {MANIFEST}:
                    raise BundleError(
                        f"bundle {path}: holds {sorted(members)}, its manifest lists {sorted(manifest.files)}"
                    )
                for name, member in manifest.files.items():
                    _verify_member(tar, members[name], member, path)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise BundleError(f"bundle {path}: not a readable bundle ({error}); delete it to fetch it again") from error
        return cls(path, sha256_of(path), manifest)

    @property
    def thresholds(self) -> Thresholds:
        """The operating point that the model was packed with."""
        limits = self.manifest.thresholds
        return Thresholds(limits.candidate, limits.score, limits.iou)

    @property
    def calibration(self) -> CalibrationTable | None:
        """What the model's scores are worth; None where nobody has measured it."""
        given = self.manifest.calibration
        return None if isinstance(given, UnsetType) else given.table()

    def model_bytes(self) -> bytes:
        """The ONNX file."""
        return self._member(MODEL)

    def detector(self, runtime: Runtime = Runtime(), thresholds: Thresholds | None = None) -> Detector:
        """The model, loaded; `BundleError` where it cannot be or does not fit its manifest."""
        try:
            detector = Detector(self.model_bytes(), runtime, thresholds or self.thresholds, names=self.manifest.classes)
        except DetectorError as error:
            raise BundleError(f"bundle {self.path}: {error}") from error
        if detector.input_hw_px is not None and detector.input_hw_px != (
            self.manifest.input.height_px,
            self.manifest.input.width_px,
        ):
            raise BundleError(f"bundle {self.path}: the model's input {detector.input_hw_px} is not the manifest's")
        return detector

    def golden(self) -> Golden:
        """The golden pictures with their expected detections."""
        try:
            with np.load(io.BytesIO(self._member(GOLDEN)), allow_pickle=False) as arrays:
                pictures = tuple(np.asarray(picture, np.uint8) for picture in arrays["pictures"])
                expected = tuple(
                    Detections(arrays[f"boxes_{i}"], arrays[f"scores_{i}"], arrays[f"classes_{i}"])
                    for i in range(len(pictures))
                )
        except (ValueError, KeyError, OSError, EOFError, DetectionsError) as error:
            raise BundleError(f"bundle {self.path}: golden data cannot be read ({error})") from error
        return Golden(pictures, expected)

    def verify_golden(self, runtime: Runtime = Runtime()) -> None:
        """Run the model on its golden pictures here; `BundleError` where it does not see what it saw when it was packed."""
        detector, golden = self.detector(runtime), self.golden()
        for index, (picture, expected) in enumerate(zip(golden.pictures, golden.expected, strict=True)):
            difference = _difference(
                expected, detector.detect(picture), self.thresholds.score, self.manifest.tolerance.score
            )
            if difference:
                raise BundleError(
                    f"bundle {self.path}: golden picture {index}: {difference}; the model does not work on this machine"
                )

    def recalibrated(
        self, out: Path, calibration: CalibrationTable, *, version: str, created_at: datetime | None = None
    ) -> Bundle:
        """The same model and golden pictures with this table, written to `out` as a new version whose parent is this bundle.

        Raises `BundleError` where the table does not fit the classes, `version` is no such name, or the model fails its golden pictures.
        """
        manifest = msgspec.structs.replace(
            self.manifest,
            version=version,
            created_at=created_at or _now(),
            lineage=msgspec.structs.replace(self.manifest.lineage, parent_digest=self.digest),
            calibration=ManifestCalibration.of(calibration),
        )
        return _write(manifest, {name: self._member(name) for name in (MODEL, GOLDEN)}, out)

    def _member(self, name: str) -> bytes:
        with tarfile.open(self.path, "r:") as tar:
            data = tar.extractfile(name)
            assert data is not None, "open() verified the members"
            return data.read()


def pack(
    model: Path,
    out: Path,
    *,
    name: str,
    version: str,
    golden_pictures: Sequence[Rgb],
    thresholds: Thresholds = Thresholds(),
    lineage: Lineage = Lineage(),
    metrics: dict[str, float] | None = None,
    license: str = "",  # noqa: A002 (the field's name in the manifest)
    names: Sequence[str] | None = None,
    calibration: CalibrationTable | None = None,
    created_at: datetime | None = None,
) -> Bundle:
    """Make a bundle of an ONNX export and at least one golden picture (H, W, 3) uint8 RGB, all of one size.

    `calibration` must be of this very model, and have an offset and a quality for each of its classes. The same arguments give the same
    bytes. Written under a temporary name and moved into place when it has been verified.
    """
    if not golden_pictures:
        raise BundleError("a bundle needs at least one golden picture, on which every device can check the model")
    if len({picture.shape for picture in golden_pictures}) != 1:
        raise BundleError("golden pictures must all have one size")
    try:
        detector = Detector(model, thresholds=thresholds, names=names)
        expected = [detector.detect(picture) for picture in golden_pictures]
    except DetectorError as error:
        raise BundleError(str(error)) from error
    contents = {MODEL: model.read_bytes(), GOLDEN: _golden_bytes(golden_pictures, expected)}
    height_px, width_px = detector.input_hw_px or (None, None)
    manifest = Manifest(
        name=name,
        version=version,
        created_at=created_at or _now(),
        classes=list(detector.names),
        input=Input(
            height_px=height_px, width_px=width_px, long_side_px=detector.long_side_px, stride_px=detector.stride_px
        ),
        head="end2end" if detector.end2end else "raw",
        thresholds=ManifestThresholds(thresholds.candidate, thresholds.score, thresholds.iou),
        lineage=lineage,
        license=license,
        metrics=metrics or {},
        calibration=UNSET if calibration is None else ManifestCalibration.of(calibration),
        files={key: Member(hashlib.sha256(data).hexdigest(), len(data)) for key, data in contents.items()},
    )
    return _write(manifest, contents, out)


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _write(manifest: Manifest, contents: dict[str, bytes], out: Path) -> Bundle:
    """Write the bundle beside `out` and give it its name when the model has passed its golden pictures."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    _manifest(text, out)
    part = out.with_name(out.name + ".part")
    with part.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for key, data in {MANIFEST: text, **contents}.items():
                info = tarfile.TarInfo(key)
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())
    try:
        Bundle.open(part).verify_golden()
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Bundle.open(out)


def _members(tar: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    infos = tar.getmembers()
    members = {info.name: info for info in infos if info.isreg()}
    if len(members) != len(infos) or set(members) != {MANIFEST, MODEL, GOLDEN}:
        raise BundleError(f"bundle {path}: must hold {MANIFEST}, {MODEL} and {GOLDEN}, once each, and nothing else")
    return members


def _read(tar: tarfile.TarFile, info: tarfile.TarInfo, limit_bytes: int, path: Path) -> bytes:
    if info.size > limit_bytes:
        raise BundleError(f"bundle {path}: {info.name} of {info.size} bytes exceeds {limit_bytes}")
    data = tar.extractfile(info)
    assert data is not None, "a regular file"
    return data.read()


def _manifest(text: bytes, path: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
        check_keys(text)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BundleError(f"bundle {path}: manifest cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise BundleError(f"bundle {path}: format {manifest.format!r}; this version reads {FORMAT}")
    if len(set(manifest.classes)) != len(manifest.classes):
        raise BundleError(f"bundle {path}: a class name occurs twice")
    limits = manifest.thresholds
    try:
        Thresholds(limits.candidate, limits.score, limits.iou)
    except DetectorError as error:
        raise BundleError(f"bundle {path}: {error}") from error
    if not isinstance(manifest.calibration, UnsetType):
        _check_calibration(manifest.calibration, len(manifest.classes), path)
    return manifest


def _check_calibration(calibration: ManifestCalibration, classes: int, path: Path) -> None:
    try:
        table = calibration.table()
    except CalibrationError as error:
        raise BundleError(f"bundle {path}: calibration: {error}") from error
    if len(table.offsets) != classes:
        raise BundleError(f"bundle {path}: calibration is of {len(table.offsets)} classes, the model has {classes}")


def _verify_member(tar: tarfile.TarFile, info: tarfile.TarInfo, member: Member, path: Path) -> None:
    data = tar.extractfile(info)
    assert data is not None, "a regular file"
    digest = hashlib.sha256()
    while block := data.read(1 << 20):
        digest.update(block)
    if info.size != member.size_bytes or digest.hexdigest() != member.sha256:
        raise BundleError(f"bundle {path}: {info.name} differs from its manifest; delete it to fetch it again")


def _golden_bytes(pictures: Sequence[Rgb], expected: Sequence[Detections]) -> bytes:
    arrays: dict[str, Any] = {"pictures": np.stack(pictures)}
    for index, detections in enumerate(expected):
        arrays |= {
            f"boxes_{index}": detections.boxes_xyxy_px,
            f"scores_{index}": detections.scores,
            f"classes_{index}": detections.classes,
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _difference(expected: Detections, seen: Detections, score: float, tolerance: float) -> str:
    """Empty where each detection that is clear of the operating point on one side has its partner on the other."""
    for ours, theirs, side in ((expected, seen, "is not seen"), (seen, expected, "is new")):
        clear = ours.above(min(score + tolerance, 0.999))
        if not len(clear):
            continue
        alike = (
            (iou_matrix(clear.boxes_xyxy_px, theirs.boxes_xyxy_px) >= GOLDEN_IOU)
            & (clear.classes[:, None] == theirs.classes[None])
            & (np.abs(clear.scores[:, None] - theirs.scores[None]) <= tolerance)
        )
        if not alike.any(axis=1).all():
            missing = int(np.flatnonzero(~alike.any(axis=1))[0])
            return f"class {clear.classes[missing]} at {np.round(clear.boxes_xyxy_px[missing]).tolist()} {side}"
    return ""
