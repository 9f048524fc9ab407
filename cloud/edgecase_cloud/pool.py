"""The frames that wait for a label and those that were answered, as arrays: what a batch is chosen from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgecase_cloud.quotas import Presence
from edgecase_cloud.repeats import Likeness, Prints, View, leaders
from edgecase_cloud.space import Floats, Group, Space, appearance
from edgecase_models.fingerprint import CELLS_HW, Fingerprint

AUDIT: Final = "audit"
DARK_BELOW_LUMA: Final = 60.0  # of 255, mean of the thumbnail: dusk and night with street lamps lie below
CONDITIONS: Final = ("light", "dark", "unknown")
RECENT: Final = 100  # the quotas go on from this many answers
CONTENT_CLASSES: Final = 64
_ENOUGH: Final = 20  # scores of a model to tell what is typical of it
_LEAST_SCORE: Final = 0.01  # of the typical one: where all scores are nothing, distance decides

Answer = Mapping[int, int]
"""Boxes of an answer by class; empty where the frame was rejected or shows nothing."""


class BatchError(ValueError):
    """Frames or rules that no batch can be made of; the message names the frame or the rule."""


class Quota(StrEnum):
    """What served a frame: its value (BEST); a share of minority classes (CLASS); the turn of its camera or condition, more valuable
    frames of others having had theirs; a device's audit; or the cloud's own lot."""

    BEST = "best"
    CLASS = "class"
    CAMERA = "camera"
    CONDITION = "condition"
    AUDIT = "audit"
    LOT = "lot"


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """A frame that may be labelled. `classes` and `scores` (B,) are of its boxes, candidates included; `features` (D,) are those of the
    model `model_digest`; `strategies` are what its device kept it for."""

    id: str
    device: str
    camera: str
    taken_at: datetime
    score: float
    strategies: tuple[str, ...]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    model_digest: str
    fingerprint: Fingerprint | None = None
    features: Floats | None = None

    @property
    def audit(self) -> bool:
        """Whether its device drew it at random."""
        return AUDIT in self.strategies


@dataclass(frozen=True, eq=False, slots=True)
class Answered:
    """A frame that was answered, and which quota had served it, if one had."""

    frame: Candidate
    answer: Answer
    quota: Quota | None = None


class Pool:
    """N open frames, oldest first, and behind them A answered ones: R rows in all, C classes. Raises `BatchError`."""

    def __init__(self, frames: Sequence[Candidate], answered: Sequence[Answered], likeness: Likeness) -> None:
        opened = sorted(frames, key=lambda frame: (frame.taken_at, frame.id))
        self.answered = answered
        self.count = len(opened)
        self._all = [*opened, *(each.frame for each in answered)]
        _check(self._all)
        self._read_boxes()
        self._prints = _prints(self._all)
        self.scores = _comparable(self._all)
        self.audit = np.array([each.audit for each in opened] + [False] * len(answered), np.bool_)
        self.cameras = _numbers([(each.device, each.camera) for each in self._all])
        self.conditions = _conditions(self._prints)
        self.repeats_of = self._repeats(likeness)
        self.space = Space(self._groups())

    def id(self, row: int) -> str:
        """The frame id of a row."""
        return self._all[row].id

    @property
    def recent(self) -> Sequence[Answered]:
        """The latest answers."""
        return self.answered[-RECENT:]

    @property
    def behind(self) -> NDArray[np.int64]:
        """(A,) The rows of the answered frames, the latest last."""
        return np.arange(self.count, len(self._all))

    def labelled_boxes(self) -> NDArray[np.int64]:
        """(C,) Boxes by class in the answers."""
        found = np.zeros(self.classes, np.int64)
        for each in self.answered:
            for cls, boxes in each.answer.items():
                found[cls] += boxes
        return found

    def lot(self, row: int) -> bytes:
        """Where a frame stands in the lottery: a hash of its id, so that nothing else has a say."""
        return hashlib.sha256(b"lot " + self.id(row).encode()).digest()

    def _read_boxes(self) -> None:
        every = self._all
        self._box_frame = np.repeat(np.arange(len(every)), [len(each.classes) for each in every])
        self._box_class = np.concatenate([np.empty(0, np.int64), *(each.classes for each in every)]).astype(np.int64)
        self._box_score = np.concatenate([np.empty(0), *(each.scores for each in every)]).astype(np.float64)
        answers = max((cls for each in self.answered for cls in each.answer), default=-1)
        self.classes = max(int(self._box_class.max(initial=-1)), answers) + 1
        waits = self._box_frame < self.count
        frame, cls, score = self._box_frame[waits], self._box_class[waits], self._box_score[waits]
        self.presence = Presence.of(frame, cls, score, frames=len(every), classes=self.classes)
        self.expected_boxes = np.bincount(self._box_frame, self._box_score, minlength=len(every))

    def _repeats(self, likeness: Likeness) -> NDArray[np.int64]:
        """(R,) The row that stands for each frame. The answered come first, then the most doubtful."""
        doubtful = np.argsort(-self.scores[: self.count], kind="stable")
        order = np.concatenate([self.behind, doubtful]).astype(np.int64)
        place = np.argsort(order)
        given = self._prints
        prints = Prints(given.dhash[order], given.cells[order], given.known[order])
        views = []
        for rows, unit in self._unit(lambda each: (each.device, each.camera, each.model_digest)):
            sequence = np.argsort(place[rows])
            views.append(View(place[rows][sequence], unit[sequence]))
        return order[leaders(prints, views, likeness)][place]

    def _groups(self) -> list[Group]:
        models = [Group(rows, unit) for rows, unit in self._unit(lambda each: each.model_digest)]
        most = np.argsort(-np.bincount(self._box_class, self._box_score, minlength=1), kind="stable")[:CONTENT_CLASSES]
        expected = np.zeros((len(self._all), len(most)), np.float32)
        for column, cls in enumerate(most):
            own = self._box_class == cls
            expected[:, column] = np.bincount(self._box_frame[own], self._box_score[own], minlength=len(self._all))
        seen = appearance(self._prints.cells, self._prints.known, expected)
        return [*models, Group(np.arange(len(self._all)), seen)]

    def _unit(self, of: Callable[[Candidate], object]) -> list[tuple[NDArray[np.int64], Floats]]:
        """Rows with features and those as vectors of length 1, by `of` and the number of dimensions."""
        rows: dict[object, list[int]] = {}
        for row, each in enumerate(self._all):
            if each.features is not None and each.features.any():
                rows.setdefault((of(each), len(each.features)), []).append(row)
        found = []
        for mine in rows.values():
            points = np.stack([np.asarray(self._all[row].features, np.float32) for row in mine])
            found.append((np.array(mine, np.int64), points / np.linalg.norm(points, axis=1, keepdims=True)))
        return found


def _check(frames: Sequence[Candidate]) -> None:
    seen: set[str] = set()
    for each in frames:
        if each.id in seen:
            raise BatchError(f"frame {each.id} is given twice")
        seen.add(each.id)
        if not math.isfinite(each.score) or not np.isfinite(each.scores).all():
            raise BatchError(f"frame {each.id} has a score that is not finite")
        if len(each.classes) != len(each.scores) or (len(each.classes) and int(each.classes.min()) < 0):
            raise BatchError(
                f"frame {each.id} has {len(each.classes)} classes for {len(each.scores)} scores, or a negative one"
            )


def _comparable(frames: Sequence[Candidate]) -> NDArray[np.float64]:
    """(N,) Scores of which 1.0 is typical of their strategy under their model.

    Devices may be set to different strategies, and one model's doubt says nothing about another's: after a release, frames that the model
    before it picked stand beside the new one's, each by what is typical of its own. A model that gave fewer than `_ENOUGH` scores has no
    typical one yet; there it is that of the strategy under all models.
    """
    found = np.array([max(0.0, each.score) for each in frames], np.float64)
    strategy = np.array([next((name for name in each.strategies if name != AUDIT), "") for each in frames], np.str_)
    model = _numbers([each.model_digest for each in frames])
    for name in np.unique(strategy):
        own = strategy == name
        usual = _typical(found[own])
        for number in np.unique(model[own]):
            mine = own & (model == number)
            found[mine] /= _typical(found[mine]) if mine.sum() >= _ENOUGH else usual
    return np.maximum(found, _LEAST_SCORE)


def _typical(scores: NDArray[np.float64]) -> float:
    positive = scores[scores > 0]
    return float(np.median(positive)) if positive.size else 1.0


def _prints(frames: Sequence[Candidate]) -> Prints:
    known = np.array([each.fingerprint is not None for each in frames], np.bool_)
    dhash, cells = np.zeros(len(frames), np.uint64), np.zeros((len(frames), math.prod(CELLS_HW)), np.uint8)
    for row, each in enumerate(frames):
        if each.fingerprint is not None:
            dhash[row], cells[row] = each.fingerprint.dhash, each.fingerprint.cells.ravel()
    return Prints(dhash, cells, known)


def _conditions(prints: Prints) -> NDArray[np.int64]:
    """(N,) Light or dark by the thumbnail's brightness, numbers in `CONDITIONS`."""
    return np.where(prints.known, np.where(prints.cells.mean(axis=1) < DARK_BELOW_LUMA, 1, 0), 2)


def _numbers(names: Sequence[object]) -> NDArray[np.int64]:
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], np.int64)
