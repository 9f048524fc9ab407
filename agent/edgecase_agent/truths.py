"""What is really in the frames of a recording, in the classes of one detector: from label files, MOT text or the simulation itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from edgecase_agent.capture import Bools, Objects
from edgecase_models.config import nearest
from edgecase_models.evaluate import EvaluationError, Layout, read_labels

if TYPE_CHECKING:
    from edgecase_agent.sources.street import StreetSource

SIMULATION: Final = "sim"
_MOT: Final = "frame,id,left,top,width,height"


class TruthError(ValueError):
    """A truth that does not fit the recording or the model; the message names it and its cure."""


class Truths(Protocol):
    """The truth of one recording. `judged` (C,): the classes whose objects it names; what is seen of others is neither right nor wrong."""

    @property
    def name(self) -> str: ...

    @property
    def judged(self) -> Bools: ...

    def of(self, index: int, hw_px: tuple[int, int]) -> Objects | None:
        """What is in the frame with this index of its source, `hw_px` large; None where nobody labelled it."""


def read_truths(given: str, uri: str, names: Sequence[str], only: str | None = None) -> Truths:
    """The truth that `--truth` names, for the recording `uri` and a model with these class `names`.

    `given` is a folder of label files in Ultralytics layout (the data set's, with `data.yaml`, or that of the labels) for a folder of
    pictures, MOT text for any recording, or `sim` for a simulated street. `only` one class is judged; MOT text names none, and needs it.

    Raises:
        TruthError: there is no such truth, it fits no frame, or shares no class with the model.
    """
    if given == SIMULATION:
        return _of_the_simulation(uri, names, only)
    path = Path(given)
    if path.is_file():
        return _mot(path, names, only)
    if path.is_dir():
        source = unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri
        return _label_folder(path, Path(source), names, only)
    raise TruthError(f"truth {given}: no such file or folder; give label files, MOT text, or sim for sim://street")


# ---- classes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class _Classes:
    """The truth's classes in the detector's: `table` (T,) holds their indices, -1 for one that is not judged."""

    table: NDArray[np.int64]
    judged: Bools

    @classmethod
    def shared(cls, name: str, theirs: Sequence[str], ours: Sequence[str], only: str | None) -> _Classes:
        """Those that both know, or the one that is asked for."""
        places = {each: index for index, each in enumerate(ours)}
        for side, known in (("the model", ours), (f"truth {name}", theirs)):
            if only is not None and only not in known:
                raise TruthError(f'--truth-class: {side} knows no class "{only}"{nearest(only, known)}')
        table = np.array([places.get(each, -1) if only in (None, each) else -1 for each in theirs], np.int64)
        if not (table >= 0).any():
            raise TruthError(
                f"truth {name}: shares no class with the model: {_listed(theirs)} there, {_listed(ours)} in the model"
            )
        judged = np.zeros(len(ours), np.bool_)
        judged[table[table >= 0]] = True
        return cls(table, judged)

    def objects(
        self, boxes_xyxy_px: NDArray[np.floating], classes: NDArray[np.integer], tracks: NDArray[np.integer] | None
    ) -> Objects:
        """The objects of the classes that are judged."""
        found = self.table[classes]
        kept = found >= 0
        return Objects(boxes_xyxy_px[kept], found[kept], None if tracks is None else tracks[kept])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


# ---- the simulation ----------------------------------------------------------------------------------------------------


class SimulatedTruth:
    """What the simulated street knows of itself."""

    name = SIMULATION

    def __init__(self, source: StreetSource, classes: _Classes) -> None:
        self._source = source
        self._classes = classes
        self.judged = classes.judged

    def of(self, index: int, hw_px: tuple[int, int]) -> Objects | None:  # noqa: ARG002 (the street knows its size)
        truth = self._source.truth(index)
        return self._classes.objects(truth.boxes_xyxy_px, truth.classes, truth.track_ids)


def _of_the_simulation(uri: str, names: Sequence[str], only: str | None) -> SimulatedTruth:
    if not uri.lower().startswith("sim://"):
        raise TruthError(f"truth {SIMULATION}: {uri} is no simulation; give its labels")
    from edgecase_agent.sources.street import StreetSource
    from edgecase_models.street import CLASSES

    return SimulatedTruth(StreetSource(uri, live=False), _Classes.shared(SIMULATION, CLASSES, names, only))


# ---- MOT text ----------------------------------------------------------------------------------------------------------


class MotTruth:
    """MOT text: frames counted from 1, boxes as left, top, width and height in pixels, objects by their ids.

    A frame without a row is empty if it lies between the first and the last that have one; others were not labelled. A row whose seventh
    number, the flag, is 0 does not count (MOTChallenge). Boxes are cut at the picture's edge, as a detector's are.
    """

    def __init__(self, name: str, rows: NDArray[np.float64], cls: int, judged: Bools) -> None:
        """`rows` (R, 6) of frame, id, left, top, width, height."""
        self.name = name
        self.judged = judged
        self._rows = rows[np.argsort(rows[:, 0], kind="stable")]
        self._cls = cls
        self._known_ids = bool((rows[:, 1] >= 0).all())

    def of(self, index: int, hw_px: tuple[int, int]) -> Objects | None:
        if not self._rows[0, 0] <= index + 1 <= self._rows[-1, 0]:
            return None
        first, last = np.searchsorted(self._rows[:, 0], [index + 1, index + 2])
        rows = self._rows[first:last]
        height, width = hw_px
        boxes = np.concatenate([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]], axis=1)
        boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
        seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        tracks = rows[seen, 1].astype(np.int64) if self._known_ids else None
        return Objects(boxes[seen], np.full(int(seen.sum()), self._cls), tracks)


def _mot(path: Path, names: Sequence[str], only: str | None) -> MotTruth:
    if only is None:
        raise TruthError(f"truth {path}: MOT text names no classes; say whose boxes these are with --truth-class")
    classes = _Classes.shared(path.name, [only], names, only)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TruthError(f"truth {path}: cannot be read as text ({error})") from error
    rows = [_mot_row(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    counted = [row[:6] for row in rows if row[6] != 0]
    if not counted:
        raise TruthError(f"truth {path}: no row of it counts; rows are {_MOT},flag, and a flag of 0 leaves one out")
    return MotTruth(str(path), np.array(counted, np.float64), int(classes.table[0]), classes.judged)


def _mot_row(path: Path, number: int, line: str) -> list[float]:
    """Frame, id, left, top, width, height, and the flag, 1 where there is none."""
    try:
        row = [float(each) for each in line.split(",")[:7]]
    except ValueError:
        row = []
    if len(row) < 6 or not all(math.isfinite(each) for each in row) or row[0] != int(row[0]) or row[0] < 1:
        raise TruthError(f"truth {path}:{number}: {line[:60]!r} is not {_MOT}, frames counted from 1")
    if min(row[4:6]) <= 0:
        raise TruthError(
            f"truth {path}:{number}: a box of {row[4]:g} × {row[5]:g} pixels; width and height are above 0"
        )
    return row if len(row) == 7 else [*row, 1.0]


# ---- label files -------------------------------------------------------------------------------------------------------


class LabelledPictures:
    """A label file for each picture of a folder; one without a file holds no object. Nobody says which object is which."""

    def __init__(self, name: str, rows: Sequence[NDArray[np.float64]], classes: _Classes) -> None:
        """`rows`: for each picture (N, 5) of class index and x, y, width, height as parts of the picture's size."""
        self.name = name
        self.judged = classes.judged
        self._rows = rows
        self._classes = classes

    def of(self, index: int, hw_px: tuple[int, int]) -> Objects | None:
        rows = self._rows[index]
        height, width = hw_px
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1).clip(0, 1) * [width, height, width, height]
        return self._classes.objects(boxes.astype(np.float32), rows[:, 0].astype(np.int64), None)


def _label_folder(folder: Path, source: Path, names: Sequence[str], only: str | None) -> LabelledPictures:
    from edgecase_agent.sources.pictures import pictures_in

    if not source.is_dir():
        raise TruthError(f"truth {folder}: label files are for a folder of pictures, not for {source}; give MOT text")
    pictures = pictures_in(source)
    try:
        layout = next((Layout.read(each) for each in _above(folder) if (each / "data.yaml").is_file()), None)
        theirs = names if layout is None else layout.names
        whole = layout is not None and layout.folder == folder
        paths = [
            layout.label_path(picture) if layout is not None and whole else folder / f"{picture.stem}.txt"
            for picture in pictures
        ]
        if not any(path.is_file() for path in paths):
            raise TruthError(
                f"truth {folder}: none of the {len(pictures)} pictures has a label file there; "
                f"that of {pictures[0].name} would be {paths[0]}"
            )
        rows = [read_labels(path, len(theirs)) for path in paths]
    except EvaluationError as error:
        raise TruthError(f"truth {error}") from error
    return LabelledPictures(str(folder), rows, _Classes.shared(str(folder), theirs, names, only))


def _above(folder: Path) -> list[Path]:
    """The folder and the two above it: the labels of a split lie two below `data.yaml`."""
    return [folder, *folder.absolute().parents[:2]]
