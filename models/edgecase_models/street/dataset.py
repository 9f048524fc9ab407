"""Labelled pictures of simulated streets in the layout that Ultralytics reads, with a manifest of where each came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np

from edgecase_models.street.camera import Bytes
from edgecase_models.street.spec import CLASSES, StreetError, StreetSpec
from edgecase_models.street.street import Street, pose_of
from edgecase_models.street.truth import Truth

JPEG_QUALITY = 92

FIRST_FRAME_AT = datetime(2026, 1, 1, tzinfo=UTC)
"""When frame 0 of every simulated street is said to have been captured."""

Sample = tuple[StreetSpec, int]
"""One picture: the camera and the frame's index."""


@dataclass(frozen=True)
class Rendered:
    """What `render_dataset` wrote: the file that training reads, and how many pictures and boxes."""

    data_yaml: Path
    pictures: int
    boxes: int


def plan_samples(
    count: int,
    seeds: Sequence[int],
    scenes: Sequence[str],
    size_px: tuple[int, int] = (640, 360),
    spacing_s: float = 4.0,
    fps: float = 10.0,
) -> list[Sample]:
    """`count` samples spread evenly over every seed in every scene, `spacing_s` seconds apart, one street after the other.

    Raises:
        StreetError: no seeds or scenes, a spacing that is not positive, or a field that does not fit a StreetSpec.
    """
    if not seeds or not scenes or count < 0:
        raise StreetError(f"{count} pictures of {len(seeds)} seeds in {len(scenes)} scenes cannot be planned")
    if not spacing_s > 0.0:
        raise StreetError(f"spacing={spacing_s:g}: must be above 0 seconds")
    width_px, height_px = size_px
    streets = [StreetSpec(seed, scene, width_px, height_px, fps) for seed in seeds for scene in scenes]
    samples = []
    for number, spec in enumerate(streets):
        share = count * (number + 1) // len(streets) - count * number // len(streets)
        samples += [(spec, round((place + 1) * spacing_s * fps)) for place in range(share)]
    return samples


def render_dataset(folder: Path | str, samples: Iterable[Sample], split: str) -> Rendered:
    """Write pictures and labels of one split (images/<split>/*.jpg, labels/<split>/*.txt), data.yaml and manifest.jsonl.

    Other splits already in `folder` stay; what the manifest said of this split is replaced. Each line of the manifest
    has image, split, condition, device, captured_at, index, seed, scene and sha256 (of the JPEG).

    Raises:
        StreetError: `split` is no plain name, or pictures of it are in `folder` already.
    """
    root = Path(folder)
    images, labels = root / "images" / split, root / "labels" / split
    if not split.isidentifier():
        raise StreetError(f"split={split!r} is no plain name such as train or val")
    if images.exists() and any(images.iterdir()):
        raise StreetError(f"{images} holds pictures already; choose another folder or split")
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    rows, boxes = [], 0
    street: Street | None = None
    for number, (spec, index) in enumerate(samples):
        if street is None or street.spec != spec:
            street = Street(spec)
        picture, truth = street.frame(index)
        device = f"street-{spec.seed}-{pose_of(spec)}"
        name = f"{number:05d}-{device}-{truth.condition}-{index:06d}"
        jpeg = encode_jpeg(picture)
        (images / f"{name}.jpg").write_bytes(jpeg)
        (labels / f"{name}.txt").write_text(label_text(truth, spec.width_px, spec.height_px), encoding="utf-8")
        rows.append(_manifest_row(f"images/{split}/{name}.jpg", split, device, spec, index, truth.condition, jpeg))
        boxes += len(truth)
    _write_manifest(root / "manifest.jsonl", split, rows)
    data_yaml = root / "data.yaml"
    data_yaml.write_text(_data_text(root, split), encoding="utf-8")
    return Rendered(data_yaml, len(rows), boxes)


def encode_jpeg(picture: Bytes) -> bytes:
    """An RGB picture (H,W,3) as a JPEG file."""
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(encoded.tobytes())


def label_text(truth: Truth, width_px: int, height_px: int) -> str:
    """One line for each box: class, then centre x, centre y, width and height as shares of the picture."""
    size = np.array([width_px, height_px, width_px, height_px], np.float64)
    corners = truth.boxes_xyxy_px.astype(np.float64) / size
    lines = []
    for kind, (x0, y0, x1, y1) in zip(truth.classes.tolist(), corners.tolist(), strict=True):
        lines.append(f"{kind} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n")
    return "".join(lines)


def _manifest_row(
    image: str, split: str, device: str, spec: StreetSpec, index: int, condition: str, jpeg: bytes
) -> str:
    captured_at = FIRST_FRAME_AT + timedelta(seconds=spec.second(index))
    return json.dumps(
        {
            "image": image,
            "split": split,
            "condition": condition,
            "device": device,
            "captured_at": captured_at.isoformat(),
            "index": index,
            "seed": spec.seed,
            "scene": spec.scene,
            "sha256": hashlib.sha256(jpeg).hexdigest(),
        }
    )


def _write_manifest(path: Path, split: str, rows: list[str]) -> None:
    kept = []
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["split"] != split]
    path.write_text("".join(f"{line}\n" for line in (*kept, *rows)), encoding="utf-8")


def _data_text(root: Path, split: str) -> str:
    """Splits that are missing point to `split`, since Ultralytics wants both train and val."""
    there = {folder.name for folder in (root / "images").iterdir()}
    lines = [f"{name}: images/{name if name in there else split}" for name in ("train", "val")]
    lines += [f"{name}: images/{name}" for name in sorted(there - {"train", "val"})]
    return "\n".join([*lines, "names:", *(f"  {number}: {name}" for number, name in enumerate(CLASSES))]) + "\n"
