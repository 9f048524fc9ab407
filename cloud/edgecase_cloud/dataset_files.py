"""A dataset version on disk: written once, read by Ultralytics as it lies, and known by the digest of everything in it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from edgecase_cloud import durable
from edgecase_cloud.errors import Unusable

FORMAT: Final = "edgecase-dataset/1"
MANIFEST, DATA_YAML = "manifest.jsonl", "data.yaml"
SPLITS: Final = ("train", "val", "test")
_WRITING: Final = ".writing"
_IGNORED: Final = frozenset({".cache", ".npy"})  # what Ultralytics leaves beside the pictures it has read


class DatasetError(Unusable):
    """Pictures or labels that no dataset version can be made of; the message names the file and what to do."""


class Altered(DatasetError):
    """A dataset version is not what its id says. Restore it or build it again; nothing is learnt from it."""


class Picture(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of `manifest.jsonl`. `image` and its label file are relative to the version's folder."""

    image: str
    split: str
    sha256: str
    label_sha256: str
    width_px: int
    height_px: int
    boxes: int = 0
    condition: str = ""
    device: str = ""
    camera: str = ""
    captured_at: str = ""
    frame_id: str = ""

    @property
    def label(self) -> str:
        """The label file, relative to the version's folder."""
        folder, _, name = self.image.removeprefix("images/").rpartition("/")
        return f"labels/{folder}/{name.rpartition('.')[0]}.txt"


@dataclass(frozen=True)
class Box:
    """A labelled object: class index and normalised centre and size."""

    cls: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class LabelledPicture:
    """A picture on its way into a version. `stem` names its files; `content` are its bytes as they came."""

    stem: str
    suffix: str
    content: bytes
    split: str
    width_px: int
    height_px: int
    boxes: tuple[Box, ...]
    condition: str = ""
    device: str = ""
    camera: str = ""
    captured_at: str = ""
    frame_id: str = ""


@dataclass(frozen=True)
class DatasetFolder:
    """A version as it lies on disk, its manifest read."""

    path: Path
    id: str
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]

    @classmethod
    def read(cls, path: Path) -> DatasetFolder:
        """Read the manifest; `Altered` where it is gone or cannot be read. `verify` checks every file."""
        try:
            manifest = (path / MANIFEST).read_bytes()
            classes = _classes_in((path / DATA_YAML).read_bytes())
            pictures = tuple(msgspec.json.decode(line, type=Picture) for line in manifest.splitlines())
        except FileNotFoundError as error:
            raise Altered(f"dataset {path.name[:12]}: {error.filename} is missing; {_CURE}") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise Altered(f"dataset {path.name[:12]}: {path / MANIFEST} cannot be read ({error}); {_CURE}") from error
        return cls(path, digest_of(classes, manifest), classes, pictures)

    def verify(self) -> None:
        """Hold every file against the id that is the folder's name; `Altered` names the first that differs."""
        label = f"dataset {self.path.name[:12]}"
        if self.id != self.path.name:
            raise Altered(f"{label}: {MANIFEST} or {DATA_YAML} was altered (now {self.id[:12]}); {_CURE}")
        if (self.path / DATA_YAML).read_bytes() != data_yaml(self.classes, {each.split for each in self.pictures}):
            raise Altered(f"{label}: {DATA_YAML} was altered; {_CURE}")
        listed = {MANIFEST, DATA_YAML}
        for picture in self.pictures:
            for name, sha256 in ((picture.image, picture.sha256), (picture.label, picture.label_sha256)):
                listed.add(name)
                if _sha256_of(self.path / name) != sha256:
                    raise Altered(f"{label}: {self.path / name} was altered or is missing; {_CURE}")
        for extra in sorted(self._files() - listed):
            raise Altered(f"{label}: {self.path / extra} does not belong to it; {_CURE}")

    def of_split(self, split: str) -> tuple[Picture, ...]:
        """The pictures of one split."""
        return tuple(each for each in self.pictures if each.split == split)

    def summary(self) -> dict[str, Any]:
        """Counts per split, class, condition and device."""
        per_class: Counter[str] = Counter()
        for picture in self.pictures:
            for line in (self.path / picture.label).read_text().splitlines():
                per_class[self.classes[int(line.split(maxsplit=1)[0])]] += 1
        return {
            "splits": dict(Counter(each.split for each in self.pictures)),
            "classes": {name: per_class[name] for name in self.classes if per_class[name]},
            "conditions": dict(sorted(Counter(each.condition for each in self.pictures if each.condition).items())),
            "devices": dict(sorted(Counter(each.device for each in self.pictures if each.device).items())),
            "backgrounds": sum(1 for each in self.pictures if not each.boxes),
        }

    def _files(self) -> set[str]:
        return {
            file.relative_to(self.path).as_posix()
            for file in self.path.rglob("*")
            if file.is_file() and file.suffix not in _IGNORED
        }


_CURE: Final = "restore its folder from a copy, or remove it and build or import the dataset again"


class DatasetWriter:
    """A version being written under a temporary name. `finish` gives it its id; without it nothing stays."""

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self._root = root
        self._classes = tuple(classes)
        self._partial = root / f".{uuid4().hex}.part"
        self._pictures: list[Picture] = []
        self._seen: set[str] = set()
        self._lock = durable.exclusive(root / _WRITING, shared=True)

    def __enter__(self) -> DatasetWriter:
        self._lock.__enter__()
        self._partial.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._lock.__exit__(None, None, None)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """What is in it so far."""
        return tuple(self._pictures)

    def add(self, picture: LabelledPicture) -> bool:
        """Write a picture and its labels, synced; False where the same bytes are in it already."""
        sha256 = hashlib.sha256(picture.content).hexdigest()
        if sha256 in self._seen:
            return False
        self._seen.add(sha256)
        image = f"images/{picture.split}/{picture.stem}{picture.suffix}"
        label = label_text(picture.boxes)
        entry = Picture(
            image=image,
            split=picture.split,
            sha256=sha256,
            label_sha256=hashlib.sha256(label).hexdigest(),
            width_px=picture.width_px,
            height_px=picture.height_px,
            boxes=len(picture.boxes),
            condition=picture.condition,
            device=picture.device,
            camera=picture.camera,
            captured_at=picture.captured_at,
            frame_id=picture.frame_id,
        )
        _write_synced(self._partial / image, picture.content)
        _write_synced(self._partial / entry.label, label)
        self._pictures.append(entry)
        return True

    def take_over(self, other: DatasetFolder, picture: Picture) -> None:
        """Link a picture and its labels from another version, as they are."""
        for name, sha256 in ((picture.image, picture.sha256), (picture.label, picture.label_sha256)):
            if _sha256_of(other.path / name) != sha256:
                raise Altered(f"dataset {other.path.name[:12]}: {other.path / name} was altered or is missing; {_CURE}")
            (self._partial / name).parent.mkdir(parents=True, exist_ok=True)
            durable.link(other.path / name, self._partial / name)
        self._pictures.append(picture)

    def finish(self) -> DatasetFolder:
        """Give the version its final name, durably. One with the same content that is there already is kept as it is."""
        self._pictures.sort(key=lambda each: each.image)
        manifest = b"".join(msgspec.json.encode(each, order="sorted") + b"\n" for each in self._pictures)
        _write_synced(self._partial / MANIFEST, manifest)
        splits = {each.split for each in self._pictures}
        _write_synced(self._partial / DATA_YAML, data_yaml(self._classes, splits))
        path = self._root / digest_of(self._classes, manifest)
        if not path.exists():
            try:
                durable.publish_folder(self._partial, path)
                return DatasetFolder.read(path)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise  # else another process was quicker with the same content
        existing = DatasetFolder.read(path)
        existing.verify()
        return existing


def without(folder: DatasetFolder, unwanted: AbstractSet[str]) -> DatasetFolder | None:
    """The version that has all pictures of this one but those with these sha256; None where nothing would be left of it.

    The files are linked, not copied. `Altered` where one of them is not what the manifest says.
    """
    left = [each for each in folder.pictures if each.sha256 not in unwanted]
    if not left:
        return None
    with DatasetWriter(folder.path.parent, folder.classes) as writer:
        for picture in left:
            writer.take_over(folder, picture)
        return writer.finish()


def digest_of(classes: Sequence[str], manifest: bytes) -> str:
    """The id of a version: sha256 of the format, the class list and the manifest, which holds the sha256 of every file."""
    head = f"{FORMAT}\n{json.dumps(list(classes), ensure_ascii=False)}\n"
    return hashlib.sha256(head.encode() + manifest).hexdigest()


def data_yaml(classes: Sequence[str], splits: Iterable[str]) -> bytes:
    """What Ultralytics reads. It has no `path`: without one, the pictures are looked for beside the file itself, wherever it is moved.

    Ultralytics wants both train and val, so a version with one of them names it for both.
    """
    present = [split for split in SPLITS if split in set(splits)]
    lines = [
        f"train: images/{'train' if 'train' in present else present[0]}",
        f"val: images/{'val' if 'val' in present else present[0]}",
    ]
    lines += ["test: images/test"] if "test" in present else []
    lines += ["names:", *(f"  {index}: {json.dumps(name)}" for index, name in enumerate(classes))]
    return ("\n".join(lines) + "\n").encode()


def label_text(boxes: Iterable[Box]) -> bytes:
    """A label file: one `class x y width height` per line, sorted, so that the order of drawing does not change the version."""
    rows = sorted({f"{b.cls} {b.x:.6f} {b.y:.6f} {b.width:.6f} {b.height:.6f}" for b in boxes}, key=_by_class)
    return "".join(f"{row}\n" for row in rows).encode()


@contextmanager
def nothing_written(root: Path) -> Iterator[None]:
    """Wait until no version is being written, and let none begin meanwhile."""
    with durable.exclusive(root / _WRITING):
        yield


def sweep(root: Path) -> int:
    """Remove what was left of versions whose process died while it wrote them; nothing while any is being written."""
    try:
        with durable.exclusive(root / _WRITING, wait=False):
            found = list(root.glob(".*.part"))
            for each in found:
                shutil.rmtree(each, ignore_errors=True)
            return len(found)
    except durable.Busy:
        return 0


def _by_class(row: str) -> tuple[int, str]:
    return int(row.split(maxsplit=1)[0]), row


def _classes_in(text: bytes) -> tuple[str, ...]:
    names = [line.partition(": ")[2] for line in text.decode().splitlines() if line.startswith("  ")]
    return tuple(str(json.loads(name)) for name in names)


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _write_synced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
