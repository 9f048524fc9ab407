"""Dataset versions: imported from a folder or built from annotations, immutable, the same input giving the same id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgecase_cloud import splits
from edgecase_cloud.catalogue import Annotation, Catalogue, Dataset, Delivery, Frame, ObjectClass, Review
from edgecase_cloud.dataset_files import (
    Box,
    DatasetError,
    DatasetFolder,
    DatasetWriter,
    LabelledPicture,
)
from edgecase_cloud.decoding import decoder
from edgecase_cloud.splits import Shot, Split, SplitRule
from edgecase_cloud.store import NotFound
from edgecase_models.evaluate import EvaluationError, Layout, read_labels, read_manifest

Progress = Callable[[int, int], None]
"""Called with how many are done, of how many."""

DEFAULT_RULE: Final = SplitRule()
MIN_SIDE: Final = 1e-6  # of the picture; below it six decimals write a side of nothing


class Kind(StrEnum):
    """BASE is what the first model learnt from, LABELLED came back from devices, GOLDEN is never learnt from: it judges."""

    BASE = "base"
    LABELLED = "labelled"
    GOLDEN = "golden"


class Pictures(Protocol):
    """Where acknowledged frames lie: the object store. `get` raises `store.NotFound` where there is no such object."""

    def get(self, key: str, /) -> bytes: ...


@dataclass(frozen=True)
class Excluded:
    """A labelled frame that is not in the version, and why."""

    frame_id: str
    reason: str


@dataclass(frozen=True)
class Built:
    """A version; `created` is false where the same one was there already."""

    dataset: Dataset
    created: bool
    excluded: tuple[Excluded, ...] = ()


def root(data: Path) -> Path:
    """Where the versions of a data folder lie."""
    return data / "datasets"


def class_names(session: Session) -> tuple[str, ...]:
    """The class table, by index."""
    return tuple(session.scalars(sa.select(ObjectClass.name).order_by(ObjectClass.index)))


def add_classes(catalogue: Catalogue, names: Sequence[str]) -> dict[str, int]:
    """The index of each name; those that the table lacks are appended in the order given. Indices never change."""
    for _ in range(5):
        try:
            with catalogue.session.begin() as session:
                known = {row.name: row.index for row in session.scalars(sa.select(ObjectClass))}
                for name in names:
                    if name not in known:
                        known[name] = max(known.values(), default=-1) + 1
                        session.add(ObjectClass(index=known[name], name=name))
            return {name: known[name] for name in names}
        except IntegrityError:  # another process appended at the same moment; its rows count
            continue
    raise DatasetError("the class table is being changed by another process; run the command again")


def import_folder(
    data: Path,
    catalogue: Catalogue,
    folder: Path,
    *,
    name: str,
    kind: Kind,
    only: Sequence[str] = (),
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Take a folder in Ultralytics layout in as a version; its pictures are copied, so the folder may go afterwards.

    `only` names the splits to take, all by default. Class names are matched with the class table by name and appended where they are new;
    boxes without area are dropped and counted. Raises `DatasetError` naming the file that is missing, wrong or cannot be read.
    """
    if kind is Kind.LABELLED:
        raise DatasetError("a labelled version is built from annotations; import with --kind base or --kind golden")
    try:
        layout = Layout.read(folder)
        wanted = _pictures_of(layout, only)
        with catalogue.session() as session:
            classes = list(class_names(session))
        classes += [each for each in dict.fromkeys(layout.names) if each not in classes]
        with DatasetWriter(root(data), classes) as writer:
            taken = _take(writer, layout, wanted, [classes.index(each) for each in layout.names], progress)
            if taken.unreadable and not (skip_unreadable and writer.pictures):
                shown = "; ".join(taken.unreadable[:3]) + ("; …" if len(taken.unreadable) > 3 else "")
                raise DatasetError(
                    f"{folder}: {len(taken.unreadable)} of {len(wanted)} pictures cannot be used ({shown}); remove them or pass "
                    "--skip-unreadable"
                )
            if any(classes[index] != each for each, index in add_classes(catalogue, layout.names).items()):
                raise DatasetError("another process added classes meanwhile; import again")
            version = writer.finish()
    except EvaluationError as error:
        raise DatasetError(str(error)) from error
    notes = {
        "boxes_without_area": taken.without_area,
        "unreadable": taken.unreadable,
        "duplicates": taken.duplicates,
        "source": str(folder),
    }
    return _record(catalogue, version, name, kind, {key: value for key, value in notes.items() if value})


def build_labelled(
    data: Path,
    catalogue: Catalogue,
    pictures: Pictures,
    *,
    name: str = "labelled",
    rule: SplitRule = DEFAULT_RULE,
    progress: Progress | None = None,
) -> Built:
    """A version of every frame that a person accepted or corrected, as the newest annotation has it.

    Pictures come from the object store and must be the bytes that the device announced. The split never lets near-duplicates straddle (see
    `splits.assign`); where it would leave nothing to learn from, all are learnt from. A frame that cannot be used is left out with its
    reason. Raises `DatasetError` where nothing is labelled or nothing of it can be used.
    """
    with catalogue.session() as session:
        classes = class_names(session)
        labelled = _labelled(session)
        if not labelled:
            rejected = session.scalar(sa.select(sa.func.count(Frame.id)).where(Frame.review == Review.REJECTED)) or 0
            why = f"all {rejected} answers reject their frame" if rejected else "no frame has an answer yet"
            raise DatasetError(f"nothing is labelled: {why}; accept or correct frames on the review page first")
    side = _sides([frame for frame, _ in labelled], rule)
    excluded: list[Excluded] = []
    with DatasetWriter(root(data), classes) as writer:
        for done, (frame, annotation) in enumerate(labelled, start=1):
            split = side[frame.id]
            reason = f"closer than {rule.gap_s:g} s to a picture that is learnt from"
            if split is not Split.MARGIN:
                reason = _add_frame(writer, frame, annotation, split, pictures, len(classes))
            if reason:
                excluded.append(Excluded(frame.id, reason))
            if progress is not None:
                progress(done, len(labelled))
        if not any(each.split == Split.TRAIN for each in writer.pictures):
            why = "; ".join(sorted({each.reason for each in excluded})[:3])
            raise DatasetError(f"none of the {len(labelled)} labelled frames can be learnt from: {why}")
        version = writer.finish()
    notes = {
        "split": f"{rule.val_share:.0%} of blocks of {rule.block_s:g} s held out, {rule.gap_s:g} s apart, seed {rule.seed}",
        "excluded": [{"frame_id": each.frame_id, "reason": each.reason} for each in excluded],
    }
    built = _record(catalogue, version, name, Kind.LABELLED, notes)
    return Built(built.dataset, built.created, tuple(excluded))


def listed(catalogue: Catalogue, kind: Kind | None = None) -> list[Dataset]:
    """The versions, oldest first."""
    query = sa.select(Dataset).order_by(Dataset.created_at, Dataset.id)
    with catalogue.session() as session:
        return list(session.scalars(query if kind is None else query.where(Dataset.kind == kind)))


def find(catalogue: Catalogue, which: str) -> Dataset:
    """A version by its id, the beginning of its id, or its name (the newest); `DatasetError` where there is none or more than one."""
    every = listed(catalogue)
    by_name = [each for each in every if each.name == which]
    by_id = [each for each in every if each.id.startswith(which)] if len(which) >= 4 else []
    if by_name:
        return by_name[-1]
    if len(by_id) == 1:
        return by_id[0]
    have = ", ".join(sorted({each.name for each in every})) or "none; import or build one"
    raise DatasetError(
        f"{'several datasets begin' if by_id else 'no dataset is named or begins'} with {which!r} ({have})"
    )


def opened(data: Path, dataset: Dataset) -> DatasetFolder:
    """The files of a version, every one of them held against its id; `Altered` where one differs."""
    folder = DatasetFolder.read(data / dataset.path)
    folder.verify()
    return folder


def readable_hw_px(content: bytes) -> tuple[int, int] | str:
    """Height and width of a picture's bytes, decoded in another process, or why they are no picture that can be learnt from."""
    seen = decoder().picture(content)
    return seen.problem or (seen.height_px, seen.width_px)


def _record(catalogue: Catalogue, version: DatasetFolder, name: str, kind: Kind, notes: dict[str, Any]) -> Built:
    summary = version.summary() | notes
    with catalogue.session.begin() as session:
        existing = session.get(Dataset, version.id)
        if existing is not None:
            if existing.kind != kind:
                raise DatasetError(
                    f"these pictures are dataset {existing.name} of kind {existing.kind} already ({version.id[:12]}); a golden set "
                    "must not be learnt from: import other pictures"
                )
            return Built(existing, created=False)
        dataset = Dataset(
            id=version.id,
            name=name,
            kind=str(kind),
            created_at=datetime.now(UTC),
            path=f"datasets/{version.id}",
            pictures=len(version.pictures),
            boxes=sum(each.boxes for each in version.pictures),
            summary=summary,
        )
        session.add(dataset)
    return Built(dataset, created=True)


def _pictures_of(layout: Layout, only: Sequence[str]) -> list[tuple[Path, str]]:
    """Each picture once, with the first split that names it."""
    found: dict[Path, str] = {}
    for split in only or layout.splits:
        for path in layout.pictures(split):
            found.setdefault(path, split)
    return list(found.items())


@dataclass(frozen=True)
class _Taken:
    """What was left out of an import."""

    unreadable: list[str]
    without_area: int
    duplicates: int


def _take(
    writer: DatasetWriter,
    layout: Layout,
    wanted: Sequence[tuple[Path, str]],
    index_of: Sequence[int],
    progress: Progress | None,
) -> _Taken:
    """Write the pictures of a folder with their labels, the class indices translated."""
    known = {str(entry.get("image", "")): entry for entry in read_manifest(layout.folder)}
    unreadable: list[str] = []
    without_area = duplicates = 0
    for done, (path, split) in enumerate(wanted, start=1):
        content, hw_px = _read(path)
        if isinstance(hw_px, str):
            unreadable.append(f"{path.name}: {hw_px}")
            continue
        rows = read_labels(layout.label_path(path), len(layout.names))
        boxes = tuple(_boxes_of_rows(rows, index_of))
        without_area += len(rows) - len(boxes)
        entry = known.get(layout.relative(path), {})
        duplicates += not writer.add(
            LabelledPicture(
                stem=_stem(path, content),
                suffix=path.suffix.lower(),
                content=content,
                split=split,
                height_px=hw_px[0],
                width_px=hw_px[1],
                boxes=boxes,
                **{key: str(entry.get(key) or "") for key in ("condition", "device", "camera", "captured_at")},
            )
        )
        if progress is not None:
            progress(done, len(wanted))
    return _Taken(unreadable, without_area, duplicates)


def _read(path: Path) -> tuple[bytes, tuple[int, int] | str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        return b"", f"cannot be read ({error.strerror})"
    return content, readable_hw_px(content)


def _boxes_of_rows(rows: NDArray[np.float64], index_of: Sequence[int]) -> Iterator[Box]:
    """Boxes clipped to the picture, with the table's class index; those without area are left out."""
    for cls, x, y, width, height in rows.tolist():
        low_x, high_x = np.clip([x - width / 2, x + width / 2], 0, 1)
        low_y, high_y = np.clip([y - height / 2, y + height / 2], 0, 1)
        yield from _box(index_of[int(cls)], float(low_x), float(low_y), float(high_x), float(high_y))


def _box(cls: int, low_x: float, low_y: float, high_x: float, high_y: float) -> Iterator[Box]:
    width, height = high_x - low_x, high_y - low_y
    if width > MIN_SIDE and height > MIN_SIDE:
        yield Box(cls, low_x + width / 2, low_y + height / 2, width, height)


def _stem(path: Path, content: bytes) -> str:
    """A file name that is safe and unique: the picture's own, and the beginning of its digest."""
    own = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip(".")[:80] or "picture"
    return f"{own}-{hashlib.sha256(content).hexdigest()[:8]}"


def _labelled(session: Session) -> list[tuple[Frame, Annotation]]:
    """Frames with the annotation that counts, oldest first."""
    query = (
        sa.select(Frame, Annotation)
        .join(Annotation, sa.and_(Annotation.frame_id == Frame.id, Annotation.revision == Frame.revision))
        .where(Frame.delivery == Delivery.ACKNOWLEDGED, Frame.review.in_([Review.ACCEPTED, Review.CORRECTED]))
        .order_by(Frame.taken_at, Frame.id)
    )
    return [(row[0], row[1]) for row in session.execute(query)]


def _sides(frames: Sequence[Frame], rule: SplitRule) -> dict[str, Split]:
    side = splits.assign(
        (Shot(each.id, each.device_id, each.camera, each.captured_at, each.taken_at) for each in frames), rule
    )
    if Split.TRAIN not in side.values():
        return dict.fromkeys(side, Split.TRAIN)
    return side


def _add_frame(
    writer: DatasetWriter, frame: Frame, annotation: Annotation, split: Split, pictures: Pictures, classes: int
) -> str:
    """Put one labelled frame into the version; why it is left out, or nothing."""
    try:
        content = pictures.get(frame.key)
    except NotFound:
        return "its picture is not in the object store"
    if hashlib.sha256(content).hexdigest() != frame.sha256:
        return "the bytes in the object store are not those that the device announced"
    hw_px = readable_hw_px(content)
    if isinstance(hw_px, str):
        return hw_px
    if hw_px != (frame.height_px, frame.width_px):
        return f"the picture is {hw_px[1]} × {hw_px[0]} pixels, announced were {frame.width_px} × {frame.height_px}"
    try:
        boxes = tuple(_boxes_of_answer(annotation, hw_px, classes))
    except (KeyError, TypeError, ValueError) as error:
        return f"annotation {annotation.revision} cannot be used: {error}"
    taken = writer.add(
        LabelledPicture(
            stem=frame.id,
            suffix=".png" if frame.media_type == "image/png" else ".jpg",
            content=content,
            split=split,
            height_px=hw_px[0],
            width_px=hw_px[1],
            boxes=boxes,
            device=frame.device_id,
            camera=frame.camera,
            captured_at=frame.captured_at.astimezone(UTC).isoformat(),
            frame_id=frame.id,
        )
    )
    return "" if taken else "the same picture as an earlier frame"


def _boxes_of_answer(annotation: Annotation, hw_px: tuple[int, int], classes: int) -> Iterator[Box]:
    height, width = hw_px
    for box in annotation.boxes:
        if not 0 <= int(box["cls"]) < classes:
            raise ValueError(f"class {box['cls']} is not in the class table of {classes}")
        low_x, high_x = np.clip([float(box["x1"]) / width, float(box["x2"]) / width], 0, 1)
        low_y, high_y = np.clip([float(box["y1"]) / height, float(box["y2"]) / height], 0, 1)
        yield from _box(int(box["cls"]), float(low_x), float(low_y), float(high_x), float(high_y))
