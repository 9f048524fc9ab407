"""Real bundles of a few kB around the tiny detector of `tests/golden/`."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgecase_models.bundle import Bundle, pack

TINY_ONNX = Path(__file__).parents[1] / "golden" / "tiny.onnx"


def a_bundle(path: Path, version: str = "1", *, classes: Sequence[str] = ("red", "green")) -> Bundle:
    """A bundle whose golden picture shows one red cell and one green one; another version is another digest."""
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[16:32, 32:48] = (255, 0, 0)
    picture[64:80, 80:96] = (0, 255, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    return pack(
        TINY_ONNX,
        path,
        name="tiny",
        version=version,
        golden_pictures=[picture],
        names=classes,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def rewritten(bundle: Path, out: Path, *, classes: Sequence[str] = (), **members: Callable[[bytes], bytes]) -> Path:
    """The bundle with other classes or members (by stem: `golden`, `model`) and a manifest put right, as a careless packer would."""
    with tarfile.open(bundle) as tar:
        contents = {info.name: tar.extractfile(info).read() for info in tar.getmembers()}  # type: ignore[union-attr]
    manifest = json.loads(contents.pop("manifest.json"))
    manifest["classes"] = list(classes) or manifest["classes"]
    for name, content in list(contents.items()):
        contents[name] = members.get(name.split(".")[0], bytes)(content)
        manifest["files"][name] = {
            "sha256": hashlib.sha256(contents[name]).hexdigest(),
            "size_bytes": len(contents[name]),
        }
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in {"manifest.json": json.dumps(manifest).encode(), **contents}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out


def expecting_more(golden: bytes) -> bytes:
    """Golden data that expects a box which no model sees."""
    with np.load(io.BytesIO(golden)) as arrays:
        found = dict(arrays)
    found["boxes_0"] = np.array([[1, 1, 20, 20]], np.float32)
    found["scores_0"] = np.array([0.9], np.float32)
    found["classes_0"] = np.array([1], np.int32)
    out = io.BytesIO()
    np.savez(out, **found)
    return out.getvalue()
